"""Finished utterances on the screen, and what keys do with them."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lora_cli.history import History
from lora_cli.replacements import Replacement, Table
from lora_cli.screen.correct import CorrectScreen
from lora_cli.screen.standing import amount
from lora_cli.screen.widgets import MOST_ROWS, Utterances, row
from lora_cli.session import Corrections, SaveFormat
from lora_cli.written import written
from playing import Play, ended, final, played
from scripted import CHUNK, Script

from lora.dataset.manifest import Rules, read
from lora.units import Seconds


def test_no_speech_is_said_and_not_kept() -> None:
    async def scene(play: Play) -> None:
        await play.says(final(""), ended())
        assert "(no speech found)" in play.text

    assert played(scene).asked == ["start"]


def test_utterances_show_time_length_latency_and_both_texts() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("Please fold the line.", other="Please hold the line."))
        assert "09:26:53   3.0 s  121 ms   tiny : Please fold the line." in play.text
        assert "tuned: Please hold the line." in play.text

    played(scene)


def test_replacements_are_shown_as_applied_and_what_was_heard_is_corrected() -> None:
    async def scene(play: Play) -> None:
        table = Table(replacement=(Replacement("post grass", "Postgres"),))
        await play.says(written(final("Start post grass."), table))
        assert "Start Postgres.  (heard: post grass)" in play.text
        await play.press("e")
        await play.press("end", *" now", "enter")
        assert "(heard:" not in play.text

    assert played(scene).asked[1:] == [("add", "Start Postgres."), ("correct", "Start Postgres.", "Start post grass. now")]


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

    asked = played(scene).asked
    assert asked[4:] == [("copy", "two"), ("replay", "two"), ("remove", "two"), ("copy", "three"), ("copy", "three")]


def test_what_was_deleted_comes_back_in_its_place() -> None:
    async def scene(play: Play) -> None:
        await play.press("u")
        assert "nothing was deleted" in play.text
        await play.says(*(final(text, minute=minute) for minute, text in enumerate(["one", "two", "three"])))
        await play.press("up", "d")
        assert "deleted; u brings it back" in play.text
        await play.press("u")
        assert play.text.rindex("one") < play.text.rindex("two") < play.text.rindex("three")
        await play.press("c")

    assert played(scene).asked[4:] == [("remove", "two"), ("restore", "two"), ("copy", "two")]


def test_two_voices_that_say_the_same_say_it_once_and_differing_words_are_marked() -> None:
    same = row(final("Hold the line.", other="Hold the line."))
    assert same.plain.count("Hold the line.") == 1
    assert "both: " in same.plain
    differing = row(final("Please fold the line.", other="Please hold the line. now."))
    assert {differing.plain[span.start : span.end] for span in differing.spans if "underline" in str(span.style)} == {
        "fold",
        "hold",
        "now.",
    }


def test_votes_on_two_voices_are_counted() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        await play.press("1")
        assert "there is one text only" in play.text
        for minute in range(1, 4):
            await play.says(final("fold", other="hold", minute=minute))
            await play.press("2")
        await play.press("up", "0")
        assert "both texts are as good" in play.text
        await play.forgets()
        assert "A/B: tuned preferred in 2 of 2 (34 to 100 %)" in play.text
        assert "*tuned: hold" in play.text

    assert ("prefer", "fold", "neither") in played(scene).asked


def test_a_correction_becomes_an_entry_of_the_table_with_a_key() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("Start post grass."))
        await play.press("e")
        await play.press("ctrl+a", *["ctrl+k"], *"Start", "space", *"Postgres.", "ctrl+r")
        assert "'post grass' is written 'Postgres' from now on" in play.text

    assert played(scene).asked[2:] == [("correct", "Start post grass.", "Start Postgres."), ("replace", "post grass", "Postgres")]


def test_corrections_are_marked_and_counted() -> None:
    async def scene(play: Play) -> None:
        for minute in range(2):
            await play.says(final("Please fold the line", minute=minute))
            await play.press("e")
            await play.press("end", "enter")
        await play.forgets()
        assert "2 utterances; 2 corrections, 0.1 min" in play.text
        assert play.text.count("(corrected)") == 2

    played(scene)


def test_from_when_corrections_are_worth_a_training_the_app_says_so() -> None:
    assert amount(Corrections(Path("c.jsonl"), 30, Seconds(95.0))) == (
        "30 corrections, 1.6 min, enough to try a training (moonshine history corrections says how)"
    )
    assert amount(Corrections(Path("c.jsonl"), 1, Seconds(95.0))) == "1 correction, 1.6 min"


def test_a_new_utterance_does_not_take_the_choice_away() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"), final("two", minute=1))
        await play.press("up")
        await play.says(final("three", minute=2))
        await play.press("c")
        assert play.app.clipboard == "one"

    played(scene)


def test_commands_without_utterances_say_so() -> None:
    async def scene(play: Play) -> None:
        for key in "cesdr":
            await play.press(key)
            assert "nothing was said yet" in play.text
            assert play.app.screen is play.app.main

    assert played(scene).asked == ["start"]


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

    assert played(scene).asked[2:] == [("correct", "Please fold the line", "Please fold the way q")]


@pytest.mark.parametrize(("keys", "says"), [(("escape",), ""), (("ctrl+a", "ctrl+k", "enter"), "cannot be trained on")])
def test_an_abandoned_or_empty_correction_is_not_kept(keys: tuple[str, ...], says: str) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        await play.press("e")
        await play.press(*keys)
        assert says in play.text
        assert play.app.screen is play.app.main

    assert played(scene).asked == ["start", ("add", "one")]


@pytest.mark.parametrize(("keys", "form"), [((), SaveFormat.TEXT), (("down",), SaveFormat.MANIFEST), (("down", "down"), SaveFormat.SRT)])
def test_the_history_is_saved_in_the_form_that_was_chosen(keys: tuple[str, ...], form: SaveFormat) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        await play.press("s")
        await play.press(*keys, "enter")
        assert f"saved: history.{form}" in play.text

    assert played(scene).asked[2:] == [("save", form)]


@pytest.mark.parametrize("keys", ["c", "d", "r", ("e", "enter"), ("s", "enter")])
def test_a_refusal_is_shown_and_the_app_continues(keys: str | tuple[str, ...]) -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        play.script.refusal = "out: cannot be written (disk full); free some space"
        await play.press(*keys)
        assert "! out: cannot be written (disk full)" in play.text
        assert "one" in play.text
        assert play.app.is_running

    played(scene)


def test_an_utterance_that_cannot_be_stored_is_shown_all_the_same() -> None:
    async def scene(play: Play) -> None:
        await play.says(final("one"))
        assert "! disk full" in play.text
        assert "one" in play.text

    played(scene, Script(refusal="disk full"))


def test_with_real_results_commands_leave_what_they_say_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    results = History(tmp_path / "corrections.jsonl", tmp_path)
    spoken = [replace(final(text, minute=minute), samples=np.tile(CHUNK, 100)) for minute, text in enumerate(["one", "to"])]

    async def scene(play: Play) -> None:
        await play.says(*spoken)
        await play.press("e")
        await play.press("backspace", "w", "o", "enter")
        assert [(row.text, row.audio.waveform().shape) for row in read(tmp_path / "corrections.jsonl", Rules())] == [("two", (32000,))]
        await play.press("up", "d")
        await play.press("s")
        await play.press("enter")

    played(scene, Script(results=results))
    [saved] = tmp_path.glob("moonshine-*.txt")
    assert saved.read_text() == "two\n"
    assert len(list((tmp_path / "state").rglob("*.flac"))) == 1, "the deleted utterance's sound is gone"


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

    played(scene)


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

    played(scene)
