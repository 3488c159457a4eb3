"""The units the package computes in. A variable's suffix says which one it holds: `_s`, `_samples`, `_hz`."""

from typing import Final, NewType

SAMPLE_RATE_HZ: Final = 16_000
"""The only rate Moonshine takes; audio is resampled to it once, in `lora.audio.loading`."""

Seconds = NewType("Seconds", float)
Samples = NewType("Samples", int)


def seconds(samples: int) -> Seconds:
    """Duration of `samples` at `SAMPLE_RATE_HZ`."""
    return Seconds(samples / SAMPLE_RATE_HZ)
