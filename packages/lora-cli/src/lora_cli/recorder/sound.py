"""What is wrong with the sound of a take: too quiet, too loud, cut at an end, too long, noise. Pure."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.audio.loading import Waveform
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds
from lora_cli.recorder.faults import Fault, FaultCode

FRAME: Final = SAMPLE_RATE_HZ // 50
"""20 ms."""

QUIET_DBFS: Final = -50.0
"""Level of a voice below which too little remains above the noise of 16 bits and of a room; -40 to -15 dB is usual."""

FULL_SCALE: Final = 0.99
CLIPPED: Final = 3
"""Samples at full scale next to another such one: a cut-off peak is flat, a lone high sample is none."""

NOISY_DB: Final = 15.0
"""Least distance of a voice from its background."""

EDGE: Final = 3
"""Frames at either end that must not hold speech."""

CUT: Final = 0.5
"""How far from the background to the voice, in dB, the sound of an end may reach."""

LONGEST_S: Final = Seconds(29.0)
"""Utterances over 30 s are not trained on."""

_FLOOR_DBFS: Final = -90.0


@dataclass(frozen=True, slots=True)
class Measures:
    """Levels of a take, in dB relative to full scale: of its highest sample, its voice and its background."""

    peak_dbfs: float
    voice_dbfs: float
    background_dbfs: float
    clipped: int
    """Samples that were cut off."""
    start: float
    end: float
    """How loud the two ends are: 0 as the background, 1 as the voice."""
    length_s: Seconds


def measure(samples: Waveform) -> Measures:
    """Measures a take `[samples]` of at least one frame at 16 kHz."""
    levels = _levels(samples)
    voice, background = float(np.percentile(levels, 95)), float(np.percentile(levels, 10))
    span = max(voice - background, 1.0)
    start, end = ((float(part.max()) - background) / span for part in (levels[:EDGE], levels[-EDGE:]))
    full = np.abs(samples) >= FULL_SCALE
    return Measures(
        peak_dbfs=_dbfs(float(np.abs(samples).max())),
        voice_dbfs=voice,
        background_dbfs=background,
        clipped=int(np.count_nonzero(full[1:] & full[:-1])),
        start=start,
        end=end,
        length_s=seconds(len(samples)),
    )


def faults(found: Measures) -> tuple[Fault, ...]:
    """What is wrong, the worst first."""
    wrong = []
    if found.clipped >= CLIPPED:
        wrong.append(Fault(FaultCode.CLIPPED, "too loud, the sound is cut off; move back or turn the microphone down"))
    if found.voice_dbfs < QUIET_DBFS:
        wrong.append(Fault(FaultCode.QUIET, f"too quiet ({found.voice_dbfs:.0f} dB); move closer or turn the microphone up"))
    if found.length_s >= LONGEST_S:
        wrong.append(Fault(FaultCode.LONG, f"too long: {LONGEST_S:.0f} s are the most; press space when the sentence is over"))
    loud_enough = found.voice_dbfs - found.background_dbfs
    if loud_enough < NOISY_DB:
        wrong.append(Fault(FaultCode.NOISE, f"noise: the room is only {loud_enough:.0f} dB below your voice; look for what hums or blows"))
        return tuple(wrong)  # where noise is that near, ends tell nothing
    if found.start > CUT:
        wrong.append(Fault(FaultCode.START, "cut at the start; press space first, then speak"))
    if found.end > CUT:
        wrong.append(Fault(FaultCode.END, "cut at the end; finish the sentence, then press space"))
    return tuple(wrong)


def _levels(samples: Waveform) -> npt.NDArray[np.float64]:
    """RMS level of each frame, in dB relative to full scale."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    rms = np.sqrt(np.square(frames).mean(axis=1))
    levels: npt.NDArray[np.float64] = 20 * np.log10(np.maximum(rms, 10 ** (_FLOOR_DBFS / 20)))
    return levels


def _dbfs(peak: float) -> float:
    return max(_FLOOR_DBFS, 20 * math.log10(peak)) if peak > 0 else _FLOOR_DBFS
