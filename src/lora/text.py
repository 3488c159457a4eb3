"""Transcript style for training, and the normaliser for scoring. Pure."""

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from lora.config import TextStyle
from lora.language import LANGUAGES, Language

NORMALISER = "whisper-english, words only"
"""Whisper's English normaliser with its spelling map (case, punctuation, numbers, contractions, British spellings), less what is no
word: it leaves the last point of an ellipsis behind as if it were spoken."""

BASIC = "whisper-basic, marks taken off, words only"
"""Whisper's normaliser for other languages: case, punctuation and marks; numbers stay as they are written. Left to itself it puts a
space where a mark stands, so that a word written with its marks is many."""

CHARACTERS = "whisper-basic, marks taken off, single characters"
"""The same with every character on its own, for languages that put no spaces between words."""

ResolvedStyle = Literal["none", "lower", "capitals", "long capitals"]
"""`lower` takes the capitals from every transcript, `capitals` from those without a lower-case letter, `long capitals` from those of at
least `LONG_WORDS` words among them."""

LONG_WORDS = 3
"""Shorter transcripts without a lower-case letter may be names in a set with case: NASA, OK, UN HQ."""

TATWEEL = "\u0640"
"""Stretches an Arabic word and is no letter of it."""

ALTERNATIVES = re.compile(r"\{([^{}]*(?<!\S)/(?!\S)[^{}]*)\}")
"""What a reference may hold: `{gray / grey}`, any of which is right; `@` stands for nothing. The first is taken where one is wanted."""

_APOSTROPHES = re.compile(r"(?<=[^\W\d_])['\u2019\u02bc\u0060\u00b4\u2032\uff07](?=[^\W\d_])")


def normaliser_version(language: Language = "en") -> str:
    """Name and version to record beside a score: two scores compare only when theirs are the same."""
    name = NORMALISER if language == "en" else BASIC if LANGUAGES[language].separates_words else CHARACTERS
    return f"{name} ({version('whisper-normalizer')})"


def normalise(text: str, language: Language = "en") -> str:
    """The words that are scored, separated by single spaces; where a language does not separate words, its characters are."""
    text = first_alternatives(text)
    if language == "en":
        plain = _english()(text)
    else:
        plain = _basic(split_letters=not LANGUAGES[language].separates_words)(marks_off(text, language))
    return " ".join(word for word in plain.split() if any(character.isalnum() for character in word))


def as_written(text: str, language: Language = "en") -> list[str]:
    """The words of a text, or its characters where a language does not separate words, with case and punctuation."""
    whole = composed(first_alternatives(text))
    return whole.split() if LANGUAGES[language].separates_words else list("".join(whole.split()))


def first_alternatives(text: str) -> str:
    """The text with the first of each alternatives, `{a / b}`."""
    if "{" not in text:
        return text
    return ALTERNATIVES.sub(lambda match: match[1].split("/")[0].strip().removeprefix("@"), text)


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


def composed(text: str) -> str:
    """The text with letters and their marks as one character where there is one (NFC): both forms look the same."""
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
        """What was decided, for a person; says so where capitals and case are mixed."""
        if not self.capitals:
            return f"text style {self.style}: transcripts stay as they are written"
        mixed = "mixed: " if self.cased else ""
        counts = f"{mixed}{self.capitals} of {self.capitals + self.cased} training transcripts are in capitals"
        return f"text style {self.style}: {counts}, {self.lowered or 'none'} of them lower-cased"


def resolve_style(style: TextStyle, texts: Iterable[str], language: Language = "en") -> Styled:
    """The style that `auto` stands for, which decides by transcript: those in capitals would teach the model to shout.

    Where most are in capitals, the short ones are too; where few are, a short one is a name and stays. In a language without case the
    few capital letters are those of foreign names, and stay.
    """
    rows = [text for text in texts if text.upper() != text.lower()]
    loud = [text for text in rows if _in_capitals(text)]
    cased = len(rows) - len(loud)
    chosen: ResolvedStyle = style if style != "auto" else "none"
    if style == "auto" and LANGUAGES[language].cased and (loud or not rows):
        chosen = "lower" if not cased else "capitals" if len(loud) >= cased else "long capitals"
    return Styled(chosen, len(loud), cased, sum(apply_style(chosen, text) != apply_style("none", text) for text in loud))


def apply_style(style: ResolvedStyle, text: str) -> str:
    """A training target of that style: its white space collapsed, its letters composed (NFC), as the tokenizer knows them."""
    collapsed = " ".join(composed(first_alternatives(text)).split())
    lowers = style == "lower" or (style != "none" and _in_capitals(text) and (style == "capitals" or len(text.split()) >= LONG_WORDS))
    return composed(collapsed.lower()) if lowers else collapsed


def _in_capitals(text: str) -> bool:
    return text.upper() != text.lower() and not any(character.islower() for character in text)


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


@functools.cache
def _english():  # type: ignore[no-untyped-def]
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@functools.cache
def _basic(*, split_letters: bool):  # type: ignore[no-untyped-def]
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(split_letters=split_letters)
