"""A phrase that is repeated over and over is said once."""

import pytest
from lora_cli.engine.loops import without_loop

from lora.scoring.analysis import is_loop


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It was the best of times.", "It was the best of times."),
        ("", ""),
        ("so " * 12, "so"),
        ("He went to the " + "old house, " * 8, "He went to the old house,"),
        ("No, no, no.", "No, no, no."),
        ("I said that " + "I do not know. " * 6 + "I", "I said that I do not know."),
    ],
)
def test_what_is_left_of_a_loop_is_its_first_round(text: str, left: str) -> None:
    assert without_loop(text, "en") == left
    assert not is_loop(left)
