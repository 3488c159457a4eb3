"""What the user does reaches engine, microphone and history, and what they say is shown."""

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lora_cli.app import MoonshineApp
from lora_cli.events import Failed, Final, Loading, Problem, Ready, Switched
from lora_cli.results import Results
from lora_cli.screens.correct import CorrectScreen
from lora_cli.screens.keys import KEYS
from lora_cli.session import PREROLL_SAMPLES, Recorder, SaveFormat
from lora_cli.widgets import MOST_ROWS, LiveText, Meter, Utterances
from playing import KITTY, PRESS, RELEASE, REPEAT, XTERM, Play, ended, final, partial, playing
from scripted import BASE, CHUNK, TUNED, Script
from textual import events

from lora.manifest import Rules, read
from lora.units import Seconds

Scene = Callable[[Play], Awaitable[None]]


def play(scene: Scene, script: Script | None = None, **options: object) -> Script:
    """Plays a scene and returns the script with what the app asked for."""
    script = script or Script()

    async def act() -> None:
        async with playing(script, **options) as played:  # type: ignore[arg-type]
            await scene(played)

    asyncio.run(act())
    return script


def test_nothing_slow_is_imported_for_the_first_frame() -> None:
    code = "import sys, lora_cli.app; print(sorted({'torch', 'transformers', 'peft', 'sounddevice', 'onnxruntime'} & set(sys.modules)))"
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


def test_hold_starts_with_the_press_and_ends_with_the_release_whatever_repeats_come() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.types(REPEAT * 20)
        assert play.script.asked == ["start", "begin"]
        await play.types(RELEASE)
        assert play.script.asked == ["start", "begin", "end"]

    play(scene)


def test_a_whole_press_in_one_read_is_a_whole_recording() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS + REPEAT + RELEASE)

    assert play(scene).asked == ["start", "begin", "end"]


def test_toggle_starts_and_ends_with_presses() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        assert play.script.asked == ["start", "begin"]
        await play.press("space")

    assert play(scene, answer=XTERM).asked == ["start", "begin", "end"]


def test_hands_free_listens_at_once() -> None:
    async def scene(play: Play) -> None:
        assert "LISTENING" in play.text or "wait" in play.text
        await play.press("space")
        assert "PAUSED" in play.text
        await play.press("space")

    assert play(scene, mode="vad").asked == ["start", "begin hands-free", "end", "begin hands-free"]


def test_the_mode_key_goes_round_and_says_which_is_on() -> None:
    async def scene(play: Play) -> None:
        shown = []
        for _ in range(3):
            shown.append(next(line for line in play.text.splitlines() if "mode:" in line).split()[1])
            await play.press("m")
        assert shown == ["hold", "toggle", "vad"]

    assert play(scene).asked == ["start", "begin hands-free", "end"]


def test_the_mouse_holds_the_talk_button_in_a_terminal_without_release_reports() -> None:
    async def scene(play: Play) -> None:
        await play.pilot.mouse_down("#talk")
        await play.settle()
        assert play.script.asked == ["start", "begin"]
        await play.pilot.mouse_up("#history")
        await play.settle()

    assert play(scene, answer=XTERM, mode="hold").asked == ["start", "begin", "end"]


def test_hold_without_release_reports_is_explained_when_space_is_pressed() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        assert "hold the talk button with the mouse" in " ".join(play.text.split())

    assert play(scene, answer=XTERM, mode="hold").asked == ["start"]


@pytest.mark.parametrize("mode", ["hold", "toggle", "vad"])
def test_losing_the_focus_stops_recording(mode: str) -> None:
    async def scene(play: Play) -> None:
        if mode != "vad":
            await play.types(PRESS)
        play.app.post_message(events.AppBlur())
        await play.settle()

    assert play(scene, mode=mode).asked[-1] == "end"


@pytest.mark.parametrize("key", ["question_mark", "e", "s"])
def test_opening_another_screen_stops_recording(key: str) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"), ended())
        await play.press("space")
        await play.press(key)
        assert play.app.screen is not play.app.main

    assert "end" in play(scene, mode="toggle").asked


def test_quitting_stops_recording_and_waits_for_the_last_text() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        await play.press("q")
        assert play.script.asked[-1] == "end"
        assert play.app.is_running
        await play.says(final("last words"), ended())
        assert not play.app.is_running

    assert ("add", "last words") in play(scene, mode="toggle").asked


def test_quitting_twice_does_not_wait() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        await play.press("q")
        await play.press("q")
        assert not play.app.is_running

    play(scene, mode="toggle")


def test_the_engine_gets_the_moment_before_the_press_and_all_sound_until_the_release() -> None:
    async def scene(play: Play) -> None:
        await play.hears(3)
        await play.types(PRESS)
        await play.hears(2)
        await play.types(RELEASE)
        await play.hears(3)

    assert [len(samples) for samples in play(scene).fed] == [3 * len(CHUNK), len(CHUNK), len(CHUNK)]


def test_every_sample_around_the_key_press_is_heard_once() -> None:
    script = Script()
    recorder = Recorder(script)
    sound = np.arange(8 * PREROLL_SAMPLES, dtype=np.float32)
    before, after = np.split(sound, [5 * PREROLL_SAMPLES + 77])
    for chunk in np.array_split(before, 40):
        recorder.hear(chunk)
    recorder.begin(hands_free=False)
    for chunk in np.array_split(after, 23):
        recorder.hear(chunk)
    recorder.end()
    recorder.hear(CHUNK)
    assert np.array_equal(np.concatenate(script.fed), sound[len(before) - PREROLL_SAMPLES :])


def test_the_cue_to_speak_comes_with_the_first_sound() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        assert "wait" in play.text
        assert "[REC]" not in play.text
        await play.hears()
        assert "[REC] 0:00" in play.text

    play(scene)


def test_it_can_be_talked_to_before_the_model_is_there() -> None:
    async def scene(play: Play) -> None:
        await play.says(Loading("loading tiny", 2, 4))
        assert "loading tiny (2 of 4)" in play.text
        await play.types(PRESS)
        await play.hears()
        await play.types(RELEASE)
        await play.says(Ready((BASE,), Seconds(9.0)), final("kept until then"), ended())
        assert "kept until then" in play.text

    assert play(scene).asked == ["start", "begin", "end", ("add", "kept until then")]


def test_firm_words_and_unsure_words_are_told_apart_without_colour() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.says(partial("Please hold", "the line"))
        assert "Please hold ~ the line" in play.text
        live = play.app.main.query_one(LiveText).visual
        styles = {str(span.style) for span in live._spans}  # type: ignore[attr-defined]
        assert any("italic" in style and "dim" in style for style in styles)
        await play.says(final("Please hold the line."))
        assert "~" not in play.text

    play(scene)


def test_partials_are_drawn_at_the_rate_of_the_ticks() -> None:
    async def scene(play: Play) -> None:
        for number in range(500):
            play.script.emit(partial(f"word {number}", ""))
        await play.pilot.pause()
        assert "word" not in play.text
        play.app.tick()
        await play.pilot.pause()
        assert "word 499" in play.text

    play(scene)


def test_the_meter_falls_when_it_gets_quiet() -> None:
    async def scene(play: Play) -> None:
        def filled() -> int:
            return str(play.app.main.query_one(Meter).visual).count("━")

        await play.hears(level=0.5)
        loud = filled()
        for _ in range(30):
            play.app.tick()
        assert loud > 30
        assert filled() == 0

    play(scene)


def test_no_speech_is_said_and_not_kept() -> None:
    async def scene(play: Play) -> None:
        await play.says(final(""), ended())
        assert "(no speech found)" in play.text

    assert play(scene).asked == ["start"]


def test_utterances_show_time_length_latency_and_both_texts() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("Please fold the line.", other="Please hold the line."))
        assert "09:26:53   3.0 s  121 ms  tiny : Please fold the line." in play.text
        assert "tuned: Please hold the line." in play.text

    play(scene)


def test_commands_work_on_the_chosen_utterance() -> None:
    async def scene(play: Play) -> None:
        await play.says(*(final(text, minute=minute) for minute, text in enumerate(["one", "two", "three"])))
        await play.press("up")
        await play.press("c")
        assert play.app.clipboard == "two"
        await play.press("r")
        await play.press("d")
        assert "two" not in play.text
        await play.press("c")
        await play.press("end", "c")

    asked = play(scene).asked
    assert asked[4:] == [("copy", "two"), ("replay", "two"), ("remove", "two"), ("copy", "three"), ("copy", "three")]


def test_a_new_utterance_does_not_take_the_choice_away() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"), final("two", minute=1))
        await play.press("up")
        await play.says(final("three", minute=2))
        await play.press("c")
        assert play.app.clipboard == "one"

    play(scene)


def test_commands_without_utterances_say_so() -> None:
    async def scene(play: Play) -> None:
        for key in "cesdr":
            await play.press(key)
            assert "nothing was said yet" in play.text
            assert play.app.screen is play.app.main

    assert play(scene).asked == ["start"]


def test_a_correction_is_typed_with_spaces_and_repeats_and_kept_with_enter() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("Please fold the line"))
        await play.types("e")
        assert isinstance(play.app.screen, CorrectScreen)
        await play.types("\x1b[127;;u" + "\x1b[127;1:2u" * 3 + "\x1b[127;1:3u")
        await play.types("way q")
        await play.types("\x1b[13u")
        assert "saved for training: corrections.jsonl" in play.text
        assert "Please fold the way q" in play.text

    assert play(scene).asked[2:] == [("correct", "Please fold the line", "Please fold the way q")]


@pytest.mark.parametrize(("keys", "says"), [(("escape",), ""), (("ctrl+a", "ctrl+k", "enter"), "cannot be trained on")])
def test_an_abandoned_or_empty_correction_is_not_kept(keys: tuple[str, ...], says: str) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        await play.press("e")
        await play.press(*keys)
        assert says in play.text
        assert play.app.screen is play.app.main

    assert play(scene).asked == ["start", ("add", "one")]


@pytest.mark.parametrize(("keys", "form"), [((), SaveFormat.TEXT), (("down",), SaveFormat.JSONL), (("down", "down"), SaveFormat.SRT)])
def test_the_history_is_saved_in_the_form_that_was_chosen(keys: tuple[str, ...], form: SaveFormat) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        await play.press("s")
        await play.press(*keys, "enter")
        assert f"saved: history.{form}" in play.text

    assert play(scene).asked[2:] == [("save", form)]


@pytest.mark.parametrize("keys", ["c", "d", "r", ("e", "enter"), ("s", "enter")])
def test_a_refusal_is_shown_and_the_app_goes_on(keys: str | tuple[str, ...]) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        play.script.refusal = "out: cannot be written (disk full); free some space"
        await play.press(*keys)
        assert "! out: cannot be written (disk full)" in play.text
        assert "one" in play.text
        assert play.app.is_running

    play(scene)


def test_an_utterance_that_cannot_be_stored_is_shown_all_the_same() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        assert "! disk full" in play.text
        assert "one" in play.text

    play(scene, Script(refusal="disk full"))


def test_with_real_results_commands_leave_what_they_say_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    results = Results(tmp_path / "corrections.jsonl", tmp_path)
    spoken = [replace(final(text, minute=minute), samples=np.tile(CHUNK, 100)) for minute, text in enumerate(["one", "to"])]

    async def scene(play: Play) -> None:
        await play.says(*spoken)
        await play.press("e")
        await play.press("backspace", "w", "o", "enter")
        assert [(row.text, row.audio.waveform().shape) for row in read(tmp_path / "corrections.jsonl", Rules())] == [("two", (32000,))]
        await play.press("up", "d")
        await play.press("s")
        await play.press("enter")

    play(scene, Script(results=results))
    [saved] = tmp_path.glob("moonshine-*.txt")
    assert saved.read_text() == "two\n"
    assert len(list((tmp_path / "state").rglob("*.flac"))) == 1, "the deleted utterance's sound is gone"


def test_voices_are_switched_and_compared_with_a_key() -> None:
    async def scene(play: Play) -> None:
        await play.press("v")
        await play.says(Switched("tuned", None))
        assert "voice: tuned" in play.text
        await play.press("b")
        await play.says(Switched("tuned", "tiny"))
        assert "A/B with: tiny" in play.text
        await play.press("b")

    assert play(scene).asked == ["start", ("use", "tuned"), ("compare", "tiny"), ("compare", None)]


def test_one_voice_alone_is_not_switched_and_the_user_told_how_to_get_more() -> None:
    async def scene(play: Play) -> None:
        for key in "vb":
            await play.press(key)
            assert "--run" in play.text

    assert play(scene, Script(voices=(TUNED,))).asked == ["start"]


def test_an_engine_that_fails_stops_the_recording_and_leaves_a_way_out() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.says(Failed("the speech engine ended with exit code -9; start moonshine again"))
        assert play.script.asked[-1] == "end"
        assert "! the speech engine ended with exit code -9" in play.text
        await play.press("q")
        assert not play.app.is_running

    play(scene)


def test_without_a_microphone_the_reason_stays_on_the_screen_and_the_app_usable() -> None:
    async def scene(play: Play) -> None:
        await play.says(Ready((BASE,), Seconds(3.0)))
        assert "! there is no microphone; connect one" in play.text
        await play.press("space")
        assert "! there is no microphone; connect one" in play.text
        await play.press("question_mark")
        await play.press("escape")

    assert play(scene, Script(source_error="there is no microphone; connect one")).asked == ["start"]


def test_a_warning_of_the_microphone_is_shown() -> None:
    async def scene(play: Play) -> None:
        play.script.on_problem(Problem("built-in: complete silence; is the microphone muted?"))
        await play.settle()
        assert "! built-in: complete silence" in play.text

    play(scene)


def test_a_microphone_that_is_lost_ends_the_recording_and_the_next_press_says_why_until_it_is_back() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.hears()
        play.script.on_problem(Problem("built-in: gives no sound any more", lost=True))
        await play.settle()
        assert play.script.asked[-1] == "end"
        assert "! built-in: gives no sound any more" in play.text
        assert "Hold space and talk" in play.text
        await play.types(RELEASE)
        await play.press("l")
        await play.types(PRESS)
        assert play.script.asked[-1] == "end"
        assert "! built-in: gives no sound any more" in play.text
        await play.hears()
        await play.types(PRESS)
        assert play.script.asked[-1] == "begin"

    play(scene)


def test_the_screen_keeps_no_sound() -> None:
    """An hour of speech is 230 MB as samples."""
    heard: list[weakref.ref[np.ndarray]] = []

    async def scene(play: Play) -> None:
        for number in range(3):
            said = final(f"number {number}", recording=number)
            heard.append(weakref.ref(said.samples))
            await play.says(said)
            del said
        assert "  3.0 s" in play.text
        gc.collect()
        assert all(one() is None for one in heard)

    play(scene)


def test_a_machine_that_falls_behind_says_so() -> None:
    async def scene(play: Play) -> None:
        late = partial("one", "")
        await play.says(type(late)(late.recording, "one", "", late.length_s, behind_s=Seconds(7.0)))
        assert "this machine is 7 s behind" in play.text

    play(scene)


def test_the_help_lists_every_key_and_its_keys_close_it() -> None:
    async def scene(play: Play) -> None:
        await play.press("question_mark")
        for key in KEYS:
            assert f"{key.shown:10}{key.help}" in play.text, key
        await play.press("question_mark")
        assert play.app.screen is play.app.main

    play(scene, size=(120, 40))


def test_every_key_of_the_list_does_something() -> None:
    assert [key.key for key in KEYS if not hasattr(MoonshineApp, f"action_{key.action}")] == []


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_key_is_named_on_the_main_screen(width: int) -> None:
    async def scene(play: Play) -> None:
        for key in KEYS:
            assert f"{key.shown} {key.label}" in play.text, key

    play(scene, size=(width, 24))


def test_light_and_dark_change_places() -> None:
    async def scene(play: Play) -> None:
        themes = [play.app.current_theme.dark]
        for _ in range(2):
            await play.press("l")
            themes.append(play.app.current_theme.dark)
        assert themes == [True, False, True]

    play(scene)


def test_a_window_made_narrow_says_so_and_made_wide_again_works() -> None:
    async def scene(play: Play) -> None:
        await play.pilot.resize_terminal(40, 24)
        await play.settle()
        assert "needs 60 columns" in " ".join(play.text.split())
        assert "space talk" not in play.text
        await play.pilot.resize_terminal(60, 24)
        await play.settle()
        assert "space talk" in play.text

    play(scene)


def test_the_history_is_bounded_and_stays_at_the_newest() -> None:
    async def scene(play: Play) -> None:
        history = play.app.main.query_one(Utterances)
        for number in range(MOST_ROWS + 20):
            history.add(final(f"utterance {number}"))
        await play.settle()
        assert history.option_count <= MOST_ROWS
        assert f"utterance {MOST_ROWS + 19}" in play.text
        assert history.chosen is not None
        assert history.chosen.text == f"utterance {MOST_ROWS + 19}"

    play(scene)


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


def test_answers_to_the_probe_may_come_again_after_the_app_was_suspended() -> None:
    async def scene(play: Play) -> None:
        assert "mode: hold" in play.text
        await play.types(XTERM)
        assert "mode: toggle" in play.text
        await play.types(KITTY)
        assert "mode: hold" in play.text

    play(scene)


def test_what_comes_while_the_app_ends_breaks_nothing() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        play.app.exit()
        for _ in range(20):
            play.script.emit(partial("late", "words"))
            play.script.emit(final("late"))
            play.app.tick()
            await asyncio.sleep(0.01)

    play(scene)
