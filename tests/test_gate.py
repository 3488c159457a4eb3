"""The rules that accept, reject or cannot tell, at their boundaries."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import ScoringError
from lora.scoring.gate import Check, Verdict, judge
from lora.scoring.rules import GateConfig
from lora.scoring.significance import Comparison, Drift, Interval, Unit, student

WIDE = (-5.0, 5.0)


def comparison(
    points: float,
    around: tuple[float, float],
    *,
    baseline: float = 0.2,
    utterances: int = 100,
    clusters: int = 100,
    unit: Unit = "utterance",
) -> Comparison:
    """A change in points, with the ends of its interval in points. Six parameters: only the first two matter to most tests."""
    return Comparison(
        baseline=baseline,
        tuned=baseline + points / 100,
        difference=points / 100,
        interval=Interval(around[0] / 100, around[1] / 100),
        probability_of_improvement=0.5,
        p_value=0.5,
        resampled_by=unit,
        clusters=clusters,
        utterances=utterances,
    )


def drifted(points: float, around: tuple[float, float]) -> Drift:
    low, high = around
    return Drift(
        rate=points / 100, interval=Interval(low / 100, high / 100), unchanged=0.9, resampled_by="utterance", clusters=50, utterances=50
    )


GAIN = comparison(-5, (-6, -4))
STILL = comparison(0, (-0.1, 0.1))


def verdict(domain: Comparison = GAIN, heldout: Comparison = STILL, drift: Drift | None = None, **rules: Any) -> Verdict:
    return judge(domain=domain, heldout=heldout, drift=drift, rules=GateConfig(**rules))


def domain_check(points: float, low: float, high: float, **rules: Any) -> Check:
    return verdict(comparison(points, (low, high)), **rules).checks[0]


def heldout_check(points: float, low: float, high: float, **rules: Any) -> Check:
    return verdict(heldout=comparison(points, (low, high)), **rules).checks[1]


# --- rule interval ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        ((-3, -5, -1), "accepted"),
        ((-0.5, -0.8, -0.2), "accepted"),  # small but beyond chance
        ((-3, -6, 0), "inconclusive"),  # zero is in it
        ((-3, -8, 2), "inconclusive"),
        ((0, -5, 5), "inconclusive"),
        ((2, -1, 5), "inconclusive"),  # a gain of exactly 1 is still possible
        ((2, -0.9, 5), "rejected"),
        ((0, -0.1, 0.1), "rejected"),  # large and unmoved
        ((0.5, 0.2, 0.8), "rejected"),
        ((5, 2, 8), "rejected"),
    ],
)
def test_the_domain_under_the_interval_rule(change: tuple[float, float, float], decision: str) -> None:
    assert domain_check(*change).decision == decision


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        ((0, -0.1, 0.1), "accepted"),
        ((0.2, -0.1, 0.5), "accepted"),  # both limits met exactly
        ((-1, -2, 0.5), "accepted"),
        ((0.2, -0.1, 0.6), "inconclusive"),
        ((-2.3, -18, 14), "inconclusive"),  # twelve clips
        ((0.3, 0.1, 0.45), "inconclusive"),  # above the limit, within the margin: more speech tells which
        ((0.3, 0.25, 0.35), "rejected"),  # tight, and all of it above the limit
        ((0.8, 0.1, 1.5), "rejected"),  # worse beyond chance, and by more than the margin
        ((0.8, -0.1, 1.7), "inconclusive"),
        ((9, 1, 17), "rejected"),
        ((9, -1, 19), "inconclusive"),
    ],
)
def test_the_heldout_set_under_the_interval_rule(change: tuple[float, float, float], decision: str) -> None:
    assert heldout_check(*change).decision == decision


def test_limits_of_the_interval_rule_can_be_set() -> None:
    assert heldout_check(0.2, -0.5, 0.9, heldout_margin_points=1.0).decision == "accepted"
    assert heldout_check(0.9, 0.3, 1.5, heldout_margin_points=2.0, max_heldout_rise_points=1.0).decision == "accepted"
    assert domain_check(0, -1.5, 1.5, min_domain_gain_points=2.0).decision == "rejected"
    assert domain_check(0, -0.5, 0.5, min_domain_gain_points=0.1).decision == "inconclusive"


@pytest.mark.parametrize(
    ("domain", "heldout", "decision"),
    [
        ((-5, -6, -4), (0, -0.1, 0.1), "accepted"),
        ((-5, -11, 1), (0, -0.1, 0.1), "inconclusive"),
        ((-5, -6, -4), (0, -5, 5), "inconclusive"),
        ((5, 4, 6), (0, -5, 5), "rejected"),  # no more held-out speech could save it
        ((-5, -11, 1), (3, 2, 4), "rejected"),
    ],
)
def test_one_rejection_rejects_and_else_one_doubt_makes_doubtful(
    domain: tuple[float, float, float], heldout: tuple[float, float, float], decision: str
) -> None:
    found = verdict(comparison(domain[0], domain[1:]), comparison(heldout[0], heldout[1:]))
    assert found.decision == decision
    assert found.accepted is (decision == "accepted")
    assert found.sentence.startswith(f"{decision}: ")


CHANGES = st.tuples(st.floats(-20, 20), st.floats(0.01, 20), st.floats(0.01, 20)).map(lambda c: (c[0], c[0] - c[1], c[0] + c[2]))


@given(change=CHANGES)
def test_a_narrower_interval_never_reverses_a_decision(change: tuple[float, float, float]) -> None:
    """Accepted and rejected stay what they are when the doubt about the same change is halved."""
    points, low, high = change
    for check in (domain_check, heldout_check):
        first = check(points, low, high).decision
        second = check(points, (points + low) / 2, (points + high) / 2).decision
        assert first in ("inconclusive", second)


@given(change=CHANGES)
def test_as_many_utterances_as_are_asked_for_would_tell(change: tuple[float, float, float]) -> None:
    points, low, high = change
    for check in (domain_check, heldout_check):
        found = check(points, low, high)
        assert (found.needed_utterances is None) or found.decision == "inconclusive"
        if found.needed_utterances is not None:
            assert found.needed_utterances > 100
            needed = found.needed_utterances
            narrow = (100 / needed) ** 0.5 * student(needed - 1) / student(99) * (1 - 1e-6)
            again = check(points, points + (low - points) * narrow, points + (high - points) * narrow)
            assert again.decision != "inconclusive"


R = {
    tuple(asked): needed
    for *asked, needed in json.loads((Path(__file__).parent / "golden" / "significance.json").read_text())["clusters_needed"]
}
"""Of so many clusters, a half width and the one that is wanted: how many R says it takes."""


def rounded_up(number: int) -> int:
    step = 10 ** (len(str(number)) - 2)
    return -(-number // step) * step


@pytest.mark.parametrize(
    ("change", "half", "target"),
    [
        ((-3, -8, 2), 5, 3),  # the upper end below zero; what gain there may be is too large to rule out
        ((0.5, -4.5, 3.5), 5, 1.5),  # the lower end above a gain of 1; no gain is seen
        ((-0.4, -2.4, 1.6), 2, 0.6),  # either: ruling a gain of 1 out takes fewer than showing the gain of 0.4
    ],
)
def test_the_domain_asks_for_the_fewest_utterances_that_decide(change: tuple[float, float, float], half: float, target: float) -> None:
    assert domain_check(*change).needed_utterances == rounded_up(R[100, half, target])


@pytest.mark.parametrize(
    ("change", "half", "target"),
    [
        ((0, -1, 1), 1, 0.5),  # the upper end at most the margin of 0.5
        ((0.1, -3, 0.9), 0.8, 0.4),  # of that side alone
        ((0.4, 0.1, 0.9), 0.3, 0.2),  # the lower end above the rise of 0.2 that is allowed
        ((0.8, -0.1, 1.4), 0.9, 0.8),  # beyond the margin it need only be above zero
    ],
)
def test_the_heldout_set_asks_for_the_fewest_utterances_that_decide(change: tuple[float, float, float], half: float, target: float) -> None:
    assert heldout_check(*change).needed_utterances == rounded_up(R[100, half, target])


@pytest.mark.parametrize(
    ("moved", "half", "target"),
    [
        ((1.0, 0.5, 2.1), 1.1, 1),  # the upper end at most 2
        ((3.0, 1.9, 6.0), 1.1, 1),  # the lower end above 2
        ((2.5, 0.5, 3.0), 2, 0.5),
    ],
)
def test_drift_asks_for_the_fewest_utterances_that_decide(moved: tuple[float, float, float], half: float, target: float) -> None:
    found = verdict(drift=drifted(moved[0], moved[1:]), guardrail="drift", max_drift_points=2.0).checks[1]
    assert found.needed_utterances == rounded_up(R[50, half, target])


def test_the_number_of_utterances_grows_with_the_square_of_the_width() -> None:
    found = heldout_check(0.0, -1.0, 1.0)  # the upper end has to come down from 1 to 0.5
    assert found.needed_utterances == 400
    assert found.message == (
        "held-out WER 20.00 % -> 20.00 % (+0.00 points, 95 % interval -1.00 to +1.00, but its upper end may be at most 0.5: "
        "about 400 such utterances are needed, you have 100)"
    )


def test_speakers_are_asked_for_where_speakers_were_drawn() -> None:
    change = comparison(0.0, (-1.0, 1.0), clusters=10, unit="speaker")
    assert "about 330 such utterances by 33 speakers are needed, you have 100 by 10 speakers" in verdict(heldout=change).sentence


def test_right_at_a_limit_no_number_of_utterances_tells() -> None:
    found = heldout_check(0.5, -0.5, 1.5, max_heldout_rise_points=0.5)
    assert (found.decision, found.needed_utterances) == ("inconclusive", None)
    assert "right at the limit, where more utterances do not help" in found.message


# --- rule point ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "heldout", "passed"),
    [
        (-1.0, 0.2, (True, True)),
        (-0.9, 0.2, (False, True)),
        (-1.0, 0.3, (True, False)),
        (-0.9, 0.3, (False, False)),
        (0.0, 0.0, (False, True)),  # nothing to gain is no gain
    ],
)
def test_the_default_limits_of_the_point_rule(domain: float, heldout: float, passed: tuple[bool, bool]) -> None:
    found = verdict(comparison(domain, WIDE), comparison(heldout, WIDE), rule="point")
    assert tuple(check.passed for check in found.checks) == passed
    assert found.decision == ("accepted" if all(passed) else "rejected"), "the point rule always decides"


@given(words=st.integers(1, 10**6), before=st.integers(0, 10**6), change=st.integers(-(10**5), 10**5))
def test_a_limit_that_is_met_exactly_passes_whatever_the_rounding(words: int, before: int, change: int) -> None:
    after = max(before + change, 0)
    points = 100 * (after - before) / words
    found = comparison(0, WIDE)
    found = Comparison(**{name: getattr(found, name) for name in found.__struct_fields__} | {"difference": after / words - before / words})
    assert verdict(found, found, rule="point", min_domain_gain_points=-points, max_heldout_rise_points=points).accepted
    stricter = verdict(found, found, rule="point", min_domain_gain_points=-points + 1e-4, max_heldout_rise_points=points - 1e-4)
    assert [check.passed for check in stricter.checks] == [False, False]


def test_each_check_says_its_change_and_its_limit() -> None:
    rules = {"rule": "point", "min_domain_gain_points": 1.5, "max_heldout_rise_points": 0.25}
    domain, heldout = verdict(comparison(-2, (-3, -1)), comparison(-1, (-2, 0)), **rules).checks
    assert (domain.name, domain.points, domain.limit_points) == ("domain", pytest.approx(-2), -1.5)
    assert (heldout.name, heldout.points, heldout.limit_points) == ("held-out", pytest.approx(-1), 0.25)
    assert (domain.low_points, domain.high_points) == (pytest.approx(-3), pytest.approx(-1))


def test_the_sentence_of_an_accepted_adapter_names_both_sets() -> None:
    found = verdict(comparison(-18.5, WIDE, baseline=0.21), comparison(0, WIDE, baseline=0.05), rule="point")
    assert found.sentence == "accepted: domain WER 21.00 % -> 2.50 % (-18.50 points); held-out WER 5.00 % -> 5.00 % (+0.00 points)"


def test_the_sentence_of_a_rejected_adapter_names_what_failed_and_the_limit() -> None:
    still, worse = comparison(0, WIDE, baseline=0.05), comparison(1, WIDE, baseline=0.05)
    assert verdict(comparison(-0.5, WIDE, baseline=0.21), still, rule="point").sentence == (
        "rejected: domain WER 21.00 % -> 20.50 % (-0.50 points, but the gain must be at least 1)"
    )
    assert verdict(comparison(-18.5, WIDE, baseline=0.21), worse, rule="point").sentence == (
        "rejected: held-out WER 5.00 % -> 6.00 % (+1.00 points, but it may rise by at most 0.2)"
    )
    both = verdict(comparison(0.1, WIDE, baseline=0.21), worse, rule="point").sentence
    assert both.startswith("rejected: domain WER 21.00 % -> 21.10 % (+0.10 points, but the gain must be at least 1); held-out WER")


# --- guardrail drift -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "moved", "decision"),
    [
        ("interval", (1.0, 0.5, 2.0), "accepted"),
        ("interval", (1.0, 0.5, 2.1), "inconclusive"),
        ("interval", (3.0, 1.9, 4.1), "inconclusive"),
        ("interval", (3.0, 2.1, 3.9), "rejected"),
        ("point", (2.0, 0.0, 9.0), "accepted"),
        ("point", (2.1, 0.0, 9.0), "rejected"),
    ],
)
def test_drift_takes_the_place_of_the_heldout_wer(rule: str, moved: tuple[float, float, float], decision: str) -> None:
    ruined = comparison(50, (40, 60))  # what the held-out set would say is not asked
    found = verdict(heldout=ruined, drift=drifted(moved[0], moved[1:]), rule=rule, guardrail="drift", max_drift_points=2.0)
    assert found.checks[1].decision == found.decision == decision
    assert f"held-out drift {moved[0]:.2f} points (90 % of the clips unchanged" in found.checks[1].message


def test_the_drift_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(ScoringError, match="recognises nothing in the held-out speech"):
        verdict(drift=None, guardrail="drift", max_drift_points=2.0)
