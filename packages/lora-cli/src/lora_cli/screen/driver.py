"""The terminal, with key release, on stderr, and left as it was found whatever happens."""

import codecs
import os
import selectors
import signal
import sys
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Any, TextIO

from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from lora.errors import ConfigError
from lora_cli.screen.keyboard import PROBE, KeyboardParser

if TYPE_CHECKING:
    from textual.app import App

POLL_S = 0.05
"""How often the input thread looks whether it shall end, and whether a lone escape was the key."""


class TerminalGone(Message):
    """Nobody is at the other end: the window was closed or the connection broke."""


class Output:
    """The terminal to draw on. When it vanishes, `gone` becomes true and output is discarded; the app is informed and ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.gone = False

    def write(self, text: str) -> None:
        self._attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def fileno(self) -> int:
        return self._stream.fileno()

    def _attempt(self, action: Any) -> None:
        if self.gone:
            return
        try:
            action()
        except OSError:
            self.gone = True


class TalkDriver(LinuxDriver):
    """Textual's driver with a parser that knows key release."""

    def __init__(self, app: "App[Any]", *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert sys.__stderr__ is not None
        self._stderr = sys.__stderr__.fileno()
        # A descriptor of its own: stderr itself is closed to libraries while the screen is drawn.
        self._output = Output(os.fdopen(os.dup(self._stderr), "w", encoding="utf-8", errors="backslashreplace"))
        self._file = self._output  # type: ignore[assignment]  # all that its writer needs

    def _get_terminal_size(self) -> tuple[int, int]:
        """Columns and lines of what is drawn on: stdout may be a file."""
        return os.get_terminal_size(self._output.fileno())

    def start_application_mode(self) -> None:
        """Sound libraries complain on stderr, in the middle of the screen: what they write goes nowhere until the screen is left."""
        sys.__stderr__.flush()  # type: ignore[union-attr]  # checked above
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stderr)
        os.close(nowhere)
        super().start_application_mode()  # type: ignore[no-untyped-call]
        self.write(PROBE)
        self.flush()

    def stop_application_mode(self) -> None:
        self.write("\x1b[?1016l")  # mouse in pixels, which Textual may turn on and leaves on
        super().stop_application_mode()
        if not self._output.gone:
            os.dup2(self._output.fileno(), self._stderr)

    def run_input_thread(self) -> None:
        parser = KeyboardParser(self._debug)
        decode = getincrementaldecoder("utf-8")(errors="replace").decode
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(POLL_S):
                    data = self._read()
                    if not data:
                        self.process_message(TerminalGone())
                        return
                    for message in parser.feed(decode(data)):
                        self.process_message(message)
                if self._output.gone:
                    self.process_message(TerminalGone())
                    return
                for message in parser.tick():
                    self.process_message(message)

    def _read(self) -> bytes:
        """What was typed; nothing when the terminal is closed, which Linux reports as an error."""
        try:
            return os.read(self.fileno, 4096)
        except OSError:
            return b""


ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""What ends the app from outside. Each must leave through the app, which restores the terminal."""


def check_terminal() -> None:
    """Raises `ConfigError` unless keys can be read and stderr can show the screen."""
    if sys.__stdin__ is None or sys.__stdin__.closed or not sys.__stdin__.isatty():
        raise ConfigError(
            "stdin is not a terminal, so there are no keys to talk with; add --non-interactive: it hears hands-free, or a --file to its end"
        )
    if sys.__stderr__ is None or not sys.__stderr__.isatty():
        raise ConfigError("stderr is not a terminal, so there is nothing to draw on; use --plain for lines of text")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise ConfigError("this terminal cannot move its cursor (TERM is dumb or not set); use --plain for lines of text")
    if codecs.lookup(sys.__stderr__.encoding).name != "utf-8":
        raise ConfigError(f"the terminal's encoding is {sys.__stderr__.encoding}; set LC_ALL=C.UTF-8, or use --plain for lines of text")
