"""All transforms, with their default settings."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from myna.audio.augment.background import Background
from myna.audio.augment.chain import AnyTransform
from myna.audio.augment.impulse_response import ImpulseResponse
from myna.audio.augment.transform import Transform

TRANSFORMS = get_args(get_args(AnyTransform)[0])


def with_defaults(kind: type[Transform], noise_folder: Path, room_folder: Path) -> Transform:
    """A transform that needs a folder gets it."""
    folders = {Background: noise_folder, ImpulseResponse: room_folder}
    return kind(folder=str(folders[kind])) if kind in folders else kind()
