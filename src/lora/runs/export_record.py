"""The content of `export.json`: how an export was made, from what, and what the proof in its runtime showed."""

from pathlib import Path
from typing import Literal

import msgspec

from lora.audio.loading import AudioSettings
from lora.errors import OnDeviceError
from lora.language import Language
from lora.scoring.significance import Interval
from lora.system.documents import read_json
from lora.system.files import is_regular, sha256_file
from lora.units import Seconds

EXPORT_FILE = "export.json"

EXPORT_SCHEMA = 1
"""Raised when a field changes its meaning."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A word error rate with its interval."""

    wer: float
    interval: Interval


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """On how many clips the export says exactly what a model says in PyTorch."""

    normalised: int
    written: int
    """With case and punctuation."""


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """A clip whose normalised transcript is not the tuned model's."""

    id: str
    reference: str
    tuned: str
    export: str


class SetProof(msgspec.Struct, frozen=True, kw_only=True):
    """One test set with the base model and the tuned one in PyTorch, and with the export in its runtime."""

    utterances: int
    words: int
    """Words in the references."""
    seconds: Seconds
    base: Rate
    tuned: Rate
    export: Rate
    drift_points: float
    """WER of the export less that of the tuned model, in percentage points."""
    like_tuned: Agreement
    like_base: Agreement
    differing: tuple[Differing, ...]


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """The clips of all sets on which base and tuned model differ as written, and whose side the export takes there.

    A side is the smaller number of character edits. Where adapter and base model mostly agree, only these clips tell which was exported.
    """

    clips: int
    tuned: int
    base: int
    edits_to_tuned: int
    edits_to_base: int


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the runtime is, one clip at a time, when it is loaded and warm."""

    real_time_factor: float
    """Real-time factor: processing time divided by audio duration."""
    median_s: Seconds
    """Time to a clip's transcript, the median."""
    load_s: Seconds
    peak_bytes: int
    """Memory of the runtime's process, Python included."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, and what speaks against the export: nothing, where it is proven."""

    sets: dict[str, SetProof]
    sides: Sides | None
    """None for an export of the base model itself."""
    speed: Speed | None
    """None for `merged`, which PyTorch runs."""
    max_drift_points: float
    failures: tuple[str, ...]


class ExportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, its name below the export's folder."""

    name: str
    bytes: int
    sha256: str


class TargetExport(msgspec.Struct, frozen=True, kw_only=True):
    """What one runtime loads."""

    precision: Literal["u8", "fp16", "fp32"]
    files: tuple[ExportedFile, ...]
    seconds: Seconds
    """Time to make it."""
    proof: Proof | None = None
    """None if the proof was skipped by name."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class ProofSpeech(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that the proof used, and how many of its clips."""

    path: str
    sha256: str
    utterances: int


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """An export folder."""

    made_at: str
    command: tuple[str, ...]
    folder: str
    run: str | None
    """The run's folder; None for an adapter or a model given by itself, of which no gate is known."""
    gate: str | None
    """What the run's gate decided, and why; None if no gate is known."""
    gate_accepted: bool | None
    model_id: str
    base_sha256: str
    adapter_sha256: str | None
    """None for an export of the base model."""
    architecture: str | None
    """What runtimes call the model's size; None for one that they do not know."""
    tokens_per_second: float
    """The cap on tokens that transcripts were scored with."""
    audio: AudioSettings
    language: Language
    targets: dict[str, TargetExport]
    speech: dict[str, ProofSpeech]
    seconds: dict[str, Seconds]
    """Wall time of each stage."""
    peak_bytes: int
    """Memory of the exporting process at its highest."""
    versions: dict[str, str]
    schema: int = EXPORT_SCHEMA


def read_exported(folder: Path) -> Exported:
    """The account of an export folder. Raises `OnDeviceError` when it is none, or one of a version this code does not know."""
    file = folder / EXPORT_FILE
    if not file.is_file():
        raise OnDeviceError(f"{folder}: holds no export (no {EXPORT_FILE}); give the folder that `moonshine-lora export` made")
    schema = read_json(file, dict[str, msgspec.Raw], OnDeviceError).get("schema")
    if schema is None or bytes(schema) != str(EXPORT_SCHEMA).encode():
        raise OnDeviceError(f"{file}: was written by another version, this one reads schema {EXPORT_SCHEMA}; export it again")
    exported: Exported = read_json(file, Exported, OnDeviceError)
    return exported


def require_unchanged(folder: Path, target: str, exported: Exported) -> None:
    """Raises `OnDeviceError` when the folder lacks the target, or one of its files is not the one that was exported."""
    require_files(folder, target, exported)
    for file in exported.targets[target].files:
        if sha256_file(folder / target / file.name) != file.sha256:
            raise OnDeviceError(f"{folder}: {target}/{file.name} is not the file that was exported; export it again")


def require_files(folder: Path, target: str, exported: Exported) -> None:
    """The same by the files' sizes alone, at once."""
    if target not in exported.targets:
        raise OnDeviceError(f"{folder}: holds {', '.join(exported.targets)} and not {target}; export it with --to {target}")
    for file in exported.targets[target].files:
        path = folder / target / file.name
        inside = not Path(file.name).is_absolute() and ".." not in Path(file.name).parts
        if not inside or not is_regular(path) or path.stat().st_size != file.bytes:
            raise OnDeviceError(f"{folder}: {target}/{file.name} is not the file that was exported; export it again")
