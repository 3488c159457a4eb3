"""An X display without a screen, with a window manager and an editor to dictate into; `make rig` installs them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import require

PATIENCE_S = 20.0


def until(is_so: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "does not happen"
        time.sleep(0.05)


@dataclass
class Editor:
    """A window with a file in it. Its name is in the title."""

    desktop: "Desktop"
    file: Path

    def focus(self) -> None:
        self.desktop.xdotool("search", "--sync", "--onlyvisible", "--name", self.file.name, "windowactivate", "--sync")
        until(lambda: self.file.name in self.desktop.xdotool("getwindowfocus", "getwindowname"))

    def text(self) -> str:
        """What stands in it."""
        self.focus()
        before = self.file.stat().st_mtime_ns
        self.desktop.xdotool("key", "ctrl+s")
        until(lambda: self.file.stat().st_mtime_ns != before)
        return self.file.read_text()


@dataclass
class Desktop:
    settings: dict[str, str]
    _windows: list[subprocess.Popen[bytes]]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.settings

    def run(self, *command: str, sent: bytes | None = None) -> str:
        keeps_open = sent is not None  # xclip goes on in the background with what it was given
        out = subprocess.DEVNULL if keeps_open else subprocess.PIPE
        done = subprocess.run(
            command, env=self.environment, check=True, stdout=out, stderr=subprocess.DEVNULL, input=sent, timeout=PATIENCE_S
        )
        return "" if keeps_open else done.stdout.decode()

    def xdotool(self, *arguments: str) -> str:
        return self.run("xdotool", *arguments)

    def edit(self, file: Path) -> Editor:
        """Opens an editor in front of all other windows."""
        file.touch()
        self._windows.append(subprocess.Popen(["l3afpad", str(file)], env=self.environment, stderr=subprocess.DEVNULL))
        editor = Editor(self, file)
        editor.focus()
        return editor

    def copy(self, text: str) -> None:
        self.run("xclip", "-selection", "clipboard", "-in", sent=text.encode())

    def clipboard(self) -> str:
        return self.run("xclip", "-selection", "clipboard", "-out")


@contextmanager
def desktop() -> Iterator[Desktop]:
    require("Xvfb", "xdotool", "xclip", "openbox", "l3afpad")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as stream:
        settings = {"DISPLAY": f":{stream.readline().strip()}", "WAYLAND_DISPLAY": "", "GTK_IM_MODULE": "none"}
    found = Desktop(settings, [])
    found._windows.append(subprocess.Popen(["openbox"], env=found.environment, stderr=subprocess.DEVNULL))
    try:
        yield found
    finally:
        for process in [*reversed(found._windows), server]:
            process.terminate()
            process.wait()
