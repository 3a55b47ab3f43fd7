"""Myna trains speech recognisers for any language on the hardware people have.

The names below are loaded when first used, so that `import myna` stays instant.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before torch loads OpenMP: waiting threads that spin take the core from the loader processes, and on two busy
# cores a training step then takes up to fifty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Loaded with peft, bitsandbytes warns each time that a kernel of a model hub is not there; it works without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from myna.config import Config, load_config
    from myna.data.catalog import Catalog
    from myna.data.prepare import prepare
    from myna.evaluate.run import evaluate
    from myna.plan.manager import ASRConfigManager, create_optimal_config
    from myna.plan.optimal_config import OptimalConfig
    from myna.plan.profiles.dataset import DatasetProfile
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.profiles.model import ModelProfile
    from myna.train.run import train
    from myna.transcribe.transcriber import Transcriber

__version__ = "0.1.0"
__all__ = [
    "ASRConfigManager",
    "Catalog",
    "Config",
    "DatasetProfile",
    "HardwareProfile",
    "ModelProfile",
    "OptimalConfig",
    "Transcriber",
    "create_optimal_config",
    "evaluate",
    "load_config",
    "prepare",
    "train",
]

_HOMES = {
    "ASRConfigManager": "myna.plan.manager",
    "Catalog": "myna.data.catalog",
    "Config": "myna.config",
    "DatasetProfile": "myna.plan.profiles.dataset",
    "HardwareProfile": "myna.plan.profiles.hardware",
    "ModelProfile": "myna.plan.profiles.model",
    "OptimalConfig": "myna.plan.optimal_config",
    "Transcriber": "myna.transcribe.transcriber",
    "create_optimal_config": "myna.plan.manager",
    "evaluate": "myna.evaluate.run",
    "load_config": "myna.config",
    "prepare": "myna.data.prepare",
    "train": "myna.train.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'myna' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
