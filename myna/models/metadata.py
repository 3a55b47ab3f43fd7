"""The small JSON files of a model folder, and the one that Myna adds: `myna.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from myna.errors import ModelError
from myna.files import write_atomically

METADATA_FILE = "myna.json"
MAX_JSON_BYTES = 1_000_000


def write_metadata(folder: str | Path, metadata: dict[str, str]) -> None:
    """Write `myna.json` into a model folder."""
    text = json.dumps(metadata, indent=2, ensure_ascii=False, sort_keys=True)
    write_atomically(Path(folder) / METADATA_FILE, text + "\n")


def read_metadata(folder: str | Path) -> dict[str, str]:
    """`myna.json` of a model folder; {} when there is none.

    Raises:
        ModelError: the file is not a JSON object of strings.
    """
    path = Path(folder) / METADATA_FILE
    values = read_json(path, "a small JSON object") if path.is_file() else {}
    return {str(key): str(value) for key, value in values.items()}


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """A small JSON object of a model folder.

    Args:
        path: of the file.
        expected: what it should be, for the error.

    Raises:
        ModelError: it is no such file.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError(f"a {type(values).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: expected {expected}; received {error!r}", "Pass a `from_pretrained` folder."
        ) from error
    return values
