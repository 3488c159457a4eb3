"""`moonshine models`: what is listed, what is chosen, what is refused, and an export that the app then starts with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lora_cli import main as app
from lora_cli.settings import read_user_settings

from lora.errors import LoraError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a config folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *folder: str) -> list[str]:
    assert app._main(["models", "list", *folder]) == 0
    return capsys.readouterr().out.splitlines()


def test_packaged_models_runs_and_exports_are_listed_and_the_chosen_one_is_marked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in ("outputs/a/lora_adapter/adapter_config.json", "outputs/a/export/export.json", "outputs/b/notes.txt"):
        (place / made).parent.mkdir(parents=True, exist_ok=True)
        (place / made).touch()
    (place / "outputs/a/export/onnx").mkdir()
    lines = ["* packaged:moonshine-tiny  (packaged)", "  packaged:moonshine-base  (packaged)"]
    lines += ["  outputs/a  (run)", "  outputs/a/export  (export, starts without PyTorch)"]
    assert listed(capsys) == lines
    app._main(["config", "set", "model", "outputs/a"])
    capsys.readouterr()
    marked = listed(capsys)
    assert [line for line in marked if line.startswith("*")] == ["* outputs/a  (run)"]
    app._main(["models", "use", "someone/tuned"])
    assert capsys.readouterr().out == "someone/tuned: moonshine starts with it from now on\n"
    assert listed(capsys)[-1] == "* someone/tuned  (chosen)"
    assert read_user_settings().model == "someone/tuned"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("use", "./absent"), r"^\./absent: no such folder; moonshine models list shows what there is$"),
        (("use", "broken"), "holds no adapter"),
        (("export", "packaged:moonshine-tiny"), "^--output is not set; name the folder to export to$"),
        (("list", "absent"), "^absent: no such folder; name one that holds runs$"),
        (("export", "exported", "--output", "x"), "^exported: is an export already; moonshine models use exported starts with it$"),
    ],
)
def test_what_is_no_voice_is_refused_and_nothing_is_settled(words: tuple[str, ...], message: str, place: Path) -> None:
    (place / "broken/lora_adapter").mkdir(parents=True)
    (place / "exported").mkdir()
    (place / "exported/export.json").write_text("{}")
    with pytest.raises(LoraError, match=message):
        app._main(["models", *words])
    assert read_user_settings().model is None
    assert not (place / "x").exists()


@pytest.mark.slow
def test_an_export_is_proven_and_the_app_starts_with_it_once_it_is_chosen(place: Path, clip: Path) -> None:
    assert app._main(["models", "export", "packaged:moonshine-tiny", "--output", "quick/export"]) == 0
    proof = json.loads((place / "quick/export/export.json").read_bytes())["targets"]["onnx"]["proof"]
    assert proof["failures"] == []
    assert proof["sets"]["domain"]["drift_points"] == 0
    app._main(["models", "use", "quick/export"])
    command = [sys.executable, "-m", "lora_cli.main", "--json", "--file", str(clip)]
    environment = os.environ | {"XDG_STATE_HOME": str(place / "state")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=180, stdin=subprocess.DEVNULL)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["message"] == "loading ONNX Runtime"
    assert any(event["event"] == "final" and event["text"] for event in events)
