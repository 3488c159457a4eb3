"""What is said in a recording, and when: words and passages, as values."""

import msgspec

from lora.units import Seconds


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word of a transcript with its marks. Times count from the start of the recording."""

    text: str
    start_s: Seconds
    end_s: Seconds
    confidence: float
    """Calibrated probability that the word is right."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """What is said in one piece of a recording."""

    start_s: Seconds
    end_s: Seconds
    text: str
    capped: bool
    words: tuple[Word, ...] | None = None
    """None if they were not asked for."""
