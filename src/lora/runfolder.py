"""A run's folder: taken over only when that is safe, and the log that is written into it as the run goes on."""

import os
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lora.config import RunConfig, flat
from lora.destination import writing_errors
from lora.errors import RunFolderError
from lora.files import atomic_folder, remove_leftovers, write_text
from lora.record import RECORD_FILE, RunRecord, now, read, write

LOG_FILE = "log.jsonl"
CONFIG_FILE = "config.toml"
CHECKPOINTS_FOLDER = "checkpoints"

FREE = frozenset({"output.output_dir", "output.overwrite", "output.feature_cache_gb", "output.trackers", "train.checkpoint_interval"})
"""Settings that a resumed run may change: no number depends on them."""


def check(folder: Path, overwrite: bool) -> None:
    """Raises `RunFolderError` when the folder holds another run, or anything else that a run would mix with."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; choose another --output-dir")
    if any(parent.is_file() for parent in folder.parents):
        raise RunFolderError(f"{folder}: cannot be written (Not a directory); choose another place")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / RECORD_FILE).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no run; choose another --output-dir")
    if not overwrite:
        raise RunFolderError(f"{folder}: holds a run ({_status(folder)}); choose another --output-dir or pass --overwrite")


def take(folder: Path, overwrite: bool, record: RunRecord) -> None:
    """Puts a folder with the opening record and the settings in the place of what is there.

    It appears with its record, which is what makes a folder a run: wherever this ends, the folder holds the run before or this one.
    """
    check(folder, overwrite)
    with atomic_folder(folder) as made:
        _open(made, record)


def resumable(folder: Path, config: RunConfig) -> RunRecord:
    """The record of the unfinished run in a folder.

    Raises `RunFolderError` when there is none, when it is completed, or when its settings were others.
    """
    if not (folder / RECORD_FILE).is_file():
        raise RunFolderError(f"{folder}: holds no run that could be resumed (no {RECORD_FILE}); start one without --resume")
    record = read(folder)
    if record.status == "completed":
        raise RunFolderError(f"{folder}: the run is completed, there is nothing to resume; its result is in {RECORD_FILE} and report.md")
    before, after = flat(record.config), flat(config)
    changed = [f"{name} was {before[name]}, is {after[name]}" for name in before if before[name] != after[name] and name not in FREE]
    if changed:
        raise RunFolderError(f"{folder}: was started with other settings: {'; '.join(changed)}; set them back, or start another run")
    return record


def require_same(before: RunRecord, here: RunRecord) -> None:
    """Raises `RunFolderError` when data, base model or device are not those of the run that is to be resumed."""
    folder = before.config.output.output_dir
    changed = [
        f"{name} ({info.path}) has changed"
        for name, info in before.manifests.items()
        if name not in here.manifests or here.manifests[name].sha256 != info.sha256
    ]
    if before.checkpoint.sha256 != here.checkpoint.sha256:
        changed.append(f"{before.checkpoint.model_id} has other weights")
    if before.environment.device != here.environment.device:
        changed.append(f"the device was {before.environment.device}, is {here.environment.device}")
    if changed:
        raise RunFolderError(f"{folder}: cannot be resumed: {'; '.join(changed)}; undo that, or start another run")


def continue_in(folder: Path, record: RunRecord) -> None:
    """Writes the opening record of a run that goes on, after what its last process left half-written is removed."""
    remove_leftovers(folder)
    _open(folder, record)
    log = folder / LOG_FILE
    if log.is_file() and not (content := log.read_bytes()).endswith(b"\n"):
        with writing_errors(log):
            os.truncate(log, content.rfind(b"\n") + 1)


def _open(folder: Path, record: RunRecord) -> None:
    write(record, folder)
    write_text(folder / CONFIG_FILE, tomli_w.dumps(_without_none(msgspec.to_builtins(record.config))))


class RunLog:
    """Events of a run, one JSON object a line, each on disk when the call returns. Without a file it keeps nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def write(self, event: str, **values: Any) -> None:
        if self._file is None:
            return
        with writing_errors(self._file), self._file.open("ab") as stream:
            stream.write(msgspec.json.encode({"time": now(), "event": event, **values}) + b"\n")


def _status(folder: Path) -> str:
    return read(folder).status


def _without_none(value: Any) -> Any:
    """TOML has no null; a setting that is None is left out, which means the same."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
