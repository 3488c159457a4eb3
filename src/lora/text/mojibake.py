"""Finds damaged transcripts (read in a wrong encoding, or copied from a web page), and gives names one spelling. Pure."""

import functools
import re
import sys
import unicodedata
from html.entities import html5
from typing import Final

_INVISIBLE: Final = "\u00ad\u200b\u2060\ufeff"
"""Soft hyphen, spaces and joiners without a width: they split a word for the tokenizer and the score, but are invisible. Those that
Arabic and emoji are written with are not among them."""

_SUSPECT = re.compile(
    rf"""
    (?P<control>   [\x00-\x08\x0e-\x1b\x7f-\x9f] )
  | (?P<lost>      \ufffd )
  | (?P<invisible> [{_INVISIBLE}] )
  | (?P<entity>    & (?:\#[0-9]{{1,7}} | \#[xX][0-9a-fA-F]{{1,6}} | [a-zA-Z][a-zA-Z0-9]{{1,30}}) ; )
  | (?P<twice>     [\u00c2\u00c3][\u00a0-\u00bf] | \u00e2\u20ac[\u2122\u0153\u009d\u02dc\u201c\u201d\u00a6] )
    """,
    re.VERBOSE,
)


def damage(text: str) -> str | None:
    """What shows that a text is not what somebody wrote, and what to do; None for one that may be right.

    Finds control characters (a text in UTF-16, or in a Windows encoding, that was read in another), U+FFFD, which stands for what
    could not be read, UTF-8 that was read as Latin-1, HTML's entities, and characters that nobody sees.
    """
    for found in _SUSPECT.finditer(text):
        what, value = found.lastgroup, found.group()
        if what == "control":
            return f"holds the control character U+{ord(value):04X}: {_ENCODING}"
        if what == "lost":
            return f"holds U+FFFD, which stands for a letter that could not be read: {_ENCODING}"
        if what == "invisible":
            return f"holds U+{ord(value):04X}, which nobody sees and which parts words; take it out"
        if what == "twice":
            return f"holds {value!r}, which is another letter in UTF-8 that was read as Latin-1: {_ENCODING}"
        if value.startswith("&#") or value[1:] in html5:
            return f"holds {value!r} of a web page; write the character itself (Python's html.unescape does)"
    return None


@functools.lru_cache(maxsize=65536)
def one_spelling(name: str) -> str:
    """A name, the same however it is written: with spaces around, or with its accents apart, as macOS names folders."""
    return sys.intern(unicodedata.normalize("NFC", name.strip()))  # few values, millions of lines


_ENCODING: Final = "it was read in the wrong encoding; export it again from its source, in UTF-8"
