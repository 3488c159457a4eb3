"""Errors as a reader counts them: hand counts, and numbers that are never taken for others."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora.errors import ConfigError
from lora.scoring.counts import Counts, Freed, Tags, UtteranceScore, count_edits, read_again, score_utterance, total
from lora.scoring.reader_errors import edits, table
from lora.text.lattice import Edits
from lora.text.normaliser import normalise
from lora.text.numerals import cardinal, ordinal
from lora.text.style import apply_style
from lora.units import Seconds

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


@settings(deadline=None)
@given(NUMBERS, st.data())
def test_a_number_is_itself_however_it_is_written(number: int, data: st.DataObject) -> None:
    """What both may be said as; two spoken forms are two things said."""
    forms = spellings(number)
    said = data.draw(st.sampled_from(forms[2:]))
    assert errors(forms[0], said) == 0
    assert errors(said, forms[0]) == 0


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
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


def scored(reference: str, hypothesis: str) -> UtteranceScore:
    return score_utterance(id="u", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis)


@pytest.mark.parametrize(("said", "count"), [("the gray cat", 0), ("the grey cat", 0), ("the cat", 0), ("the white cat", 1)])
def test_any_alternative_of_a_reference_is_right(said: str, count: int) -> None:
    found = scored("the {graye / gray / grey / @} cat", said)
    assert found.words.errors == count
    assert found.standard.errors == found.raw_words.errors == 1, "the first counts"
    assert found.freed == Freed(by_alternatives=1 - count)
    assert apply_style("none", "the {graye / gray / @} cat") == "the graye cat"


def test_alternatives_may_be_numbers_several_words_or_nothing() -> None:
    assert errors("it took {an hour and a half / 90 minutes}", "it took ninety minutes") == 0
    assert errors("{@ / well} go", "well go") == 0
    assert errors("{@ / well} go", "go") == 0
    assert errors("{a / b} {c / d}", "b c") == 0
    assert errors("and/or {x}", "and or") == 1, "no alternatives: a tag"


TABLE = """;; what our users write
kubectl = cube control = cube C T L
gonna => going to / [ ] __ [ ]   # GLM's form
Dr. Who = doctor hu
"""


def test_equivalents_are_the_same_to_a_reader_and_to_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(TABLE)
    own = table(tmp_path / "own.txt", "en")
    rows = [scored("run kubectl now", "run cube control now"), scored("Dr. Who", "doctor hu"), scored("run it", "run cube")]
    before = total(rows)
    after = read_again(before, own)
    assert [row.words.errors for row in after.utterances] == [0, 0, 1]
    assert after.freed == Freed(by_equivalents=before.words.errors - after.words.errors)
    assert after.freed.by_equivalents >= 3
    assert (after.standard, after.raw_words, after.characters, after.normaliser) == (
        *(before.standard, before.raw_words, before.characters), before.normaliser
    )  # fmt: skip
    assert after.reader == f"{before.reader}, equivalents {own.sha256[:12]}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"colour", "line 1: 'colour' gives no two forms"),
        (b"a = b\n\ncolour = colour\n", "line 3: 'colour = colour' gives no two forms"),
        (b"a = \n", "line 1: 'a =' gives no two forms"),
        (b"# nothing\n", "holds no forms"),
        (b"caf\xe9 = cafe", "cannot be read .not UTF-8."),
    ],
)
def test_a_table_that_says_nothing_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        table(tmp_path / "own.txt", "en")
    with pytest.raises(ConfigError, match="cannot be read"):
        table(tmp_path / "none.txt", "en")


def test_a_score_counts_tags_of_references_and_of_what_was_said() -> None:
    found = total([scored("yes <COMMA> now", "yes now"), scored("go", "<MUSIC> go <COMMA>")])
    assert found.tags == Tags(written=1, said=2)
    assert found.standard.errors == 0
    assert found.words == Counts(hits=3, deletions=1, insertions=2)


def test_the_standard_rate_is_that_of_the_normalised_words_to_the_digit() -> None:
    for _, reference, hypothesis in PAIRS:
        assert scored(reference, hypothesis).standard == count_edits(normalise(reference).split(), normalise(hypothesis).split())


def test_texts_of_a_book_are_counted_as_the_standard_counts_them() -> None:
    """Aligned word by word they would take minutes and gigabytes."""
    words = ["".join(letters) for letters in itertools.product("bdg", "aeo", "bdg", "aeo", "lmn")]
    long = " ".join(words[number % len(words)] for number in range(10_000))
    assert edits("5 " + long + " 5", "other " + long + " end", "en") is None
    assert edits("5 mm " + long, "five millimeters " + long, "en") == Edits(hits=10_002, substitutions=0, deletions=0, insertions=0)
