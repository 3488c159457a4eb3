"""How much speech is little to train on. Pure."""

from typing import Final

from lora.units import Seconds

LEAST_UTTERANCES: Final = 20
LEAST_S: Final = Seconds(60.0)


def is_little(utterances: int, length_s: float) -> bool:
    """Whether training speech is less than anybody has shown to help."""
    return utterances < LEAST_UTTERANCES or length_s < LEAST_S
