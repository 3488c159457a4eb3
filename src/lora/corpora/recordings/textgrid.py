"""Praat's TextGrid: intervals of the chosen tiers become segments.

Praat itself reads free-standing numbers, quoted texts and flags, and passes over all else, so the long and the short form are one here.
praatio looks for words such as `intervals [` instead: a label that holds them, as Praat writes it, ends in an error there.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Reader, Timed
from lora.corpora.recordings.segments import Segment, read_text
from lora.corpora.recordings.tiers import chosen, matches
from lora.errors import ManifestError

SUFFIXES: Final = frozenset({".textgrid"})
WHAT: Final = "TextGrids (.TextGrid)"

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?<!\S)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)!.*')
_OF_SPEAKER: Final = " - "
"""Separates speaker and kind in tier names of the Montreal Forced Aligner."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier with its intervals: start, end and label; of a tier with points the labels have no times."""

    name: str
    intervals: Sequence[tuple[float, float, str]]
    points: bool = False

    @property
    def texts(self) -> int:
        """Labels with times."""
        return 0 if self.points else sum(bool(label.strip()) for _, _, label in self.intervals)

    def __str__(self) -> str:
        return f"{self.name} ({'points' if self.points else '1 text' if self.texts == 1 else f'{self.texts} texts'})"


def textgrid_reader(tiers: Sequence[str], *, tier_is_speaker: bool) -> Reader:
    """Reads the intervals of these tiers, named exactly or by a pattern; without a name, of the only one that holds text."""
    return partial(_segments, tiers=tiers, tier_is_speaker=tier_is_speaker)


def _segments(file: Timed, tiers: Sequence[str], *, tier_is_speaker: bool) -> Iterator[Segment | Bad]:
    """In the order of time, whichever tier."""
    found = list[Segment]()
    for tier in chosen(file.path, read_tiers(file.path), tiers, _is):
        speaker, _, _ = tier.name.rpartition(_OF_SPEAKER)
        named = tier.name if tier_is_speaker and not speaker else speaker or file.speaker
        for number, (start_s, end_s, label) in enumerate(tier.intervals, start=1):
            if text := " ".join(label.split()):
                place = f"{file.path.name} tier {tier.name} interval {number}"
                name = f"{file.prefix}-{tier.name}-{number:05d}"
                found.append(Segment(name, file.recording, text, place, named, start_s, end_s, channel=file.channel))
    yield from sorted(found, key=lambda segment: segment.start_s)


def _is(tier: Tier, name: str) -> bool:
    return not tier.points and (matches(tier, name) or tier.name.endswith(f"{_OF_SPEAKER}{name}"))


def read_tiers(path: Path) -> list[Tier]:
    """The tiers of a file, in its order. Raises `ManifestError` if it is no TextGrid in text form, or ends too soon."""
    with path.open("rb") as stream:
        if stream.read(12) == b"ooBinaryFile":
            raise ManifestError(f"{path}: is a binary TextGrid; save it in Praat as a text file")
    text = read_text(path)
    tokens = [value for match in _TOKEN.finditer(text) if (value := _value(match)) is not None]
    if tokens[:1] == ["Praat chronological TextGrid text file"]:
        raise ManifestError(f"{path}: is a chronological TextGrid; save it in Praat as a text file")
    if tokens[:2] != ["ooTextFile", "TextGrid"]:
        raise ManifestError(f'{path}: does not begin as a TextGrid (File type = "ooTextFile"; Object class = "TextGrid")')
    return _tiers(path, _Tokens(path, tokens[2:]))


def _value(match: re.Match[str]) -> str | float | bool | None:
    quoted, flag, number = match.groups()
    if quoted is not None:
        return str(quoted).replace('""', '"')
    if flag is not None:
        return str(flag) == "exists"
    return None if number is None else float(number)


@dataclass(slots=True)
class _Tokens:
    """What a TextGrid holds, one value after the other."""

    path: Path
    values: Sequence[str | float | bool]
    place: int = 0

    def number(self) -> float:
        value = self._next()
        if isinstance(value, bool | str):
            raise ManifestError(f"{self.path}: holds {value!r} in the place of a number; open it in Praat and save it again")
        return value

    def count(self) -> int:
        value = self.number()
        if not value.is_integer() or value < 0:
            raise ManifestError(f"{self.path}: holds {value:g} in the place of a count; open it in Praat and save it again")
        return int(value)

    def skip_numbers(self, count: int) -> None:
        for _ in range(count):
            self.number()

    def words(self) -> str:
        value = self._next()
        if not isinstance(value, str):
            raise ManifestError(f"{self.path}: holds {value!r} in the place of a text; open it in Praat and save it again")
        return value

    def flag(self) -> bool:
        return self._next() is True

    def _next(self) -> str | float | bool:
        if self.place >= len(self.values):
            raise ManifestError(f"{self.path}: ends too soon; the file is truncated, or a quote in a label is not doubled")
        self.place += 1
        return self.values[self.place - 1]


def _tiers(path: Path, tokens: _Tokens) -> list[Tier]:
    tokens.skip_numbers(2)
    if not tokens.flag():
        raise ManifestError(f"{path}: holds no tier")
    return [_tier(path, tokens) for _ in range(tokens.count())]


def _tier(path: Path, tokens: _Tokens) -> Tier:
    kind, name = tokens.words(), tokens.words()
    if kind not in ("IntervalTier", "TextTier"):
        raise ManifestError(f"{path}: holds a tier of the kind {kind!r}; a TextGrid has IntervalTier and TextTier")
    tokens.skip_numbers(2)
    count, points = tokens.count(), kind == "TextTier"
    return Tier(name, [_interval(tokens, points=points) for _ in range(count)], points)


def _interval(tokens: _Tokens, *, points: bool) -> tuple[float, float, str]:
    start_s = tokens.number()
    return start_s, start_s if points else tokens.number(), tokens.words()
