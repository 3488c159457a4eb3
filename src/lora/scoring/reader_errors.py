"""Errors as a reader counts them: what is said the same way is the same, however it is written. Pure.

Both texts become lattices of all that may be said for them, and the alignment with the fewest edits decides. What is no number, unit,
abbreviation or compound is compared as the standard score compares it. Tags count: a model that writes them is seen.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora.language import Language
from lora.text.equivalents import Equivalents, read_equivalents
from lora.text.lattice import Edits, Lattice, fewest_edits
from lora.text.normaliser import contracted, normalise, respelled
from lora.text.numerals import NUMBER_WORDS
from lora.text.spoken_forms import Item, items, word
from lora.text.spoken_units import ABBREVIATIONS
from lora.text.style import ALTERNATIVES
from lora.text.tags import pieces, tags_in

VERSION = "numbers as said, 1"
"""Recorded with a score, after the normaliser: another version counts errors differently."""

MOST_PAIRS = 250_000
"""Pairs of words that are compared, those of two texts of 500 words: an utterance has a tenth of that, and time and memory grow with them.
Texts that differ over more are counted as the standard score counts them."""

_SINGLE = frozenset({"one", "first", "second", "third", "oh"})
"""Number words that often mean something else."""

_MORE_THAN_WORDS = re.compile(r"[\d%$£€¥₹°¢&@#½⅓⅔¼¾⅕⅛⅜⅝⅞()\[\]\u2019]|\w-\w")
_WORDS = re.compile(r"[^\W\d_]+")
_JOINED = "half quarter percent cent cents dollar dollars euro euros pound pounds minus plus negative positive point double triple"
_OF_NUMBERS = frozenset((*(NUMBER_WORDS - _SINGLE), *ABBREVIATIONS, *_JOINED.split()))
"""Near one of these the standard score may join or drop words that a reader keeps."""


def edits(reference: str, hypothesis: str, language: Language, equivalents: Equivalents | None = None) -> Edits | None:
    """The edits between two texts; None if nothing is written in them that the standard score does not count as a reader does,
    and where they are longer than `MOST_PAIRS` allows.

    A reference may hold alternatives, `{a / b / @}`, of which any is right; `@` is nothing.
    """
    if not _differs(reference, hypothesis, language, equivalents):
        return None
    left, right = (_items(text, language, equivalents) for text in (reference, hypothesis))
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    if (len(left) - start - end) * (len(right) - start - end) > MOST_PAIRS:
        return None
    found = fewest_edits(_lattice(left[start : len(left) - end]), _lattice(right[start : len(right) - end]))
    return found._replace(hits=found.hits + start + end)


def _differs(reference: str, hypothesis: str, language: Language, equivalents: Equivalents | None) -> bool:
    if ALTERNATIVES.search(reference) or tags_in(reference) or tags_in(hypothesis):
        return True
    if equivalents is not None and equivalents.concerns(reference, hypothesis):
        return True
    if language != "en":
        return False
    return any(
        _MORE_THAN_WORDS.search(text) or not _OF_NUMBERS.isdisjoint(_WORDS.findall(text.lower())) for text in (reference, hypothesis)
    )


def _items(text: str, language: Language, equivalents: Equivalents | None) -> list[Item]:
    return list(_with_alternatives(unicodedata.normalize("NFC", text), language, equivalents))


def _with_alternatives(text: str, language: Language, equivalents: Equivalents | None) -> Iterator[Item]:
    end = 0
    for match in ALTERNATIVES.finditer(text):
        yield from _tagged(text[end : match.start()], language, equivalents)
        forms = (form.strip() for form in match[1].split("/"))
        yield Item(branches=tuple(() if form == "@" else tuple(_tagged(form, language, equivalents)) for form in forms))
        end = match.end()
    yield from _tagged(text[end:], language, equivalents)


def _tagged(text: str, language: Language, equivalents: Equivalents | None) -> Iterator[Item]:
    for piece, is_tag in pieces(text):
        if is_tag:
            yield word(piece.lower())
        else:
            found = items_of(piece, language)
            yield from found if equivalents is None else equivalents.widened(found)


def table(path: Path, language: Language) -> Equivalents:
    """A user's table of equivalents. Raises `ConfigError` that names a bad line, or a file that cannot be read."""
    return read_equivalents(path, lambda form: items_of(form, language))


def items_of(text: str, language: Language) -> list[Item]:
    """The parts of a text without tags and alternatives."""
    if language == "en":
        return items(contracted(text), respelled)
    return [word(one) for one in normalise(text, language).split()]


def _common(left: Sequence[Item], right: Sequence[Item]) -> int:
    """How many ordinary words both have in common at the start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if not one.plain or one != other:
            break
        count += 1
    return count


def _lattice(found: Sequence[Item]) -> Lattice:
    lattice = Lattice()
    _extend(lattice, found)
    return lattice.closed()


def _extend(lattice: Lattice, found: Sequence[Item]) -> None:
    for item in found:
        if item.branches:
            entry, exits = lattice.states, []
            for branch in item.branches:
                lattice.states = dict(entry)
                _extend(lattice, branch)
                exits.append(lattice.states)
            lattice.states = entry
            lattice.branch(exits)
        elif item.digits:
            lattice.digits(item.digits, item.readings)
        else:
            lattice.read(item.readings, written=item.written)
