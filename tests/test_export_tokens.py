"""Every token id comes back from the vocabulary files as the runtimes read them."""

import base64
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lora.checkpoints.packaged import BASE, TINY
from lora.checkpoints.wheels import read_member
from lora.errors import ExportError
from lora.export.tokens import LONGEST_TOKEN, tokenizer_bin, tokens_txt, vocabulary
from lora.model.loading import LoadedModel

ADDED = ("<noise>", "Ærøskøbing", "New York", "x" * 200, "▁Llanfairpwllgwyngyll")


def read_bin(content: bytes) -> list[bytes]:
    """As moonshine-voice reads it: a length below 128 is one byte, else the second counts in steps of 128."""
    tokens, place = [], 0
    while place < len(content):
        count = content[place]
        place += 1
        if count >= 128:
            count = content[place] * 128 + count - 128
            place += 1
        assert place + count <= len(content)
        tokens.append(content[place : place + count])
        place += count
    return tokens


def read_txt(content: bytes) -> list[bytes]:
    """As sherpa-onnx reads it: pairs of words, the first in Base64."""
    words = content.split()
    assert [int(word) for word in words[1::2]] == list(range(len(words) // 2))
    return [base64.b64decode(word, validate=True) for word in words[::2]]


def text(tokens: list[bytes], ids: list[int]) -> str:
    """As moonshine-voice joins tokens: those in angle brackets are left out, spaces put back, ends trimmed."""
    for number in ids:
        assert tokens[number], "the runtime stops at an empty token"
    parts = [tokens[number] for number in ids]
    spoken = [part for part in parts if not (len(part) > 2 and part.startswith(b"<") and part.endswith(b">"))]
    return b"".join(spoken).decode(errors="replace").replace("▁", " ").strip()


def size(tokenizer: Any) -> int:
    return len(tokenizer.get_vocab())


@pytest.fixture(scope="module")
def plain(tiny: LoadedModel) -> Any:
    return tiny.processor.tokenizer


@pytest.fixture(scope="module")
def grown(plain: Any) -> Any:
    tokenizer = deepcopy(plain)
    tokenizer.add_special_tokens({"additional_special_tokens": [ADDED[0]]})
    tokenizer.add_tokens(list(ADDED[1:]))
    return tokenizer


def test_the_file_is_the_published_one_but_for_a_token_that_was_lost_there(plain: Any) -> None:
    """The published file has nothing for the line separator U+2028, at which the runtime stops."""
    own = vocabulary(plain, size(plain))
    published = read_member(TINY.wheel, f"{TINY.folder}/tokenizer.bin")
    lost = own.index("\u2028".encode())
    assert read_bin(published)[lost] == b""
    assert tokenizer_bin([*own[:lost], b"", *own[lost + 1 :]]) == published


def test_the_file_begins_as_the_one_published_with_base(plain: Any) -> None:
    published = read_member(BASE.wheel, f"{BASE.folder}/tokenizer.bin")
    assert tokenizer_bin(vocabulary(plain, size(plain))).startswith(published)


@pytest.mark.parametrize("kind", ["plain", "grown"])
def test_every_id_comes_back_from_both_files(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokens = vocabulary(tokenizer, size(tokenizer))
    assert read_bin(tokenizer_bin(tokens)) == tokens
    assert read_txt(tokens_txt(tokens)) == tokens
    assert len(tokens) == size(tokenizer)


def test_added_tokens_are_there_and_a_long_one_takes_two_length_bytes(grown: Any) -> None:
    tokens = vocabulary(grown, size(grown))
    for added, token in zip(ADDED, tokens[-len(ADDED) :], strict=True):
        assert token.decode().replace("▁", " ").strip() == added.replace("▁", " ").strip()
    assert bytes([128 + 203 % 128, 203 // 128]) + "▁".encode() + b"x" * 200 in tokenizer_bin(tokens)


@pytest.mark.parametrize("kind", ["plain", "grown"])
def test_a_runtime_makes_of_every_id_between_words_what_the_tokenizer_makes_of_it(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokens = read_bin(tokenizer_bin(vocabulary(tokenizer, size(tokenizer))))
    before, after = (
        tokenizer("Wait for it", add_special_tokens=False)["input_ids"],
        tokenizer("then", add_special_tokens=False)["input_ids"],
    )
    rows = [[*before, number, *after] for number in range(len(tokens))]
    expected = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [text(tokens, row) for row in rows] == [row.strip() for row in expected]


@pytest.mark.parametrize("spoken", ["Ever tried, ever failed.", "We call Ærøskøbing", "A naïve café, 12 %", "日本 ♥", "a\u2028b"])
def test_what_a_runtime_makes_of_ids_is_what_the_tokenizer_makes_of_them(plain: Any, grown: Any, spoken: str) -> None:
    for tokenizer in (plain, grown):
        ids = tokenizer(spoken, add_special_tokens=True)["input_ids"]
        found = text(read_bin(tokenizer_bin(vocabulary(tokenizer, size(tokenizer)))), ids)
        assert found == tokenizer.decode(ids, skip_special_tokens=True).strip()


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=5), st.binary(min_size=120, max_size=400)), min_size=1, max_size=20))
def test_tokens_of_any_bytes_and_lengths_come_back(tokens: list[bytes]) -> None:
    assert read_bin(tokenizer_bin(tokens)) == tokens
    assert read_txt(tokens_txt(tokens)) == tokens


@pytest.mark.parametrize("count", [127, 128, 255, 256, LONGEST_TOKEN])
def test_lengths_at_the_edges_come_back(count: int) -> None:
    assert read_bin(tokenizer_bin([b"y" * count, b"z"])) == [b"y" * count, b"z"]


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [-1, 1, 8])
def test_a_vocabulary_of_another_size_than_the_model_s_is_refused(plain: Any, difference: int) -> None:
    rows = size(plain) + difference
    with pytest.raises(ExportError, match=rf"has 32768 tokens with ids up to 32767, the model {rows}; give the processor"):
        vocabulary(plain, rows)


def test_a_token_that_is_too_long_is_refused(plain: Any) -> None:
    tokenizer = deepcopy(plain)
    tokenizer.add_tokens(["x" * (LONGEST_TOKEN + 1)])
    with pytest.raises(ExportError, match=f"token 32768 has {LONGEST_TOKEN + 4} bytes"):
        vocabulary(tokenizer, size(tokenizer))


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(ExportError, match=r"the tokenizer \(WordLevel\) does not write unknown characters as bytes"):
        vocabulary(tokenizer, 2)
