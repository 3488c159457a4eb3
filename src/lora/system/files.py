"""Files without half-written states: atomic writes, hashes, JSON and JSONL. Knows no domain type. `system.documents` reads them."""

import errno
import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from lora.system.destination import exchange, file_target, folder_target, is_shared, stays, writing_errors
from lora.system.process import signals_wait
from lora.system.terminal import shown_json


def cache_dir() -> Path:
    """Folder for what can be made again: `MOONSHINE_LORA_CACHE`, else `$XDG_CACHE_HOME/moonshine-lora`, else `~/.cache/moonshine-lora`."""
    if explicit := os.environ.get("MOONSHINE_LORA_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moonshine-lora"


@contextmanager
def system_errors() -> Iterator[None]:
    """Turns what safetensors and tokenizers raise when the system refuses to write into the `OSError` that it is."""
    try:
        yield
    except Exception as error:
        if refused := re.search(r"\(os error (\d+)\)$", str(error)):
            raise OSError(int(refused[1]), os.strerror(int(refused[1]))) from error
        raise


@contextmanager
def atomic_file(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content appears under `path` whole, when the block ends well, or not at all.

    Where `path` is a link, the file that it leads to is replaced. `durable` waits until the disk holds it, so that it outlives a power
    failure too; a `private` file is for its owner only. Raises `RunFolderError` if the disk refuses, and if `path` is a device, a
    pipe, a folder or a link to nothing.
    """
    target = file_target(path)
    with writing_errors(path), ExitStack() as cleanup:
        target.parent.mkdir(parents=True, exist_ok=True)
        with signals_wait():  # until its removal is registered
            remove_abandoned(target)
            handle, temporary = _claimed_file(target)
            cleanup.callback(temporary.unlink, missing_ok=True)
            stream = cleanup.enter_context(os.fdopen(handle, "wb"))
        yield stream
        stream.flush()
        temporary.chmod((0o600 if private else 0o666) & ~_umask())
        if durable:
            os.fsync(handle)
        temporary.replace(target)
        if durable:
            _sync(target.parent)


@contextmanager
def atomic_folder(path: Path, *, durable: bool = False, replace: bool = True) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block succeeds, replacing the folder that was there; otherwise nothing changes.

    Old and new folder change names in one step where the system can. A folder that cannot be replaced (`stays`) is filled: its old content
    goes, the newest file first, then the new comes, the oldest first; so a file that says that the folder is whole is to be written last.
    Where `path` is a link, the folder that it leads to is replaced. `durable` waits until the disk holds it, so that it outlives a power
    failure too. Raises `RunFolderError` if the disk refuses, where `path` is a file, and without `replace` where it is not empty.
    """
    target = folder_target(path)
    with writing_errors(path), ExitStack() as cleanup:
        target.parent.mkdir(parents=True, exist_ok=True)
        filled = stays(target)
        with signals_wait():  # until its removal is registered
            beside = target / target.name if filled else target
            remove_abandoned(beside)
            temporary = _claimed_folder(beside, cleanup)
        yield temporary
        _settle(temporary, durable=durable)
        with signals_wait():  # a folder is filled, or changes names, as a whole
            _put_into_place(temporary, target, filled=filled, replace=replace)
        if durable:
            _sync(target.parent)


def _put_into_place(temporary: Path, target: Path, *, filled: bool, replace: bool) -> None:
    if filled:
        _fill(target, temporary, replace=replace)
    elif not replace or not target.exists():
        temporary.rename(target)  # the system refuses where something is in it
    elif exchange(temporary, target):
        remove_tree(temporary)
    else:
        retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target), suffix=".old"))
        target.rename(retired / target.name)
        temporary.rename(target)
        remove_tree(retired)


def _fill(folder: Path, temporary: Path, *, replace: bool) -> None:
    old = [entry for entry in _by_age(folder) if not entry.name.endswith((".part", ".old"))]
    if old and not replace:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
    retired = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=".old"))
    for entry in reversed(old):
        entry.rename(retired / entry.name)
    for entry in _by_age(temporary):
        entry.rename(folder / entry.name)
    remove_tree(retired)


def _by_age(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda entry: entry.lstat().st_mtime_ns)


def _settle(folder: Path, *, durable: bool) -> None:
    """Gives everything in a folder the modes that the umask asks for: some libraries write files that only their owner may read."""
    umask = _umask()
    for entry in (*folder.rglob("*"), folder):
        if not entry.is_symlink():
            entry.chmod((0o777 if entry.is_dir() else 0o666 | entry.stat().st_mode & 0o111) & ~umask)
            if durable:
                _sync(entry)


# --- temporary names ---------------------------------------------------------------------------------------------------------------------

ABANDONED_S = 24 * 3600.0
"""Age, in seconds, from which a half-written file on a disk without locks counts as abandoned."""


def remove_abandoned(path: Path) -> None:
    """Removes half-written files for `path` that killed processes left: those that no process holds a lock on."""
    prefix = _prefix(path)
    with os.scandir(path.parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(prefix) and entry.name.endswith((".part", ".old"))]
    for entry in found:
        _remove_abandoned(entry)


def _prefix(path: Path) -> str:
    """Prefix of the temporary names for `path`. The name itself may be as long as the disk allows, so it is cut."""
    return f".{os.fsencode(path.name)[:160].decode(errors='ignore')}."


def _claimed_file(target: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=".part")
        _claim(handle)
        if Path(name).exists():  # a process that removes abandoned files may have been faster
            return handle, Path(name)
        os.close(handle)


def _claimed_folder(target: Path, cleanup: ExitStack) -> Path:
    while True:
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target), suffix=".part"))
        with suppress(FileNotFoundError):  # as above
            handle = os.open(temporary, os.O_RDONLY)
            cleanup.callback(os.close, handle)
            _claim(handle)
            if temporary.exists():
                cleanup.callback(_discard, temporary)
                return temporary


def _claim(handle: int) -> None:
    """Locks a file that is being written until its handle is closed, also by a kill. On a disk without locks its age protects it."""
    import fcntl  # Unix alone has it

    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_abandoned(entry: Path) -> None:
    import fcntl  # Unix alone has it

    try:
        handle = os.open(entry, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if is_shared(entry.parent):
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))  # the locks of other machines may not be seen here
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(entry)  # under the lock, for which its writer waits
    except BlockingIOError:
        return
    except OSError:
        if time.time() - os.fstat(handle).st_mtime > ABANDONED_S:
            remove_tree(entry)
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Removes a file or a folder with all that is in it, which another process may be removing too."""
    while path.exists() or path.is_symlink():
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _discard(folder: Path) -> None:
    with signals_wait():
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_at_once(folder: Path) -> None:
    """Removes a folder so that it never appears in part: after a kill `remove_leftovers` removes the rest."""
    with writing_errors(folder):
        retired = folder.with_name(f".{folder.name}.old")
        folder.rename(retired)
        remove_tree(retired)


def remove_leftovers(folder: Path) -> None:
    """Removes what `atomic_file`, `atomic_folder` and `remove_at_once` leave in a folder when their process is killed."""
    with writing_errors(folder):
        for path in (*folder.glob(".*.part"), *folder.glob(".*.old")):
            remove_tree(path)


def require_writable(path: Path) -> None:
    """Raises `RunFolderError` if a file cannot be written there. Call it before the work whose result the file will hold."""
    target = file_target(path)
    with writing_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target.parent))


def _umask() -> int:
    """The process's umask. Read from the system if possible, because setting it would affect files of other threads."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^Umask:\s*([0-7]+)$", status.read_text(encoding="ascii", errors="replace"), re.MULTILINE)):
        return int(found[1], 8)
    current = os.umask(0)
    os.umask(current)
    return current


def sha256_bytes(*parts: bytes | memoryview) -> str:
    """Hex SHA-256 of the parts, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON. `value` may hold msgspec structs, dataclasses, paths as strings, plain containers."""
    with atomic_file(path) as stream:
        content = msgspec.json.encode(value, order="sorted" if isinstance(value, dict) else None)
        stream.write(shown_json(msgspec.json.format(content, indent=2)))
        stream.write(b"\n")


def write_jsonl(path: Path, rows: Iterable[Any], *, durable: bool = False, private: bool = False) -> int:
    """Writes one JSON value a line and returns how many; `durable` and `private` as for `atomic_file`."""
    encoder = msgspec.json.Encoder()
    count = 0
    with atomic_file(path, durable=durable, private=private) as stream:
        for row in rows:
            stream.write(shown_json(encoder.encode(row)))
            stream.write(b"\n")
            count += 1
    return count


def is_regular(path: Path) -> bool:
    """Whether a file exists; False for a name that no system allows."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def leads_out(folder: Path, file: Path) -> bool:
    """Whether a file of a folder lies elsewhere, by a link on its way."""
    real = os.path.realpath(file) if file.is_symlink() else real_folder(str(file.parent)) + os.sep
    return not real.startswith(real_folder(str(folder)).rstrip(os.sep) + os.sep)


@functools.lru_cache(maxsize=4096)
def real_folder(folder: str) -> str:
    """The folder with links resolved. Cached, because thousands of files lie in one folder."""
    return os.path.realpath(folder)
