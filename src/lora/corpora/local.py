"""A folder of recordings on this machine, with transcripts beside the audio."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from lora.audio.decoding import AUDIO_SUFFIXES, stored_format
from lora.audio.loading import FileAudio
from lora.corpora.build import Bad, Item
from lora.errors import AudioError, ManifestError

SpeakerFrom = Literal["top", "nearest", "none"]
"""Which folder names the speaker of a recording: the one just below the corpus, the one that holds the file, or none."""

_PLAIN_NUMBER = re.compile(r"[1-9]\d*")
"""Numbers that may be part of the text: `7 apples` in `7.txt`."""

OTHER_SOUND: Final = frozenset({".ra", ".raw", ".pcm", ".ac3", ".dss", ".ds2", ".wv", ".ape"})
"""Kinds of sound files that are not supported: they are reported rather than skipped."""


def folder_items(
    folder: Path, speaker_from: SpeakerFrom | None = None, *, split: bool = False, elsewhere: Collection[Path] = ()
) -> Iterator[Item | Bad]:
    """Every audio file under `folder` with the transcript in the `.txt` file of the same name beside it, sorted by path.

    Files in a subfolder have that subfolder's name as their speaker; files directly in `folder` have none. What lacks its counterpart
    or cannot be read is given as `Bad`. With `split` each channel is a recording of its own, with its transcript in `NAME.1.txt`,
    `NAME.2.txt` and so on, and a speaker of its own. Recordings named in `elsewhere` are passed over.

    Raises:
        ManifestError: there is no audio, or files lie deeper and `speaker_from` does not say which folder is the speaker's.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    files = sorted(path for path in files_below(folder) if path.is_file() and not path.name.startswith("."))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        other = sorted({path.suffix.lower() for path in files if path.suffix.lower() in OTHER_SOUND})
        found = f"; {', '.join(other)} files are not taken, convert them" if other else ""
        raise ManifestError(f"{folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES))}){found}")
    if speaker_from is None:
        require_clear_speakers(folder, recordings)
    transcripts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    parts, unreadable = _parts(folder, [path for path in recordings if path not in elsewhere], split=split)
    yield from unreadable
    yield from _lonely(folder, files, parts, transcripts)
    for path, stems in parts.items():
        for channel, stem in enumerate(stems, start=1):
            if (transcript := transcripts.get(stem)) is not None:
                item = _item(folder, path, transcript, speaker_from)
                yield _of_channel(item, channel) if split and isinstance(item, Item) else item


def files_below(folder: Path) -> Iterator[Path]:
    """All paths below a folder, through links to other folders, as of speakers whose recordings lie on another disk.

    Raises `ManifestError` for a link to a folder that is gone through anyway: its recordings would be there twice, or without end.
    """
    gone_through = dict[Path, Path]()
    for place, names, files in os.walk(folder, followlinks=True):
        here, real = Path(place), Path(place).resolve()
        if real in gone_through:
            raise ManifestError(f"{folder}: {here} and {gone_through[real]} are the same folder, by a link; remove the link")
        gone_through[real] = here
        yield from (here / name for name in [*names, *files])


def _parts(folder: Path, recordings: Sequence[Path], *, split: bool) -> tuple[dict[Path, list[Path]], list[Bad]]:
    """The names, without `.txt`, of each recording's transcripts; and recordings whose channels cannot be counted."""
    if not split:
        return {path: [path.with_suffix("")] for path in recordings}, []
    parts, bad = dict[Path, list[Path]](), list[Bad]()
    for path in recordings:
        try:
            parts[path] = [path.with_suffix(f".{number + 1}") for number in range(stored_format(path).channels)]
        except AudioError as error:
            bad.append(Bad(str(path.relative_to(folder)), str(error)))
    return parts, bad


def _of_channel(item: Item, channel: int) -> Item:
    speaker = f"{item.speaker_id or item.id}-{channel}"
    return replace(item, id=f"{item.id}-{channel}", audio=item.audio.part(channel, None), speaker_id=speaker)


def require_clear_speakers(folder: Path, recordings: Sequence[Path]) -> None:
    """Raises `ManifestError` for a folder within a folder: it may be a session of the speaker, or a speaker of the session."""
    deep = [path for path in recordings if len(path.relative_to(folder).parts) > 2]
    if deep:
        top, *_, nearest, _ = deep[0].relative_to(folder).parts
        raise ManifestError(
            f"{folder}: the speaker of {deep[0].relative_to(folder)} is unclear ({top!r} or {nearest!r}), as of {len(deep)} files that "
            "lie deeper than one folder; pass --speaker-from top, nearest or none"
        )


def _lonely(folder: Path, files: Sequence[Path], parts: dict[Path, list[Path]], transcripts: dict[Path, Path]) -> Iterator[Bad]:
    """Files without their counterpart, and sound of unsupported kinds."""
    stems = {stem for several in parts.values() for stem in several}
    beside = {path.with_suffix(""): path for path in files if path.suffix.lower() not in {".txt"} | AUDIO_SUFFIXES}
    taken = ", ".join(sorted(AUDIO_SUFFIXES))
    for path in files:
        name, stem = str(path.relative_to(folder)), path.with_suffix("")
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            for missing in [part for part in parts.get(path, []) if part not in transcripts]:
                yield Bad(name, f"lacks its transcript; write what is said into {missing.name}.txt beside it")
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
    if rest and first == path.stem and re.search(r"\d", first) and not _PLAIN_NUMBER.fullmatch(first):
        return Bad(place, f"starts with its own name {first!r}, which nobody says; leave the name out")
    return Item(relative.with_suffix("").as_posix(), FileAudio(path), text, speaker_of(relative, speaker_from), place)


def speaker_of(relative: Path, speaker_from: SpeakerFrom | None) -> str | None:
    """The speaker of a file at this place in the folder; None if no folder names one."""
    if speaker_from == "none" or len(relative.parts) == 1:
        return None
    return relative.parts[0] if speaker_from == "top" else relative.parent.name
