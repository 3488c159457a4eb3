"""What starts and ends a recording, which sound belongs to it, and what is said about the microphone."""

import threading

import numpy as np
import pytest
from lora_cli.engine.events import Problem, Ready
from lora_cli.screen.app import TICK_S
from lora_cli.screen.widgets import SAID_S
from lora_cli.session import POSTROLL_SAMPLES, PREROLL_SAMPLES, Recorder
from lora_cli.talking import Background
from playing import KITTY, PRESS, RELEASE, REPEAT, XTERM, Play, ended, final, partial, played
from scripted import BASE, CHUNK, Script
from textual import events

from lora.units import Seconds


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A microphone that was lost is looked for at once."""
    monkeypatch.setattr("lora_cli.sound.reopening.RETRY_S", 0.05)


def test_hold_starts_with_the_press_and_ends_with_the_release_whatever_repeats_come() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.types(REPEAT * 20)
        assert play.script.asked == ["start", "begin"]
        await play.types(RELEASE)
        assert play.script.asked == ["start", "begin", "end"]

    played(scene)


def test_a_whole_press_in_one_read_is_a_whole_recording() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS + REPEAT + RELEASE)

    assert played(scene).asked == ["start", "begin", "end"]


def test_toggle_starts_and_ends_with_presses() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        assert play.script.asked == ["start", "begin"]
        await play.press("space")

    assert played(scene, answer=XTERM).asked == ["start", "begin", "end"]


def test_hands_free_listens_at_once() -> None:
    async def scene(play: Play) -> None:
        assert "LISTENING" in play.text or "wait" in play.text
        await play.press("space")
        assert "PAUSED" in play.text
        await play.press("space")

    assert played(scene, mode="vad").asked == ["start", "begin hands-free", "end", "begin hands-free"]


def test_the_mode_key_goes_round_and_says_which_is_on() -> None:
    async def scene(play: Play) -> None:
        shown = []
        for _ in range(3):
            shown.append(next(line for line in play.text.splitlines() if "mode:" in line).split()[1])
            await play.press("m")
        assert shown == ["hold", "toggle", "vad"]

    assert played(scene).asked == ["start", "begin hands-free", "end"]


def test_the_mouse_holds_the_talk_button_in_a_terminal_without_release_reports() -> None:
    async def scene(play: Play) -> None:
        await play.pilot.mouse_down("#talk")
        await play.settle()
        assert play.script.asked == ["start", "begin"]
        await play.pilot.mouse_up("#history")
        await play.settle()

    assert played(scene, answer=XTERM, mode="hold").asked == ["start", "begin", "end"]


def test_hold_without_release_reports_is_explained_when_space_is_pressed() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        assert "hold the talk button with the mouse" in " ".join(play.text.split())

    assert played(scene, answer=XTERM, mode="hold").asked == ["start"]


@pytest.mark.parametrize("mode", ["hold", "toggle"])
def test_losing_the_focus_ends_a_recording_and_says_why(mode: str) -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        play.app.post_message(events.AppBlur())
        await play.settle()
        assert "another window has the focus" in play.text

    assert played(scene, mode=mode).asked[-1] == "end"


def test_hands_free_listens_on_while_another_window_has_the_focus() -> None:
    async def scene(play: Play) -> None:
        await play.hears()
        play.app.post_message(events.AppBlur())
        await play.settle()
        assert "LISTENING" in play.text

    assert played(scene, mode="vad").asked == ["start", "begin hands-free"]


def test_hands_free_pauses_while_another_window_has_the_focus_where_that_is_wanted() -> None:
    async def scene(play: Play) -> None:
        play.app.post_message(events.AppBlur())
        await play.settle()
        assert "PAUSED - another window has the focus" in play.text
        play.app.post_message(events.AppFocus())
        await play.settle()

    assert played(scene, Script(background=Background.PAUSE), mode="vad").asked == ["start", "begin hands-free", "end", "begin hands-free"]


def test_a_mouse_button_that_is_let_go_outside_the_window_ends_the_recording_when_the_pointer_is_back() -> None:
    async def scene(play: Play) -> None:
        await play.pilot.mouse_down("#talk")
        await play.settle()
        assert play.script.asked == ["start", "begin"]
        await play.types("\x1b[<35;5;5M")  # motion without a button, as a terminal tells it
        assert play.script.asked == ["start", "begin", "end"]
        await play.pilot.mouse_down("#talk")
        await play.press("space")

    assert played(scene, answer=XTERM).asked == ["start", "begin", "end", "begin", "end"]


def test_a_recording_is_discarded() -> None:
    async def scene(play: Play) -> None:
        await play.press("escape")
        assert "nothing is being recorded" in play.text
        await play.press("space")
        await play.says(partial("Please hold", "the line"))
        assert "Please hold" in play.text
        await play.press("escape")
        await play.says(partial("Please hold", "the line"), ended())
        assert "Please hold" not in play.text
        assert "discarded" in play.text
        assert "Press space to talk" in play.text

    assert played(scene, answer=XTERM).asked == ["start", "begin", "cancel"]


def test_hands_free_listens_on_after_an_utterance_is_discarded() -> None:
    async def scene(play: Play) -> None:
        await play.press("escape")
        assert "discarded; listening goes on" in play.text

    assert played(scene, mode="vad").asked == ["start", "begin hands-free", "cancel", "begin hands-free"]


def test_between_release_and_text_it_is_finishing() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.types(RELEASE)
        assert "FINISHING - the text of what you said is on its way" in play.text
        await play.says(final("one"), ended())
        assert "FINISHING" not in play.text

    played(scene)


@pytest.mark.parametrize("key", ["question_mark", "e", "s", "i"])
def test_opening_another_screen_stops_recording(key: str) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"), ended())
        await play.press("space")
        await play.press(key)
        assert play.app.screen is not play.app.main

    assert "end" in played(scene, mode="toggle").asked


def test_the_engine_gets_the_moment_before_the_press_and_all_sound_until_the_release() -> None:
    async def scene(play: Play) -> None:
        await play.hears(3)
        await play.types(PRESS)
        await play.hears(2)
        await play.types(RELEASE)
        await play.hears(20)

    fed = played(scene).fed
    assert [len(samples) for samples in fed[:3]] == [3 * len(CHUNK), len(CHUNK), len(CHUNK)]
    assert sum(map(len, fed[3:])) == POSTROLL_SAMPLES


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
    behind = -np.arange(2 * POSTROLL_SAMPLES, dtype=np.float32)
    for chunk in np.array_split(behind, 7):
        recorder.hear(chunk)
    said = [sound[len(before) - PREROLL_SAMPLES :], behind[:POSTROLL_SAMPLES]]
    assert np.array_equal(np.concatenate(script.fed), np.concatenate(said))
    assert script.postroll == POSTROLL_SAMPLES


def test_sound_from_before_a_recording_is_no_part_of_the_next() -> None:
    """A press soon after the release gets what came since, and is told how much of it the recording before was given."""
    script = Script()
    recorder = Recorder(script)
    first, second, between, long = (
        np.full(PREROLL_SAMPLES // 4 * times, value, dtype=np.float32) for value, times in enumerate((1, 1, 1, 6))
    )
    recorder.hear(first)
    recorder.begin(hands_free=False)
    recorder.hear(second)
    recorder.end()
    assert recorder.hear(between)
    recorder.begin(hands_free=False)
    recorder.end()
    recorder.hear(long)
    recorder.begin(hands_free=False)
    assert [set(samples) for samples in script.fed] == [{0}, {1}, {2}, {2}, {3}, {3}]
    assert script.repeated == [0, len(between), POSTROLL_SAMPLES - (len(long) - PREROLL_SAMPLES)]


def test_a_cancelled_recording_has_no_more_sound_and_the_end_waits_for_what_is_missing() -> None:
    script = Script()
    recorder = Recorder(script)
    for cancelled in (True, False):
        recorder.begin(hands_free=False)
        recorder.end()
        if cancelled:
            recorder.cancel()
        assert recorder.hear(CHUNK) is not cancelled
    script.fed.clear()
    assert script.asked == ["begin", "end", "cancel", "begin", "end"]
    missing = np.zeros(POSTROLL_SAMPLES, dtype=np.float32)
    threading.Timer(0.05, recorder.hear, [missing]).start()
    recorder.finish()
    assert sum(map(len, script.fed)) == POSTROLL_SAMPLES - len(CHUNK)


def test_the_cue_to_speak_comes_with_the_first_sound() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        assert "wait" in play.text
        assert "[REC]" not in play.text
        await play.hears()
        assert "[REC] 0:00" in play.text

    played(scene)


def test_without_a_microphone_the_reason_stays_on_the_screen_and_the_app_usable() -> None:
    async def scene(play: Play) -> None:
        await play.says(Ready((BASE,), Seconds(3.0)))
        assert "! there is no microphone; connect one" in play.text
        await play.press("space")
        assert "! there is no microphone; connect one" in play.text
        await play.press("question_mark")
        await play.press("escape")

    assert played(scene, Script(source_error="there is no microphone; connect one")).asked == ["start"]


def test_a_warning_of_the_microphone_is_shown() -> None:
    async def scene(play: Play) -> None:
        play.script.on_problem(Problem("built-in: complete silence; is the microphone muted?"))
        await play.settle()
        assert "! built-in: complete silence" in play.text

    played(scene)


@pytest.mark.usefixtures("quick_retry")
def test_a_microphone_that_is_lost_ends_the_recording_and_the_next_press_says_why_until_it_is_back() -> None:
    async def scene(play: Play) -> None:
        await play.types(PRESS)
        await play.hears()
        play.script.source_error = "there is no microphone"
        play.script.on_problem(Problem("built-in: gives no sound any more", lost=True))
        await play.settle()
        assert "end" in play.script.asked
        assert "! built-in: gives no sound any more" in play.text
        assert "FINISHING" in play.text
        await play.says(final("one"), ended())
        assert "Hold space and talk" in play.text
        await play.types(RELEASE)
        await play.press("l")
        await play.types(PRESS)
        assert play.script.asked.count("begin") == 1
        assert "! built-in: gives no sound any more" in play.text
        play.script.source_error = None
        await play.opens_again()
        assert "listening to default again" in play.text
        assert "gives no sound" not in play.text
        await play.types(PRESS)
        assert play.script.asked.index("close") < play.script.asked.index(("open", "default"))
        assert play.script.asked[-1] == "begin"

    played(scene)


@pytest.mark.usefixtures("quick_retry")
@pytest.mark.parametrize("paused", [False, True])
def test_hands_free_listens_again_with_the_microphone_unless_it_was_paused(paused: bool) -> None:
    async def scene(play: Play) -> None:
        if paused:
            await play.press("space")
        play.script.source_error = "there is no microphone"
        play.script.on_problem(Problem("built-in: gives no sound any more", lost=True))
        await play.settle()
        assert ("LISTENING" in play.text) is False
        play.script.source_error = None
        await play.opens_again()
        assert ("PAUSED" in play.text) is paused

    played(scene, mode="vad")


def test_a_machine_that_falls_behind_says_so() -> None:
    async def scene(play: Play) -> None:
        late = partial("one", "")
        await play.says(type(late)(late.recording, "one", "", late.length_s, behind_s=Seconds(7.0)))
        assert "this machine is 7 s behind" in play.text
        await play.says(final("one"))
        assert "behind" not in play.text

    played(scene)


def test_answers_to_the_probe_may_come_again_after_the_app_was_suspended() -> None:
    async def scene(play: Play) -> None:
        assert "mode: hold" in play.text
        await play.types(XTERM)
        assert "mode: toggle" in play.text
        await play.types(KITTY)
        assert "mode: hold" in play.text

    played(scene)


def test_another_microphone_is_chosen_and_heard_in_place_of_the_first() -> None:
    async def scene(play: Play) -> None:
        await play.press("space")
        await play.press("i")
        assert "  headset  (2 channels, 48000 Hz)" in play.text
        await play.press("down", "enter")
        await play.app.workers.wait_for_complete()
        await play.settle()
        assert "microphone: headset" in play.text
        assert "listening to headset" in play.text
        await play.press("space")
        await play.hears()
        assert "[REC]" in play.text

    asked = played(scene, answer=XTERM).asked
    assert asked == ["start", "begin", "end", "close", ("open", "headset"), "begin"]


def test_hands_free_continues_with_the_microphone_that_was_chosen() -> None:
    async def scene(play: Play) -> None:
        await play.press("i")
        await play.press("enter")
        await play.app.workers.wait_for_complete()
        await play.settle()

    assert played(scene, mode="vad").asked[-3:] == ["close", ("open", "built-in"), "begin hands-free"]


def test_a_microphone_that_cannot_be_opened_says_why_and_another_can_be_chosen() -> None:
    async def scene(play: Play) -> None:
        await play.press("i")
        await play.press("down", "enter")
        await play.app.workers.wait_for_complete()
        await play.settle()
        assert "! broken: cannot be opened" in play.text
        await play.press("space")
        assert "begin" not in play.script.asked
        await play.press("i")
        await play.press("enter")
        await play.app.workers.wait_for_complete()
        await play.settle()
        await play.press("space")

    asked = played(scene, Script(devices=("built-in", "broken")), answer=XTERM).asked
    assert asked == ["start", "close", ("open", "built-in"), "begin"]


def test_what_is_said_on_the_status_line_goes_after_a_while() -> None:
    async def scene(play: Play) -> None:
        await play.says(Ready((BASE,), Seconds(1.4)))
        await play.press("c")
        assert "nothing was said yet" in play.text
        for _ in range(round(SAID_S / TICK_S) + 1):
            play.app.tick()
        await play.settle()
        assert "nothing was said yet" not in play.text
        assert "ready after 1.4 s" in play.text

    played(scene)


def test_a_chooser_that_is_left_leaves_the_microphone_and_a_recording_has_none() -> None:
    async def leave(play: Play) -> None:
        await play.press("i")
        await play.press("escape")
        assert "microphone: default" in play.text

    async def refuse(play: Play) -> None:
        await play.press("i")
        assert "start without --file to choose a microphone" in play.text

    assert played(leave).asked == ["start", "close", ("open", "default")]
    assert played(refuse, Script(devices=None)).asked == ["start"]
