"""A saved adapter's base model, and the hashes of its files, read without PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from lora.checkpoints.model_folder import require_weights
from lora.errors import CheckpointError
from lora.language import Language
from lora.system.artifacts import ADAPTER_FOLDER, CHECKPOINT_FOLDER
from lora.system.documents import read_json
from lora.system.files import sha256_bytes, sha256_file, write_json

PROVENANCE_FILE: Final = "moonshine_lora.json"
ADAPTER_SETTINGS: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
CHECKPOINT_SETTINGS: Final = "config.json"
CHECKPOINT_WEIGHTS: Final = "model.safetensors"

_NOT_SEALED: Final = ("base_model_id", "base_revision", "sealed")
"""The place of the base model may change; its identity may not."""

_REMEDY: Final = "copy the whole folder again from the run that made it"


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """Hashes of the provenance and the files beside it when they were saved (hex SHA-256), and the names of the weights."""

    weights_sha256: str
    settings_sha256: str
    provenance_sha256: str = msgspec.field(name="passport_sha256")
    tensors: tuple[str, ...]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The model an adapter was trained on."""

    base_model_id: str
    base_revision: str | None
    base_sha256: str
    language: Language = "en"
    sealed: Sealed | None = None
    """None in adapters that were saved before there were hashes: names, shapes and values of their weights are checked all the same."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The tuned model of a run, as flags that name it."""

    model_id: str
    revision: str | None
    adapter_folder: Path | None
    """None if whole weights were trained: `model_id` is their folder."""
    base: Origin


def tuned_by(run: Path) -> Tuned:
    """The tuned model in a run's folder. Raises `CheckpointError` for a folder that holds none, or a damaged one."""
    if (checkpoint := run / CHECKPOINT_FOLDER).is_dir():
        own = read_json(checkpoint / PROVENANCE_FILE, Origin, CheckpointError)
        return Tuned(str(checkpoint.resolve()), None, None, own)
    adapter = run / ADAPTER_FOLDER
    if not adapter.is_dir():
        raise CheckpointError(f"{run}: holds no {ADAPTER_FOLDER}/; give the --output-dir of a finished run")
    origin = read(adapter, Origin)
    return Tuned(origin.base_model_id, origin.base_revision, adapter, origin)


OriginT = TypeVar("OriginT", bound=Origin)


def read(folder: Path, kind: type[OriginT]) -> OriginT:
    """The provenance of a saved adapter, or a part of it, after checking that its files are unchanged.

    Raises `CheckpointError` when there is no adapter or no provenance, and when a file beside it is missing, damaged or another one.
    """
    if not (folder / ADAPTER_SETTINGS).is_file():
        raise CheckpointError(f"{folder}: holds no adapter (no {ADAPTER_SETTINGS}); give a run's lora_adapter/ folder")
    if not (folder / PROVENANCE_FILE).is_file():
        raise CheckpointError(
            f"{folder}: has no {PROVENANCE_FILE}, so its base model and decode settings are unknown; "
            "it was not made by moonshine-lora or the file was lost"
        )
    return read_sealed(folder, kind, ADAPTER_WEIGHTS, ADAPTER_SETTINGS)


def read_sealed(folder: Path, kind: type[OriginT], weights: str, settings: str) -> OriginT:
    """The provenance of a folder with those files. Raises `CheckpointError` when one of them is missing, damaged or another one."""
    file = folder / PROVENANCE_FILE
    provenance: OriginT = read_json(file, kind, CheckpointError)
    names = tensor_names(folder / weights)
    if (sealed := provenance.sealed) is None:
        return provenance
    if _digest(read_json(file, dict[str, Any], CheckpointError)) != sealed.provenance_sha256:
        raise CheckpointError(f"{file}: was changed after it was saved; {_REMEDY}")
    if lacking := sorted(set(sealed.tensors) - set(names)):
        raise CheckpointError(
            f"{folder / weights}: lacks {len(lacking)} of its {len(sealed.tensors)} weights, among them {lacking[0]}; {_REMEDY}"
        )
    for name, expected in ((weights, sealed.weights_sha256), (settings, sealed.settings_sha256)):
        if (found := sha256_file(folder / name)) != expected:
            raise CheckpointError(
                f"{folder / name}: is damaged or another one (SHA-256 {found[:12]}, when it was saved {expected[:12]}); {_REMEDY}"
            )
    return provenance


def write_sealed(folder: Path, provenance: Origin, weights: str, settings: str) -> None:
    """Writes the provenance with the hashes of those files, which must exist."""
    sealed = Sealed(
        weights_sha256=sha256_file(folder / weights),
        settings_sha256=sha256_file(folder / settings),
        provenance_sha256=_digest(msgspec.to_builtins(provenance)),
        tensors=tensor_names(folder / weights),
    )
    write_json(folder / PROVENANCE_FILE, msgspec.structs.replace(provenance, sealed=sealed))


def tensor_names(file: Path) -> tuple[str, ...]:
    """Names of the weights of a safetensors file, sorted. Raises `CheckpointError` when it is missing or not whole."""
    from safetensors import SafetensorError, safe_open

    require_weights(file, _REMEDY)
    try:
        with safe_open(file, framework="np") as opened:
            return tuple(sorted(opened.keys()))
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: not a whole safetensors file ({reason}); {_REMEDY}") from error


def check(folder: Path, origin: Origin, model_id: str, revision: str | None, sha256: str) -> None:
    """Raises `CheckpointError` when the adapter in `folder` was trained on other weights than those of `sha256`."""
    if origin.base_sha256 != sha256:
        raise CheckpointError(
            f"{folder}: was trained on {_name(origin.base_model_id, origin.base_revision, origin.base_sha256)}, not on "
            f"{_name(model_id, revision, sha256)}; give that --model-id"
        )


def _digest(values: dict[str, Any]) -> str:
    """Hash of the values as JSON has them, whatever their order and layout."""
    decisive = {key: value for key, value in values.items() if key not in _NOT_SEALED}
    return sha256_bytes(msgspec.json.encode(decisive, order="deterministic"))


def _name(model_id: str, revision: str | None, sha256: str) -> str:
    return f"{model_id}{f'@{revision[:8]}' if revision else ''} (weights {sha256[:8]})"
