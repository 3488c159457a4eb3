"""Transcript style for training, and the normaliser for scoring. Pure."""

import functools
from collections.abc import Iterable
from importlib.metadata import version
from typing import Literal

from lora.config import TextStyle
from lora.language import LANGUAGES, Language

NORMALISER = "whisper-english, words only"
"""Whisper's English normaliser with its spelling map (case, punctuation, numbers, contractions, British spellings), less what is no
word: it leaves the last point of an ellipsis behind as if it were spoken."""

BASIC = "whisper-basic, words only"
"""Whisper's normaliser for other languages: case, punctuation and marks; numbers stay as they are written."""

CHARACTERS = "whisper-basic, single characters"
"""The same with every character on its own, for languages that put no spaces between words."""

ResolvedStyle = Literal["none", "lower"]


def normaliser_version(language: Language = "en") -> str:
    """Name and version to record beside a score: two scores compare only when theirs are the same."""
    name = NORMALISER if language == "en" else BASIC if LANGUAGES[language].separates_words else CHARACTERS
    return f"{name} ({version('whisper-normalizer')})"


def normalise(text: str, language: Language = "en") -> str:
    """The words that are scored, separated by single spaces; where a language does not separate words, its characters are."""
    plain = _english() if language == "en" else _basic(split_letters=not LANGUAGES[language].separates_words)
    return " ".join(word for word in plain(text).split() if any(character.isalnum() for character in word))


def as_written(text: str, language: Language = "en") -> list[str]:
    """The words of a text, or its characters where a language does not separate words, with case and punctuation."""
    return text.split() if LANGUAGES[language].separates_words else list("".join(text.split()))


def resolve_style(style: TextStyle, texts: Iterable[str], language: Language = "en") -> ResolvedStyle:
    """The style that `auto` stands for: `lower` where no training transcript has a lower-case letter.

    An upper-case corpus would teach the model to shout; what it says in lower case is what its users can read. In a language without
    case the few capital letters are those of foreign names, and stay.
    """
    if style != "auto":
        return style
    if not LANGUAGES[language].cased:
        return "none"
    return "none" if any(character.islower() for text in texts for character in text) else "lower"


def apply_style(style: ResolvedStyle, text: str) -> str:
    """A training target of that style, with its white space collapsed."""
    collapsed = " ".join(text.split())
    return collapsed.lower() if style == "lower" else collapsed


@functools.cache
def _english():  # type: ignore[no-untyped-def]
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@functools.cache
def _basic(*, split_letters: bool):  # type: ignore[no-untyped-def]
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(split_letters=split_letters)
