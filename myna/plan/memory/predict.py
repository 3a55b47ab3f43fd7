"""The memory of a training step, predicted: traced in a process of its own, or bounded by a formula where that fails.

The calling process needs no torch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from myna.errors import ModelError, MynaError
from myna.plan.memory.closed_formula import closed_formula
from myna.plan.memory.fit import FittedMemory
from myna.plan.memory.model import MemoryModel
from myna.plan.request import MemoryRequest

TIMEOUT_SECONDS = 180  # a model of 1B parameters takes a tenth of it on one core
CACHED_REQUESTS = 64
PACKAGE_PARENT = str(Path(__file__).resolve().parents[3])

logger = logging.getLogger(__name__)


def memory_model(request: MemoryRequest) -> MemoryModel:
    """What a step needs for any batch. The same request is traced once in the life of this process.

    Returns:
        An exact model; where the step cannot be traced, a bound (`exact` is False) after one warning that says why.

    Raises:
        ModelError: the step cannot be traced, and the formula does not know the family either.
    """
    return _model_of(json.dumps(request.to_json(), sort_keys=True), trace_in_worker)


def memory_model_here(request: MemoryRequest) -> MemoryModel:
    """The same, traced in this process: a command that only plans saves the seconds and the memory of a second one.

    Torch is patched for good by it: never where a model is to be trained afterwards.
    """
    return _model_of(json.dumps(request.to_json(), sort_keys=True), trace_here)


@functools.lru_cache(maxsize=CACHED_REQUESTS)
def _model_of(request_json: str, trace: Callable[[str], MemoryModel]) -> MemoryModel:
    request = MemoryRequest.from_json(json.loads(request_json))
    try:
        model = trace(request_json)
    except ModelError as error:
        name, problem = request.model.name or request.model.model_class, error.problem
        try:
            model = closed_formula(request)
        except ModelError as unknown:
            raise ModelError(f"{problem}; and no formula bounds it: {unknown.problem}", unknown.remedy) from error
        logger.warning("The memory of %s is bounded by a formula, well above the truth: %s", name, problem)
        return model
    if not model.exact:
        logger.warning(
            "The memory of %s is bounded, not replayed: its step takes another course at other lengths",
            request.model.name or request.model.model_class,
        )
    return model


def trace_here(request_json: str) -> MemoryModel:
    """Trace in this process.

    Raises:
        ModelError: the step cannot be traced.
    """
    from myna.plan.memory.worker import fitted

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return fitted(MemoryRequest.from_json(json.loads(request_json)))
    except MynaError as error:
        raise ModelError(f"the step could not be traced: {error.problem}") from error
    except Exception as error:  # whatever a family's code does on tensors that hold nothing
        raise ModelError(f"the step could not be traced: {error!r}") from error


def trace_in_worker(request_json: str) -> MemoryModel:
    """Start the tracing process and read its answer.

    Raises:
        ModelError: it failed, took too long, or answered with something else.
    """
    command = [sys.executable, "-m", "myna.plan.memory.worker"]
    path = os.pathsep.join(filter(None, (PACKAGE_PARENT, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=request_json.encode(), capture_output=True, timeout=TIMEOUT_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"tracing the step took longer than {TIMEOUT_SECONDS} s") from error
    except OSError as error:
        raise ModelError(f"the process that traces the step did not start ({error})") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ModelError(f"the step could not be traced (exit status {done.returncode}): {lines[-1]}")
    try:
        return FittedMemory.from_bytes(done.stdout)
    except ValueError as error:
        raise ModelError(f"the process that traces the step gave no model: {error}") from error
