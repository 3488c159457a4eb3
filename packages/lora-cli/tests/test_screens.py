"""Every screen, drawn and compared with the pictures that the README shows. `UPDATE_SCREENS=1` draws them anew."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from html import unescape
from pathlib import Path

import pytest
from lora_cli.engine.events import Loading, Ready, Switched
from lora_cli.main import _parser
from lora_cli.talking import Mode
from playing import KITTY, PRESS, XTERM, Play, ended, final, partial, playing
from scripted import BASE, TUNED, Script

from lora.units import Seconds

PICTURES = Path(__file__).parents[1] / "docs" / "screens"
DRAWN = set("─━│┌┐└┘├┤┬┴┼═║╔╗╚╝")
"""Box drawing that every terminal font has."""


async def _ready(play: Play) -> None:
    await play.says(Ready((BASE, TUNED), Seconds(4.2)))


async def _history(play: Play) -> None:
    await _ready(play)
    await play.says(final("Please hold the line."), ended())
    await play.says(Switched("tiny", "tuned"), final("Your call is port ant to us.", other="Your call is important to us.", minute=1))


async def loading(play: Play) -> None:
    await play.says(Loading("loading tiny", 2, 4))


async def hold(play: Play) -> None:
    await _ready(play)
    await play.types(PRESS)
    await play.hears(40)
    await play.says(partial("Please hold the line, your", "call is important"))


async def toggle(play: Play) -> None:
    await hold(play)


async def vad(play: Play) -> None:
    await _ready(play)
    await play.hears(40)
    await play.says(final("Please hold the line."), partial("Your call is", "important"))


async def compared(play: Play) -> None:
    await _history(play)


async def light(play: Play) -> None:
    await _history(play)
    await play.press("l")


async def help_(play: Play) -> None:
    await play.press("question_mark")


async def correct(play: Play) -> None:
    await _history(play)
    await play.press("e")


async def save(play: Play) -> None:
    await _history(play)
    await play.press("s")


async def devices(play: Play) -> None:
    await _history(play)
    await play.press("i")


async def no_microphone(play: Play) -> None:
    await _ready(play)


async def no_release(play: Play) -> None:
    await play.press("space")


SCREENS: dict[str, tuple[Callable[[Play], Awaitable[None]], tuple[int, int], str, str]] = {
    "loading": (loading, (80, 24), "auto", KITTY),
    "hold": (hold, (80, 24), "auto", KITTY),
    "hold-no-release": (no_release, (80, 24), "hold", XTERM),
    "toggle": (toggle, (80, 24), "auto", XTERM),
    "vad": (vad, (80, 24), "vad", KITTY),
    "compared": (compared, (80, 24), "auto", KITTY),
    "light": (light, (80, 24), "auto", KITTY),
    "help": (help_, (100, 30), "auto", KITTY),
    "correct": (correct, (80, 24), "auto", KITTY),
    "save": (save, (80, 24), "auto", KITTY),
    "devices": (devices, (80, 24), "auto", KITTY),
    "no-microphone": (no_microphone, (80, 24), "auto", KITTY),
    "60-columns": (hold, (60, 20), "auto", KITTY),
    "40-columns": (hold, (40, 12), "auto", KITTY),
    "160-columns": (compared, (160, 45), "auto", KITTY),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_looks_as_pictured(name: str) -> None:
    picture = PICTURES / f"{name}.svg"
    drawn = asyncio.run(_draw(name))
    if os.environ.get("UPDATE_SCREENS"):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(drawn)
    assert drawn == picture.read_text(), f"{picture} is out of date; look at the change, then run the tests with UPDATE_SCREENS=1"


def test_there_is_no_picture_of_a_screen_that_is_gone() -> None:
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(SCREENS)


@pytest.mark.parametrize("name", SCREENS)
def test_pictures_use_common_glyphs_and_load_nothing(name: str) -> None:
    picture = (PICTURES / f"{name}.svg").read_text()
    characters = set(unescape("".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture))))
    assert {character for character in characters if not (character.isascii() or character == "\N{NO-BREAK SPACE}")} <= DRAWN
    assert "url(http" not in picture
    assert "textLength" in picture


def test_the_readme_shows_every_mode_and_its_commands_are_understood() -> None:
    text = (PICTURES.parents[1] / "README.md").read_text()
    assert set(re.findall(r"\(\./docs/screens/([\w-]+)\.svg\)", text)) >= {
        *Mode,
        "hold-no-release",
        "compared",
        "correct",
        "save",
        "devices",
        "help",
        "light",
    }
    commands = re.findall(r"^uv run moonshine(.*)$", text, re.M)
    assert len(commands) > 3
    for command in commands:
        if "--help" not in command:
            _parser().parse_args(command.split())


def test_without_colour_unsure_words_and_recording_are_still_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    drawn = asyncio.run(_draw("hold"))
    assert "font-style: italic" in drawn
    assert "#0178d4" in (PICTURES / "hold.svg").read_text()
    assert "#0178d4" not in drawn, "the blue of the frames"
    assert "[REC]" in unescape(drawn).replace("\N{NO-BREAK SPACE}", " ")
    assert "~" in drawn


async def _draw(name: str) -> str:
    act, size, mode, answer = SCREENS[name]
    error = "there is no microphone; connect one, or give --file" if name == "no-microphone" else None
    async with playing(Script(source_error=error), mode=mode, size=size, answer=answer) as play:
        await act(play)
        return play.svg
