"""The app in a pseudo-terminal: a held key from its bytes, and the terminal left as it was found, whatever ends the app."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import FOCUS_LOST, KITTY, PRESS, RELEASE, REPEAT, XTERM, Terminal, assert_restored

PROGRAM = Path(__file__).with_name("scripted_app.py")


class App(Terminal):
    """The app with a scripted session."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 80, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder / "asked.json", [PROGRAM, *arguments], columns=columns, environment=environment)

    @property
    def asked(self) -> list[object]:
        asked: list[object] = json.loads(self.out.read_text())
        return asked


@pytest.fixture
def terminals() -> Iterator[list[App]]:
    opened: list[App] = []
    yield opened
    for terminal in opened:
        if terminal.child.isalive():
            terminal.child.terminate(force=True)


def test_a_held_space_bar_records_until_it_is_let_go(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path))
    terminal.start(KITTY)
    terminal.until("mode: hold")
    terminal.child.send(PRESS)
    terminal.until("wait")
    for _ in range(5):
        terminal.child.send(REPEAT)
    terminal.read(0.4)
    terminal.until("wait")
    terminal.child.send(RELEASE)
    terminal.until("FINISHING")
    terminal.child.send("q")
    terminal.read(0.5)
    terminal.child.send("q")
    assert terminal.ended() == 0
    assert terminal.asked == ["start", "begin", "end", "close", "close"]
    assert_restored(terminal)


def test_a_terminal_without_release_reports_gets_toggle_and_is_told_why(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path))
    terminal.start(XTERM)
    terminal.until("mode: toggle - this terminal does not report key release")
    terminal.child.send(" ")
    terminal.until("wait")
    terminal.read(0.3)
    terminal.child.send(" ")
    terminal.until("FINISHING")
    terminal.child.send("qq")
    assert terminal.ended() == 0
    assert terminal.asked == ["start", "begin", "end", "close", "close"]


def test_hold_where_it_cannot_work_says_so_and_leaves_the_mouse(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path, "--mode=hold"))
    terminal.start(XTERM)
    terminal.until("hold the talk button with the mouse")
    terminal.child.send(" ")
    terminal.until("! this terminal does not report key release")
    line = next(number for number, text in enumerate(terminal.screen.display, start=1) if "Hold the mouse here" in text)
    terminal.child.send(f"\x1b[<0;40;{line}M")
    terminal.until("wait")
    terminal.child.send(f"\x1b[<0;5;{2}m")
    terminal.until("FINISHING")
    terminal.child.send("qq")
    assert terminal.ended() == 0
    assert terminal.asked == ["start", "begin", "end", "close", "close"]


def test_a_window_that_loses_the_focus_stops_recording(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path))
    terminal.start(KITTY)
    terminal.until("mode: hold")
    terminal.child.send(PRESS)
    terminal.until("wait")
    terminal.child.send(FOCUS_LOST)
    terminal.until("FINISHING")
    terminal.child.send("qq")
    assert terminal.ended() == 0
    assert terminal.asked == ["start", "begin", "end", "close", "close"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_restores_the_terminal_and_closes_what_is_open(number: signal.Signals, tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path))
    terminal.start(KITTY)
    terminal.until("mode: hold")
    terminal.child.send(PRESS)
    terminal.until("wait")
    terminal.child.kill(number)
    assert terminal.ended() == 128 + number
    assert_restored(terminal)
    assert terminal.asked[-2:] == ["close", "close"]
    assert "Traceback" not in terminal.bytes


def test_a_mistake_in_a_handler_restores_the_terminal(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path, "--crash"))
    terminal.start(KITTY)
    terminal.until("mode: hold")
    terminal.child.send("l")
    assert terminal.ended() == 1
    assert_restored(terminal)
    assert "injected" in terminal.bytes[terminal.bytes.rfind("\x1b[?1049l") :]
    assert terminal.asked[-2:] == ["close", "close"]


def test_a_closed_window_ends_the_app(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path))
    terminal.start(KITTY)
    terminal.until("mode: hold")
    pid = terminal.child.pid
    os.close(terminal.child.child_fd)
    end = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < end, "the app outlives its window"
        time.sleep(0.1)
    terminal.child.ptyproc.terminated = True
    assert terminal.asked[-2:] == ["close", "close"]


def test_forty_columns_get_one_clear_line_and_a_key_to_leave(tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path, columns=40))
    end = time.monotonic() + 60
    while "60 columns" not in " ".join(terminal.screen.display):
        assert time.monotonic() < end, terminal.screen.display
        terminal.read(0.1)
    terminal.child.send("q")
    assert terminal.ended() == 0
    assert_restored(terminal)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"TERM": "dumb"}, "error: this terminal cannot move its cursor"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "error: the terminal's encoding is"),
    ],
    ids=["dumb terminal", "no UTF-8"],
)
def test_a_terminal_that_cannot_show_it_gets_one_line(environment: dict[str, str], says: str, tmp_path: Path, terminals: list[App]) -> None:
    terminals.append(terminal := App(tmp_path, environment=environment))
    assert terminal.ended() == 2
    assert says in terminal.bytes
    assert "--plain" in terminal.bytes
    assert "\x1b" not in terminal.bytes
    assert len(terminal.bytes.strip().splitlines()) == 1


def test_without_a_terminal_on_stdin_it_is_refused_in_one_line() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: stdin is not a terminal")
    assert len(done.stderr.splitlines()) == 1
