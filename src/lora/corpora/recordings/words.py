"""Words with times to segments: those of one speaker that follow each other become one, and what is too long is cut at its pauses."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment, untimely
from lora.units import Seconds

LEAST_PAUSE_S: Final = Seconds(0.1)
"""A segment is cut again only at pauses of at least this length: closures of stops are shorter."""

WORD_PAUSE_S: Final = Seconds(0.5)
"""Longest pause within an utterance, where words are all that a source gives."""

_Voice = tuple[Path, int | None, str | None]


def joined(segments: Iterable[Segment | Bad], pause_s: float, max_s: float) -> Iterator[Segment | Bad]:
    """Segments of one recording, channel and speaker become one where no longer pause lies between.

    One that lasts over `max_s` is cut at its longest pause, again and again; if there is none it stays, for the cutter to name.
    A segment whose times are none is given as it is, for the cutter as well.
    """
    voices: dict[_Voice, list[Segment]] = {}
    for segment in segments:
        if isinstance(segment, Bad) or untimely(segment):
            yield segment
        else:
            voices.setdefault((segment.recording, segment.channel, segment.speaker), []).append(segment)
    for words in voices.values():
        words.sort(key=lambda word: word.start_s)
        for run in _runs(words, pause_s):
            yield from map(_one, _short(run, max_s))


def _pauses(words: Sequence[Segment]) -> list[float]:
    """Seconds before each word but the first, from the end of all that were before it."""
    found, end_s = list[float](), words[0].end_s or 0.0
    for word in words[1:]:
        found.append(word.start_s - end_s)
        end_s = max(end_s, word.end_s or 0.0)
    return found


def _runs(words: Sequence[Segment], pause_s: float) -> Iterator[Sequence[Segment]]:
    start = 0
    for place, pause in enumerate(_pauses(words), start=1):
        if pause > pause_s:
            yield words[start:place]
            start = place
    yield words[start:]


def _short(words: Sequence[Segment], max_s: float) -> Iterator[Sequence[Segment]]:
    """The words in parts of at most `max_s`, cut where the pause is longest."""
    parts = [words]
    while parts:
        part = parts.pop()
        lasts_s = max(word.end_s or 0.0 for word in part) - part[0].start_s
        pauses = _pauses(part)
        if lasts_s <= max_s or not pauses or max(pauses) < LEAST_PAUSE_S:
            yield part
        else:
            cut = pauses.index(max(pauses)) + 1
            parts += [part[cut:], part[:cut]]


def _one(words: Sequence[Segment]) -> Segment:
    text, end_s = " ".join(word.text for word in words), max(word.end_s or 0.0 for word in words)
    return replace(words[0], text=text, end_s=end_s)
