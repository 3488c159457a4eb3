"""Characters spelled in bytes: whole ones stay, whatever the transcript ends with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.model.loading import LoadedModel
from lora.text.byte_tokens import decoded, joined, whole

TEXTS = ["がぎ日本 héllo 𝄞𝄢", "ጤና ይስጥልኝ", "🎉🎉", "សួស្តី a 🎈"]
"""Each holds characters that the tokenizer has no token for."""


@pytest.mark.parametrize("text", TEXTS)
def test_a_transcript_that_stops_inside_a_character_keeps_those_before_it(tiny: LoadedModel, text: str) -> None:
    tokens = tiny.labels(text)[:-1]
    assert any(tiny.processor.tokenizer.convert_ids_to_tokens(token).startswith("<0x") for token in tokens)
    for length in range(1, len(tokens) + 1):
        said = tiny.text(tokens[:length])
        assert text.startswith(said), length
        assert len(text) - len(said) <= len(tokens) - length + 1
    assert tiny.text(tokens) == text


def test_bytes_that_are_no_character_cost_their_neighbours_nothing(tiny: LoadedModel) -> None:
    """tokenizers gives U+FFFD for each byte of such a run."""
    broken = [*tiny.labels("𝄞𝄢")[:-2], *tiny.labels("ok")[:-1]]
    assert tiny.processor.tokenizer.decode(broken).count("\ufffd") == 7
    assert tiny.text(broken).replace(" ", "") == "𝄞\ufffdok"


@given(st.text(max_size=12), st.integers(min_value=0, max_value=40))
def test_bytes_cut_anywhere_are_the_whole_characters_before_the_cut(text: str, cut: int) -> None:
    spelled = text.encode()[:cut]
    assert text.startswith(decoded(spelled, unfinished=True))
    assert joined([f"<0x{byte:02X}>" for byte in spelled]) == decoded(spelled, unfinished=True)
    assert joined([*(f"<0x{byte:02X}>" for byte in spelled), " x"]) == decoded(spelled, unfinished=False) + " x"


def test_tokens_without_bytes_are_left_alone() -> None:
    assert whole([5, 7, 9], lambda token: {5: "a", 7: "▁b", 9: None}[token], lambda _name: None) == [5, 7, 9]
