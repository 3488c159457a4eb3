"""The dictation service: what clients ask and are told, what becomes of recordings, and text that arrives in another program's window."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from desktop import desktop, until
from lora_cli.dictation.address import socket_path
from lora_cli.dictation.client import ask
from lora_cli.dictation.delivery import IntoWindow, ToProgram, Way, choose
from lora_cli.dictation.server import listening, only_service
from lora_cli.dictation.service import Service
from lora_cli.dictation.x11 import Window
from lora_cli.engine.events import Failed, Problem, Ready
from lora_cli.main import _main as moonshine
from playing import ended, final
from rig import require
from scripted import BASE, Script

from lora.errors import AudioError, DeliveryError, DictationError, LoraError
from lora.units import Seconds


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


# --- windows ---------------------------------------------------------------------------------------------------------------------------

TEXT = "Grüße: 日本, it's fine.\nNext "


def test_text_goes_into_the_window_it_was_meant_for_and_the_clipboard_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desktop() as screen:
        for name, value in screen.settings.items():
            monkeypatch.setenv(name, value)
        editor = screen.edit(tmp_path / "one.txt")
        screen.copy("as before")
        for to in ("paste", "type"):
            way = choose(to, paste_key="ctrl+v", any_window=False)
            way.deliver(TEXT, way.target())
        assert editor.text() == 2 * TEXT
        assert screen.clipboard() == "as before"

        meant = way.target()
        other = screen.edit(tmp_path / "two.txt")
        with pytest.raises(DeliveryError, match=r"the focus went from 'one\.txt' to 'two\.txt', so nothing was typed; --any-window"):
            way.deliver("x", meant)
        with pytest.raises(DeliveryError, match="the window took nothing when F9 was pressed; give its key with --paste-key"):
            IntoWindow("F9", any_window=True).deliver("x", meant)
        IntoWindow("ctrl+v", any_window=True).deliver("y", meant)
        assert (other.text(), editor.text()) == ("y", 2 * TEXT)
        assert screen.clipboard() == "as before"
        choose("clipboard", paste_key="", any_window=False).deliver("kept", None)
        assert screen.clipboard() == "kept"


def test_programs_get_the_text_as_one_argument_or_on_stdin(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for to in (f"tee {out}", f"sh -c 'printf %s \"$0\" >> {out}' {{text}}"):
        choose(to, paste_key="", any_window=False).deliver("two words; $HOME", None)
    assert out.read_text() == 2 * "two words; $HOME"
    with pytest.raises(DeliveryError, match=r"^false: exit code 1$"):
        ToProgram(("false",)).deliver("x", None)


@pytest.mark.parametrize(
    ("to", "environment", "message"),
    [
        ("paste", {}, "--to paste: DISPLAY is not set"),
        (
            "type",
            {"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"},
            "--to type: works on X11 only, which tells windows apart; give a program",
        ),
        ("paste", {"DISPLAY": ":0"}, "--to paste: install xdotool and xclip (Debian, Ubuntu: apt install xdotool xclip)"),
        ("type", {"DISPLAY": ":0"}, "--to type: install xdotool (Debian"),
        ("pst", {}, "--to pst: is none of paste, type, clipboard, stdout, and no program of that name is installed"),
        ("", {}, "--to : is none of"),
        ("echo 'x", {}, "--to echo 'x: No closing quotation; quote it as in a shell"),
    ],
)
def test_a_way_that_is_not_there_is_refused_in_one_line(
    to: str, environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DictationError, match=f"^{re.escape(message)}"):
        choose(to, paste_key="", any_window=False, environment=environment)


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("config.toml", "keep = 1", [], "config.toml: keep: must be true or false"),
        ("replacements.toml", "new_line = 1", [], "replacements.toml: Expected `bool`"),
        ("config.toml", "", ["--run", "absent"], "^absent"),
    ],
)
def test_the_files_and_flags_of_the_app_are_those_of_the_service(
    name: str, content: str, flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "moonshine-lora").mkdir()
    (tmp_path / "moonshine-lora" / name).write_text(content)
    with pytest.raises(LoraError, match=message):
        moonshine(["dictate", "--to", "stdout", *flags])


# --- the socket ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["toggle", "start", "stop", "cancel", "status"])
def test_clients_say_in_one_line_that_no_service_runs(command: str) -> None:
    with pytest.raises(DictationError, match=r"^no dictation service is running; start it: moonshine dictate$"):
        moonshine([command])


def test_a_client_starts_quickly_and_ends_with_one_line() -> None:
    slow = {"numpy", "torch", "textual", "msgspec", "rich", "sounddevice", "asyncio"}
    program = f"import sys, lora_cli.main, lora_cli.dictation.client; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
    done = subprocess.run([sys.executable, "-m", "lora_cli.main", "toggle"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no dictation service is running; start it: moonshine dictate\n"


def test_a_second_service_is_refused_and_the_place_is_free_after_the_first(runtime_folder: Path) -> None:
    with only_service(socket_path()), pytest.raises(DictationError, match=rf"is running already \(process {os.getpid()}\)$"):
        moonshine(["dictate", "--to", "stdout"])
    with only_service(socket_path()):
        assert (runtime_folder / "moonshine.lock").stat().st_mode & 0o777 == 0o600


def test_the_folder_of_the_socket_is_the_users_alone(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_folder.chmod(0o755)
    with pytest.raises(DictationError, match="others may enter it, so they could listen; give XDG_RUNTIME_DIR a folder of your own"):
        ask("status")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder / "absent"))
    with pytest.raises(DictationError, match=r"absent: No such file or directory; XDG_RUNTIME_DIR has to name a folder of your own$"):
        ask("status")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if sys.platform != "darwin":
        with pytest.raises(DictationError, match=r"^XDG_RUNTIME_DIR is not set"):
            ask("status")


def test_what_is_no_command_gets_an_answer_and_the_service_continues() -> None:
    def sent(line: bytes) -> object:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path()))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            return json.loads(connection.makefile("rb").readline())

    with listening(socket_path(), lambda command: {"lines": [command], "status": {}}):
        assert socket_path().stat().st_mode & 0o777 == 0o600
        for line in (b"", b"\n", b"[]\n", b"\xff\n", b'{"do": []}\n', b"toggle\n", b'{"to": "toggle"}\n', b"[" * 100_000 + b"\n"):
            answer = sent(line)
            assert isinstance(answer, dict)
            assert list(answer) == ["error"], line
        assert sent(b'{"do": "dance"}\n') == {"error": "'dance': there is no such command; there are toggle, start, stop, cancel, status"}
        assert ask("toggle")["lines"] == ["toggle"]
    assert not socket_path().exists()


# --- recordings ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Wall:
    """A way that writes down what is delivered where."""

    window: str = "one"
    written: list[tuple[str, str]] = field(default_factory=list)

    def target(self) -> Window:
        return Window(self.window, self.window)

    def deliver(self, text: str, target: Window | None) -> None:
        assert target is not None
        if text == "broken":
            raise DeliveryError("the wall is gone")
        self.written.append((text, target.key))


@contextmanager
def serving(script: Script, way: Way) -> Iterator[None]:
    """The service with a scripted engine, in a thread; what ends it is raised here."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(Service(script.session(), way).run, socket_path())
        until(answers)
        try:
            yield
        finally:
            if not running.done():
                script.emit(Failed("over"))
            try:
                running.result(30)
            except AudioError as error:
                if str(error) != "over":
                    raise


def answers() -> bool:
    try:
        ask("status")
    except DictationError:
        return False
    return True


def state() -> str:
    return str(ask("status")["status"]["state"])


def test_a_recording_goes_where_it_was_meant_to_go_and_into_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    script, wall = Script(), Wall()
    with serving(script, wall):
        assert state() == "loading"
        script.emit(Ready((BASE,), Seconds(1.0)))
        until(lambda: state() == "ready")
        assert moonshine(["toggle"]) == 0
        wall.window = "two"
        assert state() == "recording"
        with pytest.raises(DictationError, match=r"^a recording is on already; end it: moonshine stop$"):
            ask("start")
        ask("toggle")
        until(lambda: script.asked[-1] == "end")
        assert state() == "finishing"
        script.emit(final("Hello there."))
        until(lambda: state() == "ready")
        assert wall.written == [("Hello there.", "one")]
        with pytest.raises(DictationError, match=r"^no recording is on; start one: moonshine start$"):
            ask("stop")
        moonshine(["status"])
        assert moonshine(["status", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["recording", "ready: tiny, default", "last: Hello there."]
    assert json.loads(out[3])["last"]["text"] == "Hello there."
    assert script.asked == ["start", "begin", "end", ("add", "Hello there."), "close", "close"]


def test_what_is_cancelled_is_not_delivered_also_while_it_is_decoded() -> None:
    script, wall = Script(), Wall()
    with serving(script, wall):
        with pytest.raises(DictationError, match=r"^there is nothing to cancel$"):
            ask("cancel")
        ask("start")
        ask("cancel")
        assert script.asked[-1] == "cancel"
        ask("start")
        ask("stop")
        until(lambda: script.asked[-1] == "end")
        ask("cancel")
        script.emit(final("never", recording=2))
        script.emit(ended(recording=2))
        ask("start")
        ask("stop")
        until(lambda: script.asked[-1] == "end")
        script.emit(final("once", recording=3))
        until(lambda: len(wall.written) == 1)
    assert wall.written == [("once", "one")]


def test_troubles_are_reported_and_the_service_continues(capsys: pytest.CaptureFixture[str]) -> None:
    script, wall = Script(refusal="the disk is full"), Wall()
    with serving(script, wall):
        for number, text in enumerate(("broken", "fine"), start=1):
            ask("start")
            ask("stop")
            until(lambda: script.asked[-1] == "end")
            script.emit(final(text, recording=number))
            until(lambda: state() == "loading")
        until(lambda: len(wall.written) == 1)
        assert ask("status")["status"]["problem"] == "the disk is full"
        script.on_problem(Problem("mic: gives no sound any more", lost=True))
        with pytest.raises(DictationError, match=r"^mic: gives no sound any more$"):
            ask("start")
        script.on_level(0.1)
        ask("start")
    assert "warning: the wall is gone\n" in capsys.readouterr().err


def test_a_microphone_that_is_gone_for_good_ends_the_service_once_the_text_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.dictation.service.LOST_S", 0.5)
    script, wall = Script(), Wall()

    def scene() -> None:
        with serving(script, wall):
            ask("start")
            script.on_problem(Problem("mic: gives no sound any more", lost=True))
            until(lambda: script.asked[-1] == "end")
            time.sleep(1)
            script.emit(final("said before"))
            until(lambda: not socket_path().exists())

    with pytest.raises(AudioError, match=r"^mic: gives no sound any more$"):
        scene()
    assert wall.written == [("said before", "one")]


def test_without_a_microphone_the_service_does_not_start() -> None:
    with pytest.raises(AudioError, match=r"^no microphone$"):
        Service(Script(source_error="no microphone").session(), Wall()).run(socket_path())


def test_every_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("dictate", "toggle", "status"):
        with pytest.raises(SystemExit):
            moonshine([command, "--help"])
        assert f"usage: moonshine {command} " in capsys.readouterr().out


# --- systemd ---------------------------------------------------------------------------------------------------------------------------


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    require("systemd-analyze", "systemctl")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    flags = ["--to", "sh -c 'echo \"$0\" 100% \\\\' {text}", "--no-keep"]
    assert moonshine(["service", "install", *flags]) == 0
    file = tmp_path / "systemd" / "user" / "moonshine-dictate.service"
    assert capsys.readouterr().out.startswith(f"{file} is written; start it now and at every login: systemctl --user daemon-reload && ")
    checked = subprocess.run(["systemd-analyze", "verify", "--user", "--man=no", file], capture_output=True, text=True, check=False)
    assert (checked.returncode, file.name in checked.stderr) == (0, False), checked.stderr
    moonshine(["service", "show", *flags])
    assert capsys.readouterr().out == file.read_text()
    assert words_of_systemd(file) == [sys.executable, "-m", "lora_cli.main", "dictate", *flags]
    assert moonshine(["service", "uninstall"]) == 0
    with pytest.raises(DictationError, match="is not there, so there is nothing to remove"):
        moonshine(["service", "uninstall"])


def words_of_systemd(file: Path) -> list[str]:
    """The command of a unit: words in double quotes as a shell has them, without specifiers and variables (systemd.service(5))."""
    (command,) = re.findall(r"^ExecStart=(.*)$", file.read_text(), re.M)
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["install", "--too", "paste"], "error: unknown flag --too (did you mean --to?); see --help"),
        (["uninstall", "--to", "paste"], "uninstall: takes no --to"),
        ([], "error: the following arguments are required: ACTION; see --help"),
    ],
)
def test_what_no_unit_can_do_is_refused_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((DictationError, SystemExit)) as refused:
        moonshine(["service", *arguments])
    told = str(refused.value) if isinstance(refused.value, DictationError) else capsys.readouterr().err.strip()
    assert told == message


def test_without_systemd_no_unit_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(DictationError, match=r"^systemctl is not installed, so nothing would start the unit"):
        moonshine(["service", "install"])
    assert not (tmp_path / "systemd").exists()
