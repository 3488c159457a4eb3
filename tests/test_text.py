"""Transcript styles and the normaliser."""

import unicodedata
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.text.normaliser import NORMALISER, normalise, normaliser_version
from lora.text.style import ResolvedStyle, apply_style, resolve_style


@pytest.mark.parametrize(
    ("texts", "style"),
    [
        (["ONE TWO", "THREE"], "lower"),
        (["ONE TWO", "Three"], "capitals"),
        (["ONE TWO"] * 38 + ["Cased here"], "capitals"),
        (["Cased here"] * 38 + ["ONE TWO THREE"], "long capitals"),
        (["one"], "none"),
        (["1 2 3"], "lower"),
        (["ÉTÉ", "ÄPFEL"], "lower"),
        (["ÉTÉ", "Äpfel"], "capitals"),
    ],
)
def test_auto_finds_transcripts_in_capitals(texts: list[str], style: str) -> None:
    assert resolve_style("auto", texts).style == style


@pytest.mark.parametrize(
    ("texts", "taught"),
    [
        (["ENTER SIX", "STOP", "Erase NASA"], ["enter six", "stop", "Erase NASA"]),
        (["Hello there.", "I am well.", "Yes.", "No.", "NASA", "OK GO", "ALL OF THIS IS LOUD"], ["NASA", "OK GO", "all of this is loud"]),
        (["Привет", "ЗДЕСЬ ВСЁ ГРОМКО"], ["здесь всё громко"]),
    ],
)
def test_a_transcript_in_capitals_is_lower_cased_and_a_name_among_cased_ones_is_not(texts: list[str], taught: list[str]) -> None:
    style = resolve_style("auto", texts).style
    assert [apply_style(style, text) for text in texts][-len(taught) :] == taught


def test_what_was_decided_is_said_with_its_counts() -> None:
    most_in_capitals = resolve_style("auto", ["ONE TWO"] * 38 + ["Cased here", "123"])
    assert most_in_capitals.style == "capitals"
    assert most_in_capitals.sentence == "text style: 38 of 39 training transcripts are in capitals, 38 of them lower-cased"
    name_among_cased = resolve_style("auto", ["Hello", "NASA", "Yes"])
    assert name_among_cased.style == "long capitals"
    assert name_among_cased.sentence == "text style: 1 of 3 training transcripts are in capitals, none of them lower-cased"
    assert resolve_style("none", ["LOUD"]).sentence.endswith("1 of 1 training transcripts are in capitals, none of them lower-cased")
    assert resolve_style("auto", ["Hello"]).sentence == "text style: training transcripts stay as they are written"


def test_targets_are_composed_letters_whatever_the_manifest_holds() -> None:
    for text in ("안녕하세요", "がぎぐ", "Tiếng Việt", "año", "їжак"):
        assert apply_style("none", unicodedata.normalize("NFD", text)) == text


def test_a_style_that_is_given_is_kept_whatever_the_texts() -> None:
    assert resolve_style("none", ["LOUD"]).style == "none"
    assert resolve_style("lower", ["Mixed"]).style == "lower"


def test_lower_changes_case_and_none_does_not() -> None:
    assert apply_style("lower", "HELLO,  There\n") == "hello, there"
    assert apply_style("none", " HELLO,  There\n") == "HELLO, There"


@given(st.text(max_size=30))
def test_styles_collapse_white_space_and_applying_one_twice_changes_nothing(text: str) -> None:
    for style in get_args(ResolvedStyle):
        once = apply_style(style, text)
        assert once == " ".join(once.split())
        assert apply_style(style, once) == once


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The colour of the theatre", "the color of the theater."),
        ("we organise", "We organize!"),
        ("Mr. Smith", "mister smith"),
        ("I won't, he's late", "i will not he is late"),
        ("twenty-five dollars", "$25"),
        ("um, yes", "yes"),
        ("one hundred and one", "101"),
        ("café", "cafe"),
        ("Well... the time will be exactly...", "well the time will be exactly"),
        ("one - two", "one two"),
    ],
)
def test_texts_that_say_the_same_are_normalised_to_the_same(first: str, second: str) -> None:
    assert normalise(first) == normalise(second) != ""


@pytest.mark.parametrize(("first", "second"), [("cat", "cats"), ("their", "there"), ("fifty", "fifteen")])
def test_texts_that_say_something_else_stay_different(first: str, second: str) -> None:
    assert normalise(first) != normalise(second)


def test_nothing_said_is_normalised_to_nothing() -> None:
    assert normalise("  ") == normalise("?!") == normalise("(laughs)") == normalise("…") == ""


def test_the_normaliser_is_recorded_with_its_version() -> None:
    name, version = normaliser_version().rsplit(" ", 1)
    assert name == NORMALISER
    assert version.strip("()")[0].isdigit()
