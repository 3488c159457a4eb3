"""NIST's CTM, words with times, and STM, segments with times. Their recordings are named without a folder and a suffix.

Comments, labels, alternatives and segments that are not scored are read as sctk reads them; meeteval takes such marks for words.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import named
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError

COMMENT: Final = ";;"
IGNORED: Final = ("IGNORE_TIME_SEGMENT_IN_SCORING", "IGNORE_TIME_SEGMENT")
SIDES: Final = {"a": 1, "b": 2}

_NOBODY: Final = frozenset({"inter_segment_gap", "excluded_region", "unknown", "unk"})
"""What stands in an STM in the place of a speaker's name."""

_NOT_SAID: Final = frozenset({"non-lex", "misc", "noscore", "non-speech"})
"""Types of a CTM's entry that are no words: sounds, and regions that are not scored."""


@dataclass(slots=True)
class _Recordings:
    """Recordings by their name in a list, and where they lie."""

    folder: Path
    first: int = 1
    """The number of the left channel: lhotse counts from 0."""
    known: dict[str, Path | str] = field(default_factory=dict)

    def __call__(self, name: str) -> Path | str:
        """The recording, or what is wrong."""
        if name not in self.known:
            found = named(self.folder, name)
            reason = f"several recordings have the name {name} ({', '.join(one.name for one in found)})"
            missing = f"no recording {name}.wav or the like in {self.folder}; --audio-dir says where they lie"
            self.known[name] = found[0] if len(found) == 1 else reason if found else missing
        return self.known[name]


def stm_segments(path: Path, audio_dir: Path | None = None) -> Iterator[Segment | Bad]:
    """The segments of an STM, in its order. Raises `ManifestError` if the file cannot be read or holds none."""
    recordings = _Recordings(audio_dir or path.parent, _first_channel(path))
    for number, line in _lines(path):
        place, cells = f"{path.name} line {number}", line.split(maxsplit=5)
        if len(cells) < 5:
            yield Bad(place, "has no file, channel, speaker, start and end; an STM has them in front of the text")
            continue
        name, side, speaker, start, end, text = [*cells, ""][:6]
        if text.split(maxsplit=1)[:1] and re.fullmatch(r"<[^<>\s]*,[^<>\s]*>", text.split(maxsplit=1)[0]):
            text = text.partition(">")[2]  # the label of the conditions that it belongs to
        one = _segment(place, f"{Path(name).stem}-{number:05d}", (recordings, name, side), (start, end))
        if isinstance(one, Bad):
            yield one
        elif text.strip().upper().startswith(IGNORED):
            yield one.bad("is not scored (IGNORE_TIME_SEGMENT_IN_SCORING); left out", expected=True)
        elif text.strip():
            yield _with(one, text, None if speaker.lower() in _NOBODY else speaker)


def ctm_segments(path: Path, audio_dir: Path | None = None) -> Iterator[Segment | Bad]:
    """The words of a CTM, in its order, of which alternatives are one. Raises `ManifestError` as `stm_segments` does."""
    recordings = _Recordings(audio_dir or path.parent, _first_channel(path))
    alternatives: _Alternatives | None = None
    for number, line in _lines(path):
        place, cells = f"{path.name} line {number}", line.split()
        if len(cells) < 5:
            yield Bad(place, "has no file, channel, start, duration and word")
            continue
        name, side, start, duration, word = cells[:5]
        if word.upper() == "<ALT_BEGIN>":
            alternatives = _Alternatives(place)
        elif alternatives is not None and word.upper() in ("<ALT>", "<ALT_END>"):
            alternatives.begin()
            if word.upper() == "<ALT_END>":
                yield from alternatives.as_one()
                alternatives = None
        elif (cells[6:7] or ["lex"])[0].lower() not in _NOT_SAID:
            one = _segment(place, f"{Path(name).stem}-{number:06d}", (recordings, name, side), (start, duration), lasting=True)
            said = one if isinstance(one, Bad) else _with(one, word, _speaker(cells))
            if alternatives is None or isinstance(said, Bad):
                yield said
            else:
                alternatives.words[-1].append(said)
    if alternatives is not None:
        yield Bad(alternatives.place, "its alternatives have no <ALT_END>")


def _speaker(cells: Sequence[str]) -> str | None:
    """The eighth cell."""
    return cells[7] if len(cells) > 7 and cells[7].lower() not in (*_NOBODY, "null", "n/a") else None


@dataclass(slots=True)
class _Alternatives:
    """Words of which one or another may have been said."""

    place: str
    words: list[list[Segment]] = field(default_factory=lambda: [[]])

    def begin(self) -> None:
        self.words.append([])

    def as_one(self) -> Iterator[Segment]:
        """One segment, from the first start to the last end, with the alternatives as this project writes them."""
        several = [choice for choice in self.words[:-1] if [word.text for word in choice] != ["@"]]
        every = [word for choice in self.words for word in choice]
        if not any(several):
            return
        texts = [" ".join(word.text for word in choice if word.text != "@") or "@" for choice in self.words[:-1]]
        start_s, end_s = min(word.start_s for word in every), max(word.end_s or 0.0 for word in every)
        first = next(word for choice in several for word in choice)
        text = f"{{ {' / '.join(texts)} }}"
        yield Segment(first.id, first.recording, text, self.place, first.speaker, start_s, end_s, channel=first.channel)


def _first_channel(path: Path) -> int:
    return 0 if any(line.split()[1:2] == ["0"] for _, line in _lines(path)) else 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without comments. Raises `ManifestError` if there is none."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), start=1)]
    found = [(number, line) for number, line in lines if line and not line.startswith(COMMENT)]
    if not found:
        raise ManifestError(f"{path}: holds no line with times")
    yield from found


def _segment(
    place: str, name: str, source: tuple[_Recordings, str, str], times: tuple[str, str], *, lasting: bool = False
) -> Segment | Bad:
    """A segment without its text, or what is wrong with its recording, channel or times; `lasting` where the second time is a length."""
    recordings, file, side = source
    recording = recordings(file)
    channel = SIDES.get(side.lower(), int(side) + 1 - recordings.first if side.isdecimal() else 0)
    if isinstance(recording, str):
        return Bad(place, f"{name}: {recording}")
    if not channel:
        return Bad(place, f"{name}: its channel is {side!r}; channels are 1 and 2, or A and B")
    try:
        start_s, second = map(float, times)
    except ValueError:
        return Bad(place, f"{name}: its times are no numbers ({' '.join(times)[:60]})")
    return Segment(name, recording, "", place, None, start_s, start_s + second if lasting else second, channel=channel)


def _with(segment: Segment, text: str, speaker: str | None) -> Segment:
    one = segment
    return Segment(one.id, one.recording, " ".join(text.split()), one.place, speaker, one.start_s, one.end_s, channel=one.channel)
