"""How things stand, in the words of the status line. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from lora.dataset.amount import is_little
from lora.units import Seconds
from lora_cli.session import Corrections

BEHIND_S = 2.0
"""Sound that waits this long to be heard is worth a word."""

NEITHER = "neither"
"""What is voted for where both texts are as good."""


@dataclass
class Standing:
    """What the status line says while nothing has just happened: what is wrong first, then what is awaited, then what there is."""

    failed: str | None = None
    """Why the engine cannot continue."""
    no_source: str | None = None
    """Why no sound comes."""
    loading: str | None = None
    behind_s: float = 0.0
    """How long sound has waited to be heard, by the latest event."""
    ready_s: Seconds | None = None
    utterances: int = 0
    corrections: Corrections | None = None
    """Those of the manifest, once one was saved."""
    votes: Counter[str] = field(default_factory=Counter)
    """How often each voice was preferred in A/B mode."""

    def line(self) -> tuple[str, bool]:
        """The text, and whether it says that something is wrong."""
        if wrong := self.failed or self.no_source:
            return wrong, True
        if self.behind_s > BEHIND_S:
            return f"this machine is {self.behind_s:.0f} s behind; nothing is lost, the text comes later", True
        if self.loading is not None:
            return f"{self.loading}; you can talk already, the text comes later", False
        return "; ".join(self._there_is()), False

    def _there_is(self) -> list[str]:
        parts = []
        if self.utterances:
            parts.append(f"{self.utterances} utterance{'s' if self.utterances != 1 else ''}")
        elif self.ready_s is not None:
            parts.append(f"ready after {self.ready_s:.1f} s")
        if self.votes:
            parts.append(tally(self.votes))
        if self.corrections is not None:
            parts.append(amount(self.corrections))
        return parts


def amount(corrections: Corrections, where: str | None = "moonshine history corrections says how") -> str:
    """How many corrections there are, and whether they are worth a training; `where` that is explained."""
    said = f"{corrections.count} correction{'s' if corrections.count != 1 else ''}, {corrections.length_s / 60:.1f} min"
    if is_little(corrections.count, corrections.length_s):
        return said
    return f"{said}, enough to try a training{f' ({where})' if where else ''}"


def tally(votes: Counter[str]) -> str:
    """Which voice was preferred how often, with the 95 % interval of the share."""
    from lora.scoring.terms import wilson

    decided = {voice: count for voice, count in votes.items() if voice != NEITHER and count}
    if not decided:
        return f"A/B: {votes[NEITHER]} as good"
    best, count = max(decided.items(), key=lambda item: item[1])
    total = sum(decided.values())
    interval = wilson(count, total)
    return f"A/B: {best} preferred in {count} of {total} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"
