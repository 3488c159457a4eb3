"""A voice as the app hears it: quiet speech at a usual level, and no phrase repeated over and over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lora.audio.loading import Waveform
from lora.live import Hearer
from lora.longform.seams import across, mended
from lora.units import SAMPLE_RATE_HZ
from lora_cli.engine.loops import without_loop

QUIET_DBFS: Final = -40.0
"""Speech below this is brought to `USUAL_DBFS` (RMS): the model has hardly heard any so quiet."""

USUAL_DBFS: Final = -26.0
_PEAK: Final = 0.99

AFTER_S: Final = 0.3
"""Silence put behind a clip in which a phrase is repeated over and over: most break off in a word, and have an end then."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a clip says: its text without a loop, the model's own tokens, and whether these held one."""

    text: str
    tokens: tuple[int, ...]
    looped: bool


class Listener:
    """Hears one clip at a time."""

    def __init__(self, ear: Hearer) -> None:
        self._ear = ear

    def encode(self, samples: Waveform) -> Any:
        """The ear's own encoder output of a clip."""
        return self._ear.encode(levelled(samples))

    def decode(self, encoded: Any, samples: Waveform, draft: Sequence[int] = ()) -> Told:
        """What the clip says so far. A `draft`, such as the tokens of a shorter part of it, saves time and changes nothing."""
        transcript = self._ear.decode(encoded, samples, draft)
        text = without_loop(transcript.text, self._ear.language)
        return Told(text, transcript.tokens, text != transcript.text)

    def __call__(self, samples: Waveform, draft: Sequence[int] = ()) -> Told:
        return self.decode(self.encode(samples), samples, draft)

    def settled(self, samples: Waveform, told: Told) -> Told:
        """What a finished clip says: a loop is heard once more with silence behind the clip, and cut off where there still is one."""
        if not told.looped:
            return told
        return self(np.concatenate([samples, np.zeros(round(AFTER_S * SAMPLE_RATE_HZ), dtype=np.float32)]))

    def joined(self, before: tuple[str, Waveform], after: tuple[str, Waveform]) -> tuple[str, str]:
        """The texts of two clips that were cut apart where nobody paused: marks and capitals there become those that are heard across."""
        words, others = before[0].split(), after[0].split()
        join = mended(words, others, self(across(before[1], None, after[1])).text.split())
        if join is None:
            return before[0], after[0]
        return " ".join([*words[:-1], join.before]), " ".join([join.after, *others[1:]])


def levelled(samples: Waveform) -> Waveform:
    """Quiet speech at a usual level; other sound as it is."""
    rms = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    if not 0.0 < rms < 10 ** (QUIET_DBFS / 20):
        return samples
    return (samples * np.float32(min(10 ** (USUAL_DBFS / 20) / rms, _PEAK / float(np.abs(samples).max())))).astype(np.float32)
