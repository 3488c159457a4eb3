"""A folder of recordings on this machine, with transcripts beside the audio."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from lora.audio import FileAudio
from lora.corpora.build import Bad, Item
from lora.decoders import AUDIO_SUFFIXES
from lora.errors import ManifestError

SpeakerFrom = Literal["top", "nearest", "none"]
"""Which folder names the speaker of a recording: the one just below the corpus, the one that holds the file, or none."""

OTHER_SOUND: Final = frozenset({".ra", ".raw", ".pcm", ".ac3", ".dss", ".ds2", ".wv", ".ape"})
"""Kinds of sound files that are not taken: one of these is named rather than passed over."""


def folder_items(folder: Path, speaker_from: SpeakerFrom | None = None) -> Iterator[Item | Bad]:
    """Every audio file under `folder` with the transcript in the `.txt` file of the same name beside it, sorted by path.

    Files in a subfolder have that subfolder's name as their speaker; files directly in `folder` have none. What lacks its counterpart
    or cannot be read is given as `Bad`.

    Raises:
        ManifestError: there is no audio, or files lie deeper and `speaker_from` does not say which folder is the speaker's.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        other = sorted({path.suffix.lower() for path in files if path.suffix.lower() in OTHER_SOUND})
        found = f"; {', '.join(other)} files are not taken, convert them" if other else ""
        raise ManifestError(f"{folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES))}){found}")
    if speaker_from is None:
        _require_clear_speakers(folder, recordings)
    transcripts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    yield from _lonely(folder, files, recordings, transcripts)
    for path in recordings:
        if (transcript := transcripts.get(path.with_suffix(""))) is not None:
            yield _item(folder, path, transcript, speaker_from)


def _require_clear_speakers(folder: Path, recordings: Sequence[Path]) -> None:
    """A folder within a folder may be a session of the speaker, or a speaker of the session."""
    deep = [path for path in recordings if len(path.relative_to(folder).parts) > 2]
    if deep:
        top, *_, nearest, _ = deep[0].relative_to(folder).parts
        raise ManifestError(
            f"{folder}: the speaker of {deep[0].relative_to(folder)} is unclear ({top!r} or {nearest!r}), as of {len(deep)} files that "
            "lie deeper than one folder; pass --speaker-from top, nearest or none"
        )


def _lonely(folder: Path, files: Sequence[Path], recordings: Sequence[Path], transcripts: dict[Path, Path]) -> Iterator[Bad]:
    """Files without their counterpart, and sound of kinds that are not taken."""
    stems = {path.with_suffix("") for path in recordings}
    beside = {path.with_suffix(""): path for path in files if path.suffix.lower() not in {".txt"} | AUDIO_SUFFIXES}
    taken = ", ".join(sorted(AUDIO_SUFFIXES))
    for path in files:
        name, stem = str(path.relative_to(folder)), path.with_suffix("")
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            if stem not in transcripts:
                yield Bad(name, f"lacks its transcript; write what is said into {stem.name}.txt beside it")
        elif suffix == ".txt" and stem not in stems:
            if (other := beside.get(stem)) is not None:
                yield Bad(name, f"its recording {other.name} is no kind of file that is taken ({taken}); convert it")
            else:
                yield Bad(name, "lacks its recording beside it; put it there, or remove the transcript")
        elif suffix in OTHER_SOUND and stem not in transcripts:
            yield Bad(name, f"is no kind of file that is taken ({taken}); convert it")


def _item(folder: Path, path: Path, transcript: Path, speaker_from: SpeakerFrom | None) -> Item | Bad:
    relative = path.relative_to(folder)
    place = str(transcript.relative_to(folder))
    if path.stat().st_size == 0:
        return Bad(str(relative), "the file is empty (0 bytes); copy it again")
    try:
        text = transcript.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return Bad(place, f"is not UTF-8 ({error.reason}); save it again as UTF-8")
    except OSError as error:
        return Bad(place, f"cannot be read ({error.strerror})")
    first, *rest = text.split() or [""]
    if rest and first == path.stem and re.search(r"\d", first):
        return Bad(place, f"starts with its own name {first!r}, which nobody says; leave the name out")
    return Item(relative.with_suffix("").as_posix(), FileAudio(path), text, _speaker(relative, speaker_from), place)


def _speaker(relative: Path, speaker_from: SpeakerFrom | None) -> str | None:
    if speaker_from == "none" or len(relative.parts) == 1:
        return None
    return relative.parts[0] if speaker_from == "top" else relative.parent.name
