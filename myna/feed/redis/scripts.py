"""The Lua scripts that decide; each runs on the server as one indivisible step."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

PRELUDE = "prelude"


@cache
def text_of(name: str) -> str:
    """A script with what all of them begin with."""
    folder = files("myna.feed.redis")
    return "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (PRELUDE, name))


@cache
def digest_of(name: str) -> str:
    """What Redis knows a script by."""
    return hashlib.sha1(text_of(name).encode(), usedforsecurity=False).hexdigest()


@cache
def names() -> tuple[str, ...]:
    """All scripts."""
    found = (entry.name.removesuffix(".lua") for entry in files("myna.feed.redis").iterdir() if ".lua" in entry.name)
    return tuple(sorted(name for name in found if name != PRELUDE))


def load(client: Redis) -> None:
    """Make all scripts known to the server."""
    for name in names():
        client.script_load(text_of(name))


def call(client: Redis, name: str, prefix: str, *arguments: Any) -> Any:
    """Send the command that runs a script on the run with this prefix; a pipeline only notes it."""
    return client.evalsha(digest_of(name), 1, prefix, *arguments)


def run(client: Redis, name: str, prefix: str, *arguments: Any) -> list[Any]:
    """Run a script; its answer begins with a word."""
    answer = call(client, name, prefix, *arguments)
    return [answer[0].decode(), *answer[1:]]
