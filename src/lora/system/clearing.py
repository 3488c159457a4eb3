"""What `moonshine-lora cache` shows and removes: only what this project has put into its cache folder, by its names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lora.system.destination import mounted_below, writing_errors
from lora.system.files import folder_bytes, remove_tree

_HASH = "[0-9a-f]{64}"
OWN: Final = {
    "augmented": _HASH,
    "checkpoints": r"moonshine-[a-z0-9-]+",
    "corpora": r"asterisk-core-sounds-en-.+",
    "kept": rf"[0-9a-f]{{2}}/{_HASH}\..+",
    "runtimes": r"(moonshine-voice|transformers-js)-[0-9.]+",
    "wheels": r"(moonshine_voice|moonshine_cpp|useful_moonshine_onnx)-.+\.whl",
}
"""Folders of the cache, and the names of what is in them. Half-written or locked, a name has a dot before it."""


def own(cache: Path) -> Iterator[Path]:
    """The project's own entries there, except links, mount points and what lies behind them."""
    for name, pattern in OWN.items():
        part = cache / name
        found = part.glob("*/*" if "/" in pattern else "*") if is_reached(part) else ()
        for entry in sorted(found):
            inner = entry.relative_to(part)
            plain = inner.with_name(inner.name.removeprefix(".")).as_posix()
            if is_reached(entry.parent) and is_reached(entry) and re.match(pattern, plain):
                yield entry


def left_alone(cache: Path) -> Iterator[Path]:
    """Folders of the cache that lie elsewhere: links, and what another disk is mounted at or below."""
    return (cache / name for name in OWN if (cache / name).exists() and not is_reached(cache / name))


def is_reached(path: Path) -> bool:
    return not path.is_symlink() and not mounted_below(path)


def clear(cache: Path) -> int:
    """Removes the project's own entries, and folders that are empty afterwards; returns how many bytes were freed."""
    size = 0
    with writing_errors(cache):
        for entry in list(own(cache)):
            size += folder_bytes(entry) if entry.is_dir() else entry.stat().st_size
            remove_tree(entry)
        for name in OWN:
            for folder in (*(cache / name).glob("*/"), cache / name) if is_reached(cache / name) else ():
                if folder.is_dir() and is_reached(folder) and not any(folder.iterdir()):
                    folder.rmdir()
    return size
