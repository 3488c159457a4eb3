"""`moonshine` without a screen, as a user starts it: a real model hears a real recording."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from lora_cli.engine.events import Event, Final, Problem, Segment, Voice
from lora_cli.history import Entry
from lora_cli.lines import KEYS_HELP, PlainWriter, run_lines
from lora_cli.replacements import Applied
from playing import ended, final
from scripted import Script

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Utterance
from lora.scoring.counts import score_utterance
from lora.units import Seconds


def moonshine(*arguments: object, state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lora_cli.main", *map(str, arguments)]
    surroundings = os.environ | {"XDG_STATE_HOME": str(state)} | environment
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False, timeout=180, stdin=subprocess.DEVNULL)


def errors(reference: str, hypothesis: str) -> int:
    return score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis).words.errors


@pytest.fixture(scope="module")
def spoken(speech: Sequence[Utterance]) -> Utterance:
    """A sentence that the model hears without an error."""
    return next(one for one in speech if "beckett" in one.id)


def test_a_file_is_heard_as_if_spoken(spoken: Utterance, tmp_path: Path) -> None:
    assert isinstance(spoken.audio, FileAudio)
    done = moonshine("--file", spoken.audio.path, "--plain", state=tmp_path)
    assert done.returncode == 0, done.stderr
    assert errors(spoken.text or "", done.stdout) <= 1
    assert "listening with moonshine-tiny" in done.stderr
    (history,) = (tmp_path / "moonshine-lora/sessions").glob("*/history.jsonl")
    assert json.loads(history.read_text())["text"] == done.stdout.strip()


def test_every_event_is_a_line_of_json(spoken: Utterance, tmp_path: Path) -> None:
    assert isinstance(spoken.audio, FileAudio)
    (tmp_path / "moonshine-lora").mkdir()
    (tmp_path / "moonshine-lora" / "replacements.toml").write_text('[[replacement]]\nspoken = "ever failed"\nwritten = "EVER FAILED"\n')
    arguments = ("--file", spoken.audio.path, "--json", "--mode", "vad", "--no-keep")
    done = moonshine(*arguments, state=tmp_path / "state", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "loading"
    assert kinds[-1] == "ended"
    finals = [event for event in events if event["event"] == "final"]
    assert errors(spoken.text or "", " ".join(event["text"] for event in finals)) <= 1
    assert all(event["seconds"] > 0 for event in finals)
    (replaced,) = (event for event in finals if "heard" in event)
    assert "EVER FAILED" in replaced["text"]
    assert [one["written"] for one in replaced["applied"]] == ["EVER FAILED"]
    assert replaced["heard"].casefold() == replaced["text"].casefold()
    assert not list(tmp_path.rglob("*.flac")), "nothing is kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--file", "absent.wav"), "absent.wav"),
        (("--run", "absent"), "absent"),
        (("--model-id", "packaged:moonshine-huge", "--file", "CLIP"), "no such packaged model"),
        (("--mode", "hold", "--plain"), "without a screen there is --plain --mode toggle"),
        (("--mode", "toggle", "--plain", "--file", "CLIP"), "leave out --file"),
        (("--file", "."), "is a folder; name an audio file in it"),
        (("--compare", "--plain"), "takes two voices"),
        (("--adapter-dir", "absent"), "holds no adapter"),
        (("--plain", "--model-id", "TABLE"), "replacements.toml: "),
        (("--fil", "x"), "did you mean --file?"),
        ((), "add --non-interactive"),
    ],
)
def test_each_mistake_is_one_line(arguments: Sequence[str], message: str, clip: Path, tmp_path: Path) -> None:
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    plain = () if not arguments or "--plain" in arguments else ("--plain",)
    if "TABLE" in arguments:
        (tmp_path / "moonshine-lora").mkdir()
        (tmp_path / "moonshine-lora" / "replacements.toml").write_text("new_line = 'yes'")
    done = moonshine(*arguments, *plain, state=tmp_path, XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2, done
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, done.stderr
    assert message in told[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_said_so_far(spoken: Utterance, tmp_path: Path, number: signal.Signals, code: int) -> None:
    assert isinstance(spoken.audio, FileAudio)
    command = [sys.executable, "-m", "lora_cli.main", "--file", str(spoken.audio.path), "--json"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert [json.loads(line)["event"] for line in out.splitlines()][-2:] == ["final", "ended"]


def test_enter_starts_and_ends_recordings_for_those_who_use_a_screen_reader(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script()
    typed, keys = os.pipe()

    def type_(line: str, then: object) -> None:
        os.write(keys, f"{line}\n".encode())
        end = time.monotonic() + 20
        while script.asked[-1] != then:
            assert time.monotonic() < end, script.asked
            time.sleep(0.01)

    def talk() -> None:
        while "close" not in script.asked and not hasattr(script, "on_samples"):
            time.sleep(0.01)
        type_("", "begin")
        type_("", "end")
        script.emit(final("one"))
        script.emit(ended())
        type_("", "begin")
        type_("d", "cancel")
        script.emit(ended(2))
        os.write(keys, b"what\n")
        type_("q", "close")

    talking = threading.Thread(target=talk)
    talking.start()
    with os.fdopen(typed) as lines:
        run_lines(script.session(), PlainWriter(sys.stdout, sys.stderr), hands_free=False, until=threading.Event(), keys=lines)
        talking.join()
        os.close(keys)  # the end of the input: a thread that reads would keep the file from being closed
    shown = capsys.readouterr()
    assert shown.out == "one\n"
    assert shown.err.splitlines() == [KEYS_HELP, "recording", "the text comes", "recording", "discarded", KEYS_HELP]


def test_a_reader_that_goes_away_is_no_crash(spoken: Utterance, tmp_path: Path) -> None:
    assert isinstance(spoken.audio, FileAudio)
    command = f"{sys.executable} -m lora_cli.main --file {spoken.audio.path} --json --mode vad | head -n 1"
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["event"] == "loading"


@pytest.mark.parametrize("kind", [*get_args(Event), Problem], ids=lambda kind: kind.__name__)
def test_every_field_of_an_event_is_documented(kind: type) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "voice.md").read_text()
    rows = re.findall(rf"^\| `{kind.__name__.lower()}` \| (.*) \|$", guide, re.M)
    assert len(rows) == 1
    written = set(Entry.__struct_fields__) - {"audio", "corrected"} if kind is Final else {field.name for field in fields(kind)}
    nested = {"segments": Segment, "voices": Voice, "applied": Applied}
    written |= {field.name for name in written & nested.keys() for field in fields(nested[name])}
    assert set(re.findall(r"`(\w+)`", rows[0])) == written
