"""Makes foreign text (names, ids, transcripts, error messages) safe for a terminal: control characters are written as escapes."""

import re
import sys
from typing import Final, TextIO

_STEERING: Final = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""C0 and C1 control characters, line and paragraph separators, overrides of the direction of writing, and bytes that are no text."""

_ONE_LINE: Final = re.compile(f"[{_STEERING}]")
_LINES: Final = re.compile(f"(?!\n)[{_STEERING}]")
_IN_JSON: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def shown(text: object) -> str:
    """The text on one line: every control character becomes an escape such as `\\x1b`, `\\n` or `\\u202e`."""
    return _ONE_LINE.sub(_escape, str(text))


def shown_lines(text: str) -> str:
    """As `shown`, but lines stay lines."""
    return _LINES.sub(_escape, text)


def shown_json(content: bytes) -> bytes:
    """The same JSON value with all control characters escaped: encoders leave C1 characters and direction overrides as they are."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0].decode()):04x}".encode(), content)


def say(text: object, file: TextIO | None = None) -> None:
    """Prints one line, on standard output unless another stream is given."""
    print(shown(text), file=file or sys.stdout, flush=True)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()
