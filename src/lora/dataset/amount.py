"""Whether there is very little speech to train on. Pure."""

from typing import Final

from lora.units import Seconds

LEAST_UTTERANCES: Final = 20
LEAST_S: Final = Seconds(60.0)


def is_little(utterances: int, length_s: float) -> bool:
    """Whether there is less training speech than is known to help."""
    return utterances < LEAST_UTTERANCES or length_s < LEAST_S
