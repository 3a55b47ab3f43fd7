"""Where a model's files are: runs, checkpoints, folders, the hub; and the base that an adapter was trained on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from myna.errors import ModelError
from myna.models.metadata import METADATA_FILE, read_json, read_metadata

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
HUB_FILES = ("*.json", "*.safetensors", "*.txt")
CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"  # as peft names it
BASE_KEY, DIGEST_KEY = "base_model", "base_digest"  # of an adapter's metadata
TEACHER_KEY, TEACHER_DIGEST_KEY = "teacher", "teacher_digest"  # of a distilled student's
DIGEST_CHARACTERS = 32  # of the SHA-256, in hexadecimal


def find_model(model: str | Path) -> Path:
    """The folder that holds a model's files.

    Args:
        model: as for `load_recognizer`; a hub name is fetched, or taken from the hub's cache.

    Raises:
        ModelError: there is none.
    """
    path = Path(model)
    if path.is_dir():
        newest_first = sorted(path.glob("checkpoint-*"), key=_checkpoint_step, reverse=True)
        for folder in (path, path / "best", *newest_first):
            if (folder / CONFIG_FILE).is_file() or is_adapter(folder):
                return folder.resolve()
        raise ModelError(
            f"{model}: expected a run, a checkpoint or a `from_pretrained` folder; there is no config.json in it",
            "Pass a folder that `myna train` wrote, or one with config.json and model.safetensors.",
        )
    if path.exists() or path.is_absolute() or not HUB_NAME.fullmatch(str(model)):
        raise ModelError(
            f"{model}: expected a folder or a hub name; there is no such folder", "Check the spelling of the path."
        )
    return _fetch(str(model))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds low-rank adapters, which are nothing without their base."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def base_identity(model: str, folder: Path) -> dict[str, str]:
    """What an adapter's metadata say of its base: where it is, and what it is.

    Args:
        model: hub name or folder, as it was asked for.
        folder: that `find_model` gave for it.
    """
    name = str(folder) if Path(model).is_dir() else model
    return {BASE_KEY: name, DIGEST_KEY: weights_digest(folder)}


def teacher_identity(model: str, folder: Path) -> dict[str, str]:
    """The same of a student's teacher."""
    base = base_identity(model, folder)
    return {TEACHER_KEY: base[BASE_KEY], TEACHER_DIGEST_KEY: base[DIGEST_KEY]}


def weights_digest(folder: Path) -> str:
    """Of a model's configuration and weights, or adapters, by content: training state and tokenizer play no part."""
    files = [folder / CONFIG_FILE, *sorted(folder.glob("*model*.safetensors"))]
    whole = hashlib.sha256()
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:DIGEST_CHARACTERS]


def find_base(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on.

    Args:
        adapter: folder of the adapter; without Myna's metadata, peft's own say what the base is.

    Raises:
        ModelError: the base is not where it was, is another model by now, or is an adapter itself.
    """
    metadata = read_metadata(adapter)
    name = metadata.get(BASE_KEY) or read_json(adapter / ADAPTER_CONFIG_FILE, "an adapter's settings").get(
        "base_model_name_or_path"
    )
    remedy = f"Put it back, or write where it is now into {adapter / METADATA_FILE} as {BASE_KEY}."
    if not name:
        raise ModelError(f"{adapter}: expected the name of the base of this adapter; it says none", remedy)
    try:
        folder = find_model(str(name))
    except ModelError as error:
        raise ModelError(f"{adapter}: its base model cannot be found: {error.problem}", remedy) from error
    refuse_adapter(folder)
    digest = metadata.get(DIGEST_KEY, "")
    if digest and weights_digest(folder) != digest:
        raise ModelError(
            f"{adapter}: expected its base model in {folder}, with digest {digest}; received another model, with "
            f"digest {weights_digest(folder)}",
            remedy,
        )
    return folder


def refuse_other_origin(checkpoint: Path, metadata: dict[str, str]) -> None:
    """See that an adapter goes on with the base it began with, and a student with its teacher.

    Args:
        checkpoint: to resume from.
        metadata: of the recogniser that was built.

    Raises:
        ModelError: they have different bases or teachers.
    """
    stored = read_metadata(checkpoint)
    for key, what, settings in (
        (DIGEST_KEY, "base model", "model.pretrained and adapter.kind"),
        (TEACHER_DIGEST_KEY, "teacher", "distillation.teacher, unchanged since,"),
    ):
        began, now = stored.get(key, ""), metadata.get(key, "")
        if began != now:
            raise ModelError(
                f"{checkpoint}: expected the {what} with digest {began or 'none'}; received {now or 'none'}",
                f"Resume with the {settings} that the run was started with.",
            )


def refuse_adapter(folder: Path) -> None:
    """See that a folder holds a whole model.

    Raises:
        ModelError: it holds an adapter.
    """
    if is_adapter(folder):
        raise ModelError(
            f"{folder}: expected a whole model to start from; received an adapter",
            f"Merge it first: load_recognizer({str(folder)!r}).save_pretrained('merged').",
        )


def _checkpoint_step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Some repositories hold the weights twice, the second time as fp32 shards.
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=["*fp32*"]))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ModelError(
            f"{name}: expected a folder or a model on the hub; received {str(error).splitlines()[0] or error!r}",
            "Check the name and the network, or pass a folder.",
        ) from error
