"""Commands of `moonshine`: found by name, imported only when asked for, and refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from lora_cli import main as app


def moonshine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lora_cli.main", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_a_command_gets_what_stands_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hummed.py").write_text("def main(arguments):\n    return len(arguments)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(app.COMMANDS, "hum", app.Command("hummed", "hum a tune"))
    assert app._main(["hum", "la", "--loud", "la"]) == 3
    assert "  hum" in app._parser().format_help()
    assert "hum a tune" in app._parser().format_help()


def test_the_nearest_command_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.COMMANDS, "dictate", app.Command("none", ""))
    with pytest.raises(
        Exception, match=r"^dictat: moonshine has no such command; did you mean dictate\? \(without one it opens the app; moonshine --help"
    ):
        app._main(["dictat"])


def test_an_unknown_command_is_one_line() -> None:
    done = moonshine("xylophone")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: xylophone: moonshine has no such command (without one it opens the app; moonshine --help")
    assert done.stderr.count("\n") == 1


def test_help_announces_commands_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(app.COMMANDS):
        monkeypatch.delitem(app.COMMANDS, name)
    assert "COMMAND" not in app._parser().format_help()
    monkeypatch.setitem(app.COMMANDS, "hum", app.Command("hummed", "hum a tune"))
    assert "usage: moonshine [COMMAND] [flags]" in app._parser().format_help()


def test_the_version_is_said() -> None:
    done = moonshine("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("moonshine ")


def test_the_dispatcher_loads_nothing_that_takes_time() -> None:
    slow = {"numpy", "torch", "textual", "msgspec", "rich", "importlib.metadata"}
    program = f"import sys, lora_cli.main; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        app._main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: moonshine {name}" in capsys.readouterr().out
