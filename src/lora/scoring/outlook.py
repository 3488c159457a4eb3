"""How many test utterances a verdict will take, while there is a base model only. Pure."""

import math
from statistics import NormalDist
from typing import Final

from lora.scoring.counts import Score
from lora.scoring.gate import rounded_up
from lora.scoring.significance import TAIL, clusters_needed, interval

EXPECTED_GAIN: Final = 1 / 3
"""Share of the errors that training is taken to remove: 6.55 to 4.40 % on one speaker's prompts (docs/experiments.md)."""


POWER: Final = 0.8
"""How likely the verdict is to be reached with so many, if training gains what is expected."""


def utterances_needed(base: Score, seed: int, gain: float = EXPECTED_GAIN) -> int | None:
    """Test utterances like these with which the gate accepts the domain, if training removes a share `gain` of the errors.

    Errors that are removed each by itself leave a change whose spread is that of the errors, times the root of the share. The interval has
    to be so narrow that it stays below 0 in `POWER` of all experiments. None if the base model makes no error: there is nothing to
    gain. Raises `ScoringError` for fewer than two utterances, or without a word.
    """
    if base.wer == 0:
        return None
    have = len(base.utterances)
    spare = 1 + NormalDist().inv_cdf(POWER) / NormalDist().inv_cdf(1 - TAIL)
    half, target = math.sqrt(gain) * (interval(base, seed).high - base.wer), gain * base.wer / spare
    return have if half <= target else rounded_up(clusters_needed(have, half, target))
