"""The app from its first frame to its end, with the engine and the voices it has."""

import asyncio
import subprocess
import sys

from lora_cli.engine.events import Failed, Final, Loading, Ready, Switched
from lora_cli.screen.app import MoonshineApp
from playing import PRESS, RELEASE, Play, ended, final, partial, played
from scripted import BASE, TUNED, Script

from lora.units import Seconds


def test_nothing_slow_is_imported_for_the_first_frame() -> None:
    code = (
        "import sys, lora_cli.screen.app; print(sorted({'torch', 'transformers', 'peft', 'sounddevice', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_starts_after_the_first_frame() -> None:
    script = Script()
    drawn_at_start: list[str] = []

    class Watched(MoonshineApp):
        def on_main_screen_shown(self) -> None:  # Textual calls the base class's own after it
            assert not script.asked
            drawn_at_start.append("".join(segment.text for strip in self.main._compositor.render_strips() for segment in strip))

    async def act() -> None:
        app = Watched(script.session(), environment={})
        async with app.run_test(size=(80, 24)) as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()

    asyncio.run(act())
    assert script.asked == ["start"]
    assert "space talk" in drawn_at_start[0]


def test_quitting_stops_recording_and_waits_for_the_last_text() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        await play.press("q")
        assert play.script.asked[-1] == "end"
        assert play.app.is_running
        await play.says(final("last words"), ended())
        assert not play.app.is_running

    assert ("add", "last words") in played(scene, mode="toggle").asked


def test_quitting_twice_does_not_wait() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        await play.press("q")
        await play.press("q")
        assert not play.app.is_running

    played(scene, mode="toggle")


def test_it_can_be_talked_to_before_the_model_is_there() -> None:
    async def scene(play: Play) -> None:
        await play.says(Loading("loading tiny", 2, 4))
        assert "loading tiny (2 of 4)" in play.text
        await play.types(PRESS)
        await play.hears()
        await play.types(RELEASE)
        await play.says(Ready((BASE,), Seconds(9.0)), final("kept until then"), ended())
        assert "kept until then" in play.text

    assert played(scene).asked == ["start", "begin", "end", ("add", "kept until then")]


def test_voices_are_switched_and_compared_with_a_key() -> None:
    async def scene(play: Play) -> None:
        await play.press("v")
        await play.says(Switched("tuned", None))
        assert "voice: tuned" in play.text
        await play.press("b")
        await play.says(Switched("tuned", "tiny"))
        assert "A/B with: tiny" in play.text
        await play.press("b")

    assert played(scene).asked == ["start", ("use", "tuned"), ("compare", "tiny"), ("compare", None)]


def test_one_voice_alone_is_not_switched_and_the_user_told_how_to_get_more() -> None:
    async def scene(play: Play) -> None:
        for key in "vb":
            await play.press(key)
            assert "--run" in play.text

    assert played(scene, Script(voices=(TUNED,))).asked == ["start"]


def test_an_engine_that_fails_stops_the_recording_and_leaves_a_way_out() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.says(Failed("the speech engine ended with exit code -9; start moonshine again"))
        assert play.script.asked[-1] == "end"
        assert "! the speech engine ended with exit code -9" in play.text
        await play.press("q")
        assert not play.app.is_running

    played(scene)


def test_finished_utterances_reach_the_writer_and_a_reader_that_left_ends_the_app() -> None:
    written: list[str] = []

    def write(utterance: Final) -> None:
        if utterance.text == "two":
            raise BrokenPipeError
        written.append(utterance.text)

    async def act() -> None:
        script = Script()
        app = MoonshineApp(script.session(), on_final=write, environment={})
        async with app.run_test() as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            script.emit(final("one"))
            script.emit(final("two"))
            await pilot.pause()
            await asyncio.sleep(0.1)
        assert app.return_code == 141

    asyncio.run(act())
    assert written == ["one"]


def test_what_comes_while_the_app_ends_breaks_nothing() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        play.app.exit()
        for _ in range(20):
            play.script.emit(partial("late", "words"))
            play.script.emit(final("late"))
            play.app.tick()
            await asyncio.sleep(0.01)
        assert not play.app.is_running
        assert play.app.return_code == 0

    played(scene)
