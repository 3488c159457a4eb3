"""The cache: results that can be made again, kept for later runs. What a check found in recordings, encoder outputs, the base
model's scores, sound of report pages.

A file's name is the hash of all that decides its content, the code that makes it included, so nothing stale is ever found and two runs may
write side by side. A file carries a checksum: one that was damaged is removed and made again.
"""

import ast
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import msgspec
import xxhash

from lora.system.files import ABANDONED_S, atomic_file, cache_dir, sha256_bytes

_PACKAGE = Path(__file__).parents[1]

VERSIONS = ("torch", "transformers", "tokenizers", "peft", "numpy", "soundfile", "av", "soxr", "whisper-normalizer")
"""Packages whose version is part of every key: another one may read, round or normalise differently."""


def key(maker: str, *inputs: object) -> str:
    """Hex SHA-256 of all that decides what the module `maker` makes of `inputs`: these, its code with all of ours that it imports, and
    the libraries' versions. `inputs` are anything that msgspec writes."""
    return sha256_bytes(msgspec.json.encode([code_digest(maker), _versions(), inputs]))


@cache
def _versions() -> list[str]:
    return [version(name) for name in VERSIONS]


_ONE_AT_A_TIME = Lock()
"""CPython 3.11 keeps one counter for the depth of all syntax trees under construction: two threads that parse may raise SystemError."""


def code_digest(module: str) -> str:
    """Hex SHA-256 of the source of a module of ours and of all of ours that it imports, directly or not. Threads may ask together."""
    with _ONE_AT_A_TIME:
        return _code_digest(module)


@cache
def _code_digest(module: str) -> str:
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = _source(name)
            waiting += _imported(sources[name])
    return sha256_bytes(msgspec.json.encode(sorted(sources.items())))


def _source(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")


def _file(module: str) -> Path:
    """The file that a module of ours would have."""
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_name(f"{place.name}.py")


def _imported(source: str) -> list[str]:
    """Modules of ours that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    package = __name__.partition(".")[0]
    return [name for name in names if name.partition(".")[0] == package and _file(name).is_file()]


class Kept:
    """The kept files of one folder, and those among them that were found damaged."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is that of the cache unless given."""
        self.folder = folder or kept_dir()
        self.damaged: list[Path] = []

    def file(self, key: str, suffix: str) -> Path:
        """Where what has this key is, or belongs."""
        return kept_file(key, suffix, self.folder)

    def has(self, file: Path) -> bool:
        """Whether the file exists, whole or not. Marks it as recently used, so that it is pruned last."""
        try:
            os.utime(file)
        except FileNotFoundError:
            return False
        return True

    def read(self, file: Path) -> bytes | None:
        """What was written; None if nothing was, or if it is damaged. A damaged file goes."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        digest, _, payload = content.partition(b"\n")
        if digest == _digest(payload):
            return payload
        self.damaged.append(file)
        file.unlink(missing_ok=True)
        return None

    def write(self, file: Path, payload: bytes) -> None:
        """Writes it whole or not at all."""
        with atomic_file(file) as stream:
            stream.write(_digest(payload) + b"\n" + payload)


def _digest(payload: bytes) -> bytes:
    """The first line of a kept file. Not against malice, so the fastest hash that finds any flipped bit."""
    return b"xxh3-128 " + xxhash.xxh3_128_hexdigest(payload).encode()


def kept_dir() -> Path:
    """The folder that holds them."""
    return cache_dir() / "kept"


def kept_file(key: str, suffix: str, folder: Path | None = None) -> Path:
    """Where what has this key is, or belongs."""
    return (folder or kept_dir()) / key[:2] / f"{key}{suffix}"


def prune(limit_bytes: int, folder: Path | None = None) -> int:
    """Removes the least recently used until at most `limit_bytes` are kept; returns how many bytes went."""
    for file, state in _there((folder or kept_dir()).glob("*/.*.part")):
        if time.time() - state.st_mtime > ABANDONED_S:
            file.unlink(missing_ok=True)
    kept_files = (file for file in (folder or kept_dir()).glob("*/*") if not file.name.startswith("."))
    files = sorted(_there(kept_files), key=lambda found: found[1].st_mtime, reverse=True)
    kept = removed = 0
    for file, state in files:
        size = state.st_size
        if not removed and kept + size <= limit_bytes:
            kept += size
        else:
            file.unlink(missing_ok=True)  # another run may have pruned it
            removed += size
    return removed


def _there(files: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Files with their sizes and times, without those that another run has pruned or given their name since they were listed."""
    for file in files:
        with suppress(FileNotFoundError):
            yield file, file.stat()
