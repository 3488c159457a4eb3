"""The rule that accepts or rejects, at its boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.config import GateConfig
from lora.gate import Verdict, judge
from lora.scoring import Counts, Score
from lora.text import normaliser_version


def score(errors: int, words: int = 1000) -> Score:
    counts = Counts(hits=max(words - errors, 0), substitutions=min(errors, words), insertions=max(errors - words, 0))
    return Score(words=counts, characters=counts, raw_words=counts, normaliser=normaliser_version(), utterances=())


def verdict(domain: tuple[int, int], heldout: tuple[int, int], words: int = 1000, **rules: float) -> Verdict:
    before, after = ((score(errors, words) for errors in pair) for pair in (domain, heldout))
    return judge(domain=tuple(before), heldout=tuple(after), rules=GateConfig(**rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("domain", "heldout", "passed"),
    [
        ((100, 90), (50, 52), (True, True)),  # one point better, 0.2 worse: both exactly at the limit
        ((100, 91), (50, 52), (False, True)),
        ((100, 90), (50, 53), (True, False)),
        ((100, 91), (50, 53), (False, False)),
        ((100, 0), (50, 0), (True, True)),
        ((0, 0), (0, 0), (False, True)),  # nothing to gain is no gain
        ((1500, 1490), (0, 2), (True, True)),  # error rates above one are legal
    ],
)
def test_the_default_limits(domain: tuple[int, int], heldout: tuple[int, int], passed: tuple[bool, bool]) -> None:
    found = verdict(domain, heldout)
    assert tuple(check.passed for check in found.checks) == passed
    assert found.accepted is all(passed)


@given(words=st.integers(1, 10**6), before=st.integers(0, 10**6), change=st.integers(-(10**5), 10**5))
def test_a_limit_that_is_met_exactly_passes_whatever_the_rounding(words: int, before: int, change: int) -> None:
    after = max(before + change, 0)
    points = 100 * (after - before) / words
    found = verdict((before, after), (before, after), words, min_domain_gain_points=-points, max_heldout_rise_points=points)
    assert found.accepted
    stricter = verdict(
        (before, after), (before, after), words, min_domain_gain_points=-points + 1e-4, max_heldout_rise_points=points - 1e-4
    )
    assert [check.passed for check in stricter.checks] == [False, False]


def test_each_check_says_its_change_and_its_limit() -> None:
    domain, heldout = verdict((100, 80), (50, 40), min_domain_gain_points=1.5, max_heldout_rise_points=0.25).checks
    assert (domain.name, domain.points, domain.limit_points) == ("domain", pytest.approx(-2), -1.5)
    assert (heldout.name, heldout.points, heldout.limit_points) == ("held-out", pytest.approx(-1), 0.25)


def test_the_sentence_of_an_accepted_adapter_names_both_sets() -> None:
    assert verdict((210, 25), (50, 50)).sentence == (
        "accepted: domain WER 21.00 % -> 2.50 % (-18.50 points); held-out WER 5.00 % -> 5.00 % (+0.00 points)"
    )


def test_the_sentence_of_a_rejected_adapter_names_what_failed_and_the_limit() -> None:
    assert verdict((210, 205), (50, 50)).sentence == (
        "rejected: domain WER 21.00 % -> 20.50 % (-0.50 points, and the gain must be at least 1)"
    )
    assert verdict((210, 25), (50, 60)).sentence == (
        "rejected: held-out WER 5.00 % -> 6.00 % (+1.00 points, and it may rise by at most 0.2)"
    )
    both = verdict((210, 211), (50, 60)).sentence
    assert both.startswith("rejected: domain WER 21.00 % -> 21.10 % (+0.10 points, and the gain must be at least 1); held-out WER")
