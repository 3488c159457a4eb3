"""A run's folder: taken over only when that is safe, and the log that is written into it as the run goes on."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lora.errors import RunFolderError
from lora.files import write_text, writing_errors
from lora.record import RECORD_FILE, RunRecord, now, read, write

LOG_FILE = "log.jsonl"
CONFIG_FILE = "config.toml"


def check(folder: Path, overwrite: bool) -> None:
    """Raises `RunFolderError` when the folder holds another run, or anything else that a run would mix with."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; choose another --output-dir")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / RECORD_FILE).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no run; choose another --output-dir")
    if not overwrite:
        raise RunFolderError(f"{folder}: holds a run ({_status(folder)}); choose another --output-dir or pass --overwrite")


def take(folder: Path, overwrite: bool, record: RunRecord) -> "RunLog":
    """Empties or makes the folder, writes the opening record and the settings into it and opens its log.

    The record comes first: it is what makes a folder a run, so that one which ends here can be overwritten like any other.
    """
    check(folder, overwrite)
    with writing_errors(folder):
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    write(record, folder)
    write_text(folder / CONFIG_FILE, tomli_w.dumps(_without_none(msgspec.to_builtins(record.config))))
    return RunLog(folder / LOG_FILE)


class RunLog:
    """Events of a run, one JSON object a line, each on disk when the call returns."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, event: str, **values: Any) -> None:
        with writing_errors(self._file), self._file.open("ab") as stream:
            stream.write(msgspec.json.encode({"time": now(), "event": event, **values}) + b"\n")


def _status(folder: Path) -> str:
    return read(folder).status


def _without_none(value: Any) -> Any:
    """TOML has no null; a setting that is None is left out, which means the same."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
