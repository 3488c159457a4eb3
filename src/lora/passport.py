"""What a saved adapter belongs to, read without PyTorch."""

from pathlib import Path
from typing import TypeVar

import msgspec

from lora.errors import CheckpointError
from lora.language import Language
from lora.reading import read_json

PASSPORT_FILE = "moonshine_lora.json"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The model an adapter was trained on."""

    base_model_id: str
    base_revision: str | None
    base_sha256: str
    language: Language = "en"


OriginT = TypeVar("OriginT", bound=Origin)


def read(folder: Path, kind: type[OriginT]) -> OriginT:
    """The passport of a saved adapter, or a part of it. Raises `CheckpointError` when there is no adapter or no passport."""
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder}: holds no adapter (no adapter_config.json); give a run's lora_adapter/ folder")
    if not (folder / PASSPORT_FILE).is_file():
        raise CheckpointError(
            f"{folder}: has no {PASSPORT_FILE}, so its base model and decode settings are unknown; "
            "it was not made by moonshine-lora or the file was lost"
        )
    passport: OriginT = read_json(folder / PASSPORT_FILE, kind, CheckpointError)
    return passport


def check(folder: Path, origin: Origin, model_id: str, revision: str | None, sha256: str) -> None:
    """Raises `CheckpointError` when the adapter in `folder` was trained on other weights than those of `sha256`."""
    if origin.base_sha256 != sha256:
        raise CheckpointError(
            f"{folder}: was trained on {_name(origin.base_model_id, origin.base_revision, origin.base_sha256)}, not on "
            f"{_name(model_id, revision, sha256)}; give that --model-id"
        )


def _name(model_id: str, revision: str | None, sha256: str) -> str:
    return f"{model_id}{f'@{revision[:8]}' if revision else ''} (weights {sha256[:8]})"
