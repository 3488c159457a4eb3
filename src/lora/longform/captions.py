"""Words as subtitles: at most two lines, a few seconds each, broken where a phrase ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from lora.passages import Word
from lora.units import Seconds

WIDTH: Final = 42
"""Characters per line, by the usual guidelines of broadcasters."""

LONGEST_S: Final = 7.0
SHORTEST_S: Final = 1.0
"""Shorter subtitles stay until then, or until the next one."""

_PAUSE_S: Final = 0.3
_SILENCE_S: Final = 1.5
SENTENCE: Final = (".", "?", "!", "\u2026", "\u3002", "\uff1f", "\uff01")
"""Marks that end one, in any of the languages."""

_CLAUSE: Final = (",", ";", ":", "\u2014", "\u2013", "\u3001", "\uff0c", "\uff1b", "\uff1a")
_LEANING: Final = frozenset(
    ("a an the of to in on at by for with and or but that which who as from my your his her its our their").split(" ")  # noqa: SIM905
)
"""Words that belong to the next one."""


@dataclass(frozen=True, slots=True)
class Caption:
    """Text shown from one time to another."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    words: tuple[Word, ...]


def captions(words: Sequence[Word], *, apart: bool = True) -> list[Caption]:
    """Subtitles of words in order; `apart` says whether spaces stand between them."""
    parts = [part for word in words for part in _short(word)]
    if not parts:
        return []
    joint = " " if apart else ""
    starts = _starts(parts, joint)
    groups = [parts[start:stop] for start, stop in zip(starts, [*starts[1:], len(parts)], strict=True)]
    nexts = [*(group[0].start_s for group in groups[1:]), math.inf]
    return [_caption(group, following_s, joint) for group, following_s in zip(groups, nexts, strict=True)]


def _short(word: Word) -> list[Word]:
    """A word that fits no line, as several."""
    if len(word.text) <= WIDTH:
        return [word]
    count = math.ceil(len(word.text) / WIDTH)
    step_s = (word.end_s - word.start_s) / count
    return [
        msgspec.structs.replace(
            word,
            text=word.text[number * WIDTH : (number + 1) * WIDTH],
            start_s=Seconds(word.start_s + number * step_s),
            end_s=Seconds(word.start_s + (number + 1) * step_s),
        )
        for number in range(count)
    ]


def _starts(words: Sequence[Word], joint: str) -> list[int]:
    """First words of the subtitles: of all divisions the one whose breaks disturb least."""
    best, came_from = [0.0] + [math.inf] * len(words), [0] * (len(words) + 1)
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            group = words[start:stop]
            if stop > start + 1 and (group[-1].end_s - group[0].start_s > LONGEST_S or _lines(group, joint) is None):
                break
            cost = best[start] + _cost(group, words[stop] if stop < len(words) else None)
            if cost < best[stop]:
                best[stop], came_from[stop] = cost, start
    found, at = list[int](), len(words)
    while at:
        at = came_from[at]
        found.append(at)
    return found[::-1]


def _cost(group: Sequence[Word], following: Word | None) -> float:
    """How much a subtitle disturbs: that there is one more, that it holds a silence, is short, and where it ends."""
    silences = sum(after.start_s - before.end_s > _SILENCE_S for before, after in pairwise(group))
    length = sum(len(word.text) + 1 for word in group)
    return 2.0 + 8.0 * silences + max(0.0, 1.0 - length / WIDTH) + _break_cost(group[-1], following)


def _break_cost(word: Word, following: Word | None) -> float:
    """How much it disturbs that a line or subtitle ends after a word."""
    if following is None or word.text.endswith(SENTENCE):
        return 0.0
    pause = 0.0 if following.start_s - word.end_s >= _PAUSE_S else 1.0
    if word.text.endswith(_CLAUSE):
        return 0.5 + pause / 2
    return 3.0 + pause + 2.0 * (word.text.casefold() in _LEANING)


def _lines(words: Sequence[Word], joint: str) -> tuple[str, ...] | None:
    """One line, or the two whose break disturbs least and that are about as long; None if two do not hold the words."""
    text = joint.join(word.text for word in words)
    if len(text) <= WIDTH:
        return (text,)
    pairs = []
    for place in range(1, len(words)):
        upper, lower = (joint.join(word.text for word in part) for part in (words[:place], words[place:]))
        if max(len(upper), len(lower)) <= WIDTH:
            pairs.append((_break_cost(words[place - 1], words[place]) + abs(len(upper) - len(lower)) / 10, (upper, lower)))
    return min(pairs)[1] if pairs else None


def _caption(words: Sequence[Word], following_s: float, joint: str) -> Caption:
    start_s = words[0].start_s
    end_s = min(max(words[-1].end_s, start_s + SHORTEST_S), following_s, start_s + LONGEST_S)
    lines = _lines(words, joint)
    assert lines is not None  # a word alone is no longer than a line
    return Caption(start_s, end_s, lines, tuple(words))
