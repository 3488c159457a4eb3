"""What chance may claim: intervals that cover the truth, comparisons that pair utterances, and the matched-pairs test by hand."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora.errors import ScoringError
from lora.scoring import significance
from lora.scoring.counts import Counts, Score, UtteranceScore, score_utterance, total
from lora.scoring.significance import UNSEEN_ERRORS, Comparison, clusters_needed, compare, drift, interval, matched_pairs, student
from lora.units import Seconds

WORDS = st.lists(st.sampled_from(["a", "b", "c", "go", "stop"]), max_size=8)


def score(pairs: Sequence[tuple[str, str]], speakers: Sequence[str | None] | None = None) -> Score:
    names = speakers or [None] * len(pairs)
    return total(
        [
            score_utterance(id=str(index), speaker_id=name, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis)
            for index, ((reference, hypothesis), name) in enumerate(zip(pairs, names, strict=True))
        ]
    )


def row(speaker: str | None, words: int, errors: int) -> UtteranceScore:
    """An utterance with so many words in its reference, and as many insertions as there are errors."""
    template = score_utterance(id="u", speaker_id=speaker, seconds=Seconds(1.0), reference="", hypothesis="")
    return msgspec.structs.replace(template, standard=Counts(hits=words, insertions=errors))


PAIRS = st.lists(st.tuples(WORDS.map(" ".join), WORDS.map(" ".join)), min_size=2, max_size=12)


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
    assert (found.difference, found.p_value, found.probability_of_improvement) == (0, 1, 0.5)
    unseen = UNSEEN_ERRORS / score(pairs).words.reference_length
    assert (found.interval.low, found.interval.high) == pytest.approx((-unseen, unseen)), "that nothing happened proves little"


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
    assert found.interval.low < found.difference < found.interval.high
    assert (found.baseline, found.tuned) == (score(BEFORE).wer, score(AFTER).wer)
    assert found.probability_of_improvement > 0.9
    worse = compare(score(AFTER), score(BEFORE), seed=0)
    assert worse.difference == -found.difference
    assert worse.interval.low == pytest.approx(-found.interval.high)
    assert worse.p_value == found.p_value


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
    assert by_speaker.low == 0
    assert by_speaker.high > 1
    assert by_utterance.low > 0.2
    assert by_utterance.high < 0.8


def test_scores_of_different_utterances_or_normalisers_are_not_compared() -> None:
    found = score(BEFORE)
    for other in (score(AFTER[:3]), score(AFTER[::-1]), score([("other words", "x"), *AFTER[1:]])):
        with pytest.raises(ScoringError, match="different utterances"):
            compare(found, other, 0)
    with pytest.raises(ScoringError, match=r"normalised by whisper-english, .* and another"):
        compare(found, msgspec.structs.replace(score(AFTER), normaliser="another (1.0)"), 0)


def test_one_utterance_and_silence_have_no_interval() -> None:
    with pytest.raises(ScoringError, match="one utterance says nothing about chance"):
        interval(score([("a", "a")]), 0)
    silence = score([("", ""), ("", "you")])
    for refused in (lambda: interval(silence, 0), lambda: compare(silence, silence, 0)):
        with pytest.raises(ScoringError, match="no words"):
            refused()


def test_an_error_free_set_may_still_have_errors() -> None:
    """The rule of three: 3.7 errors in as many words are not ruled out at 97.5 %."""
    found = interval(score([("a b c d e", "a b c d e")] * 20), 0)
    assert (found.low, found.high) == (0, pytest.approx(-math.log(0.025) / 100))


def test_silent_utterances_are_drawn_too() -> None:
    pairs = [("a b c d", "a x c d"), ("", "you"), ("", ""), ("go stop", "go stop")]
    found = interval(score(pairs), 0)
    assert found.low < 2 / 6 < found.high


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (5, 2.5706), (10, 2.2281), (20, 2.0860), (30, 2.0423), (100, 1.9840), (10**6, 1.96)]
)
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert student(freedom) == pytest.approx(value, abs=1e-4)


def test_clusters_needed_narrow_the_interval_as_far_as_asked() -> None:
    assert clusters_needed(400, 1.0, 0.5) == pytest.approx(1600, rel=0.01), "half the width takes four times as many"
    assert clusters_needed(2, 10.0, 1.0) < 200, "from two speakers Student's quantile falls from 12.7"
    assert clusters_needed(50, 1.0, 2.0) == 51, "always more than there are"


@given(clusters=st.integers(2, 5000), ratio=st.floats(0.05, 0.99))
def test_clusters_needed_are_enough_and_no_more(clusters: int, ratio: float) -> None:
    def half(count: int) -> float:
        return student(count - 1) / math.sqrt(count)

    needed = clusters_needed(clusters, half(clusters), ratio * half(clusters))
    assert half(needed) <= ratio * half(clusters) * (1 + 1e-9)
    assert needed <= clusters + 1 or half(needed - 2) > ratio * half(clusters)


def test_the_matched_pairs_test_by_hand() -> None:
    """Differences of errors -1, -1, 0, 0, -1, 1: mean -1/3, variance 2/3 by n - 1, so z = (-1/3) / sqrt((2/3) / 6) = -1."""
    before = [("a b", "a x"), ("a b", "x b"), ("a b", "a b"), ("a b", "x x"), ("a b c", "x x c"), ("a b", "a b")]
    after = [("a b", "a b"), ("a b", "a b"), ("a b", "a b"), ("a b", "x x"), ("a b c", "a x c"), ("a b", "a x")]
    assert matched_pairs(score(before), score(after)) == pytest.approx(2 * NormalDist().cdf(-1.0))


def test_the_matched_pairs_test_at_its_limits() -> None:
    same, worse = score([("a b", "a b")] * 3), score([("a b", "a x")] * 3)
    assert matched_pairs(same, same) == 1
    assert matched_pairs(same, worse) == 0


def test_drift_needs_no_references() -> None:
    before = score([("", "go stop a b"), ("", "a b c d")])
    after = score([("", "go stop a c"), ("", "a b c d")])
    found = drift(before, after, 0)
    assert found is not None
    assert (found.rate, found.unchanged, found.utterances, found.resampled_by) == (1 / 8, 0.5, 2, "utterance")
    assert found.interval.low == 0 < found.rate < found.interval.high
    still = drift(before, before, 0)
    assert still is not None
    assert (still.rate, still.unchanged) == (0, 1)


def test_a_base_model_that_says_nothing_has_no_drift() -> None:
    silent = score([("a", ""), ("b", "...")])
    assert drift(silent, score([("a", "a"), ("b", "b")]), 0) is None


# --- against R ----------------------------------------------------------------------------------------------------------------------------

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "significance.json").read_text())
"""Made by `Rscript tests/golden/significance.R`: by R, from the definitions, with every possible resample where there are few clusters."""

RESAMPLING = 0.03
"""What 10,000 resamples, with the mean of some seeds, may be from all of them: the length of an interval, as a ratio."""


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


def scored(case: dict[str, Any]) -> tuple[Score, Score]:
    before, after = ([row(speaker, words, errors[side]) for speaker, words, *errors in case["rows"]] for side in (0, 1))
    return total(before), total(after)


def assert_reaches(found: Sequence[float], golden: dict[str, Any], side: str, estimate: float) -> None:
    """The side's mean over seeds: to the rounding of tables where no resample has a part in it, else within what resampling may do."""
    tolerance = 1e-4 if golden["exact"] else RESAMPLING
    assert abs(np.mean(found) - estimate) == pytest.approx(abs(golden[side] - estimate), rel=tolerance), (golden, side)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=named)
def test_intervals_are_those_that_r_computes(case: dict[str, Any]) -> None:
    before, after = scored(case)
    levels, changes = (
        [f(seed) for seed in range(5)] for f in (lambda s: interval(before, s), lambda s: compare(before, after, s).interval)
    )
    for found, golden, estimate in ((levels, case["level"], before.wer), (changes, case["change"], after.wer - before.wer)):
        assert_reaches([one.low for one in found], golden, "low", estimate)
        assert_reaches([one.high for one in found], golden, "high", estimate)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=named)
def test_probability_of_improvement_and_p_value_are_those_that_r_computes(case: dict[str, Any]) -> None:
    found = compare(*scored(case), seed=0)
    assert found.probability_of_improvement == pytest.approx(case["improved"], abs=0.005)
    assert found.p_value == pytest.approx(case["p_value"], abs=1e-9)


def test_quantiles_of_student_are_those_that_r_computes() -> None:
    for freedom, quantile in GOLDEN["student"]:
        assert student(freedom) == pytest.approx(quantile, abs=1e-4), freedom


def test_clusters_needed_are_those_that_r_finds() -> None:
    for clusters, half, target, needed in GOLDEN["clusters_needed"]:
        assert clusters_needed(clusters, half, target) == pytest.approx(needed, abs=1), (clusters, half, target)


# --- what the intervals promise -----------------------------------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Simulated sums of some clusters: errors before, errors after, words."""


def speakers_of(effect: float) -> Draw:
    """Speakers of 10 to 29 utterances; their share of errors, and of those that training mends, vary as the normal logit does."""

    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        words = np.array([generator.integers(3, 20, size).sum() for size in generator.integers(10, 30, count)])
        before = generator.binomial(words, 1 / (1 + np.exp(2.2 - effect * generator.normal(size=count))))
        mended = generator.binomial(before, 1 / (1 + np.exp(0.4 - effect * generator.normal(size=count))))
        return np.stack([before, before - mended + generator.binomial(words - before, 0.01), words], axis=1).astype(float)

    return draw


def utterances(generator: np.random.Generator, count: int) -> np.ndarray:
    """Utterances of 3 to 19 words that are each as hard as a speaker of their own."""
    words = generator.integers(3, 20, count)
    before = generator.binomial(words, 1 / (1 + np.exp(2.2 - 0.5 * generator.normal(size=count))))
    mended = generator.binomial(before, 0.4)
    return np.stack([before, before - mended + generator.binomial(words - before, 0.01), words], axis=1).astype(float)


def as_score(errors: np.ndarray, words: np.ndarray) -> Score:
    """A score whose clusters have these sums: a row for each."""
    return total([row(None, int(length), int(count)) for count, length in zip(errors, words, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "clusters", "least"),
    [(speakers_of(0.5), 10, 0.93), (speakers_of(0.5), 40, 0.93), (utterances, 200, 0.93), (speakers_of(1.0), 10, 0.9)],
    ids=["10-speakers", "40-speakers", "200-utterances", "10-very-different-speakers"],
)
def test_intervals_cover_the_truth_in_95_of_100_experiments(
    draw: Draw, clusters: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 simulated experiments; the standard error of a coverage of 95 % is then 0.7 points. A tenth of the resamples, for time.

    Ten speakers, of whom some make several times as many errors as others, are the hardest case: covered a little less often.
    """
    monkeypatch.setattr(significance, "RESAMPLES", 1000)
    generator = np.random.default_rng(2)
    before, after, words = draw(generator, 400_000).sum(axis=0)
    covered = np.zeros(2)
    for seed in range(1000):
        sample = draw(generator, clusters)
        baseline, tuned = (as_score(sample[:, side], sample[:, 2]) for side in (0, 1))
        level, change = interval(baseline, seed), compare(baseline, tuned, seed).interval
        covered += (level.low <= before / words <= level.high, change.low <= (after - before) / words <= change.high)
    print(clusters, covered / 1000)
    assert all(least <= share <= 0.97 for share in covered / 1000), covered / 1000
