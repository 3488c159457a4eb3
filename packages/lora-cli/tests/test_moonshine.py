"""`moonshine` as a user starts it, in a pseudo-terminal: a real model hears a real recording, and the terminal survives it all."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from terminal import KITTY, PRESS, RELEASE, REPEAT, Terminal, assert_restored, children

from lora.audio.loading import AudioSettings, load
from lora.dataset.manifest import Utterance
from lora.scoring.counts import score_utterance
from lora.units import SAMPLE_RATE_HZ, Seconds

LEAD_S = 6
"""Silence before the speech, in which a test presses the key: a file speaks from when the app has opened it."""


@pytest.fixture(scope="module")
def spoken(speech: Sequence[Utterance]) -> Utterance:
    """A sentence that the model hears without an error."""
    return next(one for one in speech if "beckett" in one.id)


@pytest.fixture
def moonshine(spoken: Utterance, tmp_path: Path) -> Iterator[Terminal]:
    """The app with that sentence in place of a microphone, in a terminal that reports key release, in hold mode."""
    clip = tmp_path / "clip.wav"
    samples = load(spoken.audio, AudioSettings())
    soundfile.write(clip, np.concatenate([np.zeros(LEAD_S * SAMPLE_RATE_HZ, dtype=np.float32), samples]), SAMPLE_RATE_HZ)
    terminal = Terminal(
        tmp_path / "out.jsonl",
        ["-m", "lora_cli.main", "--file", clip, "--mode", "hold"],
        environment={"XDG_STATE_HOME": str(tmp_path / "state")},
    )
    terminal.start(KITTY)
    yield terminal
    if terminal.child.isalive():
        terminal.child.terminate(force=True)


def engine_pid(terminal: Terminal) -> int:
    """The process of the model."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for pid in children(terminal.child.pid):
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        time.sleep(0.1)
    raise AssertionError("the model's process does not start")


def test_a_held_space_bar_turns_speech_into_text_on_screen_on_disk_and_on_stdout(
    moonshine: Terminal, spoken: Utterance, tmp_path: Path
) -> None:
    moonshine.until("mode: hold - talk while the space bar is down")
    moonshine.child.send(PRESS)
    moonshine.until("[REC]")
    until = time.monotonic() + LEAD_S + 6
    while time.monotonic() < until:
        moonshine.child.send(REPEAT)
        moonshine.read(0.2)
    moonshine.child.send(RELEASE)
    moonshine.until(" ms  ", 120)
    moonshine.child.send("q")
    assert moonshine.ended() == 0
    assert_restored(moonshine)
    [line] = moonshine.out.read_text().splitlines()
    event = json.loads(line)
    assert event["event"] == "final"
    words = score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=spoken.text or "", hypothesis=event["text"]).words
    assert words.errors <= 1
    [history] = (tmp_path / "state/moonshine-lora/sessions").glob("*/history.jsonl")
    assert json.loads(history.read_text())["text"] == event["text"]
    assert event["text"][:40] in " ".join(" ".join(moonshine.screen.display).split())


def test_an_engine_that_is_killed_is_reported_and_the_app_quits_as_usual(moonshine: Terminal) -> None:
    os.kill(engine_pid(moonshine), signal.SIGKILL)
    moonshine.until("! the speech engine ended with exit code -9")
    moonshine.child.send("q")
    assert moonshine.ended() == 0
    assert_restored(moonshine)
    assert "Traceback" not in moonshine.bytes


def test_an_app_that_is_killed_takes_its_engine_with_it(moonshine: Terminal) -> None:
    pid = engine_pid(moonshine)
    moonshine.child.kill(signal.SIGKILL)
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "the model's process outlives the app"
        time.sleep(0.1)
