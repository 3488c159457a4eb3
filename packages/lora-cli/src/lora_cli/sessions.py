"""Sessions that are on the disk: what was said in them, how much room they take, and which are old enough to go."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from lora.errors import ConfigError, RunFolderError
from lora.system.destination import writing_errors
from lora.system.documents import ContentError, json_value, read_bytes
from lora.system.terminal import say
from lora_cli.history import HISTORY_FILE, HOLDER_FILE, SESSIONS, Entry, state_dir

DAY_S: Final = 86_400.0
MEGABYTE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Session:
    """A session's folder, named by when it began."""

    folder: Path
    used_at: float
    """When something was written there last, in seconds since 1970."""
    size: int
    """Of its files, in bytes."""

    @property
    def name(self) -> str:
        return self.folder.name

    def entries(self) -> list[Entry]:
        """What was said, in its order. Raises `RunFolderError` for a file that somebody else changed."""
        file = self.folder / HISTORY_FILE
        if not file.exists():
            return []
        return [_entry(file, number, line) for number, line in enumerate(read_bytes(file, RunFolderError).splitlines(), 1) if line.strip()]

    def audio(self, one: Entry) -> Path:
        """The recording of an utterance."""
        return self.folder / str(one.audio)


def _entry(file: Path, number: int, line: bytes) -> Entry:
    try:
        return json_value(line, _ENTRY.decode)
    except (ContentError, msgspec.ValidationError) as error:
        raise RunFolderError(f"{file} line {number}: is no utterance ({error}); remove the line, or the session") from error


_ENTRY: Final = msgspec.json.Decoder(Entry)


def sessions() -> list[Session]:
    """All sessions, the oldest first."""
    folder = state_dir() / SESSIONS
    if not folder.is_dir():
        return []
    found = (_session(one) for one in folder.iterdir() if one.is_dir())
    return sorted((one for one in found if one is not None), key=lambda one: one.name)


def _session(folder: Path) -> Session | None:
    """None for one that another app has just removed."""
    states = {path: state for path in (folder, *folder.rglob("*")) if (state := _state(path)) is not None}
    if folder not in states:
        return None
    size = sum(state.st_size for path, state in states.items() if path != folder)
    return Session(folder, max(state.st_mtime for state in states.values()), size)


def _state(path: Path) -> os.stat_result | None:
    """None for what is gone by now: apps that run write temporary files, and remove sessions."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def named(wanted: Sequence[str]) -> list[Session]:
    """The sessions whose names begin so; `last` is the latest. Raises `ConfigError` for a name of none or of several."""
    return [_one(name, sessions()) for name in wanted]


def _one(name: str, there: list[Session]) -> Session:
    if name == "last" and there:
        return there[-1]
    found = [one for one in there if one.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    what = f"begins the names of {len(found)} sessions; give more of it" if found else "there is no such session"
    raise ConfigError(f"{name}: {what} (moonshine history list shows all)")


def remove(wanted: Sequence[Session]) -> list[Session]:
    """Removes sessions from the disk, but not those that still go on; returns what was removed. Raises `RunFolderError`."""
    return [one for one in wanted if _remove(one)]


def _remove(session: Session) -> bool:
    with writing_errors(session.folder):
        lock = FileLock(session.folder / HOLDER_FILE, mode=0o600, timeout=0)
        try:
            with lock:
                shutil.rmtree(session.folder)
        except Timeout:
            return False
    return True


def beyond(days: int, megabytes: int, now: float | None = None) -> Iterator[Session]:
    """Sessions that were not used for so many days, and the oldest ones while all together take more than `megabytes`."""
    now = time.time() if now is None else now
    there = sessions()
    left = sum(one.size for one in there)
    for one in there:
        if now - one.used_at > days * DAY_S or left > megabytes * MEGABYTE:
            left -= one.size
            yield one


def tidy(days: int, megabytes: int) -> None:
    """Removes what the user no longer keeps, and says so on stderr. Raises `RunFolderError`."""
    if gone := remove(list(beyond(days, megabytes))):
        say(f"removed {len(gone)} old sessions (kept: {days} days, {megabytes} MB; moonshine config list)", sys.stderr)
