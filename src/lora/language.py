"""The languages that Moonshine is published for, and what each asks of decoding, scoring and manifests. No torch."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta

OTHER: Final = "other:"
"""Before the ISO 639 code of a language that has no entry of its own here, as in `other:cy` for Welsh."""

Metric = Literal["WER", "CER"]
"""What the error rate of a language's scored units is called: word or character error rate."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Traits of a language."""

    name: str
    scripts: frozenset[str] | None
    """First words of the Unicode names of its letters; None if they are not known."""
    tokens_per_second: float = 13.0
    """Cap on decoded tokens. The tokenizer was made for English: letters of other languages take more tokens."""
    separates_words: bool = True
    """Whether spaces stand between words. Where none do, a scored unit is a character."""
    cased: bool = True
    """Whether letters are capital or small."""

    @property
    def metric(self) -> Metric:
        return "WER" if self.separates_words else "CER"

    @property
    def unit(self) -> Literal["word", "character"]:
        """What is counted."""
        return "word" if self.separates_words else "character"


_LATIN = frozenset({"LATIN"})

LANGUAGES: Final[Mapping[str, Traits]] = {
    "en": Traits("English", _LATIN, tokens_per_second=6.5),
    "ar": Traits("Arabic", frozenset({"ARABIC"}), cased=False),
    "de": Traits("German", _LATIN),
    "es": Traits("Spanish", _LATIN),
    "ja": Traits("Japanese", frozenset({"CJK", "HIRAGANA", "KATAKANA"}), separates_words=False, cased=False),
    "ko": Traits("Korean", frozenset({"HANGUL", "CJK"}), cased=False),
    "tl": Traits("Tagalog", _LATIN),
    "uk": Traits("Ukrainian", frozenset({"CYRILLIC"})),
    "vi": Traits("Vietnamese", _LATIN),
    "zh": Traits("Mandarin", frozenset({"CJK"}), separates_words=False, cased=False),
}

_UNSPACED: Final = frozenset({"bo", "dz", "km", "lo", "my", "nan", "th", "wuu", "yue"})
"""Further languages that put no spaces between words."""

LANGUAGE_PATTERN: Final = rf"^({'|'.join(LANGUAGES)}|{OTHER}(?!({'|'.join(LANGUAGES)})$)[a-z]{{2,3}})$"

Language = Annotated[str, Meta(pattern=LANGUAGE_PATTERN)]
"""An ISO 639 code: a key of `LANGUAGES`, or any other behind `OTHER`."""


def traits(language: Language) -> Traits:
    """The traits of a language. For one that is not in `LANGUAGES` only its code is known, and whether it separates words."""
    if language in LANGUAGES:
        return LANGUAGES[language]
    return Traits(f"the language {code(language)!r}", None, separates_words=code(language) not in _UNSPACED)


def code(language: Language) -> str:
    """The ISO 639 code, as model cards and model names have it."""
    return language.removeprefix(OTHER)


def is_language(text: str) -> bool:
    return re.search(LANGUAGE_PATTERN, text) is not None


def known_languages() -> str:
    """What may be given for a language, in words."""
    return f"{', '.join(LANGUAGES)}, or {OTHER}CODE for any other, such as {OTHER}cy"


def metric(language: Language) -> Metric:
    return traits(language).metric


def foreign_script(text: str, language: Language) -> str | None:
    """The script, such as `Cyrillic`, that most letters of a text are of, if the language does not use it.

    Latin letters are foreign to no language here: names and abbreviations are written in them everywhere.
    """
    counts = Counter(script for character in unicodedata.normalize("NFKC", text) if (script := _script(character)))
    own = traits(language).scripts
    if not counts or own is None:
        return None
    usual, total = own | _LATIN, sum(counts.values())
    foreign = Counter({script: count for script, count in counts.items() if script not in usual})
    if 2 * sum(foreign.values()) <= total:
        return None
    return foreign.most_common(1)[0][0].capitalize().replace("Cjk", "Chinese")


def lacks_own_script(text: str, language: Language) -> bool:
    """Whether a text has letters and none of them is of a script of the language's own."""
    found = {script for character in unicodedata.normalize("NFKC", text) if (script := _script(character))}
    own = traits(language).scripts
    return bool(found) and own is not None and not found & own


@functools.cache
def _script(character: str) -> str:
    """First word of a letter's Unicode name, such as `LATIN`; empty for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() and unicodedata.category(character) != "Lm" else ""
