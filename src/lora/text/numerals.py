"""English numerals as words: how digits are spoken. Pure.

Digits can be read in several ways, `505` as "five hundred five", "five oh five", "five zero five". No reading belongs to two different
strings of digits: a ten is never followed by a unit that is not its own, so that "twenty one" is 21 and not 20 1.
"""

from collections.abc import Iterator

Reading = tuple[str, ...]

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (*("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ("hundred", "thousand", "million", "billion", "trillion")
_POWERS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))

LONGEST = 15
"""Longer strings of digits are read digit by digit."""

_ODD_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"},
    **{ten: ten[:-1] + "ieth" for ten in TENS if ten},
}


def cardinal(number: int) -> Reading:
    """A number of at most `LONGEST` digits as words, without "and"."""
    if number < 20:
        return ((*ONES, *TEENS)[number],)
    if number < 100:
        return (TENS[number // 10], *(cardinal(number % 10) if number % 10 else ()))
    power, name = next(step for step in _POWERS if number >= step[0])
    rest = number % power
    return (*cardinal(number // power), name, *(cardinal(rest) if rest else ()))


def ordinal_word(word: str) -> str:
    return _ODD_ORDINALS.get(word, word + "th")


def plural_word(word: str) -> str:
    return word[:-1] + "ies" if word in TENS else word + ("es" if word == "six" else "s")


def ordinal(number: int) -> Reading:
    *first, last = cardinal(number)
    return (*first, ordinal_word(last))


UNITS_WORDS = frozenset(ONES[1:])
ORDINALS = frozenset(ordinal_word(word) for word in (*ONES, *TEENS, *filter(None, TENS), *SCALES))
UNIT_ORDINALS = frozenset(ordinal_word(word) for word in ONES[1:])
NUMBER_WORDS = frozenset((*ONES, *TEENS, *filter(None, TENS), *SCALES, "oh")) | ORDINALS
SCALE_WORDS = frozenset(SCALES) | {ordinal_word(word) for word in SCALES} | {"hundreds", "thousands", "millions", "billions"}


def large(digits: str) -> Iterator[Reading]:
    """Readings of a string of digits that use words such as hundred; single digits and pairs are no part of them."""
    if len(digits) > LONGEST or int(digits[0]) == 0 or int(digits) < 100:
        return
    number = int(digits)
    yield cardinal(number)
    if 1000 < number < 10_000 and number // 100 % 10:
        yield (*cardinal(number // 100), "hundred", *(cardinal(number % 100) if number % 100 else ()))
    for power, name in _POWERS[:3]:
        if number >= power and number % (power // 10) == 0 and number % power:
            yield (*cardinal(number // power), "point", *cardinal(number % power * 10 // power), name)


def decade(digits: str) -> Iterator[Reading]:
    """Readings of `1960s`, `60s`, `2000s`, `5s`, without the s."""
    number = int(digits)
    if len(digits) == 4 and number // 100 % 10:
        last = number % 100
        yield (*cardinal(number // 100), *(_plural(cardinal(last)) if last >= 10 else ("hundreds",) if last == 0 else ()))
    if digits[0] != "0":
        yield _plural(cardinal(number))


def _plural(words: Reading) -> Reading:
    return (*words[:-1], plural_word(words[-1]))


def fraction(numerator: int, denominator: int) -> Iterator[Reading]:
    """`3/4` as three quarters, three fourths, three over four, three slash four; `1/2` also as half."""
    upper = cardinal(numerator)
    names = {2: ["half"], 4: ["quarter", "fourth"]}.get(denominator) or [" ".join(ordinal(denominator))] if denominator > 1 else []
    for name in names:
        *first, last = name.split()
        yield (*upper, *first, last if numerator == 1 else "halves" if last == "half" else last + "s")
    if (numerator, denominator) == (1, 2):
        yield ("half",)
    for sign in ("over", "slash"):
        yield (*upper, sign, *cardinal(denominator))


def clock(hours: int, minutes: int) -> Iterator[Reading]:
    """Readings of a time: hours and minutes, o'clock, and quarters and halves of the hour."""
    hour = cardinal(hours)
    if minutes == 0:
        yield (*hour, "o", "clock")
        yield (*hour, "hundred")
        return
    yield (*hour, *(cardinal(minutes) if minutes >= 10 else ("oh", *cardinal(minutes))))
    names = {15: ("quarter", "past", hours), 30: ("half", "past", hours), 45: ("quarter", "to", hours % 12 + 1)}
    if minutes in names:
        name, side, of = names[minutes]
        yield (name, side, *cardinal(of))
        yield ("a", name, side, *cardinal(of))
