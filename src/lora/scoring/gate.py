"""Accepts an adapter, rejects it, or says that its test sets are too small to decide. Pure.

Rates are word error rates, or character error rates if a language does not separate words.

Rule `point` uses the changes alone. Rule `interval` also uses their intervals, with D the domain's change and H the held-out's,
tuned minus baseline, each with its 95 % interval:

| | accepted | rejected | inconclusive |
|---|---|---|---|
| domain | all of D below 0 | else, D's lower end above `-min_domain_gain_points`: what gain there may be is too small | else |
| held-out | H at most `max_heldout_rise_points` and all of it at most `heldout_margin_points` | all of it above \
`max_heldout_rise_points`, or all of it above 0 with H beyond the margin | else |
| drift | all of it at most `max_drift_points` | all of it above | else |

Terms, where limits are set for them, are held to the numbers themselves under both rules: a list of sixty terms is what the user wants
found, not a sample, and an interval of false alarms that did not occur in 4,000 words reaches 0.9 in 1,000.

One rejected check rejects; else one inconclusive check makes the verdict inconclusive.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from lora.errors import ScoringError
from lora.scoring.rules import GateConfig
from lora.scoring.significance import Comparison, Drift, clusters_needed
from lora.scoring.terms import PER_WORDS, TermScore, TermsFound

Decision = Literal["accepted", "rejected", "inconclusive"]
CheckName = Literal["domain", "held-out", "terms found", "false alarms"]
CheckUnit = Literal["points", "%", "in 1,000 words"]

# A difference of two ratios of small integers carries rounding errors of this order, and a limit that is met exactly must pass.
_ROUNDING_POINTS = 1e-9


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition: `points` is the change of the WER in percentage points, tuned minus baseline, or the drift."""

    name: CheckName
    decision: Decision
    points: float
    low_points: float
    high_points: float
    limit_points: float
    unit: CheckUnit = "points"
    """Unit of the numbers: percent for terms found, false alarms per 1,000 words."""
    needed_utterances: int | None = None
    """For an inconclusive check: how many such utterances are needed, if the change stays the same. None if no number helps."""
    message: str

    @property
    def passed(self) -> bool:
        return self.decision == "accepted"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Accepted when every check passed."""

    decision: Decision
    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        return self.decision == "accepted"

    @property
    def sentence(self) -> str:
        """The verdict as a person reads it, with the checks that made it."""
        return f"{self.decision}: " + "; ".join(check.message for check in self.checks if check.decision == self.decision)


def judge(*, domain: Comparison, heldout: Comparison, drift: Drift | None, rules: GateConfig, terms: TermsFound | None = None) -> Verdict:
    """Holds the domain, the held-out set or its drift, and the terms against the rules.

    Raises `ScoringError` if the drift is asked for and there is none, and if limits are set for terms that no test row tells of.
    """
    if rules.guardrail == "drift" and drift is None:
        raise ScoringError("the base model recognises nothing in the held-out speech, so there is no drift; check its audio")
    guardrail = _drift(drift, rules) if rules.guardrail == "drift" and drift is not None else _heldout(heldout, rules)
    checks = (_domain(domain, rules), guardrail, *_terms(terms, rules))
    decisions = {check.decision for check in checks}
    order: tuple[Decision, ...] = ("rejected", "inconclusive", "accepted")
    return Verdict(decision=next(decision for decision in order if decision in decisions), checks=checks)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A change or a drift that is held to a limit, with its interval, in percentage points."""

    name: CheckName
    found: Comparison | Drift

    @property
    def points(self) -> float:
        return 100 * (self.found.difference if isinstance(self.found, Comparison) else self.found.rate)

    @property
    def low(self) -> float:
        return 100 * self.found.interval.low

    @property
    def high(self) -> float:
        return 100 * self.found.interval.high

    def within(self, limit: float) -> bool:
        return self.points <= limit + _ROUNDING_POINTS

    def range(self, sign: str = "+") -> str:
        return f", 95 % interval {self.low:{sign}.2f} to {self.high:{sign}.2f}"

    def check(self, decision: Decision, limit: float, message: str, needed: int | None = None) -> Check:
        return Check(
            name=self.name,
            decision=decision,
            points=self.points,
            low_points=self.low,
            high_points=self.high,
            limit_points=limit,
            needed_utterances=needed,
            message=message,
        )

    def needed(self, *ways: tuple[float, float]) -> tuple[int | None, str]:
        """Utterances that would narrow a side of the interval to what decides, and how to say so.

        Each way is the length of a side and the length that it needs, in points; the one that needs fewest utterances counts.
        """
        found = self.found
        clusters = min((clusters_needed(found.clusters, half, target) for half, target in ways if target > _ROUNDING_POINTS), default=None)
        if clusters is None:
            return None, ": right at the limit, where more utterances do not help"
        utterances = rounded_up(found.utterances * clusters / found.clusters)
        by_speaker = found.resampled_by == "speaker"
        wanted, have = (f" by {number} speakers" if by_speaker else "" for number in (rounded_up(clusters), found.clusters))
        return utterances, f": about {utterances} such utterances{wanted} are needed, you have {found.utterances}{have}"


def _domain(change: Comparison, rules: GateConfig) -> Check:
    it, least = _Measured("domain", change), rules.min_domain_gain_points
    if rules.rule == "point":
        enough = it.within(-least)
        remark = "" if enough else f", but the gain must be at least {least:g}"
        return it.check("accepted" if enough else "rejected", -least, _rates(it, change, remark))
    if it.high < 0:
        return it.check("accepted", 0.0, _rates(it, change, it.range()))
    if it.low > -least:
        return it.check("rejected", 0.0, _rates(it, change, f"{it.range()}, so a gain of {least:g} can be ruled out"))
    # Narrowed far enough, it would be all below zero, or its lower end above the smallest gain that counts.
    needed, advice = it.needed((it.high - it.points, -it.points), (it.points - it.low, least + it.points))
    return it.check("inconclusive", 0.0, _rates(it, change, it.range() + advice), needed)


def _heldout(change: Comparison, rules: GateConfig) -> Check:
    it, most, margin = _Measured("held-out", change), rules.max_heldout_rise_points, rules.heldout_margin_points
    within = it.within(most)
    if rules.rule == "point":
        remark = "" if within else f", but it may rise by at most {most:g}"
        return it.check("accepted" if within else "rejected", most, _rates(it, change, remark))
    if within and it.high <= margin + _ROUNDING_POINTS:
        return it.check("accepted", most, _rates(it, change, it.range()))
    if it.low > most or (it.low > 0 and it.points > margin):
        return it.check("rejected", most, _rates(it, change, f"{it.range()}, but it may rise by at most {most:g}"))
    if within:
        half, target = it.high - it.points, margin - it.points
    else:
        half, target = it.points - it.low, it.points if it.points > margin else it.points - most
    needed, advice = it.needed((half, target))
    limit = f"its upper end may be at most {margin:g}" if within else f"it may rise by at most {most:g}"
    return it.check("inconclusive", most, _rates(it, change, f"{it.range()}, but {limit}{advice}"), needed)


def _drift(drift: Drift, rules: GateConfig) -> Check:
    it, most = _Measured("held-out", drift), rules.max_drift_points
    assert most is not None  # settings without it are refused
    text = f"held-out drift {it.points:.2f} points ({100 * drift.unchanged:.0f} % of the clips unchanged"
    above = f", but it may be at most {most:g}"
    if rules.rule == "point":
        return it.check("accepted", most, f"{text})") if it.within(most) else it.check("rejected", most, f"{text}{above})")
    text += it.range(sign="")
    if it.high <= most + _ROUNDING_POINTS:
        return it.check("accepted", most, f"{text})")
    if it.low > most:
        return it.check("rejected", most, f"{text}{above})")
    half, target = (it.high - it.points, most - it.points) if it.points <= most else (it.points - it.low, it.points - most)
    needed, advice = it.needed((half, target))
    return it.check("inconclusive", most, f"{text}, but its upper end may be at most {most:g}{advice})", needed)


def _terms(terms: TermsFound | None, rules: GateConfig) -> Iterator[Check]:
    if terms is None:
        return
    if rules.min_term_recall is not None:
        yield _recall(terms.domain.tuned, terms.domain.baseline.recall, rules.min_term_recall)
    if rules.max_false_alarms is not None:
        yield _alarms(terms.heldout.tuned, rules.max_false_alarms)


def _recall(score: TermScore, before: float | None, least: float) -> Check:
    if score.recall is None or score.recall_interval is None or before is None:
        raise ScoringError("no row of the domain test set says any of the terms, so --min-term-recall cannot be judged; add some")
    share, (low, high) = 100 * score.recall, (100 * score.recall_interval.low, 100 * score.recall_interval.high)
    enough = share >= least - _ROUNDING_POINTS
    remark = "" if enough else f", and at least {least:g} % must be"
    message = f"terms found {100 * before:.1f} % -> {share:.1f} % ({score.found} of {score.spoken}{remark})"
    return Check(
        name="terms found",
        decision="accepted" if enough else "rejected",
        points=share,
        low_points=low,
        high_points=high,
        limit_points=least,
        unit="%",
        message=message,
    )


def _alarms(score: TermScore, most: float) -> Check:
    if score.alarms is None or score.alarms_interval is None:
        raise ScoringError("the held-out speech has too few words to count false alarms in; add some, or leave --max-false-alarms out")
    within = score.alarms <= most + _ROUNDING_POINTS
    remark = "" if within else f", and there may be at most {most:g}"
    message = f"held-out false alarms {score.alarms:.2f} in 1,000 words ({score.false_alarms} in {score.words}{remark})"
    return Check(
        name="false alarms",
        decision="accepted" if within else "rejected",
        points=score.alarms,
        low_points=PER_WORDS * score.alarms_interval.low,
        high_points=PER_WORDS * score.alarms_interval.high,
        limit_points=most,
        unit="in 1,000 words",
        message=message,
    )


def _rates(it: _Measured, change: Comparison, remark: str) -> str:
    return f"{it.name} {change.metric} {100 * change.baseline:.2f} % -> {100 * change.tuned:.2f} % ({it.points:+.2f} points{remark})"


def rounded_up(number: float) -> int:
    """Rounded to two digits: the estimate is no more precise."""
    step = int(10 ** max(0, math.ceil(math.log10(number)) - 2))
    return math.ceil(number / step) * step
