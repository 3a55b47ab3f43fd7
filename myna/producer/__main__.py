"""What `start_producers` starts: producers whose owner is at the other end of standard input."""

from __future__ import annotations

import json
import os
import sys
import threading

from rich.console import Console

from myna.errors import MynaError
from myna.producer.run import StopWish, run_producers


def main() -> int:
    """Produce as the first line says, until the pipe closes; exit status 2 when that cannot be."""
    options = json.loads(sys.stdin.buffer.readline())
    stop = StopWish()
    threading.Thread(target=_wait_for_owner, args=(stop,), daemon=True).start()
    try:
        run_producers(**options, console=Console(quiet=True), stop=stop)
    except MynaError as error:
        print(f"myna: producers: {error}", file=sys.stderr)
        return 2
    return 0


def _wait_for_owner(stop: StopWish) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.express()


if __name__ == "__main__":
    sys.exit(main())
