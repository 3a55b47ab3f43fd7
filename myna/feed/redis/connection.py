"""Reaching Redis: one check at the start that says in words what is wrong, and patience afterwards."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from myna.errors import FeedError
from myna.feed.redis import scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

SCHEMES = ("redis", "rediss", "unix")
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0  # longer than any command may block
LONGEST_WAIT_SECONDS = 5.0  # between two tries, and of one blocking read
OLDEST_VERSION = (6, 2)

# What passes when the server comes back; refusals of a password are connection errors too, and do not.
PASSING = (redis.ConnectionError, redis.TimeoutError, BusyLoadingError, ReadOnlyError, OSError)
LASTING = (AuthenticationError,)

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


def connect(url: str) -> Redis:
    """A client of the server at a URL, seen to answer.

    Args:
        url: redis://[user:password@]host:port/db, rediss:// for TLS (with ?ssl_ca_certs=FILE for an authority of
            your own) or unix:///path.

    Raises:
        FeedError: it cannot be reached, refuses the password, or is not a single Redis that can be written to.
    """
    place = place_of(url)
    if url.partition("://")[0] not in SCHEMES:
        raise FeedError(f"expected redis://, rediss:// or unix://; received {place}", "Mend the address of Redis.")
    try:
        client = redis.Redis.from_url(
            url,
            decode_responses=False,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),  # `Link` repeats what failed: one place, with words
        )
        _check(client, place)
    except (ValueError, TypeError) as error:
        # from_url quotes the part it does not understand: of a password with / in it, that is the password
        why = "" if "@" in url else f": {error}"
        raise FeedError(
            f"expected an address of Redis; received {place}{why}",
            "Mend the address; in a password write %40 for @, %2F for /, %23 for # and %3F for ?.",
        ) from None
    return client


def place_of(url: str) -> str:
    """A URL without user, password and options, for messages; safe for malformed ones, too."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return scheme + separator + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def _check(client: Redis, place: str) -> None:
    try:
        info = client.info()
    except (AuthenticationError, NoPermissionError, ResponseError) as error:
        raise FeedError(
            f"Redis at {place} refuses this user or password: {error}",
            "Put user and password into the address: redis://USER:PASSWORD@HOST:PORT/0.",
        ) from None
    except (InvalidResponse, UnicodeDecodeError) as error:
        raise FeedError(f"expected Redis at {place}; something else answers there", "Check host and port.") from error
    except PASSING as error:
        raise FeedError(
            f"Redis at {place} cannot be reached: {error}",
            "See that it runs, that host and port are right, and that a TLS server is called by rediss://.",
        ) from error
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if info.get("redis_mode") != "standalone":
        raise FeedError(
            f"expected a single Redis at {place}; received one in {info.get('redis_mode')} mode",
            "Give the address of a Redis server of its own.",
        )
    if info.get("role") != "master":
        raise FeedError(f"expected a Redis that can be written to; {place} is a replica", "Give its master's address.")
    if version < OLDEST_VERSION:
        raise FeedError(f"expected Redis 6.2 or newer; {place} is {info['redis_version']}", "Install a newer Redis.")


class Link:
    """A client that outlives its server: a command that fails on the way is sent again until it is answered.

    Every command of this package may be sent twice: the second time changes nothing.

    Args:
        client: of `connect`.
        place: of the server, for messages.
        patience_seconds: how long a server may be away.
    """

    def __init__(self, client: Redis, place: str, patience_seconds: float) -> None:
        self.client = client
        self.place = place
        self.patience_seconds = patience_seconds
        self.closed = threading.Event()
        self._away = False

    def call(self, command: Callable[[Redis], Answer]) -> Answer:
        """What the command answers, once it does.

        Raises:
            FeedError: the server stayed away for too long, or refuses what was asked.
        """
        pause_seconds, until, has_scripts = 0.05, time.monotonic() + self.patience_seconds, True
        while True:
            try:
                if not has_scripts:
                    scripts.load(self.client)
                answer = command(self.client)
            except NoScriptError:  # a server that was started anew has forgotten them
                has_scripts = False
            except LASTING as error:
                raise FeedError(f"Redis at {self.place} refuses: {error}", "Check user and password.") from None
            except PASSING as error:
                self._say_away(error)
                if time.monotonic() + pause_seconds > until:
                    raise FeedError(
                        f"Redis at {self.place} cannot be reached since {self.patience_seconds:.0f} s: {error}",
                        "Start it again, then resume the run: nothing is lost.",
                    ) from error
                if self.closed.wait(pause_seconds * random.uniform(0.5, 1.0)):
                    raise FeedError(f"the container at {self.place} was closed", "Open it again.") from None
                pause_seconds = min(2 * pause_seconds, LONGEST_WAIT_SECONDS)
            except RedisError as error:
                raise FeedError(f"Redis at {self.place} refuses: {error}", "See that the user may do this.") from error
            else:
                self._say_back()
                return answer

    def close(self) -> None:
        """Let go of the connections; a call that waits for the server ends."""
        self.closed.set()
        self.client.close()

    def _say_away(self, error: Exception) -> None:
        if not self._away and not self.closed.is_set():
            self._away = True
            logger.warning("Redis at %s cannot be reached; waiting for it to come back. (%s)", self.place, error)

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            logger.warning("Redis at %s is back.", self.place)
