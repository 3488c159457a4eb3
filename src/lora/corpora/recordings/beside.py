"""Files with times, a recording each: which recording, under which prefix and speaker; one file, or a folder of them."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.audio.decoding import AUDIO_SUFFIXES
from lora.corpora.build import Bad
from lora.corpora.local import SpeakerFrom, files_below, require_clear_speakers, speaker_of
from lora.corpora.recordings.segments import Segment
from lora.errors import ConfigError, ManifestError

_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*$")
_SIDE = re.compile(r"\.([1-9])$")


@dataclass(frozen=True, slots=True)
class Timed:
    """A file with times."""

    path: Path
    recording: Path
    prefix: str
    """Begins the ids of its segments."""
    speaker: str | None
    """Speaker of segments that name none."""
    channel: int | None = None
    """Its only channel."""


Reader = Callable[[Timed], Iterator[Segment | Bad]]
"""The segments of one file. Raises `ManifestError` if it cannot be read or holds none."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which files, and where their recordings are."""

    suffixes: frozenset[str]
    what: str
    """What these files are called in a message, such as `subtitles (.srt, .vtt)`."""
    recording: Path | None = None
    audio_dir: Path | None = None
    """None: beside each file."""
    speaker_from: SpeakerFrom | None = None
    split: bool = False
    """`talk.1.srt` and `talk.2.srt` are of the first and the second channel of `talk.wav`."""


def read_timed(source: Path, where: Where, read: Reader) -> Iterator[Segment | Bad]:
    """The segments of a file, or of all such files under a folder, where a subfolder's name is the speaker's.

    Raises `ConfigError` if a flag is for the other kind of source, `ManifestError` if there is nothing or a speaker is unclear.
    """
    if source.is_dir():
        if where.recording is not None:
            raise ConfigError("--recording: is for one file; in a folder each lies beside its recording, or in --audio-dir")
        return folder_timed(source, where, read)
    if where.speaker_from is not None:
        raise ConfigError("--speaker-from: is for a folder; leave it out")
    if where.recording is not None and where.audio_dir is not None:
        raise ConfigError("--recording and --audio-dir both say where the recording is; leave one out")
    if not source.is_file():
        raise ManifestError(f"{source}: no such file or folder")
    recording, channel = (
        (where.recording, None) if where.recording is not None else recording_of(source, where.audio_dir, split=where.split)
    )
    return read(Timed(source, recording, source.stem, None, channel))


def folder_timed(folder: Path, where: Where, read: Reader, files: Sequence[Path] = ()) -> Iterator[Segment | Bad]:
    """As `read_timed` of a folder; of these files alone, if there are some."""
    files = files or files_of(folder, where.suffixes)
    if not files:
        raise ManifestError(f"{folder}: holds no {where.what}")
    if where.speaker_from is None:
        require_clear_speakers(folder, files)
    taken: dict[tuple[Path, int | None], Path] = {}
    for path in files:
        try:
            yield from read(_timed(folder, path, where, taken))
        except ManifestError as error:
            place, _, reason = str(error).partition(": ")
            yield Bad(place, reason)


def _timed(folder: Path, path: Path, where: Where, taken: dict[tuple[Path, int | None], Path]) -> Timed:
    recording, channel = recording_of(path, _mirrored(folder, path, where.audio_dir), split=where.split)
    if (other := taken.setdefault((recording, channel), path)) != path:
        kind = where.what.split(" (")[0]
        raise ManifestError(f"{path}: {recording.name} has other {kind}, {other.name}; name one of them in place of the folder")
    relative = path.relative_to(folder)
    prefix = relative.parent / (recording.stem if channel is None else f"{recording.stem}.{channel}")
    return Timed(path, recording, prefix.as_posix(), speaker_of(relative, where.speaker_from), channel)


def _mirrored(folder: Path, path: Path, audio_dir: Path | None) -> Path | None:
    """Where recordings lie: in the same subfolder of `audio_dir` if there is one, else in itself."""
    if audio_dir is None:
        return None
    below = audio_dir / path.parent.relative_to(folder)
    return below if below.is_dir() else audio_dir


def files_of(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Files of these kinds under a folder. Raises `ManifestError` if it is none."""
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    return sorted(path for path in files_below(folder) if path.suffix.lower() in suffixes and path.is_file() and path.name[0] != ".")


def found_recording(path: Path) -> Path | None:
    """The recording of a file with times; None if there is none, or which one is unclear."""
    try:
        return recording_of(path)[0]
    except ManifestError:
        return None


def recording_of(path: Path, folder: Path | None = None, *, split: bool = False) -> tuple[Path, int | None]:
    """The recording of `talk.srt` or `talk.en.srt` in `folder`, which is beside it where None; with `split` the channel of `talk.1.srt`.

    Raises `ManifestError` if there is none or several.
    """
    stem, place = path.with_suffix("").name, path.parent if folder is None else folder
    side = _SIDE.search(stem) if split else None
    names = [stem, _LANGUAGE.sub("", stem)] if side is None else [stem[: side.start()]]
    for name in dict.fromkeys(names):
        found = named(place, name)
        if len(found) > 1:
            listed = ", ".join(one.name for one in found)
            raise ManifestError(f"{path}: several recordings have its name ({listed}); say which with --recording, or move one away")
        if found:
            return found[0], None if side is None else int(side[1])
    listed = " or ".join(f"{name}.wav" for name in dict.fromkeys(names))
    where = "beside it" if folder is None else f"in {folder}"
    raise ManifestError(f"{path}: lacks its recording, {listed} or the like, {where}")


def named(folder: Path, name: str) -> list[Path]:
    """The recordings in a folder that have this name, with or without its suffix."""
    there = sorted(one for one in folder.iterdir() if one.suffix.lower() in AUDIO_SUFFIXES)
    return [one for one in there if one.name == name] or [one for one in there if one.stem == name]
