"""Keys with press, repeat and release, from terminals that speak the kitty keyboard protocol with event types.

https://sw.kovidgoyal.net/kitty/keyboard-protocol/. Textual asks for the protocol without event types and its parser takes none; this one
does, and finds out whether the terminal sends them.
"""

import re
from collections.abc import Iterable
from typing import Final

from textual import events
from textual._xterm_parser import XTermParser
from textual.keys import Keys
from textual.message import Message

PROBE: Final = "\x1b[=2;2u\x1b[?u\x1b[5n"
"""Adds event types to the keyboard mode in use, asks which modes are on, then for the status that every terminal reports.

A status before any mode means that the protocol is unknown. Device attributes (`ESC[c`) would do as well, but xterm's answer to them
arrives as keystrokes.
"""

REPORTS_EVENTS: Final = 2
"""The protocol's flag for event types."""

_EVENT = re.compile(r"\x1b\[(?P<code>\d+)[\d:]*;(?P<modifiers>\d*):(?P<event>[123])(?P<text>;[\d:]*)?(?P<end>[u~ABCDEFHPQRS])")
_MODES = re.compile(r"\x1b\[\?(?P<flags>\d+)u")
_STATUS = "\x1b[0n"
_REPEAT, _RELEASE = "2", "3"


class KeyRepeated(events.Key):
    """A key that is held down. Widgets take it as another press; what must happen once only ignores it."""

    def copy(self) -> "KeyRepeated":
        return KeyRepeated(self.key, self.character)


KeyRepeated.handler_name = events.Key.handler_name


class KeyReleased(Message):
    """A key went up. `key` is its name without modifiers: they may have been let go before it."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


class KeyReleaseSupport(Message):
    """The terminal's answer to `PROBE`: whether it reports when a key goes up."""

    def __init__(self, reported: bool) -> None:
        super().__init__()
        self.reported = reported
        self.key = ""  # the parser asks everything that stems from a key sequence for its key


class KeyboardParser(XTermParser):
    """Textual's parser, which also understands event types and the answers to `PROBE`."""

    _flags = 0

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        if modes := _MODES.fullmatch(sequence):
            self._flags = int(modes["flags"])
            return [events.Key(Keys.Ignore, sequence)]
        if sequence == _STATUS:
            flags, self._flags = self._flags, 0
            return [KeyReleaseSupport(bool(flags & REPORTS_EVENTS))]  # type: ignore[list-item]  # goes through like a key
        if not (event := _EVENT.fullmatch(sequence)):
            return super()._sequence_to_key_events(sequence, alt)
        modifiers = "" if event["modifiers"] == "1" else event["modifiers"]  # 1 says that none is down
        plain = f"\x1b[{event['code']};{modifiers}{event['text'] or ''}{event['end']}"
        keys = list(super()._sequence_to_key_events(plain, alt))
        if event["event"] == _RELEASE:
            return [KeyReleased(key.key.rpartition("+")[2] or key.key) for key in keys]  # type: ignore[misc]
        return [KeyRepeated(key.key, key.character) for key in keys] if event["event"] == _REPEAT else keys
