"""Transcript style for training, and the normaliser for scoring. Pure."""

import functools
from collections.abc import Iterable
from importlib.metadata import version
from typing import Literal

from lora.config import TextStyle

NORMALISER = "whisper-english, words only"
"""Whisper's English normaliser with its spelling map (case, punctuation, numbers, contractions, British spellings), less what is no
word: it leaves the last point of an ellipsis behind as if it were spoken."""

ResolvedStyle = Literal["none", "lower"]


def normaliser_version() -> str:
    """Name and version to record beside a score: two scores compare only when theirs are the same."""
    return f"{NORMALISER} ({version('whisper-normalizer')})"


def normalise(text: str) -> str:
    """The words that are scored, separated by single spaces."""
    return " ".join(word for word in _english()(text).split() if any(character.isalnum() for character in word))


def resolve_style(style: TextStyle, texts: Iterable[str]) -> ResolvedStyle:
    """The style that `auto` stands for: `lower` where no training transcript has a lower-case letter.

    An upper-case corpus would teach the model to shout; what it says in lower case is what its users can read.
    """
    if style != "auto":
        return style
    return "none" if any(character.islower() for text in texts for character in text) else "lower"


def apply_style(style: ResolvedStyle, text: str) -> str:
    """A training target of that style, with its white space collapsed."""
    collapsed = " ".join(text.split())
    return collapsed.lower() if style == "lower" else collapsed


@functools.cache
def _english():  # type: ignore[no-untyped-def]
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
