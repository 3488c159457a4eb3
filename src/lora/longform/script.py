"""Finds the words of a script that each part of a recording says, and where to cut a part so that it says only those. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from lora.longform.seams import plain
from lora.longform.wording import ANCHOR, Pair, pairs

ALIKE: Final = 50.0
"""Words in a row that differ are the same, misheard, where their letters are so alike, of 100; unrelated words reach 40."""

SURE: Final = 75.0
"""Of one word."""

EDGE: Final = 3
"""Letters by which the first words of a part may differ, or the last ones, where it is not sure what is beside them."""

ALIKE_EDGE: Final = 65.0
"""Or how alike they are, of 100."""

RUN: Final = 3
"""This many words in a row that only one side has are not an error of the model: they were added or left out."""

CLOSE: Final = 2
"""Words at most this far apart count as neighbours."""

LEAST: Final = 3
"""Words of a part that is cut out of another: of fewer nobody knows whether they are these ones."""


@dataclass(frozen=True, slots=True)
class Match:
    """The words `start` to `stop` of the script, which a part says; or why it is left out."""

    start: int
    stop: int
    reason: str | None = None
    sure: range = field(default=range(0), compare=False)
    """From the first to the last of these words that is surely heard."""


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

    def __init__(
        self, passages: Sequence[Sequence[str]], script: Sequence[str], most_errors: float, pauses_s: Sequence[float] | None = None
    ) -> None:
        """`most_errors` is the share of a part's letters that may differ; `pauses_s` is how long nobody speaks before each word."""
        self._heard = [word for passage in passages for word in passage]
        self._script = script
        self._most_errors = most_errors
        ends = [0]
        for passage in passages:
            ends.append(ends[-1] + len(passage))
        self.passages = [range(*pair) for pair in pairwise(ends)]
        """The places of each passage's words."""
        if pauses_s is None:
            pauses_s = [float(word in ends) for word in range(len(self._heard))]
        found = _slid(_without_islands(pairs(self._heard, script)), self._heard, script, pauses_s)
        self._pairs = {pair.heard: pair for pair in self._without_strays(found)}

    def _without_strays(self, found: Sequence[Pair]) -> list[Pair]:
        """Without words that are unlike those they stand for, and not beside others that stand for something."""
        outside = Pair(-1, -1, False)
        sides = zip([outside, *found[:-1]], found, [*found[1:], outside], strict=True)
        return [one for before, one, after in sides if self.sure(one) or _close(before, one) or _close(one, after)]

    def match(self, words: range) -> Match:
        """What a part says, of which the words are `words`.

        It is left out where more of its letters differ than may, or a few words in a row that one side does not have.
        """
        found = [self._pairs[word] for word in words if word in self._pairs]
        if not found:
            return Match(0, 0, "is not in the script" if words else "nothing is heard in it")
        start, stop = found[0].script, found[-1].script + 1
        said = "".join(self._heard[words.start : words.stop])
        wrong = Levenshtein.distance(said, "".join(self._script[start:stop])) / len(said)
        reason = self._run(words, range(start, stop))
        if wrong > self._most_errors:
            reason = f"{100 * wrong:.0f} % of its letters are not those of the script, more than {100 * self._most_errors:.0f} %"
        sure = [pair.script for pair in found if self.sure(pair)]
        return Match(start, stop, reason, range(sure[0], sure[-1] + 1) if sure else range(start, stop))

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
        """Whether it is certain which word of the script a part begins with."""
        return self._follow(words.start, words.start - 1) or self._edge(words, 1)

    def ends(self, words: range) -> bool:
        """Whether it is certain which word of the script a part ends with."""
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
        if Levenshtein.distance("".join(heard), "".join(wanted), score_cutoff=EDGE) <= EDGE:
            return True
        others, theirs = (side[:-1] if step > 0 else side[1:] for side in (heard, wanted))
        return fuzz.ratio("".join(others), "".join(theirs)) >= ALIKE_EDGE

    def sure(self, pair: Pair) -> bool:
        """Whether a word that is heard is that of the script."""
        return pair.equal or fuzz.ratio(self._heard[pair.heard], self._script[pair.script]) >= SURE

    @property
    def pairs(self) -> Sequence[Pair]:
        """All pairs, in order."""
        return list(self._pairs.values())

    def _follow(self, inner: int, outer: int) -> bool:
        """Whether the word at an edge stands for the neighbour in the script of a word that is surely heard beside it."""
        first, second = self._pairs.get(inner), self._pairs.get(outer)
        return first is not None and second is not None and self.sure(second) and abs(second.script - first.script) == 1


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


def _close(before: Pair, after: Pair) -> bool:
    return after.heard - before.heard <= CLOSE and after.script - before.script <= CLOSE


def _without_islands(found: Sequence[Pair]) -> list[Pair]:
    """Without single words between two gaps of the script: they are the same by chance."""
    islands, since = set[int](), 0
    for place in range(1, len(found) + 1):
        if place == len(found) or found[place].script - found[place - 1].script > RUN:
            if since > 0 and place < len(found) and place - since < ANCHOR:
                islands.update(range(since, place))
            since = place
    return [pair for place, pair in enumerate(found) if place not in islands]


def _slid(found: list[Pair], heard: Sequence[str], script: Sequence[str], pauses_s: Sequence[float]) -> list[Pair]:
    """Words of the script that nobody says, moved to the longest pause where they may as well be: of two same sentences either is said."""
    found = list(found)
    for place in range(1, len(found)):
        before, after = found[place - 1], found[place]
        missing = (after.script - before.script) - (after.heard - before.heard)
        if missing < 1:
            continue
        shift, reach = max(((one, _reach(found, script, place, one)) for one in _near(missing)), key=lambda pair: len(pair[1]))
        best = max(reach, key=lambda at: (_pause_s(found, at, pauses_s), -abs(at - place)))
        for at in range(min(best, place), max(best, place)):
            by = shift if best < place else -shift
            found[at] = Pair(found[at].heard, found[at].script + by, found[at].equal)
    return _filled(found, heard, script)


def _near(missing: int) -> list[int]:
    """How far a sentence and the same one may lie apart: words beside the gap may be misheard as one more or one less."""
    return [missing, *(missing + by for step in range(1, CLOSE + 1) for by in (-step, step) if missing >= RUN)]


def _reach(found: Sequence[Pair], script: Sequence[str], place: int, shift: int) -> range:
    """The pairs before which the gap may lie, with all words between moved by `shift`."""
    first, last = place, place
    while first > 1 and _same_at(script, found[first - 1].script, shift) and _goes_on(found, first - 1, place):
        first -= 1
    while last < len(found) - 1 and _same_at(script, found[last].script, -shift) and _goes_on(found, place, last + 1):
        last += 1
    room = found[place].script - found[place - 1].script > shift
    return range(first, last + 1) if room else range(place, place + 1)


def _same_at(script: Sequence[str], place: int, shift: int) -> bool:
    return 0 <= place + shift < len(script) and script[place + shift] == script[place]


def _goes_on(found: Sequence[Pair], start: int, stop: int) -> bool:
    """Whether no other gap lies between the pairs."""
    inside = [one for one in range(start + 1, stop) if one < len(found)]
    return all(found[one].script - found[one - 1].script <= RUN for one in inside)


def _pause_s(found: Sequence[Pair], place: int, pauses_s: Sequence[float]) -> float:
    """The longest pause between a pair and the one before."""
    return max(pauses_s[found[place - 1].heard + 1 : found[place].heard + 1])


def _filled(found: Sequence[Pair], heard: Sequence[str], script: Sequence[str]) -> list[Pair]:
    """With pairs for words between two pairs, where there are as many on both sides."""
    filled = list(found[:1])
    for before, after in pairwise(found):
        count = after.heard - before.heard
        if 1 < count == after.script - before.script and count <= CLOSE + 1:
            for step in range(1, count):
                mine, theirs = before.heard + step, before.script + step
                filled.append(Pair(mine, theirs, heard[mine] == script[theirs]))
        filled.append(after)
    return filled


def _quoted(words: Sequence[str]) -> str:
    if not words:
        return "nothing"
    shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
    return f'"{shown}"'


def borders(before: Match, after: Match) -> range:
    """Where in the script one part may end and the next one begin, if nobody knows: of a few words that neither surely has."""
    if before.reason is not None or after.reason is not None or not 0 <= after.start - before.stop <= RUN:
        return range(0)
    first, last = max(before.start + 1, before.sure.stop), min(after.sure.start, after.stop - 1)
    if last - first > RUN:
        first, last = before.stop, after.start
    return range(first, last + 1) if first < last else range(0)
