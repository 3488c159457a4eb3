"""Bytes of a terminal become keys that are pressed, repeated and released, and the answer to the probe."""

import pytest
from lora_cli.screen.keyboard import KeyboardParser, KeyReleased, KeyReleaseSupport, KeyRepeated
from textual import events
from textual.message import Message


def parsed(data: str) -> list[Message]:
    parser = KeyboardParser()
    return list(parser.feed(data))


def keys(data: str) -> list[tuple[type, str]]:
    return [(type(message), message.key) for message in parsed(data) if isinstance(message, events.Key | KeyReleased)]


def test_a_held_space_bar_is_one_press_its_repeats_and_one_release() -> None:
    assert keys("\x1b[32;;32u" + "\x1b[32;1:2;32u" * 2 + "\x1b[32;1:3u") == [
        (events.Key, "space"),
        (KeyRepeated, "space"),
        (KeyRepeated, "space"),
        (KeyReleased, "space"),
    ]


@pytest.mark.parametrize("modifiers", ["1", "2", "65", "129", "193"], ids=["none", "shift", "caps lock", "num lock", "both locks"])
def test_a_release_is_reported_whatever_modifier_is_down_by_then(modifiers: str) -> None:
    assert keys(f"\x1b[32;{modifiers}:3u") == [(KeyReleased, "space")]


@pytest.mark.parametrize("modifiers", ["65", "129"], ids=["caps lock", "num lock"])
def test_locks_do_not_change_which_key_is_pressed(modifiers: str) -> None:
    assert keys(f"\x1b[32;{modifiers};32u") == [(events.Key, "space")]


def test_a_repeated_key_types_its_character_again() -> None:
    [repeat] = parsed("\x1b[97;1:2;97u")
    assert isinstance(repeat, events.Key)
    assert (repeat.key, repeat.character, repeat.handler_name) == ("a", "a", "on_key")
    assert isinstance(repeat.copy(), KeyRepeated)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("\x1b[1;1:2A", (KeyRepeated, "up")),
        ("\x1b[1;5:1A", (events.Key, "ctrl+up")),
        ("\x1b[1;5:3A", (KeyReleased, "up")),
        ("\x1b[3;1:2~", (KeyRepeated, "delete")),
        ("\x1b[13;1:3u", (KeyReleased, "enter")),
        ("\x1b[57441;1:3u", (KeyReleased, "left_shift")),
        ("\x1b[97:65;2:1;65u", (events.Key, "A")),
        ("\x1b[43;1:3u", (KeyReleased, "plus")),
        (" ", (events.Key, "space")),
        ("\x1b[A", (events.Key, "up")),
    ],
)
def test_other_keys_and_older_sequences_are_understood_too(data: str, expected: tuple[type, str]) -> None:
    assert keys(data) == [expected]


def test_every_byte_may_come_alone() -> None:
    parser = KeyboardParser()
    messages = [message for byte in "\x1b[?27u\x1b[0n\x1b[32;1:3u" for message in parser.feed(byte)]
    assert [type(message) for message in messages] == [KeyReleaseSupport, KeyReleased]


@pytest.mark.parametrize(
    ("answer", "reported"),
    [("\x1b[?27u\x1b[0n", True), ("\x1b[?2u\x1b[0n", True), ("\x1b[?25u\x1b[0n", False), ("\x1b[?0u\x1b[0n", False), ("\x1b[0n", False)],
    ids=["all flags", "only events", "without events", "no flags", "protocol unknown"],
)
def test_the_probe_tells_whether_release_is_reported(answer: str, reported: bool) -> None:
    [support] = parsed(answer)
    assert isinstance(support, KeyReleaseSupport)
    assert support.reported is reported


def test_each_probe_is_answered_afresh() -> None:
    supports = [message for message in parsed("\x1b[?27u\x1b[0n\x1b[0n") if isinstance(message, KeyReleaseSupport)]
    assert [support.reported for support in supports] == [True, False]


def test_what_follows_the_answer_is_not_swallowed() -> None:
    assert keys("\x1b[?27u\x1b[0nq") == [(events.Key, "q")]
