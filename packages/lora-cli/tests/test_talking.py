"""What starts and what stops a recording, in every mode."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_cli.talking import AUTO, BOUNCE_S, WISHES, Background, Choice, EndsWith, Input, Mode, Recording, Talking, choose

from lora.errors import ConfigError
from lora.units import Seconds

KEY_DOWN, KEY_REPEAT, KEY_UP = Input.KEY_DOWN, Input.KEY_REPEAT, Input.KEY_UP
BUTTON_DOWN, BUTTON_UP, STOP, BLUR, FOCUS = Input.BUTTON_DOWN, Input.BUTTON_UP, Input.STOP, Input.BLUR, Input.FOCUS


def start(mode: Mode, key_works: bool = True) -> Talking:
    choice = Choice(mode, "for this test", key_works)
    return Talking(choice).switched(choice)


def is_on(state: Talking, *inputs: Input, every: float = 1.0) -> list[bool]:
    """Whether something is recorded after each input."""
    on = []
    for number, what in enumerate(inputs):
        state = state.after(what, Seconds(number * every))
        on.append(state.recording is not None)
    return on


def test_hold_records_from_press_to_release_whatever_repeats_come() -> None:
    assert is_on(start(Mode.HOLD), KEY_DOWN, KEY_REPEAT, KEY_REPEAT, KEY_UP, KEY_DOWN) == [True, True, True, False, True]


def test_hold_takes_a_second_press_without_release_for_a_repeat() -> None:
    assert is_on(start(Mode.HOLD), KEY_DOWN, KEY_DOWN, KEY_UP) == [True, True, False]


def test_hold_without_release_reports_leaves_the_space_bar_alone_and_the_button_working() -> None:
    state = start(Mode.HOLD, key_works=False)
    assert is_on(state, KEY_DOWN, BUTTON_DOWN, BUTTON_UP) == [False, True, False]


def test_toggle_starts_with_one_press_and_stops_with_the_next() -> None:
    assert is_on(start(Mode.TOGGLE), KEY_DOWN, KEY_UP, KEY_DOWN, KEY_UP) == [True, True, False, False]


def test_toggle_ignores_the_repeats_of_a_held_key() -> None:
    assert is_on(start(Mode.TOGGLE), KEY_DOWN, KEY_REPEAT, KEY_REPEAT) == [True, True, True]
    assert is_on(start(Mode.TOGGLE), KEY_DOWN, KEY_DOWN, KEY_DOWN, KEY_DOWN, every=BOUNCE_S / 2) == [True] * 4


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.TOGGLE])
def test_the_button_is_a_hold_in_every_push_to_talk_mode(mode: Mode) -> None:
    assert is_on(start(mode), BUTTON_DOWN, KEY_UP, BUTTON_UP) == [True, True, False]


def test_the_button_ends_what_the_key_toggled_on() -> None:
    assert is_on(start(Mode.TOGGLE), KEY_DOWN, BUTTON_DOWN, BUTTON_UP) == [True, False, False]


def test_hands_free_listens_at_once_and_pauses_with_key_and_button() -> None:
    state = start(Mode.VAD)
    assert state.recording == Recording(EndsWith.PRESS, hands_free=True)
    assert is_on(state, KEY_DOWN, KEY_DOWN, BUTTON_DOWN, BUTTON_UP) == [False, True, False, False]


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.TOGGLE])
def test_losing_the_focus_ends_a_recording_and_coming_back_starts_none(mode: Mode) -> None:
    assert is_on(start(mode), KEY_DOWN, BLUR, KEY_UP, FOCUS) == [True, False, False, False]


def test_hands_free_continues_in_the_background_or_pauses_until_the_focus_is_back() -> None:
    assert is_on(start(Mode.VAD), BLUR, FOCUS) == [True, True]
    pausing = replace(start(Mode.VAD), background=Background.PAUSE)
    assert is_on(pausing, BLUR, FOCUS) == [False, True]
    assert is_on(pausing, BLUR, BLUR, FOCUS) == [False, False, True]
    assert is_on(pausing, KEY_DOWN, BLUR, FOCUS) == [False, False, False]
    assert is_on(pausing, BLUR, STOP, FOCUS) == [False, False, False]


def test_a_button_that_seems_to_be_held_ends_with_the_space_bar() -> None:
    assert is_on(start(Mode.HOLD), BUTTON_DOWN, KEY_DOWN, KEY_UP) == [True, False, False]


@pytest.mark.parametrize("mode", list(Mode))
def test_another_mode_ends_what_is_recorded(mode: Mode) -> None:
    state = start(Mode.TOGGLE).after(KEY_DOWN, Seconds(0)).switched(Choice(mode, "switched"))
    assert (state.recording is not None) == (mode is Mode.VAD)


@given(st.sampled_from(list(Mode)), st.booleans(), st.lists(st.sampled_from(list(Input))))
def test_after_a_stop_nothing_is_recorded_whatever_came_before(mode: Mode, key_works: bool, inputs: list[Input]) -> None:
    assert is_on(start(mode, key_works), *inputs, STOP)[-1] is False


@given(st.lists(st.sampled_from(list(Input))))
def test_with_key_and_button_up_hold_records_nothing(inputs: list[Input]) -> None:
    assert is_on(start(Mode.HOLD), *inputs, KEY_UP, BUTTON_UP)[-1] is False


@pytest.mark.parametrize(
    ("wish", "releases", "environment", "mode", "key_works", "says"),
    [
        (AUTO, True, {}, Mode.HOLD, True, "while the space bar is down"),
        (AUTO, False, {}, Mode.TOGGLE, True, "this terminal does not report key release"),
        (AUTO, False, {"TMUX": "/tmp/tmux"}, Mode.TOGGLE, True, "tmux does not pass key release on"),
        (AUTO, None, {}, Mode.TOGGLE, True, "has not said"),
        ("hold", True, {}, Mode.HOLD, True, "while the space bar is down"),
        ("hold", False, {}, Mode.HOLD, False, "hold the talk button with the mouse"),
        ("hold", False, {"TMUX": "/tmp/tmux"}, Mode.HOLD, False, "tmux does not pass key release on"),
        ("toggle", True, {}, Mode.TOGGLE, True, "press to start"),
        ("vad", False, {}, Mode.VAD, True, "hands-free"),
    ],
)
def test_the_mode_follows_the_wish_and_the_terminal_and_says_why(
    wish: str, releases: bool | None, environment: dict[str, str], mode: Mode, key_works: bool, says: str
) -> None:
    """Six parameters: three that are given, three that come of them."""
    choice = choose(wish, releases, environment)
    assert (choice.mode, choice.key_works) == (mode, key_works)
    assert says in choice.reason
    assert "\n" not in choice.reason


def test_a_mode_that_does_not_exist_is_refused_and_the_others_named() -> None:
    with pytest.raises(ConfigError, match=", ".join(WISHES)):
        choose("shout", True, {})
