"""Which words of a script are said in each passage of a recording: one alignment by edit distance over the whole of both. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from lora.longform.seams import plain

ALIKE: Final = 50.0
"""Words in a row that differ are the same, misheard, where their letters are so alike, of 100; unrelated words reach 40."""

RUN: Final = 3
"""So many words in a row that only one side has are no mistake of the model: they were added, or left out."""


@dataclass(frozen=True, slots=True)
class Match:
    """The words `start` to `stop` of the script, which a passage says; or why it is left out."""

    start: int
    stop: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Pair:
    """A word that is heard, by its place, and the word of the script that it stands for; the same word or another."""

    heard: int
    script: int
    equal: bool


def tokens(text: str) -> list[str]:
    """The words of a script with their marks; a mark that stands alone belongs to the word before."""
    found = list[str]()
    for word in text.split():
        if plain(word) or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return [word for word in found if plain(word)]


def matches(passages: Sequence[Sequence[str]], script: Sequence[str], most_errors: float) -> list[Match]:
    """For each passage, of which the words are given as they are heard, what it says of the script.

    A passage is left out where more than `most_errors` of its words differ, or a few in a row that one side does not have.
    """
    heard = [[word for word in map(plain, passage) if word] for passage in passages]
    wanted = [plain(word) for word in script]
    flat = [word for passage in heard for word in passage]
    ends = [0]
    for passage in heard:
        ends.append(ends[-1] + len(passage))
    pairs = _slid(_pairs(flat, wanted), wanted, set(ends))
    by_word = {pair.heard: pair for pair in pairs}
    return [_match(flat, wanted, range(start, stop), by_word, most_errors) for start, stop in pairwise(ends)]


def _pairs(heard: Sequence[str], script: Sequence[str]) -> list[_Pair]:
    found = list[_Pair]()
    for op in Levenshtein.opcodes(heard, script):
        if op.tag in ("equal", "replace"):
            count = op.src_end - op.src_start
            found += [_Pair(op.src_start + place, op.dest_start + place, op.tag == "equal") for place in range(count)]
    return found


def _slid(pairs: list[_Pair], script: Sequence[str], ends: set[int]) -> list[_Pair]:
    """Words that are not heard, moved to the end of a passage where that changes nothing: of two same sentences either may be the one."""
    for place in range(1, len(pairs)):
        missing = pairs[place].script - pairs[place - 1].script - 1
        if missing < RUN or pairs[place].heard in ends:
            continue
        for step in (-1, 1):
            moved = _moved(pairs, place, missing, step, script, ends)
            if moved is not None:
                pairs = moved
                break
    return pairs


def _moved(pairs: list[_Pair], place: int, missing: int, step: int, script: Sequence[str], ends: set[int]) -> list[_Pair] | None:
    """The pairs with the gap before `place` moved back or on to a passage's end; None where the words between are others."""
    changed = list(pairs)
    while 0 < place < len(pairs) and pairs[place].heard not in ends:
        at = place - 1 if step < 0 else place
        one = pairs[at]
        other = one.script - step * missing
        if not one.equal or script[other] != script[one.script]:
            return None
        changed[at] = _Pair(one.heard, other, True)
        place += step
    return changed if 0 < place < len(pairs) else None


def _match(heard: Sequence[str], script: Sequence[str], words: range, by_word: dict[int, _Pair], most_errors: float) -> Match:
    found = [by_word[word] for word in words if word in by_word]
    if not found:
        return Match(0, 0, "is not in the script" if words else "nothing is heard in it")
    start, stop = found[0].script, found[-1].script + 1
    said = [heard[word] for word in words]
    wrong = Levenshtein.distance(said, script[start:stop]) / len(said)
    reason = _run(heard, script, words, by_word, range(start, stop))
    if wrong > most_errors:
        reason = f"{100 * wrong:.0f} % of its words are not those of the script, more than {100 * most_errors:.0f} %"
    return Match(start, stop, reason)


def _run(heard: Sequence[str], script: Sequence[str], words: range, by_word: dict[int, _Pair], wanted: range) -> str | None:
    """What words in a row are not the script's, or not heard."""
    same = [by_word[word] for word in words if word in by_word and by_word[word].equal]
    edges = [(words.start - 1, wanted.start - 1), *((pair.heard, pair.script) for pair in same), (words.stop, wanted.stop)]
    for (heard_before, script_before), (heard_after, script_after) in pairwise(edges):
        others, missing = heard[heard_before + 1 : heard_after], script[script_before + 1 : script_after]
        longer = max(len(others), len(missing))
        if longer >= RUN and fuzz.ratio("".join(others), "".join(missing)) < ALIKE:
            return f"says {_quoted(others)} where the script has {_quoted(missing)}"
    return None


def _quoted(words: Sequence[str]) -> str:
    if not words:
        return "nothing"
    shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
    return f'"{shown}"'


def shares(before: Match, after: Match) -> range:
    """How many of the words between two passages' texts the first may have: those words are few and nobody knows whose they are."""
    between = after.start - before.stop
    settled = before.reason is not None or after.reason is not None or not 0 < between <= RUN
    return range(0) if settled else range(between + 1)
