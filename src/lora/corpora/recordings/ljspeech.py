"""LJSpeech: metadata.csv with a bar between its cells, no head, and quotes that are plain characters; recordings in wavs/."""

from collections.abc import Iterator
from pathlib import Path

from lora.audio.decoding import AUDIO_SUFFIXES
from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError


def is_ljspeech(table: Path) -> bool:
    """Whether a table is LJSpeech's: a bar in its first line, `wavs/` beside it."""
    if not (table.is_file() and (table.parent / "wavs").is_dir()):
        return False
    with table.open("rb") as stream:
        return b"|" in stream.readline(65536)


def ljspeech_segments(source: Path, *, normalised: bool = False) -> Iterator[Segment | Bad]:
    """The rows of a `metadata.csv`, or of the one in a folder; with `normalised` their third cell, in which numbers are words.

    Raises `ManifestError` if it cannot be read.
    """
    table = source / "metadata.csv" if source.is_dir() else source
    if not table.is_file():
        raise ManifestError(f"{table}: no such file; LJSpeech has a metadata.csv, and its recordings in wavs/ beside it")
    files = _files(table.parent / "wavs")
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        if line.strip():
            yield _segment(table, number, line.rstrip("\r"), files, normalised=normalised)


def _files(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; the recordings of LJSpeech lie in wavs/ beside its table")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    return found


def _segment(table: Path, number: int, line: str, files: dict[str, list[Path]], *, normalised: bool) -> Segment | Bad:
    place = f"{table.name} line {number}"
    name, *texts = (cell.strip() for cell in line.split("|"))
    if len(texts) not in (1, 2):
        return Bad(place, f"has {len(texts) + 1} cells between bars; LJSpeech has a name, a text, and the normalised text")
    if normalised and len(texts) == 1:
        return Bad(place, f"{name}: has no third cell with the normalised text; leave --normalised out")
    stem = name[:-4] if name.lower().endswith(".wav") and name not in files else name
    found = files.get(stem, [])
    if len(found) != 1:
        which = ", ".join(path.name for path in found)
        return Bad(place, f"{name}: {f'several recordings have this name ({which})' if found else f'no recording wavs/{stem}.wav'}")
    return Segment(stem, found[0], texts[1] if normalised else texts[0], place, whole=True)
