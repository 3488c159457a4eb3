"""The languages that Moonshine is published for, and what each asks of decoding, scoring and manifests. No torch."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ar", "es", "ja", "ko", "uk", "vi", "zh"]
"""ISO 639-1 codes."""

Metric = Literal["WER", "CER"]
"""What the error rate of a language's scored units is called: word or character error rate."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is particular to a language."""

    name: str
    scripts: frozenset[str]
    """First words of the Unicode names of its letters."""
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

LANGUAGES: Mapping[Language, Traits] = {
    "en": Traits("English", _LATIN, tokens_per_second=6.5),
    "ar": Traits("Arabic", frozenset({"ARABIC"}), cased=False),
    "es": Traits("Spanish", _LATIN),
    "ja": Traits("Japanese", frozenset({"CJK", "HIRAGANA", "KATAKANA"}), separates_words=False, cased=False),
    "ko": Traits("Korean", frozenset({"HANGUL", "CJK"}), cased=False),
    "uk": Traits("Ukrainian", frozenset({"CYRILLIC"})),
    "vi": Traits("Vietnamese", _LATIN),
    "zh": Traits("Mandarin", frozenset({"CJK"}), separates_words=False, cased=False),
}


def metric(language: Language) -> Metric:
    return LANGUAGES[language].metric


def foreign_script(text: str, language: Language) -> str | None:
    """The script, such as `Cyrillic`, that most letters of a text are of, where the language does not use it.

    Latin letters are foreign to no language here: names and abbreviations are written in them everywhere.
    """
    counts = Counter(script for character in unicodedata.normalize("NFKC", text) if (script := _script(character)))
    if not counts:
        return None
    usual, total = LANGUAGES[language].scripts | _LATIN, sum(counts.values())
    foreign = Counter({script: count for script, count in counts.items() if script not in usual})
    if 2 * sum(foreign.values()) <= total:
        return None
    return foreign.most_common(1)[0][0].capitalize().replace("Cjk", "Chinese")


def lacks_own_script(text: str, language: Language) -> bool:
    """Whether a text has letters and none of them is of a script of the language's own."""
    found = {script for character in unicodedata.normalize("NFKC", text) if (script := _script(character))}
    return bool(found) and not found & LANGUAGES[language].scripts


@functools.cache
def _script(character: str) -> str:
    """First word of a letter's Unicode name, such as `LATIN`; empty for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() and unicodedata.category(character) != "Lm" else ""
