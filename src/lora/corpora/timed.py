"""Tells transcripts from texts with times and other files. Pure."""

import re
from collections.abc import Sequence
from typing import Final

_CLOCK: Final = r"(?:\d+:)?\d{1,2}:\d{2}(?:[.,]\d+)?"
_ARROW = re.compile(rf"{_CLOCK}\s*-->\s*{_CLOCK}")
_BRACKETED = re.compile(rf"^[\[(<]\s*{_CLOCK}\s*[\])>]")
_CLOCK_ALONE = re.compile(rf"^(?:speaker\s*\S+\s+|\S+\s+)?{_CLOCK}$", re.IGNORECASE)
_CLOCK_FIRST = re.compile(rf"^{_CLOCK}\b\s*\S")
_NUMBER: Final = r"-?\d+(?:[.,]\d+)?"
_TWO_NUMBERS = re.compile(rf"^({_NUMBER})[\s;]+({_NUMBER})(?:[\s;]+\S.*)?$")
_TWO_BY_COMMA = re.compile(r"^(\d+(?:\.\d+)?),\s*(\d+(?:\.\d+)?),\s*\S.*$")
_CTM = re.compile(r"^\S+\s+(?:\d+|[A-Za-z])\s+\d+\.\d+\s+\d+\.\d+\s+\S+(?:\s+-?\d*\.?\d+)?$")
_STM = re.compile(r"^\S+\s+(?:\d+|[A-Za-z])\s+\S+\s+\d+\.\d+\s+\d+\.\d+\s")
_HEADS: Final = (
    ("WEBVTT", "WebVTT subtitles"),
    ('File type = "ooTextFile', "a Praat TextGrid"),
    ("[Script Info]", "SubStation subtitles"),
    ("Dialogue:", "SubStation subtitles"),
    ("SPEAKER ", "an RTTM file"),
    ("<?xml", "XML"),
    ("<!DOCTYPE", "HTML"),
    ("{\\rtf", "RTF"),
    ("%PDF", "a PDF"),
    ("PK\x03\x04", "an office document"),
)
_RTTM = re.compile(r"^SPEAKER\s+\S+\s+\d+\s+\d+\.\d+")

SAMPLES: Final = 1000
"""Two whole numbers in front of words are places in samples or ticks when the second is at least this: nobody says `0 12800 stop`."""


def timed(text: str) -> str | None:
    """The kind of a text that is no transcript, such as `times in front of the words`; None for one that may be spoken.

    Knows label tracks (Audacity), TIMIT's sample numbers, HTS labels, SRT, WebVTT, LRC, CTM, STM, RTTM, TextGrids, transcripts with
    clock times, JSON, XML and RTF.
    """
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    if not lines:
        return None
    return _by_head(lines) or _by_lines(lines)


def _by_head(lines: Sequence[str]) -> str | None:
    for head, kind in _HEADS:
        if lines[0].startswith(head) and (head != "SPEAKER " or _RTTM.match(lines[0])):
            return kind
    first, last = lines[0][0], lines[-1][-1]
    if (first, last) in (("{", "}"), ("[", "]")) and '"' in lines[0] + lines[-1] + "".join(lines[1:3]):
        return "JSON"
    return None


def _by_lines(lines: Sequence[str]) -> str | None:
    if any(_ARROW.search(line) for line in lines):
        return "subtitles with times"
    if any(_BRACKETED.match(line) for line in lines):
        return "text with times in brackets"
    if len(lines) > 1 and (any(_CLOCK_ALONE.match(line) for line in lines) or all(_CLOCK_FIRST.match(line) for line in lines)):
        return "text with clock times"
    labels = [line for line in lines if not line.startswith("\\")]  # Audacity writes frequencies on lines of their own
    if labels and all(_is_label(line) for line in labels):
        return "a label file with times in front of the words"
    if all(_CTM.match(line) for line in lines) or all(_STM.match(line) for line in lines):
        return "a list of words with times (CTM or STM)"
    return None


def _is_label(line: str) -> bool:
    """Whether a line is a start, an end, and what is said between them."""
    found = _TWO_NUMBERS.match(line) or _TWO_BY_COMMA.match(line)
    if found is None:
        return False
    start, end = (float(number.replace(",", ".")) for number in found.groups())
    fractions = all("." in number or "," in number for number in found.groups())
    return 0 <= start <= end and (fractions or (end >= SAMPLES and end > start))
