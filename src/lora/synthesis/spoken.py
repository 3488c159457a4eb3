"""Text for a voice: numbers, units, acronyms and addresses of an English text as words. Pure.

Voices disagree on how they read "5 mg" or "API"; a text in words sounds the same in all of them. The first of all readings is taken that
the reader's score knows.
"""

import re
from collections.abc import Iterator, Sequence

from lora.text.numerals import LONGEST, ONES, cardinal
from lora.text.spoken_forms import Item, items
from lora.text.spoken_units import MAGNITUDES, UNITS

ACRONYM = re.compile(r"\b([A-Z]{2,4})(s?)\b")
"""Two to four capitals are said letter by letter; where they are a word of their own, as NASA, the list says so: `NASA = nasa`."""

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_SIGNS = {"@": "at", ".": "dot", "-": "dash", "_": "underscore", "+": "plus"}
_YEAR = re.compile(r"1[1-9]\d\d|20[1-9]\d")
_FIGURES = re.compile(r"[\d%$£€¥₹°½⅓⅔¼¾]")
_CHUNK = re.compile(r"([(\"'\[]*)(.*?)([.,;:!?)\"'\]]*)")
_PHONEMES = re.compile(r"\[([^\]]+)\]\(/[^/]+/\)")


def in_words(text: str) -> str:
    """The text as it is said; its punctuation stays, for voices pause there."""
    return " ".join(_chunks(text))


def without_phonemes(text: str) -> str:
    """The text with its terms as they are written, for voices that do not know the phonemes."""
    return _PHONEMES.sub(r"\1", text)


def _chunks(text: str) -> Iterator[str]:
    words, place = text.split(), 0
    while place < len(words):
        taken = 1
        if _FIGURES.search(words[place]) and "](/" not in words[place]:
            taken = 2 if _is_unit(words[place + 1 : place + 2]) else 1
            yield _figures(" ".join(words[place : place + taken]))
        else:
            yield _letters(words[place])
        place += taken


def _is_unit(following: Sequence[str]) -> bool:
    word = following[0].rstrip(".,;:!?)").lower() if following else ""
    return word in MAGNITUDES.values() or (word in UNITS and word not in ("in", "a", "t"))


def _holds_unit(chunk: str) -> bool:
    return " " in chunk or re.sub(r"[\d.,]", "", chunk).lower() in UNITS


def _figures(chunk: str) -> str:
    before, inner, after = _parts(chunk)
    said = [word for item in items(inner if _holds_unit(inner) else _spelled(inner), lambda word: [word]) for word in _said(item)]
    return before + " ".join(_after_a_point(said)) + after


def _after_a_point(said: Sequence[str]) -> Iterator[str]:
    """Digits behind a point stand one by one; a letter is a capital, as engines name letters."""
    for place, word in enumerate(said):
        if word.isdigit():
            behind = "point" in said[max(0, place - 1) : place] or "dot" in said[max(0, place - 1) : place]
            yield from _digits(word, one_by_one=behind or len(word) > LONGEST or (word.startswith("0") and len(word) > 1))
        else:
            yield word.upper() if len(word) == 1 and word != "a" else word


def _digits(digits: str, *, one_by_one: bool) -> Iterator[str]:
    if one_by_one:
        yield from (ONES[int(digit)] for digit in digits)
    elif _YEAR.fullmatch(digits):
        first, second = int(digits[:2]), int(digits[2:])
        yield from (*cardinal(first), *(("hundred",) if not second else ("oh", ONES[second]) if second < 10 else cardinal(second)))
    else:
        yield from cardinal(int(digits))


def _letters(chunk: str) -> str:
    if _ADDRESS.search(chunk):
        before, inner, after = _parts(chunk)
        spelled = "".join(f" {_SIGNS[letter]} " if letter in _SIGNS else letter for letter in inner)
        return before + " ".join(spelled.split()) + after
    return _spelled(chunk)


def _spelled(chunk: str) -> str:
    return ACRONYM.sub(lambda found: " ".join(found[1]) + ("'s" if found[2] else ""), chunk)


def _parts(chunk: str) -> tuple[str, str, str]:
    match = _CHUNK.fullmatch(chunk)
    assert match is not None  # every part of the pattern may be empty
    return match[1], match[2], match[3]


def _said(item: Item) -> Iterator[str]:
    """The words of an item; what is written in digits stays so."""
    if item.branches:
        in_cents = any(part.written and part.readings and not part.digits for part in item.branches[-1])
        for part in item.branches[-1 if in_cents else 0]:
            yield from _said(part)
    elif item.digits and ":" not in item.digits and (not item.readings or "".join(item.readings[0]) == "".join(_cardinal(item.digits))):
        yield item.digits
    elif item.readings:
        yield from item.readings[0]


def _cardinal(digits: str) -> Sequence[str]:
    return cardinal(int(digits)) if len(digits) <= LONGEST else ()
