"""Live text, level, keys and sizes of the main screen."""

import pytest
from lora_cli.screen.app import MoonshineApp
from lora_cli.screen.keys import KEYS
from lora_cli.screen.widgets import LiveText, Meter
from playing import PRESS, Play, final, partial, played


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

    played(scene)


def test_partials_are_drawn_at_the_rate_of_the_ticks() -> None:
    async def scene(play: Play) -> None:
        for number in range(500):
            play.script.emit(partial(f"word {number}", ""))
        await play.pilot.pause()
        assert "word" not in play.text
        play.app.tick()
        await play.pilot.pause()
        assert "word 499" in play.text

    played(scene)


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

    played(scene)


def test_the_help_lists_every_key_and_its_keys_close_it() -> None:
    async def scene(play: Play) -> None:
        await play.press("question_mark")
        for key in KEYS:
            assert f"{key.shown:10}{key.help}" in play.text, key
        await play.press("question_mark")
        assert play.app.screen is play.app.main

    played(scene, size=(120, 40))


def test_every_key_of_the_list_does_something() -> None:
    assert [key.key for key in KEYS if not hasattr(MoonshineApp, f"action_{key.action.partition('(')[0]}")] == []


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_key_is_named_on_the_main_screen(width: int) -> None:
    async def scene(play: Play) -> None:
        for key in KEYS:
            assert f"{key.shown} {key.label}" in play.text, key

    played(scene, size=(width, 24))


def test_light_and_dark_change_places() -> None:
    async def scene(play: Play) -> None:
        themes = [play.app.current_theme.dark]
        for _ in range(2):
            await play.press("l")
            themes.append(play.app.current_theme.dark)
        assert themes == [True, False, True]

    played(scene)


def test_a_window_made_narrow_says_so_and_made_wide_again_works() -> None:
    async def scene(play: Play) -> None:
        await play.pilot.resize_terminal(40, 24)
        await play.settle()
        assert "needs 60 columns" in " ".join(play.text.split())
        assert "space talk" not in play.text
        await play.types(PRESS)
        await play.hears()
        assert "[REC]" in play.text
        await play.says(partial("Please hold", "the line"))
        assert "Please hold ~ the line" in play.text
        await play.pilot.resize_terminal(60, 24)
        await play.settle()
        assert "space talk" in play.text

    played(scene)
