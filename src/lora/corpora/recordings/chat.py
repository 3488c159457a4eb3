"""CHAT's .cha: utterances with times between bullets become segments; whose marks mean what is in `text.conventions`.

The raw main lines are read: pylangacq refuses a file whose morphology does not count the same words, and its words lack what it leaves out.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Reader, Timed
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError

SUFFIXES: Final = frozenset({".cha"})
WHAT: Final = "CHAT files (.cha)"

_BULLET = re.compile('(?:\x15|\u2022)(?:%(?:snd|mov|pic|txt):[^\x15\u2022]*?)?"?_?(\\d+)_(\\d+)-?(?:\x15|\u2022)')
_ANY_BULLET = re.compile("[\x15\u2022][^\x15\u2022]*[\x15\u2022]")
_MAIN = re.compile(r"\*([^:\s]+):\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Utterance:
    line: int
    speaker: str
    text: str
    times: tuple[int, int] | None
    """Milliseconds, of the first bullet's start and the last one's end."""


def chat_reader(tiers: Sequence[str]) -> Reader:
    """Reads the speakers of these codes, such as `MOT`, or of all."""
    return partial(_segments, tiers=tiers)


def _segments(file: Timed, tiers: Sequence[str]) -> Iterator[Segment | Bad]:
    lines = list(_lines(read_text(file.path)))
    if not any(text.startswith("@Begin") for _, text in lines[:5]):
        raise ManifestError(f"{file.path}: has no @Begin; it is no CHAT file")
    utterances = [one for number, text in lines if (one := _utterance(number, text)) is not None]
    codes = list(dict.fromkeys(one.speaker for one in utterances))
    for tier in tiers:
        if not any(fnmatchcase(code, tier.removeprefix("*") or "*") for code in codes):
            raise ManifestError(f"{file.path}: has no speaker {tier!r}; it has {', '.join(codes) or 'none'}")
    names = _participants(lines)
    for one in utterances:
        if not tiers or any(fnmatchcase(one.speaker, tier.removeprefix("*") or "*") for tier in tiers):
            yield _segment(file, one, names.get(one.speaker, one.speaker))


def _segment(file: Timed, one: _Utterance, person: str) -> Segment | Bad:
    place, name = f"{file.path.name} line {one.line}", f"{file.prefix}-{one.speaker}-{one.line:05d}"
    if one.times is None:
        return Bad(place, f"{name}: has no time bullet; left out", True)
    speaker = person if file.speaker is None else f"{file.speaker}-{person}"
    start_s, end_s = (time / 1000 for time in one.times)
    return Segment(name, file.recording, one.text, place, speaker, start_s, end_s, channel=file.channel)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines of the file with the number of their first one; those that begin with white space continue the one before."""
    whole, first = "", 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line[:1] in ("\t", " ") and whole:
            whole += " " + line.strip()
        else:
            if whole:
                yield first, whole
            whole, first = line.rstrip(), number
    if whole:
        yield first, whole


def _utterance(number: int, line: str) -> _Utterance | None:
    found = _MAIN.fullmatch(line)
    if found is None:
        return None
    bullets = [tuple(map(int, times)) for times in _BULLET.findall(found[2])]
    times = (min(start for start, _ in bullets), max(end for _, end in bullets)) if bullets else None
    return _Utterance(number, found[1], " ".join(_ANY_BULLET.sub(" ", found[2]).split()), times)


def _participants(lines: Sequence[tuple[int, str]]) -> dict[str, str]:
    """Names of the speakers' codes: `CHI Adam Target_Child` has a name, `MOT Mother` none."""
    listed = next((text.partition(":")[2] for _, text in lines if text.startswith("@Participants:")), "")
    people = [person.split() for person in listed.split(",")]
    return {person[0]: person[1] for person in people if len(person) >= 3}
