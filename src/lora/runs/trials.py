"""What the trials of a sweep found, as values: no PyTorch and no Optuna is needed to read them."""

from typing import Any, Literal

import msgspec

from lora.language import Metric
from lora.runs.outcomes import Step
from lora.units import Seconds

State = Literal["finished", "pruned", "diverged", "interrupted", "running"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One training with settings of its own. Where it is not finished there may be no `best`."""

    number: int
    state: State
    given: bool
    """Whether its settings are those that the sweep was given."""
    settings: dict[str, Any]
    """What the sweep set, by dotted names."""
    base: Step | None = None
    """Before training: the base model on dev and guard."""
    best: Step | None = None
    """The step that dev and guard have chosen, or the best until it was pruned."""
    cost: float | None = None
    """Of that step: its dev error rate, and what the guard's has risen beyond its limit. A ratio."""
    steps: int = 0
    seconds: Seconds = Seconds(0.0)
    error: str | None = None


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of a study so far, in the order in which they began."""

    trials: tuple[Trial, ...]
    wanted: int
    """How many are to be finished or pruned."""
    metric: Metric
    settings: dict[str, Any]
    """Those that the sweep was given, by dotted names."""
    importances: dict[str, float]
    """Share of each varied setting, or group of settings, in how good a trial is; empty for too few trials."""
    winner: int | None = None
    sentence: str = ""
    """What dev says of the winner."""

    @property
    def names(self) -> list[str]:
        """The settings that any trial has set, by dotted names."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.settings))

    @property
    def done(self) -> int:
        """Trials that count as one of those wanted."""
        return sum(trial.state in ("finished", "pruned", "diverged") for trial in self.trials)

    def value(self, trial: Trial, name: str) -> Any:
        """A setting of a trial: the sweep's, or as it was given."""
        return trial.settings.get(name, self.settings[name])
