"""Checkpoints of the training state: all that is needed to resume as if nothing had happened.

Order and random draws of an update follow from the seed and its number, and its learning rate too, so none of them is kept.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.errors import CheckpointError
from lora.runs.outcomes import Step
from lora.system.documents import read_json
from lora.system.files import atomic_folder, remove_at_once, remove_leftovers, sha256_bytes, sha256_file, system_errors, write_json
from lora.units import Seconds

KEPT = 2
"""Checkpoints that are kept: while one is written, the one before is whole."""

STATE_FILE = "state.json"
TENSORS_FILE = "tensors.safetensors"

_FOLDER = re.compile(r"step-(\d{8})")


class Window(msgspec.Struct, frozen=True):
    """Sums over some updates."""

    nats: float = 0.0
    tokens: int = 0
    audio_s: float = 0.0
    busy_s: float = 0.0

    def add(self, other: "Window") -> "Window":
        return Window(self.nats + other.nats, self.tokens + other.tokens, self.audio_s + other.audio_s, self.busy_s + other.busy_s)


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """All of a state but its tensors."""

    step: int
    """Updates done. Its evaluation, if one was due, has been made if the history ends with it."""
    data_sha256: str
    """Hash of the examples, so that a run never resumes on other data."""
    total: Window
    window: Window
    """Since the last evaluation."""
    history: tuple[Step, ...]
    misses: int
    """Evaluations since the best one."""
    guard_words: int
    said: dict[str, list[str]]
    """Transcripts of the last evaluation by set: drafts for the next one."""
    stages: dict[str, Seconds] = {}
    """Wall time of the run's stages up to here."""


@dataclass(frozen=True)
class TrainState:
    """Numbers with the adapter's weights by name, the optimizer's by parameter and kind, and the weights of steps that may be best."""

    numbers: Numbers
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    kept: dict[int, dict[str, Tensor]]


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    tensors_sha256: str
    numbers_sha256: str
    """Of the numbers as they are written without white space."""
    numbers: Numbers


def write(state: TrainState, folder: Path) -> Path:
    """Adds a checkpoint to a folder of them, whole or not at all, and removes those that are not needed any more."""
    path = folder / f"step-{state.numbers.step:08d}"
    tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors |= {f"kept/{step}/{name}": tensor for step, weights in state.kept.items() for name, tensor in weights.items()}
    with atomic_folder(path, durable=True) as temporary, system_errors():
        file = temporary / TENSORS_FILE
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)
        write_json(temporary / STATE_FILE, _stored(sha256_file(file), state.numbers))
    for old in _all(folder)[:-KEPT]:
        remove_at_once(old)
    return path


def _stored(tensors_sha256: str, numbers: Numbers) -> _Stored:
    return _Stored(tensors_sha256=tensors_sha256, numbers_sha256=sha256_bytes(msgspec.json.encode(numbers)), numbers=numbers)


def newest(folder: Path) -> Path | None:
    """The last checkpoint in a folder of them; None if there is none. What a killed process left half-written is removed."""
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    found = _all(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """The updates done at a checkpoint."""
    return int(path.name.removeprefix("step-"))


def read(path: Path) -> TrainState:
    """A checkpoint, its tensors on the CPU. Raises `CheckpointError` for one that is damaged."""
    try:
        stored: _Stored = read_json(path / STATE_FILE, _Stored, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; remove {path} to continue from the checkpoint before it") from error
    if stored != _stored(stored.tensors_sha256, stored.numbers):
        raise CheckpointError(f"{path / STATE_FILE}: is damaged; remove {path} to continue from the checkpoint before it")
    file = path / TENSORS_FILE
    try:
        if sha256_file(file) != stored.tensors_sha256:
            raise CheckpointError(f"{file}: is damaged; remove {path} to continue from the checkpoint before it")
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove {path} to continue from the checkpoint before it") from error
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
    kept: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split("/", 1)
        if kind == "kept":
            step, rest = rest.split("/", 1)
            kept.setdefault(int(step), {})[rest] = tensor
        else:
            parts[kind][rest] = tensor
    return TrainState(stored.numbers, parts["weights"], parts["optimizer"], kept)


def _all(folder: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return sorted(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))
