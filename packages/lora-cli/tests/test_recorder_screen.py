"""The recorder's screen and its plain lines: what they show, and what their keys do. The model's and the microphone's parts are played."""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lora_cli.engine.events import Failed, Loading, Problem, Ready
from lora_cli.recorder.booth import KEYS, Booth
from lora_cli.recorder.lines import HELP, Conversation, run_plain
from lora_cli.recorder.prompts import Prompt
from lora_cli.recorder.screen import RecorderApp
from lora_cli.recorder.sitting import Phase
from lora_cli.recorder.store import Folder, Heading, rows
from playing import final
from scripted import Script
from textual.pilot import Pilot

from lora.audio.loading import AudioSettings, Waveform, read_file
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ, Seconds

PROMPTS = (Prompt(text="The first sentence to read.", set="train"), Prompt(text="A second one for the test.", set="test"))


@pytest.fixture(scope="module")
def speech_in_a_room(clip: Path) -> Waveform:
    moment = np.zeros(SAMPLE_RATE_HZ // 2, dtype=np.float32)
    whole = np.concatenate([moment, read_file(clip, AudioSettings()), moment])
    return (whole + np.random.default_rng(0).normal(0, 0.001, len(whole))).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path / "voice", "en")
    yield opened
    opened.close()


def booth(folder: Folder, script: Script) -> Booth:
    session = script.session()
    heading = Heading(source="test", language="en", model_id="packaged:moonshine-tiny")
    return Booth(folder, PROMPTS, heading, "headset", session.open_engine, session.open_source)


@dataclass
class Play:
    """The app on a screen, and a clock that goes on with each key."""

    script: Script
    app: RecorderApp
    pilot: Pilot[None]
    speech: Waveform
    recordings: int = 0

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
        await self.settle()

    async def settle(self) -> None:
        await self.pilot.pause()
        self.app.tick()
        await self.pilot.pause()

    async def read(self, samples: Waveform | None = None) -> None:
        await self.press("space")
        self.script.on_samples(self.speech if samples is None else samples)
        await self.press("space")
        self.script.on_samples(self.speech[: SAMPLE_RATE_HZ // 2])
        await self.settle()

    async def understood(self, text: str) -> None:
        self.recordings += 1
        self.script.emit(final(text, recording=self.recordings))
        await self.settle()

    def reopened(self, before: object) -> None:
        """Waits until the microphone was opened again."""
        until = time.monotonic() + 20
        while self.script.on_samples is before:
            assert time.monotonic() < until
            time.sleep(0.01)

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def played(folder: Folder, speech: Waveform, scene: Callable[[Play], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> Script:
    script, now = Script(), iter(range(10_000))

    async def act() -> None:
        app = RecorderApp(booth(folder, script), clock=lambda: float(next(now)))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await app.workers.wait_for_complete()
            assert app.ticking is not None
            app.ticking.pause()
            play = Play(script, app, pilot, speech)
            assert "waiting for the microphone" in " ".join(play.text.split())
            script.on_samples(speech[:320])
            await play.settle()
            await scene(play)
        app.close()

    asyncio.run(act())
    return script


def test_a_sentence_is_shown_read_heard_and_kept(folder: Folder, speech_in_a_room: Waveform) -> None:
    async def scene(play: Play) -> None:
        assert "The first sentence to read." in play.text
        assert "Press space, read the sentence, press space" in play.text
        assert "0 recorded, 2 left; training 0.0 min, test 0.0 min" in play.text
        await play.press("space")
        assert "[REC] 0:00" in play.text
        await play.press("escape")
        assert "discarded" in play.text
        await play.read()
        assert "the model is still loading; it hears the take as soon as it can" in " ".join(play.text.split())
        play.script.emit(Ready((), Seconds(1.0)))
        await play.settle()
        assert "listening to it" in play.text
        assert "The first sentence" in play.text
        await play.understood("the first sentence to read")
        assert "A second one for the test." in play.text
        assert "kept, " in play.text
        assert "enough for a verdict: no, at least 10 more test sentences" in " ".join(play.text.split())
        await play.read()
        await play.understood("a second one for the test")
        assert "All sentences are recorded" in play.text

    played(folder, speech_in_a_room, scene)
    assert [len(one) for one in rows(folder.path).values()] == [1, 1]


def test_what_is_wrong_is_said_and_the_keys_keep_repeat_and_skip(folder: Folder, speech_in_a_room: Waveform) -> None:
    async def scene(play: Play) -> None:
        await play.read(np.clip(20 * speech_in_a_room, -1, 1))
        assert "! too loud, the sound is cut off" in play.text, "before the model has heard it"
        await play.understood("a goat ate the ribbon off my hat")
        assert "! other words: heard" in play.text
        assert "Not kept" in play.text
        await play.press("k")
        assert "A second one for the test." in play.text
        await play.press("r")
        assert "The first sentence to read." in play.text
        await play.press("s")
        assert "A second one for the test." in play.text
        await play.press("k")
        assert "there is nothing to keep" in play.text

    played(folder, speech_in_a_room, scene)
    (row,) = rows(folder.path)["train"].values()
    assert (row.meta or {})["kept_despite"] == ["clipped", "words"]


def test_every_key_has_its_word_on_a_narrow_screen_too(folder: Folder, speech_in_a_room: Waveform) -> None:
    async def scene(play: Play) -> None:
        words = play.text.split()
        assert all(key.replace("escape", "esc") in words and word in words for key, word, _ in KEYS)
        assert "The first sentence" in play.text

    played(folder, speech_in_a_room, scene, size=(30, 20))


def test_a_lost_microphone_ends_the_take_and_is_used_again_when_it_is_back(folder: Folder, speech_in_a_room: Waveform) -> None:
    async def scene(play: Play) -> None:
        play.script.emit(Loading("loading tiny", 2, 3))
        await play.settle()
        assert "loading tiny (2 of 3); you can begin to read already" in play.text
        await play.press("space")
        lost = play.script.on_samples
        play.script.on_problem(Problem("headset: gives no sound any more", lost=True))
        await play.settle()
        assert "gives no sound any more" in play.text
        assert "waiting for the microphone" in play.text
        await play.press("space")
        assert "no sound comes from the microphone yet" in play.text
        await asyncio.to_thread(play.reopened, lost)
        play.script.on_samples(play.speech)
        await play.settle()
        assert "the microphone is back" in play.text
        await play.read()
        await play.understood("the first sentence to read")
        assert "kept, " in play.text

    played(folder, speech_in_a_room, scene)


def test_a_model_that_fails_ends_the_app_with_its_reason(folder: Folder, speech_in_a_room: Waveform) -> None:
    broken = []

    async def scene(play: Play) -> None:
        play.script.emit(Failed("the model cannot be loaded; give another"))
        await play.pilot.pause()
        broken.append(play.app.broken)

    played(folder, speech_in_a_room, scene)
    assert [str(error) for error in broken] == ["the model cannot be loaded; give another"]


def test_plain_lines_say_everything_once(folder: Folder, speech_in_a_room: Waveform, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script()
    place = booth(folder, script)
    sitting = place.sitting(script)
    conversation = Conversation(place, sitting)
    sitting.capture.hear(speech_in_a_room[:320])
    conversation.begin()
    for what in ("x", Loading("loading tiny", 2, 3), ""):
        conversation.step(what)
    sitting.capture.hear(speech_in_a_room)
    sitting.press(1e9)
    sitting.capture.hear(speech_in_a_room[: SAMPLE_RATE_HZ // 2])
    conversation.step(None)
    assert sitting.phase is Phase.LISTENING
    for what in (final("the first sentence to read"), "s", None):
        conversation.step(what)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HELP
    assert lines.count("read: The first sentence to read.") == 1
    assert any(line.startswith("'x' is no key") for line in lines)
    assert lines.index("recording") < next(number for number, line in enumerate(lines) if line.startswith("kept, "))
    assert "read: A second one for the test." in lines
    assert len(rows(folder.path)["train"]) == 1


def test_plain_lines_end_where_the_model_fails_and_where_the_input_ends(folder: Folder) -> None:
    script = Script()
    place = booth(folder, script)
    assert run_plain(place, io.StringIO("")) == 0
    assert "close" in script.asked
    with pytest.raises(AudioError, match="cannot be loaded"):
        Conversation(place, place.sitting(script)).step(Failed("the model cannot be loaded"))
