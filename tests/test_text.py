"""Transcript styles and the normaliser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.text import NORMALISER, apply_style, normalise, normaliser_version, resolve_style


@pytest.mark.parametrize(
    ("texts", "style"),
    [
        (["ONE TWO", "THREE"], "lower"),
        (["ONE TWO", "Three"], "none"),
        (["one"], "none"),
        (["1 2 3"], "lower"),
        (["ÉTÉ", "ÄPFEL"], "lower"),
        (["ÉTÉ", "Äpfel"], "none"),
    ],
)
def test_auto_lower_cases_where_no_transcript_has_lower_case(texts: list[str], style: str) -> None:
    assert resolve_style("auto", texts) == style


def test_a_style_that_is_given_is_kept_whatever_the_texts() -> None:
    assert resolve_style("none", ["LOUD"]) == "none"
    assert resolve_style("lower", ["Mixed"]) == "lower"


def test_lower_changes_case_and_none_does_not() -> None:
    assert apply_style("lower", "HELLO,  There\n") == "hello, there"
    assert apply_style("none", " HELLO,  There\n") == "HELLO, There"


@given(st.text(max_size=30))
def test_styles_collapse_white_space_and_applying_one_twice_changes_nothing(text: str) -> None:
    for style in ("none", "lower"):
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
