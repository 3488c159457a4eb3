"""Which words of a script are said in each part of a recording, and where a part has to be cut to say those alone. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from lora.longform.seams import plain
from lora.longform.wording import Pair, pairs

ALIKE: Final = 50.0
"""Words in a row that differ are the same, misheard, where their letters are so alike, of 100; unrelated words reach 40."""

SURE: Final = 75.0
"""Of one word."""

EDGE: Final = 3
"""Letters by which the first words of a part may differ, or the last ones, where it is not sure what is beside them."""

RUN: Final = 3
"""So many words in a row that only one side has are no mistake of the model: they were added, or left out."""

LEAST: Final = 3
"""Words of a part that is cut out of another: of fewer nobody knows whether they are these ones."""


@dataclass(frozen=True, slots=True)
class Match:
    """The words `start` to `stop` of the script, which a part says; or why it is left out."""

    start: int
    stop: int
    reason: str | None = None


def tokens(text: str) -> list[str]:
    """The words of a script with their marks; a mark that stands alone belongs to the word before."""
    found = list[str]()
    for word in text.split():
        if plain(word) or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return [word for word in found if plain(word)]


class Reading:
    """Words that are heard in the passages of a recording, beside the words of its script; neither has marks nor capitals."""

    def __init__(self, passages: Sequence[Sequence[str]], script: Sequence[str], most_errors: float) -> None:
        """`most_errors` is the share of a part's words that may differ."""
        self._heard = [word for passage in passages for word in passage]
        self._script = script
        self._most_errors = most_errors
        ends = [0]
        for passage in passages:
            ends.append(ends[-1] + len(passage))
        self.passages = [range(*pair) for pair in pairwise(ends)]
        """The places of each passage's words."""
        found = _slid(pairs(self._heard, script), script, set(ends))
        self._pairs = {pair.heard: pair for pair in self._without_strays(found)}

    def _without_strays(self, found: Sequence[Pair]) -> list[Pair]:
        """Without words that are unlike those they stand for, where the script goes on elsewhere on one side or both."""
        outside = Pair(-1, -1, False)
        sides = zip([outside, *found[:-1]], found, [*found[1:], outside], strict=True)
        return [
            one
            for before, one, after in sides
            if self.sure(one) or (one.script - before.script <= RUN and abs(after.script - one.script) <= RUN)
        ]

    def match(self, words: range) -> Match:
        """What a part says, of which the words are `words`.

        It is left out where more of its words differ than may, or a few in a row that one side does not have.
        """
        found = [self._pairs[word] for word in words if word in self._pairs]
        if not found:
            return Match(0, 0, "is not in the script" if words else "nothing is heard in it")
        start, stop = found[0].script, found[-1].script + 1
        said = self._heard[words.start : words.stop]
        wrong = Levenshtein.distance(said, self._script[start:stop]) / len(said)
        reason = self._run(words, range(start, stop))
        if wrong > self._most_errors:
            reason = f"{100 * wrong:.0f} % of its words are not those of the script, more than {100 * self._most_errors:.0f} %"
        return Match(start, stop, reason)

    def _run(self, words: range, wanted: range) -> str | None:
        """What words in a row are not the script's, or not heard."""
        same = [self._pairs[word] for word in words if word in self._pairs and self._pairs[word].equal]
        edges = [(words.start - 1, wanted.start - 1), *((pair.heard, pair.script) for pair in same), (words.stop, wanted.stop)]
        for (heard_before, script_before), (heard_after, script_after) in pairwise(edges):
            others, missing = self._heard[heard_before + 1 : heard_after], self._script[script_before + 1 : script_after]
            longer = max(len(others), len(missing))
            if longer >= RUN and fuzz.ratio("".join(others), "".join(missing)) < ALIKE:
                return f"says {_quoted(others)} where the script has {_quoted(missing)}"
        return None

    def parts(self, words: range, pauses: Sequence[int]) -> list[range]:
        """The longest parts of a passage that say words of the script alone, cut before words of `pauses`; in order."""
        places = sorted({words.start, words.stop, *pauses})
        ways = [range(start, stop) for start in places for stop in places if stop - start >= LEAST]
        for way in sorted(ways, key=len, reverse=True):
            if self.match(way).reason is None and self.begins(way) and self.ends(way):
                before, after = range(words.start, way.start), range(way.stop, words.stop)
                return [*self.parts(before, _within(before, pauses)), way, *self.parts(after, _within(after, pauses))]
        return []

    def begins(self, words: range) -> bool:
        """Whether it is sure which word of the script a part begins with."""
        return self._follow(words.start - 1, words.start) or self._edge(words, 1)

    def ends(self, words: range) -> bool:
        """Whether it is sure which word of the script a part ends with."""
        return self._follow(words.stop - 1, words.stop) or self._edge(words, -1)

    def _edge(self, words: range, step: int) -> bool:
        """Whether the words from an edge to the next one that both have are alike."""
        inner = next((word for word in words[::step] if word in self._pairs and self.sure(self._pairs[word])), None)
        outer = next((self._pairs[word] for word in words[::step] if word in self._pairs), None)
        if inner is None or outer is None:
            return False
        edge, found = words[::step][0], self._pairs[inner]
        heard = self._heard[min(edge, inner) : max(edge, inner) + 1]
        wanted = self._script[min(outer.script, found.script) : max(outer.script, found.script) + 1]
        return Levenshtein.distance("".join(heard), "".join(wanted), score_cutoff=EDGE) <= EDGE

    def sure(self, pair: Pair) -> bool:
        """Whether a word that is heard is that of the script."""
        return pair.equal or fuzz.ratio(self._heard[pair.heard], self._script[pair.script]) >= SURE

    @property
    def pairs(self) -> Sequence[Pair]:
        """All pairs, in order."""
        return list(self._pairs.values())

    def _follow(self, word: int, behind: int) -> bool:
        """Whether two neighbours stand for neighbours in the script."""
        first, second = self._pairs.get(word), self._pairs.get(behind)
        if first is None or second is None or not (self.sure(first) and self.sure(second)):
            return False
        return second.script == first.script + 1


def _within(words: range, pauses: Sequence[int]) -> list[int]:
    return [place for place in pauses if words.start < place < words.stop]


def confirmed(heard: Sequence[str], script: Sequence[str], match: Match, most_errors: float) -> bool:
    """Whether a part that is heard alone, by its words, says what it is taken to say, no more and no less."""
    reading = Reading([heard], script[match.start : match.stop], most_errors)
    (words,) = reading.passages
    if reading.match(words) != Match(0, match.stop - match.start) or not (reading.begins(words) and reading.ends(words)):
        return False
    first = max(0, match.start - 2 * RUN)
    wider = Reading([heard], script[first : match.stop + 2 * RUN], most_errors)
    return sum(map(wider.sure, wider.pairs)) <= sum(map(reading.sure, reading.pairs))


def _slid(found: list[Pair], script: Sequence[str], ends: set[int]) -> list[Pair]:
    """Words that are not heard, moved to the end of a passage where that changes nothing: of two same sentences either may be the one."""
    for place in range(1, len(found)):
        missing = found[place].script - found[place - 1].script - 1
        if missing < RUN or found[place].heard in ends:
            continue
        for step in (-1, 1):
            moved = _moved(found, place, missing, step, script, ends)
            if moved is not None:
                found = moved
                break
    return found


def _moved(found: list[Pair], place: int, missing: int, step: int, script: Sequence[str], ends: set[int]) -> list[Pair] | None:
    """The pairs with the gap before `place` moved back or on to a passage's end; None where the words between are others."""
    changed = list(found)
    while 0 < place < len(found) and found[place].heard not in ends:
        at = place - 1 if step < 0 else place
        one = found[at]
        other = one.script - step * missing
        if not one.equal or script[other] != script[one.script]:
            return None
        changed[at] = Pair(one.heard, other, True)
        place += step
    return changed if 0 < place < len(found) else None


def _quoted(words: Sequence[str]) -> str:
    if not words:
        return "nothing"
    shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
    return f'"{shown}"'


def shares(before: Match, after: Match) -> range:
    """How many of the words between two parts' texts the first may have: those words are few and nobody knows whose they are."""
    between = after.start - before.stop
    settled = before.reason is not None or after.reason is not None or not 0 < between <= RUN
    return range(0) if settled else range(between + 1)
