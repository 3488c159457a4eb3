"""A pseudo-terminal with a program in it, and the screen that its bytes draw."""

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pyte

PRESS, REPEAT, RELEASE = "\x1b[32;;32u", "\x1b[32;1:2;32u", "\x1b[32;1:3u"
PROBE = "\x1b[=2;2u\x1b[?u\x1b[5n"
KITTY, XTERM = "\x1b[?27u\x1b[0n", "\x1b[0n"
FOCUS_LOST = "\x1b[O"

RESETS = (
    "\x1b[<u",  # keyboard mode
    "\x1b[?2004l",  # bracketed paste
    "\x1b[?1000l",  # mouse
    "\x1b[?1003l",
    "\x1b[?1006l",
    "\x1b[?1015l",
    "\x1b[?1016l",
    "\x1b[?1004l",  # focus reports
    "\x1b[?1049l",  # alternate screen
    "\x1b[?25h",  # cursor
    "\x1b[?7h",  # line wrap
)


class Terminal:
    """A pseudo-terminal with a Python program in it, whose stdout goes to the file `out`; `keys` is another terminal to type in."""

    def __init__(
        self,
        out: Path,
        command: Sequence[str | Path],
        *,
        columns: int = 80,
        environment: dict[str, str] | None = None,
        keys: str | None = None,
    ) -> None:
        self.out = out
        settings = {key: value for key, value in os.environ.items() if key not in {"TMUX", "NO_COLOR"}}
        redirected = 'exec "$0" "$@" > "$OUT"' + (f" < {keys}" if keys else "")
        self.child = pexpect.spawn(
            "/bin/sh",
            ["-c", redirected, sys.executable, *map(str, command)],
            env={**settings, "TERM": "xterm-256color", "OUT": str(out), "LC_ALL": "C.UTF-8", **(environment or {})},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=60,
        )
        self.bytes = ""
        self.screen = pyte.Screen(columns, 24)
        self.stream = pyte.Stream(self.screen)

    def read(self, seconds: float) -> None:
        """Draws what comes within so many seconds."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                data = self.child.read_nonblocking(65536, left)
            except pexpect.TIMEOUT:
                return
            except pexpect.EOF:
                return
            self.bytes += data
            # pyte takes the keyboard protocol's private sequences for text
            self.stream.feed(re.sub(r"\x1b\[[=<>?][\d;]*u", "", data))

    def widen(self, columns: int) -> None:
        """Gives the window another width."""
        self.screen.resize(24, columns)
        self.child.setwinsize(24, columns)

    def until(self, text: str, seconds: float = 60) -> None:
        """Reads until the screen shows `text`."""
        end = time.monotonic() + seconds
        while text not in "\n".join(self.screen.display):
            assert time.monotonic() < end, "\n".join(self.screen.display)
            assert self.child.isalive(), self.bytes[-2000:]
            self.read(0.1)

    def start(self, answer: str) -> None:
        """Waits for the app's probe and answers it as a terminal would."""
        end = time.monotonic() + 60
        while PROBE not in self.bytes:
            assert time.monotonic() < end, self.bytes
            self.read(0.1)
        self.child.send(answer)
        self.until("mode: ")

    def ended(self) -> int:
        """Reads to the end and returns the exit code."""
        end = time.monotonic() + 30
        while self.child.isalive():
            assert time.monotonic() < end, "the app does not end"
            self.read(0.1)
        self.read(0.2)
        self.child.close()
        assert self.child.signalstatus is None
        assert self.child.exitstatus is not None
        return int(self.child.exitstatus)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def assert_restored(terminal: Terminal) -> None:
    """Every mode that the app turned on was turned off after it was turned on for the last time."""
    for reset in RESETS:
        assert reset in terminal.bytes, f"{reset!r} is missing"
        setting = reset[:-1] + {"l": "h", "h": "l", "u": ""}[reset[-1]]
        if reset[-1] != "u":
            assert terminal.bytes.rfind(reset) > terminal.bytes.rfind(setting), f"{reset!r} comes too early"
    assert terminal.bytes.rfind("\x1b[<u") > terminal.bytes.rfind(PROBE)
    assert terminal.bytes.count("\x1b[<u") == terminal.bytes.count("\x1b[>25u"), "keyboard modes pushed and popped"
