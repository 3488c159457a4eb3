"""Words that are heard, written as the script writes them where both are read the same: numbers, abbreviations, compounds. Pure."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from lora.language import Language
from lora.longform.seams import plain
from lora.longform.wording import Pair, pairs
from lora.passages import Word
from lora.scoring.reader_errors import edits
from lora.units import Seconds

LONGEST: Final = 12
"""Words of what is compared at once, on either side: a number has no more."""

Passages = Sequence[Sequence[Word]]


def as_in_script(passages: Passages, script: Sequence[str], language: Language) -> list[list[Word]]:
    """The words of each passage; those of numbers share their time evenly."""
    heard = [plain(word.text) for words in passages for word in words]
    changes = dict[int, tuple[int, Sequence[str]]]()
    flat = [word for words in passages for word in words]
    for mine, theirs in _stretches(pairs(heard, [plain(word) for word in script]), len(heard), len(script)):
        if _same(flat, script, mine, theirs, language):
            changes[mine.start] = mine.stop, script[theirs.start : theirs.stop]
    found, at = list[list[Word]](), 0
    for words in passages:
        found.append(list(_rewritten(flat, range(at, at + len(words)), changes)))
        at += len(words)
    return found


def _stretches(found: Sequence[Pair], heard: int, script: int) -> Iterator[tuple[range, range]]:
    """What lies between words that are the same: few words on both sides."""
    same = [Pair(-1, -1, True), *(pair for pair in found if pair.equal), Pair(heard, script, True)]
    for before, after in pairwise(same):
        mine, theirs = range(before.heard + 1, after.heard), range(before.script + 1, after.script)
        if mine and theirs and max(len(mine), len(theirs)) <= LONGEST:
            yield mine, theirs


def _same(flat: Sequence[Word], script: Sequence[str], mine: range, theirs: range, language: Language) -> bool:
    """Whether both are read the same behind the word before: a day is first where a month stands before it."""
    said = " ".join(word.text for word in flat[max(0, mine.start - 1) : mine.stop])
    counted = edits(" ".join(script[max(0, theirs.start - 1) : theirs.stop]), said, language)
    return counted is not None and not (counted.substitutions or counted.deletions or counted.insertions)


def _rewritten(flat: Sequence[Word], words: range, changes: dict[int, tuple[int, Sequence[str]]]) -> Iterator[Word]:
    """The words of a passage; what goes over its end stays as it is."""
    at = words.start
    while at < words.stop:
        stop, texts = changes.get(at, (at + 1, ()))
        if texts and stop <= words.stop:
            yield from _shared(texts, flat[at:stop])
            at = stop
        else:
            yield flat[at]
            at += 1


def _shared(texts: Sequence[str], heard: Sequence[Word]) -> Iterator[Word]:
    start_s, end_s = float(heard[0].start_s), float(heard[-1].end_s)
    share_s = (end_s - start_s) / len(texts)
    for place, text in enumerate(texts):
        times = {"start_s": Seconds(start_s + place * share_s), "end_s": Seconds(start_s + (place + 1) * share_s)}
        yield msgspec.structs.replace(heard[0], text=text, **times)
