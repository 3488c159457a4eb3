"""Which word that is heard stands for which word of a script. Pure.

Words of an hour are matched by edit distance, in a second. Where several in a row differ, that leaves open which stands for which; there
they are matched by their letters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

ANCHOR: Final = 3
"""This many equal words in a row stay where edit distance has them; fewer are matched again with what is around them."""

WIDEST: Final = 4_000_000
"""Pairs of words that are compared by their letters at once. What differs further is another text, and edit distance will do."""

_MISSING: Final = 1.0
"""Cost of a word that only one side has."""

_OTHER: Final = 2.2
"""What two words cost that share no letter; others less, by how alike they are. Above that of two words that only one side has: words that
are unlike stand for nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A word that is heard, by its place, and the word of the script that it stands for; the same word or another."""

    heard: int
    script: int
    equal: bool


def pairs(heard: Sequence[str], script: Sequence[str]) -> list[Pair]:
    """All pairs in order; words in none are on one side alone."""
    found = list[Pair]()
    for same, (start, stop), (first, last) in _stretches(heard, script):
        if same:
            found += [Pair(start + place, first + place, True) for place in range(stop - start)]
        else:
            found += [Pair(start + a, first + b, equal) for a, b, equal in _by_letters(heard[start:stop], script[first:last])]
    return found


def _stretches(heard: Sequence[str], script: Sequence[str]) -> Iterator[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Both sides in stretches: those that are the same, and what lies between."""
    at, place = 0, 0
    for op in Levenshtein.opcodes(heard, script):
        if op.tag == "equal" and op.src_end - op.src_start >= ANCHOR:
            yield False, (at, op.src_start), (place, op.dest_start)
            yield True, (op.src_start, op.src_end), (op.dest_start, op.dest_end)
            at, place = op.src_end, op.dest_end
    yield False, (at, len(heard)), (place, len(script))


def _by_letters(heard: Sequence[str], script: Sequence[str]) -> list[tuple[int, int, bool]]:
    """Pairs of the cheapest alignment of two short texts, and whether their words are the same."""
    if not heard or not script:
        return []
    if len(heard) * len(script) > WIDEST:
        found = [op for op in Levenshtein.opcodes(heard, script) if op.tag == "equal"]
        return [(op.src_start + place, op.dest_start + place, True) for op in found for place in range(op.src_end - op.src_start)]
    costs = _OTHER * (1 - process.cdist(heard, script, scorer=fuzz.ratio, dtype=np.float32) / 100)
    return [(row, column, heard[row] == script[column]) for row, column in _cheapest(costs)]


def _cheapest(costs: npt.NDArray[np.floating]) -> list[tuple[int, int]]:
    """Rows and columns that are paired on the cheapest way through `costs` `[heard, script]`."""
    rows, columns = costs.shape
    steps = np.arange(columns + 1, dtype=np.float32) * _MISSING
    total = np.empty((rows + 1, columns + 1), dtype=np.float32)
    total[0] = steps
    for row in range(rows):
        best = total[row] + _MISSING
        best[1:] = np.minimum(best[1:], total[row, :-1] + costs[row])
        total[row + 1] = np.minimum.accumulate(best - steps) + steps
    found, row, column = list[tuple[int, int]](), rows, columns
    while row and column:
        ways = total[row - 1, column - 1] + costs[row - 1, column - 1], total[row - 1, column] + _MISSING, total[row, column - 1] + _MISSING
        way = int(np.argmin(ways))
        if way == 0:
            found.append((row - 1, column - 1))
        row, column = row - (way != 2), column - (way != 1)
    return found[::-1]
