"""How much of an adapter to keep: its update scaled down, without training again, until general speech is spared."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lora.errors import ConfigError
from lora.runs.outcomes import Evaluation, Strength
from lora.training.adapter import Adapted, restore, state
from lora.training.loop import allowed_rise

STRENGTHS = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the update that are tried. At zero the model is the base model."""


class Score(Protocol):
    """Evaluates the adapted model as it stands: dev, then guard."""

    def __call__(self) -> tuple[Evaluation, Evaluation]: ...


def check(*, method: str, use_dora: bool, init_lora_weights: str, has_guard: bool) -> None:
    """Raises `ConfigError` if a share of the update cannot be taken, or if there is no general speech to measure the damage on."""
    if not has_guard:
        raise ConfigError(
            "--strength-sweep needs general speech to guard: give --replay-manifest, with --replay-ratio 0 to keep it out of training"
        )
    if method == "full":
        raise ConfigError("--strength-sweep: scales an adapter, and --method full makes none; leave one of them out")
    if use_dora or init_lora_weights == "pissa":
        method = "DoRA" if use_dora else "PiSSA"
        raise ConfigError(f"--strength-sweep: {method} changes the base weights too, so its update cannot be scaled; leave one of them out")


def sweep(adapted: Adapted, base_guard_wer: float, score: Score) -> tuple[float, tuple[Strength, ...]]:
    """Scores each of `STRENGTHS`, keeps the strongest that spares the guard in the adapter, and returns it with all that were tried.

    Spares means that the guard WER rises by at most what `train` allows a step. If none does, the strength is 0: the base model.
    """
    full = state(adapted)
    tried: list[Strength] = []
    for strength in STRENGTHS:
        _scale(adapted, full, strength)
        dev, guard = score()
        tried.append(
            Strength(
                strength=strength,
                dev_wer=dev.score.wer,
                dev_loss=dev.loss,
                guard_wer=guard.score.wer,
                guard_loss=guard.loss,
            )
        )
    chosen = strongest(tried, base_guard_wer + allowed_rise(guard.score.standard.reference_length))
    _scale(adapted, full, chosen)
    return chosen, tuple(tried)


def strongest(tried: Sequence[Strength], limit: float) -> float:
    """The largest strength whose guard WER is at most `limit`, else 0."""
    return max((one.strength for one in tried if one.guard_wer <= limit), default=0.0)


def _scale(adapted: Adapted, full: dict[str, Tensor], strength: float) -> None:
    restore(adapted, {name: weight * strength if ".lora_B." in name else weight for name, weight in full.items()})
