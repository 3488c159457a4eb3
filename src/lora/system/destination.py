"""Where an output may go: links are followed, devices and pipes refused, mount points known. And the system's refusals in one line."""

import ctypes
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lora.errors import RunFolderError

_REFUSALS: Final = {
    errno.ENOSPC: "no space left on the disk; free some or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some of it or choose another place",
    errno.EFBIG: "the file would be longer than this disk or `ulimit -f` allows; choose another place or raise the limit",
    errno.EIO: "the disk reports an error (input/output error); check it, or choose another place",
    errno.EBUSY: "is in use, perhaps as a mount point, so it cannot be replaced; choose another place",
    errno.EXDEV: "is on another disk than its folder, so it cannot be put into place whole; choose another place",
    errno.ENAMETOOLONG: "the name is too long for this disk; choose a shorter one",
    errno.ELOOP: "is a link that leads to itself; choose another place",
    errno.EMFILE: "this process may not open more files; raise `ulimit -n`",
    errno.ENFILE: "this machine has too many files open; end other programs",
    errno.ENOMEM: "the system is out of memory; end other programs",
    errno.EROFS: "the disk is mounted for reading only; choose another place",
    errno.ESTALE: "the network disk has lost it (stale file handle); mount the disk again",
    errno.ENODEV: "there is no such device; choose another place",
    errno.ENXIO: "there is no such device; choose another place",
}
MACHINE: Final = frozenset(_REFUSALS) - {errno.EBUSY, errno.EXDEV, errno.ENODEV, errno.ENXIO}
"""What no code can help, wherever it happens."""
_NO_ACCESS: Final = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL)

_KINDS: Final[dict[str, Callable[[int], bool]]] = {
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a folder": stat.S_ISDIR,
}

_SHARED: Final = re.compile(r"nfs\d?|cifs|smb\d?|9p|ceph|lustre|gpfs|beegfs|glusterfs|afs|fuse\..*")
"""Kinds of disks that other machines may see, whose locks they may not."""


def refusal(error: OSError) -> str | None:
    """What the operating system's refusal means and what to do about it; None for an error that is not of a file or disk."""
    if error.errno in _REFUSALS:
        return _REFUSALS[error.errno]
    if error.errno in _NO_ACCESS:
        return f"cannot be written ({os.strerror(error.errno)}); choose another place or fix its permissions"
    return None


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if (reason := refusal(error)) is None:
            raise
        raise RunFolderError(f"{path}: {reason}") from error


def file_target(path: Path) -> Path:
    """The regular file that a write to `path` makes or replaces: where a link leads. Raises `RunFolderError` for anything else."""
    target = _target(path)
    for kind, is_kind in _KINDS.items():
        if target.exists() and is_kind(target.stat().st_mode):
            raise RunFolderError(f"{path}: is {kind}, where a file is to be made; choose another place")
    return target


def folder_target(path: Path) -> Path:
    """The folder that is made or replaced at `path`: where a link leads. Raises `RunFolderError` if something else is."""
    target = _target(path)
    if target.exists() and not target.is_dir():
        raise RunFolderError(f"{path}: is a file, where a folder is to be made; choose another place")
    return target


def _target(path: Path) -> Path:
    if "\0" in str(path):
        raise RunFolderError(f"{str(path)!r}: no name may hold a NUL character; choose another one")
    with writing_errors(path):
        if not path.is_symlink():
            return path
        target = Path(os.path.realpath(path))
        if not target.exists():
            raise RunFolderError(f"{path}: is a link to {target}, and nothing is there; make that, or choose another place")
    return target


def stays(folder: Path) -> bool:
    """Whether a folder that is there can only be filled, not replaced: a mount point, around the working directory, or in a closed one."""
    if not folder.is_dir():
        return False
    place = folder.resolve()
    return Path.cwd().is_relative_to(place) or is_mount(place) or not os.access(place.parent, os.W_OK)


def is_mount(folder: Path) -> bool:
    """Whether another disk, or a part of one, is mounted at a folder."""
    return folder.is_dir() and (os.path.ismount(folder) or str(folder.resolve()) in _mounts())


def mounted_below(path: Path) -> bool:
    """Whether another disk, or a part of one, is mounted at a folder or anywhere in it."""
    if not path.is_dir():
        return False
    place = path.resolve()
    return path.is_mount() or any(Path(mount).is_relative_to(place) for mount in _mounts())


def is_shared(folder: Path) -> bool:
    """Whether other machines may see a folder too, as far as the system tells: only Linux does."""
    place, mounts = folder.resolve(), _mounts()
    found = next((mounts[str(above)] for above in (place, *place.parents) if str(above) in mounts), "")
    return _SHARED.fullmatch(found) is not None


def _mounts() -> dict[str, str]:
    """Kinds of the mounted disks by mount point. Of several at one place the last is seen."""
    table = Path("/proc/self/mountinfo")
    if not table.exists():
        return {}
    lines = [line.split(" ") for line in table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    return {_unescaped(line[4]): line[line.index("-") + 1] for line in lines}


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two names in one step, of which a kill leaves nothing half done; False if system or disk cannot.

    Linux: `renameat2(2)` with `RENAME_EXCHANGE`; macOS: `renamex_np(2)` with `RENAME_SWAP`.
    """
    library, names = _libc(), (os.fsencode(first), os.fsencode(second))
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    elif sys.platform == "darwin":
        failed = library.renamex_np(*names, _EXCHANGE)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
