"""A folder in which one process works at a time. The operating system holds the lock, so a kill releases it; the file names its owner."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lora.errors import RunFolderError
from lora.system.artifacts import LOCK_FILE
from lora.system.destination import is_shared, writing_errors
from lora.system.documents import read_json

_ATTEMPTS, _PAUSE_S = 5, 0.02
"""A process that only checks whether a folder is held takes its lock for a moment."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process, and its machine."""

    pid: int
    host: str
    boot: str | None
    """Id of the machine's current boot, which its containers share; None if the system has none."""
    since: str


class Hold:
    """This process's hold on a folder, from `take` to `release`. Without `take` it holds nothing, and `require` passes."""

    def __init__(self) -> None:
        self._handle: int | None = None
        self._folder = Path()

    def take(self, folder: Path, name: Path | None = None) -> None:
        """Holds a folder that is there, and which is about to be called `name`. Raises `RunFolderError` when another process holds it."""
        refuse_held(folder)
        with writing_errors(folder):
            handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(handle, folder)
            except BaseException:
                os.close(handle)
                raise
            os.ftruncate(handle, 0)
            os.pwrite(handle, msgspec.json.encode(_myself()) + b"\n", 0)
        self.release()
        self._handle, self._folder = handle, name or folder

    def require(self) -> None:
        """Raises `RunFolderError` if the held folder was removed or replaced."""
        if self._handle is not None and not self.stands():
            raise RunFolderError(
                f"{self._folder}: was removed or replaced while this process worked in it, so its result is lost; start it again"
            )

    def stands(self) -> bool:
        """Whether the folder is there and is the one that is held."""
        return self._handle is not None and _is_at(self._handle, self._folder / LOCK_FILE)

    def release(self) -> None:
        if self._handle is not None:
            if self.stands():
                (self._folder / LOCK_FILE).unlink()
            os.close(self._handle)
            self._handle = None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder for the block. Raises `RunFolderError` when another process holds it."""
    hold = Hold()
    hold.take(folder)
    try:
        yield
        hold.require()
    finally:
        hold.release()


def refuse_held(folder: Path) -> None:
    """Raises `RunFolderError`, with process and machine, when another process holds the folder."""
    file = folder / LOCK_FILE
    with writing_errors(file):
        if not file.is_file():
            return
        handle = os.open(file, os.O_RDONLY)
        try:
            _lock(handle, folder)
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    import fcntl  # Unix alone has it

    file = folder / LOCK_FILE
    locks = not is_shared(folder)  # locks of a shared disk may end at its machines
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == _ATTEMPTS - 1:
                raise _refusal(folder, _holder(file)) from None
            time.sleep(_PAUSE_S)
        except OSError:  # a disk without locks
            locks = False
            break
    if not _is_at(handle, file):
        raise _refusal(folder, _holder(file))
    holder = _holder(file)
    if holder is not None and may_live(holder, locks=locks):
        raise _refusal(folder, holder, f"; if it has ended all the same, remove {file}")


def may_live(holder: Holder, *, locks: bool) -> bool:
    """Whether the process that wrote a lock file may still work, where the system did not refuse the lock.

    With locks that count it is gone. Without, a process of this machine is looked for, and of another machine it is unclear.
    """
    if locks:
        return False
    if holder.boot == _boot() or holder.host == socket.gethostname():
        return holder.boot == _boot() and holder.pid != os.getpid() and _runs(holder.pid)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _refusal(folder: Path, holder: Holder | None, remedy: str = "") -> RunFolderError:
    who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder is not None else "another process"
    return RunFolderError(f"{folder}: is in use, {who} is running in it; wait for it, stop it, or choose another folder{remedy}")


def _holder(file: Path) -> Holder | None:
    """The process that wrote the file; None if it has not been written yet."""
    if not file.is_file() or file.stat().st_size == 0:
        return None
    holder: Holder = read_json(file, Holder, RunFolderError)
    return holder


def _is_at(handle: int, file: Path) -> bool:
    return file.exists() and os.path.samestat(os.fstat(handle), file.stat())


def _myself() -> Holder:
    return Holder(pid=os.getpid(), host=socket.gethostname(), boot=_boot(), since=datetime.now(UTC).isoformat(timespec="seconds"))


def _boot() -> str | None:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text(encoding="ascii").strip() if file.exists() else None
