"""How transcripts are written: one of alternatives, composed letters, case as training targets have it. Pure."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lora.language import Language, traits

TextStyle = Literal["auto", "none", "lower"]
"""What is asked for: `auto` lower-cases transcripts in capitals, `lower` all, `none` keeps them."""

ResolvedStyle = Literal["none", "lower", "capitals", "long capitals"]
"""`lower` takes the capitals from every transcript, `capitals` from those without a lower-case letter, `long capitals` from those of at
least `LONG_WORDS` words among them."""

LONG_WORDS = 3
"""Shorter transcripts without a lower-case letter may be names in a set with case: NASA, OK, UN HQ."""

ALTERNATIVES = re.compile(r"\{([^{}]*(?<!\S)/(?!\S)[^{}]*)\}")
"""What a reference may hold: `{gray / grey}`, any of which is right; `@` stands for nothing. The first is taken if one is wanted."""


def first_alternatives(text: str) -> str:
    """The text with the first of each alternatives, `{a / b}`."""
    if "{" not in text:
        return text
    return ALTERNATIVES.sub(lambda match: match[1].split("/")[0].strip().removeprefix("@"), text)


def composed(text: str) -> str:
    """The text with letters and their marks as one character if there is one (NFC): both forms look the same."""
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True, slots=True)
class Styled:
    """The style of a set's training targets, and how many of its transcripts it was read from."""

    style: ResolvedStyle
    capitals: int = 0
    """Transcripts with capital letters and no lower-case one."""
    cased: int = 0
    """Transcripts with a lower-case letter."""
    lowered: int = 0
    """Transcripts that the style lower-cases."""

    @property
    def sentence(self) -> str:
        """What was decided, for a person."""
        if not self.capitals:
            return "text style: training transcripts stay as they are written"
        counts = f"{self.capitals} of {self.capitals + self.cased} training transcripts are in capitals"
        return f"text style: {counts}, {self.lowered or 'none'} of them lower-cased"


def resolve_style(style: TextStyle, texts: Iterable[str], language: Language = "en") -> Styled:
    """The style that `auto` stands for, which decides by transcript: those in capitals would teach the model to shout.

    Where most are in capitals, the short ones are too; where few are, a short one is a name and stays. In a language without case the
    few capital letters are those of foreign names, and stay.
    """
    rows = [text for text in texts if text.upper() != text.lower()]
    loud = [text for text in rows if _in_capitals(text)]
    cased = len(rows) - len(loud)
    chosen: ResolvedStyle = style if style != "auto" else "none"
    if style == "auto" and traits(language).cased and (loud or not rows):
        chosen = "lower" if not cased else "capitals" if len(loud) >= cased else "long capitals"
    return Styled(chosen, len(loud), cased, sum(apply_style(chosen, text) != apply_style("none", text) for text in loud))


def apply_style(style: ResolvedStyle, text: str) -> str:
    """A training target of that style: its white space collapsed, its letters composed (NFC), as the tokenizer knows them."""
    collapsed = " ".join(composed(first_alternatives(text)).split())
    lowers = style == "lower" or (style != "none" and _in_capitals(text) and (style == "capitals" or len(text.split()) >= LONG_WORDS))
    return composed(collapsed.lower()) if lowers else collapsed


def _in_capitals(text: str) -> bool:
    return text.upper() != text.lower() and not any(character.islower() for character in text)
