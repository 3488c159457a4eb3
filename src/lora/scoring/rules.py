"""The settings of the gate, `[gate]` of a run. No numpy, so that `--help` answers at once."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

GateRule = Literal["interval", "point"]
Guardrail = Literal["wer", "drift"]


class GateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule that accepts or rejects an adapter. Points are percentage points of WER."""

    rule: Annotated[
        GateRule,
        Meta(description="interval: the 95 % intervals decide, or the verdict is inconclusive; point: the measured changes alone decide"),
    ] = "interval"
    guardrail: Annotated[
        Guardrail, Meta(description="references of held-out speech: its transcripts (wer) or the base model's (drift)")
    ] = "wer"
    min_domain_gain_points: Annotated[
        float,
        Meta(description="with --rule point, the domain WER must fall by this; with interval, reject if such a gain is ruled out"),
    ] = 1.0
    max_heldout_rise_points: Annotated[float, Meta(description="with --guardrail wer, the held-out WER may rise by at most this")] = 0.2
    heldout_margin_points: Annotated[
        float, Meta(description="with --rule interval and --guardrail wer, the upper end of the held-out change may be at most this")
    ] = 0.5
    max_drift_points: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="with --guardrail drift, the largest WER of the tuned model against the base model's transcripts"),
    ] = None
    max_false_alarms: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="with --terms, the most false alarms of the tuned model in 1,000 words of held-out speech"),
    ] = None
    min_term_recall: Annotated[
        Annotated[float, Meta(ge=0, le=100)] | None,
        Meta(description="with --terms, the share of the terms spoken in the domain that the tuned model must find, in percent"),
    ] = None
