"""Where dictated text goes: a window, the clipboard, a program, standard output; in a separate thread, because windows may be slow."""

import os
import queue
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from lora.errors import DeliveryError, DictationError, LoraError
from lora_cli.dictation import x11
from lora_cli.dictation.tools import found, run, to_install

NAMED: Final = ("paste", "type", "clipboard", "stdout")
"""What `--to` takes besides a program."""

_HOLDER: Final = "{text}"


class Way(Protocol):
    """How text is delivered. Both raise `LoraError`."""

    def target(self) -> x11.Window | None:
        """Where text of a recording that starts now belongs; None if that is always the same place."""

    def deliver(self, text: str, target: x11.Window | None) -> None: ...


@dataclass(frozen=True, slots=True)
class IntoWindow:
    """Typed, or pasted where there is a key for it, into the window that had the focus when the recording started."""

    paste_key: str | None
    any_window: bool = False
    """Whether a different window may have the focus by then."""

    def target(self) -> x11.Window:
        return x11.focused()

    def deliver(self, text: str, target: x11.Window | None) -> None:
        if self.paste_key is None:
            self._check(target)
            x11.type_text(text)
        else:
            self._paste(text, target, self.paste_key)

    def _paste(self, text: str, target: x11.Window | None, key: str) -> None:
        self._check(target)
        before = x11.read_clipboard()
        offer = x11.Offer(text)
        try:
            self._check(target)
            x11.press(key)
            taken = offer.taken()
        finally:
            offer.close()
            x11.write_clipboard(before)
        if not taken:
            raise DeliveryError(f"the window took nothing when {key} was pressed; give its key with --paste-key (terminals: ctrl+shift+v)")

    def _check(self, target: x11.Window | None) -> None:
        now = x11.focused()
        if target is not None and now.key != target.key and not self.any_window:
            raise DeliveryError(f"the focus went from {target.title!r} to {now.title!r}, so nothing was typed; --any-window types it there")


@dataclass(frozen=True, slots=True)
class ToClipboard:
    """Left there."""

    def target(self) -> None:
        return None

    def deliver(self, text: str, _target: x11.Window | None) -> None:
        x11.write_clipboard(x11.text_content(text))


@dataclass(frozen=True, slots=True)
class ToStdout:
    """A line each, or more where the text has more."""

    def target(self) -> None:
        return None

    def deliver(self, text: str, _target: x11.Window | None) -> None:
        print(text, flush=True)


@dataclass(frozen=True, slots=True)
class ToProgram:
    """A program, started for each text without a shell: the text stands for `{text}` in its arguments, or else comes on its stdin."""

    words: tuple[str, ...]

    def target(self) -> None:
        return None

    def deliver(self, text: str, _target: x11.Window | None) -> None:
        held = any(_HOLDER in word for word in self.words)
        run(*(word.replace(_HOLDER, text) for word in self.words), sent=None if held else text.encode())


def choose(to: str, *, paste_key: str, any_window: bool, environment: Mapping[str, str] = os.environ) -> Way:
    """The way that `--to` names.

    Raises `DictationError` for a program that is not installed, and if there is no X display to press keys on.
    """
    if to == "stdout":
        return ToStdout()
    if to not in NAMED:
        return _program(to)
    _check_display(to, environment)
    needed = {"paste": ("xdotool", "xclip"), "type": ("xdotool",), "clipboard": ("xclip",)}[to]
    if not found(*needed):
        raise DictationError(f"--to {to}: {to_install(*needed)}")
    return ToClipboard() if to == "clipboard" else IntoWindow(paste_key if to == "paste" else None, any_window)


def _program(to: str) -> ToProgram:
    try:
        words = tuple(shlex.split(to))
    except ValueError as error:
        raise DictationError(f"--to {to}: {error}; quote it as in a shell") from error
    if not words or shutil.which(words[0]) is None:
        raise DictationError(f"--to {to}: is none of {', '.join(NAMED)}, and no program of that name is installed")
    return ToProgram(words)


def _check_display(to: str, environment: Mapping[str, str]) -> None:
    instead = "give a program, such as --to 'wtype -- {text}' or --to wl-copy on Wayland and --to pbcopy on macOS, or --to stdout"
    if sys.platform == "darwin" or environment.get("WAYLAND_DISPLAY"):
        raise DictationError(f"--to {to}: works on X11 only, which tells windows apart; {instead}")
    if not environment.get("DISPLAY"):
        raise DictationError(f"--to {to}: DISPLAY is not set, so there is no X display; start it in the desktop session, or {instead}")


@dataclass(frozen=True, slots=True)
class Delivered:
    """A text was delivered, or why not. `broken` ends the service, for example if its stdout is closed."""

    recording: int
    problem: str | None = None
    broken: Exception | None = None


class Deliverer:
    """Delivers one text after the other; `done` is called in its thread."""

    def __init__(self, way: Way, done: Callable[[Delivered], None]) -> None:
        self._way, self._done = way, done
        self._waiting: queue.SimpleQueue[tuple[int, str, x11.Window | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def put(self, recording: int, text: str, target: x11.Window | None) -> None:
        self._waiting.put((recording, text, target))

    def forget(self) -> None:
        """Drops waiting texts; one that is being delivered is finished."""
        while not self._waiting.empty():
            recording, *_ = self._waiting.get() or (0,)
            self._done(Delivered(recording))

    def close(self) -> None:
        """Returns when all is delivered."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            self._done(self._delivered(*waiting))

    def _delivered(self, recording: int, text: str, target: x11.Window | None) -> Delivered:
        try:
            self._way.deliver(text, target)
        except LoraError as error:
            return Delivered(recording, problem=str(error))
        except OSError as error:
            return Delivered(recording, broken=error)
        return Delivered(recording)
