"""A run's folder: taken over only when that is safe, and the log that the run writes into it."""

import os
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lora.config import RunConfig, flat
from lora.errors import RunFolderError
from lora.runs.record import RunRecord, now, read, write
from lora.system.artifacts import CONFIG_FILE, LOCK_FILE, LOG_FILE, RECORD_FILE, STATES_FOLDER
from lora.system.destination import folder_target, stays, writing_errors
from lora.system.files import atomic_folder, remove_abandoned, remove_at_once, remove_leftovers, remove_tree, write_text
from lora.system.locking import Hold, refuse_held

FREE = frozenset({"output.output_dir", "output.overwrite", "output.feature_cache_gb", "output.trackers", "train.checkpoint_interval"})
"""Settings that a resumed run may change: no number depends on them."""


def check(folder: Path, overwrite: bool) -> None:
    """Raises `RunFolderError` when the folder holds another run, one that is still going on, or anything else that a run would mix with."""
    with writing_errors(folder):
        folder_target(folder)
        if any(parent.is_file() for parent in folder.parents):
            raise RunFolderError(f"{folder}: cannot be written (Not a directory); choose another place")
        if not folder.is_dir():
            return
        refuse_held(folder)
        if all(_is_ours_to_remove(entry.name) for entry in folder.iterdir()):
            return
    if not (folder / RECORD_FILE).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no run; choose another --output-dir")
    if not overwrite:
        raise RunFolderError(f"{folder}: holds a run ({_status(folder)}); choose another --output-dir or pass --overwrite")


def _is_ours_to_remove(name: str) -> bool:
    """Whether that is all a process leaves in an empty folder when it is killed before there is a run in it."""
    return name == LOCK_FILE or name.startswith(f".{RECORD_FILE}.")


def take(folder: Path, overwrite: bool, record: RunRecord, hold: Hold) -> None:
    """Puts a folder with the opening record and the settings in the place of what is there, and holds it.

    It appears with its record, which is what makes a folder a run: wherever this ends, the folder holds the run before or this one. Where
    it cannot be replaced (`destination.stays`) the checkpoints of the run before go first, so that nobody goes on from them; then the new
    record takes the place of the old; then the rest goes.
    """
    check(folder, overwrite)
    if stays(folder):
        _take_in_place(folder, record, hold)
        return
    before = Hold()
    try:
        if is_there := folder.is_dir():
            before.take(folder)  # so that no other process replaces it too
        with atomic_folder(folder, replace=is_there) as made:
            hold.take(made, folder)
            _open(made, record)
    finally:
        before.release()


def _take_in_place(folder: Path, record: RunRecord, hold: Hold) -> None:
    hold.take(folder)
    remove_leftovers(folder)
    if (folder / STATES_FOLDER).is_dir():
        remove_at_once(folder / STATES_FOLDER)
    write(record, folder)
    with writing_errors(folder):
        for entry in folder.iterdir():
            if entry.name not in (RECORD_FILE, LOCK_FILE):
                remove_tree(entry)
    _open(folder, record)


def resumable(folder: Path, config: RunConfig) -> RunRecord:
    """The record of the unfinished run in a folder.

    Raises `RunFolderError` when there is none, when it is still going on or completed, or when its settings were others.
    """
    refuse_held(folder)
    if not (folder / RECORD_FILE).is_file():
        raise RunFolderError(f"{folder}: holds no run that could be resumed (no {RECORD_FILE}); start one without --resume")
    record = read(folder)
    if record.status == "completed":
        raise RunFolderError(f"{folder}: the run is completed, there is nothing to resume; its result is in {RECORD_FILE} and report.md")
    if changed := changed_settings(record.config, config):
        raise RunFolderError(f"{folder}: was started with other settings: {'; '.join(changed)}; set them back, or start another run")
    return record


def changed_settings(before: RunConfig, after: RunConfig) -> list[str]:
    """Settings that numbers depend on and that differ, each in words."""
    was, now = flat(before), flat(after)
    return [f"{name} was {was[name]}, is {now[name]}" for name in was if was[name] != now[name] and name not in FREE]


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


def hold_unfinished(folder: Path, before: RunRecord, hold: Hold) -> None:
    """Holds the folder of a run that is to go on. Raises `RunFolderError` when another process has worked in it since `before` was read."""
    hold.take(folder)
    remove_abandoned(folder_target(folder))
    if _progress(read(folder)) != _progress(before):
        raise RunFolderError(f"{folder}: another process has worked on this run meanwhile; look at its {RECORD_FILE}, then start again")


def _progress(record: RunRecord) -> tuple[object, ...]:
    return record.status, record.started_at, record.finished_at, record.resumed


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
    write_settings(folder / CONFIG_FILE, record.config)


def write_settings(file: Path, config: RunConfig) -> None:
    """All settings as TOML, for `--config`."""
    write_text(file, tomli_w.dumps(_without_none(msgspec.to_builtins(config))))


class RunLog:
    """Events of a run, one JSON object a line, each on disk when the call returns. Without a file it keeps nothing."""

    def __init__(self, file: Path | None, hold: Hold) -> None:
        self._file, self._hold = file, hold

    def write(self, event: str, **values: Any) -> None:
        if self._file is None:
            return
        self._hold.require()
        with writing_errors(self._file), self._file.open("ab") as stream:
            stream.write(msgspec.json.encode({"time": now(), "event": event, **values}) + b"\n")


def _status(folder: Path) -> str:
    return read(folder).status


def _without_none(value: Any) -> Any:
    """TOML has no null; a setting that is None is left out, which means the same."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
