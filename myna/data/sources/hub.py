"""Hugging Face datasets: by hub name, or a local folder that `datasets` wrote or understands."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.data.sources.folders import AUDIO_SUFFIXES
from myna.data.sources.rows import RowContext, bad_row, find_columns, split_named, to_recording
from myna.errors import MissingExtraError, SourceError
from myna.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from myna.samples import Recording, Refusal

HUB_PREFIX = "hf:"


def is_dataset_folder(folder: Path) -> bool:
    """Whether `datasets` saved this folder, or it holds Parquet or Arrow files."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    return any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "*.arrow", "*/*.parquet", "*/*.arrow"))


def read_dataset(
    name: str, columns: Mapping[str, str], context: RowContext, media_dir: Path
) -> Iterator[Recording | Refusal]:
    """Rows of a dataset. Audio that is embedded in it is written to `media_dir` once, named by its content.

    Args:
        name: `hf:org/name`, `hf:org/name:config`, or a local folder.
        columns: role -> column name where the user says so.
        context: what all rows share.
        media_dir: where embedded audio goes.

    Raises:
        MissingExtraError: when the package datasets is not installed.
        SourceError: when the dataset cannot be loaded, or lacks audio or transcripts.
    """
    for split, dataset in load_splits(name).items():
        mapped = split_named(split)
        if split and not mapped:
            problem = (
                f"split {split}: expected train, valid (dev, validation) or test; its {len(dataset)} rows are left out"
            )
            yield bad_row({"audio": f"{name}/{split}"}, problem, context)
            continue
        shared = replace(context, split=mapped or context.split)
        yield from _read_split(dataset, columns, shared, media_dir, split)


def load_splits(name: str) -> dict[str, Any]:
    """Split name ("" when there is none) -> `datasets.Dataset`, of a hub name or a local folder.

    Raises:
        MissingExtraError: when the package datasets is not installed.
        SourceError: when the dataset cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "datasets") from None
    try:
        if name.startswith(HUB_PREFIX):
            repository, _, config = name.removeprefix(HUB_PREFIX).partition(":")
            loaded = datasets.load_dataset(repository, config or None)
        elif any((Path(name) / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name)
    except Exception as error:  # `datasets` raises whatever its many readers do
        raise SourceError(
            f"{name}: expected a Hugging Face dataset; received {type(error).__name__}: {error}",
            "Give hf:org/name[:config], or a folder written by save_to_disk",
        ) from None
    return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or ""): loaded}


def _read_split(
    dataset: Any, columns: Mapping[str, str], context: RowContext, media_dir: Path, split: str
) -> Iterator[Recording | Refusal]:
    import datasets

    audio_columns = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Audio)]
    if audio_columns and not columns.get("audio"):
        columns = {**columns, "audio": audio_columns[0]}
    roles = find_columns(dataset.column_names, columns, context)
    if roles["audio"] in audio_columns:
        dataset = dataset.cast_column(roles["audio"], datasets.Audio(decode=False))
    dataset = dataset.select_columns(sorted(set(roles.values())))
    for number, row in enumerate(dataset, 1):
        values = {role: row[name] for role, name in roles.items()}
        if isinstance(values["audio"], dict):
            values["audio"] = _audio_path(values["audio"], media_dir)
        yield to_recording(values, f"{split} row {number}".strip(), context)


def _audio_path(audio: Mapping[str, Any], media_dir: Path) -> str | None:
    """Where the audio of one row lies; embedded bytes are written there first."""
    content, path = audio.get("bytes"), audio.get("path")
    if not content:
        return path
    suffix = Path(path or "").suffix.casefold()
    digest = hashlib.sha256(content).hexdigest()
    target = media_dir / digest[:2] / f"{digest}{suffix if suffix in AUDIO_SUFFIXES else '.audio'}"
    if not target.is_file():  # written whole or not at all, so what is there is complete
        write_atomically(target, content)
    return str(target)
