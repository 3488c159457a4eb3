"""`moonshine record` as a user meets it: sentences read into a virtual microphone, bad takes caught, a kill, the run that they train."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rig import VirtualMicrophone, virtual_microphone
from terminal import Terminal, assert_restored

from lora.audio.loading import AudioSettings, FileAudio, read_file
from lora.corpora import quickstart
from lora.dataset.manifest import Rules, Utterance, read
from lora.runs.record import read as read_record
from lora.units import SAMPLE_RATE_HZ

READ = (
    *("agent-newlocation", "agent-pass", "cannot-complete-as-dialed", "conf-getconfno", "conf-invalidpin"),
    *(
        "conf-onlyone",
        "confbridge-begin-glorious-a",
        "confbridge-lock-no-join",
        "confbridge-only-participant",
        "confbridge-rest-talk-vol-in",
    ),
)
"""Telephone prompts of 2.5 to 4 s, all by one speaker."""

CLIPPED, MISREAD, KILLED = 1, 3, 5
"""Sentences that are read too loud, that are read as another one, and in which the app is killed."""

TAIL_S = 0.5
"""How long somebody waits after the last word: sound takes a moment through the server."""

ATTEMPTS = 3
PATIENCE_S = 120

EXIT_CODES = {"accepted": 0, "rejected": 3, "inconclusive": 4}


@pytest.fixture
def microphone() -> Iterator[VirtualMicrophone]:
    with virtual_microphone(noise=True) as found:
        yield found


@pytest.fixture
def sentences(tmp_path: Path) -> list[Utterance]:
    by_id = {one.id: one for one in read(quickstart.prepare(tmp_path / "data" / "quickstart").train, Rules())}
    return [by_id[name] for name in READ]


def sound(sentence: Utterance) -> Path:
    assert isinstance(sentence.audio, FileAudio)
    return sentence.audio.path


class Reader:
    """Somebody who reads sentences at a terminal; `recorded` counts what was kept."""

    def __init__(self, place: Path, microphone: VirtualMicrophone) -> None:
        self.place, self.microphone, self.recorded = place, microphone, 0

    def start(self, *flags: str) -> None:
        command = ["-m", "lora_cli.main", "record", "--output-dir", "voice", *flags]
        settings = {**self.microphone.settings, "PWD": str(self.place)}
        self.terminal = Terminal(self.place / "out.txt", command, environment=settings)

    def shows(self, *texts: str) -> int:
        """Waits until the screen shows one of the texts; returns the place of the first that is there."""
        until = time.monotonic() + PATIENCE_S
        while not (there := [place for place, text in enumerate(texts) if text in "\n".join(self.terminal.screen.display)]):
            assert time.monotonic() < until, "\n".join(self.terminal.screen.display)
            self.terminal.read(0.1)
        return there[0]

    def read(self, clip: Path) -> None:
        """Speaks between two presses, as soon as the screen asks for it."""
        self.shows("ress space")
        self.terminal.child.send(" ")
        self.shows("[REC]")
        speaking = self.microphone.speak(clip)
        while not speaking.done():
            self.terminal.read(0.1)
        speaking.result()
        self.terminal.read(TAIL_S)
        self.terminal.child.send(" ")

    def keeps(self, sentence: Utterance) -> None:
        """Reads a sentence as it is shown, and once more where that did not come through: a busy machine loses sound."""
        self.recorded += 1
        for _ in range(ATTEMPTS):
            self.shows(sentence.text or "")
            self.read(sound(sentence))
            if self.shows(f"{self.recorded} recorded, {len(READ) - self.recorded} left", "Not kept") == 0:
                return
        raise AssertionError("\n".join(self.terminal.screen.display))


def too_loud(sentence: Utterance, file: Path) -> Path:
    soundfile.write(file, np.clip(20 * read_file(sound(sentence), AudioSettings()), -1, 1), SAMPLE_RATE_HZ, subtype="PCM_16")
    return file


@pytest.mark.slow
def test_ten_sentences_are_read_two_of_them_badly_the_app_is_killed_and_the_manifests_train_to_a_verdict(
    microphone: VirtualMicrophone, sentences: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"{sentence.text}\n" for sentence in sentences))
    reader = Reader(tmp_path, microphone)
    reader.start("--prompts", "prompts.txt")
    for number, sentence in enumerate(sentences[:KILLED]):
        if number == CLIPPED:
            reader.shows(sentence.text or "")
            reader.read(too_loud(sentence, tmp_path / "loud.wav"))
            reader.shows("! too loud, the sound is cut off")
            reader.shows("Not kept")
        if number == MISREAD:
            reader.shows(sentence.text or "")
            reader.read(sound(sentences[-1]))
            reader.shows("! other words: heard")
        reader.keeps(sentence)

    reader.shows(sentences[KILLED].text or "")
    reader.shows("Press space")
    reader.terminal.child.send(" ")
    reader.shows("[REC]")
    speaking = microphone.speak(sound(sentences[KILLED]))
    reader.terminal.read(2)
    os.kill(reader.terminal.child.pid, signal.SIGKILL)
    speaking.result()

    reader.start()
    for sentence in sentences[KILLED:]:
        reader.keeps(sentence)
    reader.shows("All sentences are recorded")
    reader.terminal.child.send("q")
    assert reader.terminal.ended() == 0
    assert_restored(reader.terminal)

    found = {name: list(read(tmp_path / "voice" / f"{name}.jsonl", Rules())) for name in ("train", "test")}
    said = {sentence.text: sentence for sentence in sentences}
    assert sorted(row.text or "" for rows in found.values() for row in rows) == sorted(text or "" for text in said)
    assert min(map(len, found.values())) >= 2
    for row in (row for rows in found.values() for row in rows):
        assert "kept_despite" not in (row.meta or {})
        assert (row.declared_s or 0) > (said[row.text].declared_s or 0), "a part of it is missing"

    lines = (tmp_path / "out.txt").read_text().splitlines()
    (command,) = [line for line in lines if line.startswith("moonshine-lora experiment")]
    arguments = [*shlex.split(command)[1:], "--epochs", "2"]
    done = subprocess.run([sys.executable, "-m", "lora.main", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_CODES[read_record(tmp_path / "voice" / "run").verdict.decision], done.stderr
