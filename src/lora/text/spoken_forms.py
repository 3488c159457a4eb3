"""All spoken readings of an English text: numbers, times, money, units, abbreviations, hyphens. Pure."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora.text.numerals import NUMBER_WORDS, ONES, SCALE_WORDS, Reading, cardinal, clock, decade, fraction, large, ordinal
from lora.text.spoken_units import ABBREVIATIONS, CURRENCIES, MAGNITUDES, MONTHS, UNITS

FILLERS = frozenset({"hmm", "mm", "mhm", "mmm", "uh", "um"})
"""Spoken words that are left out on both sides, as in Whisper's normaliser."""

TAKES_ONE = SCALE_WORDS | {"half", "quarter", "third", "dozen"}
"""Before these, "a" means "one"."""


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a text with all that may be said for it: readings, single digits, or whole parts of which one is said."""

    readings: tuple[Reading, ...] = ()
    digits: str = ""
    written: bool = False
    branches: tuple[tuple["Item", ...], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is one ordinary word: two that are the same belong together in an alignment whatever stands around them."""
        return len(self.readings) == 1 and len(self.readings[0]) == 1 and not self.written and self.readings[0][0] not in NUMBER_WORDS


def word(*words: str) -> Item:
    return Item(readings=(words,))


def either(*readings: Sequence[str]) -> Item:
    return Item(readings=tuple(tuple(reading) for reading in readings))


_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)+|\d+"
_TOKEN = re.compile(
    rf"""
    (?P<time> (?<![\d:.]) \d{{1,2}}:[0-5]\d (?![\d:]) )
  | (?P<money> [$£€¥₹] \s? (?:{_NUMBER}|\.\d+) (?: \s? (?:hundred|thousand|million|billion|trillion|k|m|bn|b) \b )? )
  | (?P<mixed> \d+ \s+ \d+ / \d+ (?![\d/]) )
  | (?P<fraction> (?<![\d/]) \d+ / \d+ (?![\d/]) )
  | (?P<ordinal> \d[\d,]* (?:st|nd|rd|th) \b )
  | (?P<decade> \d+ s \b )
  | (?P<number> {_NUMBER} | (?<![\w.]) \.\d+ )
  | (?P<minus> (?<! [\w)] ) [-\u2212\u2013] (?= [$£€¥₹]? \.? \d ) )
  | (?P<plus> (?<! \w ) \+ (?= \.? \d ) )
  | (?P<range> (?<= \d ) \s? [-\u2013\u2014] \s? (?= \d ) )
  | (?P<noon> \b [ap]\. \s? m\b \.? | (?<! [^\W\d_] ) [ap]m\b )
  | (?P<unit> ° \s? [cf] \b | km/h | m/s | mi/h | ft/s | [%°¢] )
  | (?P<symbol> [&@#+=] )
  | (?P<word> [^\W\d_]+ (?: ['-] [^\W\d_]+ )* )
    """,
    re.VERBOSE,
)

_VULGAR = {sign: f" {one}/{two}" for sign, one, two in zip("½⅓⅔¼¾⅕⅛⅜⅝⅞", "1121311357", "2334458888", strict=True)}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    attached: bool
    """Whether it follows the previous token without a space."""


Respell = Callable[[str], list[str]]
"""The words of a token of letters, in the spelling that is scored; none for what is no word."""


def items(text: str, respell: Respell) -> list[Item]:
    """The parts of a lower-case text whose contractions are written out."""
    tokens = _tokens(text)
    found: list[Item] = []
    place = 0
    while place < len(tokens):
        before = tokens[place - 1] if place else None
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        made, taken = _of(tokens[place], before, after, respell)
        found += made
        place += taken
    return found


def _tokens(text: str) -> list[_Token]:
    for sign, spelled in _VULGAR.items():
        text = text.replace(sign, spelled)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2019", "'").lower()
    found: list[_Token] = []
    end = -1
    for match in _TOKEN.finditer(text):
        found.append(_Token(match.lastgroup or "", match.group().strip(), match.start() == end))
        end = match.end()
    return found


def _of(token: _Token, before: _Token | None, after: _Token | None, respell: Respell) -> tuple[list[Item], int]:
    """What a token says, and how many tokens that takes."""
    if token.kind == "word":
        return _of_word(token, before, after, respell)
    if token.kind == "number":
        return _of_number(token.text, before), 1
    if token.kind == "time":
        return [_time(token.text, on_the_hour=after is not None and after.kind == "noon")], 1
    if token.kind == "unit":
        return [_unit(token.text)] if before is not None and _counts(before) else [], 1
    makers: dict[str, Callable[[str], list[Item]]] = {
        "money": _money,
        "mixed": _mixed,
        "fraction": _fraction,
        "ordinal": _ordinal,
        "decade": _decade,
        "minus": lambda _: [either(["minus"], ["negative"])],
        "plus": lambda _: [either(["plus"], ["positive"])],
        "noon": lambda text: [either([text[0] + "m"], [text[0], "m"])],
        "range": lambda _: [_range(before, after)],
        "symbol": lambda text: [_symbol(text)],
    }
    return makers[token.kind](token.text), 1


def _of_word(token: _Token, before: _Token | None, after: _Token | None, respell: Respell) -> tuple[list[Item], int]:
    text, following = token.text, after.text if after is not None else ""
    if text in ("double", "triple") and following in (*ONES, "oh", "o"):
        digit = "oh" if following == "o" else following
        return [either([text, digit], [digit] * (2 if text == "double" else 3))], 2
    scale = (MAGNITUDES[text],) if text in MAGNITUDES and token.attached else None
    if before is not None and _counts(before) and text in UNITS:
        found = _unit(text)
        return [replace(found, readings=(*found.readings, scale)) if scale else found], 1
    if before is not None and before.kind == "number" and scale:
        return [either(scale)], 1
    if text in FILLERS:
        return [], 1
    if text in ("a", "an") and following in TAKES_ONE:
        return [either([text], ["one"])], 1
    if text == "and" and before is not None and before.text in SCALE_WORDS and after is not None and _counts(after):
        return [either(["and"], [])], 1
    if text == "o":
        return [either(["o"], ["oh"])], 1
    if text == "percent":
        return [either(["percent"], ["per", "cent"])], 1
    if text in ABBREVIATIONS:
        return [either([text], *(form.split() for form in ABBREVIATIONS[text]))], 1
    return _spelled(text, respell), 1


def _spelled(text: str, respell: Respell) -> list[Item]:
    parts = text.split("-")
    apart = [one for part in parts for one in respell(part)]
    joined = respell("".join(parts))
    if len(parts) == 1 or any(part in NUMBER_WORDS for part in parts) or joined == apart:
        return [word(one) for one in apart]
    return [either(apart, joined)]


def _counts(token: _Token) -> bool:
    """Whether it is a number, in digits or in letters."""
    return token.kind in ("number", "mixed", "fraction") or (token.kind == "word" and token.text.split("-")[-1] in NUMBER_WORDS)


def _written(*readings: Reading) -> Item:
    return Item(readings=readings, written=True)


def _of_number(text: str, before: _Token | None) -> list[Item]:
    if before is not None and before.text in MONTHS and text.isdigit() and 1 <= int(text) <= 31:
        day = ordinal(int(text))
        return [replace(_whole(text), readings=(day, ("the", *day)))]
    return _number(text)


def _number(text: str) -> list[Item]:
    first, *rest = text.replace(",", "").split(".")
    found = [either([], ["zero"], ["oh"])] if rest and first in ("", "0") else [_whole(first)]
    for part in rest:
        found += [either(["point"], ["dot"]), Item(digits=part, written=True)]
    return found


def _whole(digits: str) -> Item:
    return Item(readings=tuple(large(digits)), digits=digits, written=True)


def _time(text: str, *, on_the_hour: bool) -> Item:
    hours, minutes = text.split(":")
    plain = (cardinal(int(hours)),) if on_the_hour and minutes == "00" else ()
    return Item(readings=(*clock(int(hours), int(minutes)), *plain), digits=hours + minutes, written=True)


def _money(text: str) -> list[Item]:
    amount = re.search(r"[\d.,]*\d", text)
    assert amount is not None
    ones, parts = (either(*([name] for name in names)) for names in CURRENCIES[text[0]])
    scale = text[amount.end() :].strip()
    plain = (*_number(amount[0]), *([word(MAGNITUDES.get(scale, scale))] if scale else []), ones)
    whole, _, cents = amount[0].replace(",", "").partition(".")
    if scale or len(cents) != 2 or cents == "00":
        return [*plain]
    in_parts = (_written(cardinal(int(cents))), parts)
    if whole.strip("0") == "":
        return [Item(branches=(plain, in_parts))]
    return [Item(branches=(plain, (_whole(whole), ones, either([], ["and"]), *in_parts)))]


def _mixed(text: str) -> list[Item]:
    whole, part = text.split()
    return [_whole(whole), word("and"), *_fraction(part)]


def _fraction(text: str) -> list[Item]:
    upper, lower = text.split("/")
    if max(len(upper), len(lower)) > 3:
        return [_whole(upper), word("slash"), _whole(lower)]
    return [_written(*fraction(int(upper), int(lower)))]


def _ordinal(text: str) -> list[Item]:
    digits = text[:-2].replace(",", "")
    if len(digits) > 15:
        return [_whole(digits), word(text[-2:])]
    return [_written(ordinal(int(digits)))]


def _decade(text: str) -> list[Item]:
    digits = text[:-1]
    found = [_written(*decade(digits))] if len(digits) <= 4 and int(digits[0]) else [_whole(digits), word("s")]
    seconds = (_whole(digits), _unit("s"))
    return [Item(branches=(tuple(found), seconds))]


def _unit(text: str) -> Item:
    forms = UNITS[text.replace(" ", "")]
    as_written = [one for one in re.split(r"[\W_]+", text) if one]
    return either(*(form.split() for form in forms), *([as_written] if as_written else []))


def _range(before: _Token | None, after: _Token | None) -> Item:
    """Long numbers are put together with hyphens, as those of telephones are; between short ones the hyphen is said."""
    long = any(token is not None and len(token.text) >= 3 for token in (before, after))
    return either(["to"], ["through"], ["minus"], *([[]] if long else []))


def _symbol(text: str) -> Item:
    said = {"&": ["and"], "@": ["at"], "+": ["plus"], "=": ["equals"], "#": ["number"]}[text]
    return either(said, [])
