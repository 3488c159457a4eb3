"""X11 through the programs that know it: which window has the focus, keys pressed in it, the clipboard read, offered and put back."""

import subprocess
import threading
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from lora.errors import DeliveryError
from lora_cli.dictation.tools import run

TAKEN_S: Final = 3.0
"""How long a window may take to fetch what is pasted; a busy one takes its time."""

_QUIET_S: Final = 0.15
"""After the last request of a paste: toolkits ask for the forms first, then for the text."""

_DELAY_MS: Final = 8
_DELAY_ELSEWHERE_MS: Final = 200
"""Between keys; and for those that the keyboard does not have, or may not have."""

_CLIPBOARD: Final = ("xclip", "-selection", "clipboard")

_TEXT: Final = "UTF8_STRING"
_FORMS: Final = (_TEXT, "text/plain;charset=utf-8", "STRING", "text/plain", "image/png", "text/uri-list", "text/html")
"""In which content is kept and put back: the first of these that is there. xclip offers one form only."""


@dataclass(frozen=True, slots=True)
class Window:
    """`key` tells windows apart; `title` is what the user sees."""

    key: str
    title: str


def focused() -> Window:
    """The window that gets what is typed. Raises `DeliveryError` if none does."""
    key = run("xdotool", "getwindowfocus").decode().strip()
    title = run("xdotool", "getwindowname", key).decode(errors="replace").strip()
    return Window(key, title)


def press(key: str) -> None:
    """A key with its modifiers, such as `ctrl+v`. Modifiers of a hotkey that is still down are lifted meanwhile."""
    run("xdotool", "key", "--clearmodifiers", key)


def type_text(text: str) -> None:
    """One key after the other. The keys at line ends are pressed by name: `xdotool type` loses them.

    For a character that the keyboard does not have, `xdotool` gives a spare key that meaning, presses it, and takes the meaning away again.
    A window that reads the key later than that gets nothing, so such characters need time.
    """
    for number, line in enumerate(text.split("\n")):
        if number:
            press("Return")
        for everywhere, some in groupby(line, str.isascii):
            delay_ms = _DELAY_MS if everywhere else _DELAY_ELSEWHERE_MS
            run("xdotool", "type", "--clearmodifiers", "--delay", str(delay_ms), "--file", "-", sent="".join(some).encode())


@dataclass(frozen=True, slots=True)
class Content:
    """What is on the clipboard, in one form."""

    form: str
    data: bytes


def read_clipboard() -> Content | None:
    """None for an empty one, and for content in no form that could be put back."""
    try:
        forms = run(*_CLIPBOARD, "-out", "-target", "TARGETS").decode().split()
    except DeliveryError:  # xclip's word for a clipboard that nobody owns
        return None
    form = next((form for form in _FORMS if form in forms), None)
    return None if form is None else Content(form, run(*_CLIPBOARD, "-out", "-target", form))


def write_clipboard(content: Content | None) -> None:
    """Sets or clears the clipboard. xclip continues in the background for this, and would hold a pipe open."""
    content = content or Content(_TEXT, b"")
    command = [*_CLIPBOARD, "-in", "-target", content.form]
    try:
        subprocess.run(command, input=content.data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=TAKEN_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeliveryError(f"xclip could not set the clipboard ({error})") from error


def text_content(text: str) -> Content:
    return Content(_TEXT, text.encode())


class Offer:
    """Text on the clipboard for one paste. xclip writes a line for each request that it waits for: a second once one was answered."""

    def __init__(self, text: str) -> None:
        """Raises `DeliveryError` if xclip cannot take the clipboard."""
        self._changed = threading.Condition()
        self._requests = 0
        self._over = False
        command = [*_CLIPBOARD, "-in", "-quiet", "-verbose"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.close()
        threading.Thread(target=self._watch, name="clipboard", daemon=True).start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._requests > 0 or self._over, TAKEN_S) or self._over:
                self._process.kill()
                raise DeliveryError("xclip could not take the clipboard")
            self._first = self._requests

    def taken(self) -> bool:
        """Waits until a window has fetched it, and says whether one did."""
        with self._changed:
            fetched = self._changed.wait_for(lambda: self._requests > self._first or self._over, TAKEN_S)
            while fetched and not self._over and self._asked_again():
                pass
            return fetched

    def close(self) -> None:
        """Stops offering the text."""
        self._process.terminate()
        self._process.wait()

    def _asked_again(self) -> bool:
        before = self._requests
        return self._changed.wait_for(lambda: self._requests > before or self._over, _QUIET_S)

    def _watch(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                if b"Waiting for selection request number" in line:
                    self._notify(requests=1)
        self._notify(over=True)

    def _notify(self, requests: int = 0, *, over: bool = False) -> None:
        with self._changed:
            self._requests += requests
            self._over = over
            self._changed.notify_all()
