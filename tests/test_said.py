"""Errors as a reader counts them: hand counts, and numbers that are never taken for others."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora.lattice import Edits
from lora.numerals import cardinal, ordinal
from lora.said import edits
from lora.scoring import count_edits
from lora.text import normalise

PAIRS = [line.split("\t") for line in (Path(__file__).parent / "number_pairs.tsv").read_text().splitlines() if not line.startswith("#")]


def errors(reference: str, hypothesis: str) -> int:
    found = edits(reference, hypothesis, "en")
    if found is None:
        return count_edits(normalise(reference).split(), normalise(hypothesis).split()).errors
    return found.substitutions + found.deletions + found.insertions


def test_there_are_a_hundred_pairs_at_least() -> None:
    assert len(PAIRS) >= 100


@pytest.mark.parametrize(("count", "reference", "hypothesis"), PAIRS, ids=[f"{one[1]} | {one[2]}" for one in PAIRS])
def test_errors_are_those_counted_by_hand(count: str, reference: str, hypothesis: str) -> None:
    assert errors(reference, hypothesis) == int(count)


def spellings(number: int) -> list[str]:
    """Ways to write and to say a number."""
    words = " ".join(cardinal(number))
    digits = str(number)
    return [
        digits,
        f"{number:,}",
        words,
        words.replace("hundred ", "hundred and "),
        " ".join(digits),
        " ".join(cardinal(int(d))[0] for d in digits),
    ]


NUMBERS = st.one_of(st.integers(0, 130), st.integers(0, 10_000), st.integers(0, 10**9), st.sampled_from([10**n for n in range(10)]))


@given(NUMBERS, st.data())
def test_a_number_is_itself_however_it_is_written(number: int, data: st.DataObject) -> None:
    """What both may be said as; two spoken forms are two things said."""
    forms = spellings(number)
    said = data.draw(st.sampled_from(forms[2:]))
    assert errors(forms[0], said) == 0
    assert errors(said, forms[0]) == 0


@given(NUMBERS, NUMBERS, st.data())
@example(20, 21, None)
def test_no_two_numbers_are_ever_equal(one: int, other: int, data: st.DataObject | None) -> None:
    if one == other:
        return
    chosen = (
        itertools.product(spellings(one), spellings(other))
        if data is None
        else [(data.draw(st.sampled_from(spellings(one))), data.draw(st.sampled_from(spellings(other))))]
    )
    for left, right in chosen:
        assert errors(left, right) > 0, (left, right)


@pytest.mark.parametrize("most", [30, 130])
def test_no_two_small_numbers_and_no_two_sequences_of_them_are_equal(most: int) -> None:
    """Sequences with other digits: `20 1` is not 21, `100 2` is not 102."""
    draw = random.Random(most)
    texts = {" ".join(str(draw.randint(0, most)) for _ in range(draw.randint(1, 3))) for _ in range(120)}
    for left, right in itertools.combinations(sorted(texts), 2):
        if left.replace(" ", "") != right.replace(" ", ""):
            assert errors(left, right) > 0, (left, right)


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_ordinals_decimals_money_times_and_signs_are_no_other_numbers(one: int, other: int) -> None:
    forms = lambda n: [f"-{n}", str(n), f"{n}%", f"${n}", f"€{n}", f"{n} mm", f"{n}.5", f"{n}/7000", f"{n // 100 % 24}:{n % 60:02} p.m."]  # noqa: E731
    for (place, left), (behind, right) in itertools.product(enumerate(forms(one)), enumerate(forms(other))):
        if place != behind or (one != other and place < 8):
            assert errors(left, right) > 0, (left, right)
    assert errors(f"{one}th", " ".join(cardinal(one))) > 0
    assert (errors(" ".join(ordinal(one)), " ".join(cardinal(other))) == 0) is False


WORDS = st.lists(st.sampled_from(["go", "stop", "5", "five", "1984", "$3", "e-mail", "-2", "21st", "<comma>", "st"]), max_size=6).map(
    " ".join
)


@given(WORDS, WORDS)
def test_counts_agree_with_each_other_and_a_text_is_itself(reference: str, hypothesis: str) -> None:
    assert errors(reference, reference) == 0
    there, back = edits(reference, hypothesis, "en"), edits(hypothesis, reference, "en")
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        total = lambda found: found.substitutions + found.deletions + found.insertions  # noqa: E731
        assert total(there) == total(back)
        assert min(there) >= 0


def test_what_holds_only_words_is_left_to_the_standard_score() -> None:
    assert edits("go on then", "go one then", "en") is None
    assert edits("привет", "пока", "uk") is None


def test_tags_count_as_words_in_every_language() -> None:
    assert edits("yes now", "yes <COMMA> now", "en") == Edits(2, 0, 0, 1)
    assert edits("yes <COMMA> now", "yes <COMMA> now", "en") == Edits(3, 0, 0, 0)
    assert edits("так", "так [шум]", "uk") == Edits(1, 0, 0, 1)
    assert edits("你好", "你好 <MUSIC>", "zh") == Edits(2, 0, 0, 1)
