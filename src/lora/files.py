"""Files without half-written states: atomic writes, hashes, JSON and JSONL. Knows no domain type. What reads them is `reading`."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from lora.errors import RunFolderError
from lora.process import signals_wait


def cache_dir() -> Path:
    """Folder for what can be made again: `MOONSHINE_LORA_CACHE`, else `$XDG_CACHE_HOME/moonshine-lora`, else `~/.cache/moonshine-lora`."""
    if explicit := os.environ.get("MOONSHINE_LORA_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moonshine-lora"


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunFolderError(f"{path}: no space left on the disk; free some or choose another place") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another place or mend its permissions") from error
        raise


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
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content appears under `path` whole, when the block ends well, or not at all.

    `durable` waits until the disk holds it, so that it outlives a power failure too.
    """
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as cleanup:
            with signals_wait():  # until there is someone to remove it
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
                temporary = Path(name)
                cleanup.callback(temporary.unlink, missing_ok=True)
                stream = cleanup.enter_context(os.fdopen(handle, "wb"))
            with stream:
                yield stream
            temporary.chmod(0o666 & ~_umask())
            if durable:
                _sync(temporary)
            temporary.replace(path)
            if durable:
                _sync(path.parent)


@contextmanager
def atomic_folder(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, replacing the folder that was there; else nothing changes.

    `durable` waits until the disk holds it, so that it outlives a power failure too. Raises `RunFolderError` where `path` is a file.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path}: is a file, where a folder is to be made; choose another place")
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as cleanup:
            with signals_wait():  # until there is someone to remove it
                temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
                cleanup.callback(_discard, temporary)
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if durable:
                for file in (*temporary.iterdir(), temporary):
                    _sync(file)
            with signals_wait():  # between its two renames there is neither the old folder nor the new
                if path.exists():
                    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
                    path.rename(retired / path.name)
                    temporary.rename(path)
                    shutil.rmtree(retired)
                else:
                    temporary.rename(path)
            if durable:
                _sync(path.parent)


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
    """Removes a folder that nobody ever sees in part: a kill meanwhile leaves something for `remove_leftovers`."""
    with writing_errors(folder):
        retired = folder.with_name(f".{folder.name}.old")
        folder.rename(retired)
        shutil.rmtree(retired)


def remove_leftovers(folder: Path) -> None:
    """Removes what `atomic_file`, `atomic_folder` and `remove_at_once` leave in a folder when their process is killed."""
    with writing_errors(folder):
        for path in (*folder.glob(".*.part"), *folder.glob(".*.old")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def require_writable(path: Path) -> None:
    """Raises `RunFolderError` when a file could not be written there: before the work whose result it is to hold."""
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _umask() -> int:
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
        stream.write(msgspec.json.format(msgspec.json.encode(value, order="sorted" if isinstance(value, dict) else None), indent=2))
        stream.write(b"\n")


def write_jsonl(path: Path, rows: Iterable[Any], *, durable: bool = False) -> int:
    """Writes one JSON value a line and returns how many; `durable` as for `atomic_file`."""
    encoder = msgspec.json.Encoder()
    count = 0
    with atomic_file(path, durable=durable) as stream:
        for row in rows:
            stream.write(encoder.encode(row))
            stream.write(b"\n")
            count += 1
    return count


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove_folder(folder: Path) -> int:
    """Removes a folder, if it is there, and returns how many bytes went."""
    if not folder.is_dir():
        return 0
    size = folder_bytes(folder)
    with writing_errors(folder):
        shutil.rmtree(folder)
    return size
