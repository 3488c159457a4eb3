"""How much text can be spoken in a given time. Pure.

The fastest real speech measured here (English: AN4, LibriSpeech and speechocean762, 1,936 clips of 0.5 to 35 s) has 17.1 letters and digits
a second, in whole sentences 16.3. The bounds below leave twice that, and are set as generously for other scripts by how many syllables a
second the fastest speakers reach (about 10). They find texts that belong to another recording, not fast speakers.
"""

import unicodedata
from typing import Final

from lora.units import Seconds

ALPHABETIC: Final = 36.0
"""Letters and digits a second, of alphabets. `2000` takes longer to say than to write, spelled letters too: neither comes near."""

SYLLABIC: Final = {"CJK": 16.0, "HANGUL": 16.0, "HIRAGANA": 24.0, "KATAKANA": 24.0}
"""Characters a second of scripts that write a syllable, a mora or a word with one."""

SLACK_S: Final = Seconds(0.5)
"""Added to a clip's length: tight cuts take the ends of words away, and single words of short clips are long for their time."""


def least_seconds(text: str) -> Seconds:
    """The shortest time, in seconds, in which somebody could say a text: 0 for one without letters and digits."""
    if text.isascii():
        return Seconds(sum(map(str.isalnum, text)) / ALPHABETIC)
    return Seconds(sum(1 / _rate(character) for character in unicodedata.normalize("NFC", text) if character.isalnum()))


def too_much(text: str, length_s: float) -> bool:
    """Whether a text is too long to be spoken in `length_s` seconds."""
    if len(text) / min(SYLLABIC.values()) <= length_s:  # most texts, without examining their letters
        return False
    return least_seconds(text) > length_s + SLACK_S


def _rate(character: str) -> float:
    if character.isascii():
        return ALPHABETIC
    return SYLLABIC.get(unicodedata.name(character, "").split(" ")[0], ALPHABETIC)
