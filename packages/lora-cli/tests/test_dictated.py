"""`moonshine dictate` as a user has it: real speech through a virtual microphone stands in another program's window."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from desktop import Desktop, desktop, until
from rig import VirtualMicrophone, virtual_microphone

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Utterance
from lora.main import _main as moonshine_lora
from lora.scoring.counts import score_utterance
from lora.units import Seconds

LOADING_S = 120


class Service:
    """The service in a process of its own, and its clients."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        command = [sys.executable, "-m", "lora_cli.main", "dictate"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def tell(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "lora_cli.main", *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True, timeout=30).stdout

    def status(self) -> Any:
        return json.loads(self.tell("status", "--json"))

    def until(self, state: str) -> None:
        until(lambda: self.status()["state"] == state, LOADING_S)

    def dictate(self, microphone: VirtualMicrophone, clip: Path) -> None:
        self.tell("toggle")
        microphone.play(clip)
        self.tell("toggle")


@contextmanager
def service(microphone: VirtualMicrophone, screen: Desktop, folder: Path) -> Iterator[Service]:
    (folder / "run").mkdir(mode=0o700)
    places = {"XDG_RUNTIME_DIR": str(folder / "run"), "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
    found = Service(microphone.environment | screen.settings | places)
    assert found.process.stderr is not None
    try:
        assert re.match("ready with moonshine-tiny; moonshine toggle starts", found.process.stderr.readline())
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def transcribed(clips: Sequence[Path], folder: Path) -> list[str]:
    """What `moonshine-lora transcribe` says."""
    output = folder / "out.jsonl"
    assert (
        moonshine_lora(["transcribe", "--model-id", "packaged:moonshine-tiny", "--output", str(output), "--audio", *map(str, clips)]) == 0
    )
    return [json.loads(line)["text"] for line in output.read_text().splitlines()]


def errors(reference: str, text: str) -> int:
    return score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=text).words.errors


@pytest.mark.slow
def test_what_is_said_stands_in_the_editor(speech: Sequence[Utterance], tmp_path: Path) -> None:
    """And nowhere else: not in a window that was focused later, not after cancel, and not on the clipboard."""
    clips = [one.audio.path for one in speech if "two_cities" in one.id and isinstance(one.audio, FileAudio)][:2]
    expected = transcribed(clips, tmp_path)
    with virtual_microphone() as microphone, desktop() as screen, service(microphone, screen, tmp_path) as dictation:
        editor, other = (screen.edit(tmp_path / name) for name in ("one.txt", "two.txt"))
        editor.focus()
        screen.copy("as before")
        assert dictation.status()["state"] == "ready"
        dictation.dictate(microphone, clips[0])
        dictation.until("ready")
        assert errors(expected[0], editor.text()) <= 1
        assert screen.clipboard() == "as before"

        other.focus()
        dictation.tell("start")
        dictation.tell("cancel")
        dictation.tell("start")
        microphone.play(clips[1])
        editor.focus()
        dictation.tell("stop")
        dictation.until("ready")
        told = dictation.status()
        assert errors(expected[1], told["last"]["text"]) <= 1
        assert told["problem"].startswith("the focus went from 'two.txt' to '")
        assert other.text() == ""
        assert errors(expected[0], editor.text()) <= 1

        (history,) = (tmp_path / "state/moonshine-lora/sessions").glob("*/history.jsonl")
        assert len(history.read_text().splitlines()) == 2
        dictation.tell("start")
        microphone.play(clips[0])
        dictation.process.send_signal(signal.SIGTERM)
        assert dictation.process.wait(30) == 143
        assert errors(2 * f"{expected[0]} ", editor.text()) <= 2, "what was said before the end is written too"
