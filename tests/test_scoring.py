"""Error counts against hand-made alignments and against jiwer; what the bootstrap may claim."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora.errors import ScoringError
from lora.scoring import Comparison, Counts, Score, UtteranceScore, compare, count_edits, interval, score_utterance, total
from lora.text import normaliser_version
from lora.units import Seconds

WORDS = st.lists(st.sampled_from(["a", "b", "c", "go", "stop"]), max_size=8)


def row(reference: str, hypothesis: str, *, id: str = "u", speaker: str | None = None) -> UtteranceScore:
    return score_utterance(id=id, speaker_id=speaker, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis)


def score(pairs: Sequence[tuple[str, str]], speakers: Sequence[str | None] | None = None) -> Score:
    names = speakers or [None] * len(pairs)
    return total([row(*pair, id=str(index), speaker=name) for index, (pair, name) in enumerate(zip(pairs, names, strict=True))])


@dataclass(frozen=True)
class Case:
    reference: str
    hypothesis: str
    counts: Counts


@pytest.mark.parametrize(
    "case",
    [
        Case("the cat sat", "the cat sat", Counts(hits=3)),
        Case("the cat sat", "the dog sat", Counts(hits=2, substitutions=1)),
        Case("the cat sat", "the sat", Counts(hits=2, deletions=1)),
        Case("the cat sat", "the big cat sat", Counts(hits=3, insertions=1)),
        Case("the cat sat", "", Counts(deletions=3)),
        Case("", "you", Counts(insertions=1)),
        Case("", "", Counts()),
        Case("a b c d", "b c d e f", Counts(hits=3, deletions=1, insertions=2)),
        Case("go", "stop stop", Counts(substitutions=1, insertions=1)),
    ],
)
def test_counts_are_those_of_the_best_alignment(case: Case) -> None:
    assert count_edits(case.reference.split(), case.hypothesis.split()) == case.counts


@given(reference=WORDS.filter(bool), hypothesis=WORDS)
def test_word_counts_equal_those_of_jiwer(reference: list[str], hypothesis: list[str]) -> None:
    expected = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    found = count_edits(reference, hypothesis)
    assert found == Counts(expected.hits, expected.substitutions, expected.deletions, expected.insertions)


@given(reference=st.text(alphabet="ab c", min_size=1, max_size=12), hypothesis=st.text(alphabet="ab c", max_size=12))
def test_character_counts_equal_those_of_jiwer(reference: str, hypothesis: str) -> None:
    assume(reference == reference.strip())
    assume(hypothesis == hypothesis.strip())
    expected = jiwer.process_characters(reference, hypothesis)
    found = count_edits(list(reference), list(hypothesis))
    assert found == Counts(expected.hits, expected.substitutions, expected.deletions, expected.insertions)


@given(reference=WORDS, hypothesis=WORDS)
def test_counts_add_up_to_both_lengths(reference: list[str], hypothesis: list[str]) -> None:
    counts = count_edits(reference, hypothesis)
    assert counts.reference_length == len(reference)
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis)
    assert max(len(reference), len(hypothesis)) >= counts.errors >= abs(len(reference) - len(hypothesis))


def test_words_are_scored_normalised_and_raw_words_as_written() -> None:
    found = row("Mr. Smith's COLOUR is twenty five", "mister smith's color is 25.")
    assert found.words.errors == 0
    assert found.characters.errors == 0
    assert found.raw_words == Counts(hits=1, substitutions=4, deletions=1)


def test_rates_are_over_all_words_and_not_a_mean_of_rates() -> None:
    found = score([("a b c d", "a b c d"), ("go", "stop")])
    assert found.wer == 1 / 5
    assert found.cer == 3 / 9  # "a b c d" has 7 characters, "go" has 2, and "go" to "stop" takes 3 edits
    assert found.normaliser == normaliser_version()


def test_words_said_over_silence_count_against_the_score() -> None:
    found = score([("a b c d", "a b c d"), ("", "thank you")])
    assert found.words.insertions == 2
    assert found.wer == 2 / 4


def test_nothing_to_score_is_refused_and_never_perfect() -> None:
    with pytest.raises(ScoringError, match="no utterances"):
        total([])
    silence = score([("", ""), ("", "you")])
    with pytest.raises(ScoringError, match="no words"):
        _ = silence.wer
    with pytest.raises(ScoringError, match="no words"):
        interval(silence, 0)
    with pytest.raises(ScoringError, match="no words"):
        compare(silence, silence, 0)


def test_capped_utterances_are_named() -> None:
    rows = [msgspec.structs.replace(row("a", "a", id=name), capped=name == "loop") for name in ("fine", "loop")]
    assert total(rows).capped == ("loop",)


def test_a_score_comes_back_from_json_as_it_was() -> None:
    found = score([("a b", "a"), ("go", "go")], ["x", "y"])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Score) == found


PAIRS = st.lists(st.tuples(WORDS.map(" ".join), WORDS.map(" ".join)), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(pairs=PAIRS)
def test_the_interval_holds_the_score(pairs: list[tuple[str, str]]) -> None:
    assume(any(reference for reference, _ in pairs))
    found = score(pairs)
    bounds = interval(found, seed=0)
    assert bounds.low - 1e-9 <= found.wer <= bounds.high + 1e-9
    assert bounds.low >= 0


@settings(max_examples=30, deadline=None)
@given(pairs=PAIRS)
def test_a_run_compared_with_itself_differs_by_nothing(pairs: list[tuple[str, str]]) -> None:
    assume(any(reference for reference, _ in pairs))
    found = compare(score(pairs), score(pairs), seed=1)
    assert (found.difference, found.interval.low, found.interval.high) == (0, 0, 0)
    assert found.probability_of_improvement == 0.5


BEFORE = [("a b c d", "a b x x"), ("go stop", "go"), ("a b", "a b"), ("c c c", "c b c")]
AFTER = [("a b c d", "a b c x"), ("go stop", "go stop"), ("a b", "a b"), ("c c c", "c b c")]


def test_the_bootstrap_is_decided_by_its_seed() -> None:
    before, after = score(BEFORE), score(AFTER)
    assert interval(before, 3) == interval(before, 3)
    assert compare(before, after, 3) == compare(before, after, 3)
    assert len({compare(before, after, seed).probability_of_improvement for seed in range(5)}) > 1


def test_an_improvement_is_negative_and_its_interval_holds_it() -> None:
    found = compare(score(BEFORE), score(AFTER), seed=0)
    assert found.difference == pytest.approx(-2 / 11)
    assert found.interval.low < found.difference < found.interval.high <= 0
    assert found.probability_of_improvement > 0.9
    worse = compare(score(AFTER), score(BEFORE), seed=0)
    assert worse.difference == -found.difference
    assert worse.interval.low == pytest.approx(-found.interval.high)


def test_more_utterances_of_the_same_kind_narrow_the_interval() -> None:
    few, many = interval(score(BEFORE), 0), interval(score(BEFORE * 16), 0)
    assert many.high - many.low < (few.high - few.low) / 2


@pytest.mark.parametrize(
    ("speakers", "unit", "clusters"),
    [
        (["x", "x", "y", "y"], "speaker", 2),
        (["x", "y", "z", "z"], "speaker", 3),
        (["x", "x", "x", "x"], "utterance", 4),
        (["x", None, "y", "y"], "utterance", 4),
        ([None, None, None, None], "utterance", 4),
    ],
)
def test_speakers_are_resampled_where_all_are_known_and_they_are_two(speakers: list[str | None], unit: str, clusters: int) -> None:
    found: Comparison = compare(score(BEFORE, speakers), score(AFTER, speakers), seed=0)
    assert (found.resampled_by, found.clusters) == (unit, clusters)


def test_errors_that_stay_within_a_speaker_widen_the_interval() -> None:
    """One speaker is always misheard and the other never: ten clips of each say no more than one of each."""
    pairs = [("a b", "c c")] * 10 + [("a b", "a b")] * 10
    by_speaker = interval(score(pairs, ["x"] * 10 + ["y"] * 10), 0)
    by_utterance = interval(score(pairs), 0)
    assert (by_speaker.low, by_speaker.high) == (0.0, 1.0)
    assert by_utterance.low > 0.2
    assert by_utterance.high < 0.8


def test_scores_of_different_utterances_or_normalisers_are_not_compared() -> None:
    found = score(BEFORE)
    for other in (score(AFTER[:3]), score(AFTER[::-1]), score([("other words", "x"), *AFTER[1:]])):
        with pytest.raises(ScoringError, match="different utterances"):
            compare(found, other, 0)
    with pytest.raises(ScoringError, match=r"normalised by whisper-english, .* and another"):
        compare(found, msgspec.structs.replace(score(AFTER), normaliser="another (1.0)"), 0)
