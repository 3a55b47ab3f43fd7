"""The process that traces: a MemoryRequest as JSON on standard input, a fitted MemoryModel (.npz) on standard output.

Fake CUDA tensors patch torch for good, so they get a process of their own. A request that cannot be traced ends it
with exit status 3 and one line on standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from typing import TYPE_CHECKING

from myna.errors import MynaError
from myna.plan.request import MemoryRequest

if TYPE_CHECKING:
    from myna.plan.memory.fit import FittedMemory

# (clips, seconds). Never one clip: torch leaves copies out there. The first number of clips divides no model's width,
# and at the first length no stride divides the frames before it, so that few sizes are equal there by chance.
# Feature frames leave different rests by 2, 4 and 8: so it shows where strides round.
PROBES = ((11, 9.4), (2, 5.03), (3, 12.05), (2, 28.0), (5, 19.02))
CANNOT_TRACE = 3  # exit status
MAX_REQUEST_BYTES = 10_000_000


def fitted(request: MemoryRequest) -> FittedMemory:
    """Trace a request at the probes and fit a model to the ledgers; patches torch for good."""
    from myna.plan.memory.fit import fit_memory_model
    from myna.plan.memory.probes import probe

    return fit_memory_model(request, PROBES, probe(request, PROBES))


def main() -> int:
    """Answer the request on standard input; the exit status."""
    answers = sys.stdout.buffer
    request = MemoryRequest.from_json(json.loads(sys.stdin.buffer.read(MAX_REQUEST_BYTES)))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a library's print must not get between the bytes
            content = fitted(request).to_bytes()
    except MynaError as error:
        print(error, file=sys.stderr)
        return CANNOT_TRACE
    answers.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
