"""The normaliser for scoring. Pure."""

import functools
import re
import unicodedata
from importlib.metadata import version

from lora.language import OTHER, Language, traits
from lora.text.style import composed, first_alternatives

NORMALISER = "whisper-english, words only"
"""Whisper's English normaliser with its spelling map (case, punctuation, numbers, contractions, British spellings), less what is no
word: it leaves the last point of an ellipsis behind as if it were spoken."""

BASIC = "whisper-basic, marks taken off, words only"
"""Whisper's normaliser for other languages: case, punctuation and marks; numbers stay as they are written. Left to itself it puts a
space where a mark stands, so that a word written with its marks is many."""

CHARACTERS = "whisper-basic, marks taken off, single characters"
"""The same with every character on its own, for languages that put no spaces between words."""

TATWEEL = "\u0640"
"""The Arabic character that stretches a word and is not a letter."""

UNICODE = "letters with their marks and digits, words only"
"""For languages of which nothing is known: case, punctuation and symbols are taken off as Whisper's basic normaliser does, but marks
stay, since vowels of Indic scripts, Thai and others are written with them. Off go those that only guide a reader, see `_GUIDES`."""

UNICODE_CHARACTERS = "letters with their marks and digits, single characters"
"""The same with every letter on its own, for languages that put no spaces between words."""

_GUIDES = ("ARABIC", "CYRILLIC", "HEBREW", "SYRIAC")
"""Scripts whose marks, where they make no letter of their own, are vowel signs and stress that most texts leave out."""

_ASIDES = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")

_APOSTROPHES = re.compile(r"(?<=[^\W\d_])['\u2019\u02bc\u0060\u00b4\u2032\uff07](?=[^\W\d_])")


def normaliser_version(language: Language = "en") -> str:
    """Name and version to record with a score: two scores can be compared only if theirs are the same."""
    apart = traits(language).separates_words
    if language.startswith(OTHER):
        return f"{UNICODE if apart else UNICODE_CHARACTERS} (Unicode {unicodedata.unidata_version})"
    name = NORMALISER if language == "en" else BASIC if apart else CHARACTERS
    return f"{name} ({version('whisper-normalizer')})"


@functools.lru_cache(maxsize=2**14)
def normalise(text: str, language: Language = "en") -> str:
    """The words that are scored, separated by single spaces; if a language does not separate words, its characters are.

    The last ones are remembered, for each table of a report asks for the same texts again.
    """
    text = first_alternatives(text)
    if language == "en":
        plain = _english()(text)
    elif language.startswith(OTHER):
        plain = _plain(text, split_letters=not traits(language).separates_words)
    else:
        plain = _basic(split_letters=not traits(language).separates_words)(marks_off(text, language))
    return " ".join(word for word in plain.split() if any(character.isalnum() for character in word))


def as_written(text: str, language: Language = "en") -> list[str]:
    """The words of a text, or its characters if a language does not separate words, with case and punctuation."""
    whole = composed(first_alternatives(text))
    return whole.split() if traits(language).separates_words else list("".join(whole.split()))


def contracted(text: str) -> str:
    """An English text in lower case with its contractions written out, as the normaliser does it; titles stay short."""
    text = re.sub(r"\s+'", "'", text.replace("\u2019", "'").lower())
    for pattern, replacement in _english().replacers.items():
        if not replacement.endswith(" "):  # those are the titles
            text = re.sub(pattern, replacement, text)
    return text


def respelled(word: str) -> list[str]:
    """The words of a token of letters as the English normaliser spells them."""
    from whisper_normalizer.basic import remove_symbols_and_diacritics

    mapping: dict[str, str] = _english().standardize_spellings.mapping
    return [mapping.get(one, one) for one in remove_symbols_and_diacritics(word).split()]


def marks_off(text: str, language: Language) -> str:
    """The text with its letters composed, and without what is written at letters and is none: vowel signs and stress, tatweel, format
    characters. Marks that a letter is composed with stay: й, が, ế. Ukrainian apostrophes become one sign inside their word.

    Voiced sound marks that stand alone are joined with their kana first, and Hangul syllables are composed from their jamo.
    """
    joined = text.replace("\u309b", "\u3099").replace("\u309c", "\u309a")
    whole = unicodedata.normalize("NFKC", joined)
    if language == "uk":
        whole = _APOSTROPHES.sub("\u02bc", whole)
    return "".join(c for c in whole if c != TATWEEL and unicodedata.category(c) not in ("Cf", "Mn", "Me"))


def _plain(text: str, *, split_letters: bool) -> str:
    """Letters with their marks and digits in lower case; all else is a space, what stands in brackets is left out."""
    pieces: list[str] = []
    script = ""
    for character in unicodedata.normalize("NFKC", _ASIDES.sub("", text)).lower():
        kind = unicodedata.category(character)
        if kind[0] == "M":
            if pieces and pieces[-1] != " " and not (kind == "Mn" and script in _GUIDES):
                pieces[-1] += character
        elif kind != "Cf" and character != TATWEEL:
            script = unicodedata.name(character, "").partition(" ")[0]
            pieces.append(character if kind[0] in "LN" else " ")
    return (" " if split_letters else "").join(pieces)


@functools.cache
def _english():  # type: ignore[no-untyped-def]
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@functools.cache
def _basic(*, split_letters: bool):  # type: ignore[no-untyped-def]
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(split_letters=split_letters)
