"""Accepts or rejects an adapter from its scores. Pure."""

import msgspec

from lora.config import GateConfig
from lora.scoring import Score

# A difference of two ratios of small integers carries rounding errors of this order, and a limit that is met exactly must pass.
_ROUNDING_POINTS = 1e-9


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition: `points` is the change of the WER in percentage points, tuned minus baseline."""

    name: str
    passed: bool
    points: float
    limit_points: float
    message: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Accepted when every check passed."""

    accepted: bool
    checks: tuple[Check, ...]

    @property
    def sentence(self) -> str:
        """The verdict as a person reads it."""
        failed = [check.message for check in self.checks if not check.passed]
        return "rejected: " + "; ".join(failed) if failed else "accepted: " + "; ".join(check.message for check in self.checks)


def judge(*, domain: tuple[Score, Score], heldout: tuple[Score, Score], rules: GateConfig) -> Verdict:
    """Holds (baseline, tuned) of the domain and of the held-out set against the rules."""
    checks = (_domain(*domain, rules.min_domain_gain_points), _heldout(*heldout, rules.max_heldout_rise_points))
    return Verdict(accepted=all(check.passed for check in checks), checks=checks)


def _domain(baseline: Score, tuned: Score, needed_points: float) -> Check:
    points = 100 * (tuned.wer - baseline.wer)
    passed = points <= -needed_points + _ROUNDING_POINTS
    relation = "" if passed else f", and the gain must be at least {needed_points:g}"
    return Check(
        name="domain",
        passed=passed,
        points=points,
        limit_points=-needed_points,
        message=f"domain WER {100 * baseline.wer:.2f} % -> {100 * tuned.wer:.2f} % ({points:+.2f} points{relation})",
    )


def _heldout(baseline: Score, tuned: Score, allowed_points: float) -> Check:
    points = 100 * (tuned.wer - baseline.wer)
    passed = points <= allowed_points + _ROUNDING_POINTS
    relation = "" if passed else f", and it may rise by at most {allowed_points:g}"
    return Check(
        name="held-out",
        passed=passed,
        points=points,
        limit_points=allowed_points,
        message=f"held-out WER {100 * baseline.wer:.2f} % -> {100 * tuned.wer:.2f} % ({points:+.2f} points{relation})",
    )
