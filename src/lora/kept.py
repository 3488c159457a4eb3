"""What runs keep for later ones, because it can be made again: encoder outputs, the base model's scores, sound of report pages.

A file's name is the hash of all that decides its content, so nothing stale is ever found and two runs may write side by side.
"""

import time
from pathlib import Path

from lora.files import cache_dir

ABANDONED_S = 24 * 3600.0
"""Age of a half-written file, in seconds, at which its process is surely gone."""


def kept_dir() -> Path:
    """The folder that holds them."""
    return cache_dir() / "kept"


def kept_file(key: str, suffix: str, folder: Path | None = None) -> Path:
    """Where what has this key is, or belongs."""
    return (folder or kept_dir()) / key[:2] / f"{key}{suffix}"


def prune(limit_bytes: int, folder: Path | None = None) -> int:
    """Removes the least recently used until at most `limit_bytes` are kept; returns how many bytes went."""
    for file in (folder or kept_dir()).glob("*/.*.part"):
        if time.time() - file.stat().st_mtime > ABANDONED_S:
            file.unlink(missing_ok=True)
    kept_files = [file for file in (folder or kept_dir()).glob("*/*") if not file.name.startswith(".")]
    files = sorted(kept_files, key=lambda file: file.stat().st_mtime, reverse=True)
    kept = removed = 0
    for file in files:
        size = file.stat().st_size
        if not removed and kept + size <= limit_bytes:
            kept += size
        else:
            file.unlink(missing_ok=True)  # another run may have pruned it
            removed += size
    return removed
