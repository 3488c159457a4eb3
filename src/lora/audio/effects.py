"""Effects that vary a waveform: speed, pitch, room, noise, telephone, level, joining. Pure: nothing here is random."""

import math
import typing
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from lora.audio.loading import Waveform, is_silent, resample, through_codec
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ, Samples

Codec = Literal["none", "mulaw", "alaw", "gsm", "opus"]
CODECS: tuple[Codec, ...] = typing.get_args(Codec)

TELEPHONE_RATE_HZ = 8_000
PEAK_LIMIT = 0.999
"""Loudest sample of a varied clip: above 1 a 16-bit file cannot hold it."""

_FORMATS: dict[Codec, tuple[str, str, float | None]] = {
    "mulaw": ("ULAW", "WAV", None),
    "alaw": ("ALAW", "WAV", None),
    "gsm": ("GSM610", "WAV", None),
    "opus": ("OPUS", "OGG", 0.96),  # about 16 kbit/s, as in calls over a narrow connection
}


def change_speed(samples: Waveform, factor: float) -> Waveform:
    """The clip played `factor` times as fast: `[round(samples / factor)]`. Pitch moves with it, as on a tape."""
    return resample(samples, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ)


def change_pitch(samples: Waveform, semitones: float) -> Waveform:
    """The clip with its voice `semitones` higher, at the same speed and of the same length. Formants move with the pitch.

    Raises `AudioError` if `python-stretch` is not installed.
    """
    stretch = _pitch_library().Signalsmith.Stretch(0)  # a fixed seed: the library would draw one otherwise
    stretch.preset(1, SAMPLE_RATE_HZ)
    stretch.setTransposeSemitones(semitones)
    shifted: Waveform = np.ascontiguousarray(stretch.process(samples[np.newaxis, :])[0], dtype=np.float32)
    return shifted


def pitch_version() -> str:
    """The version of the library that shifts pitch. Raises `AudioError` if it is not installed."""
    _pitch_library()
    return version("python-stretch")


def reverberate(samples: Waveform, impulse: Waveform) -> Waveform:
    """The clip in the room of an impulse response, with the same length and RMS level.

    The loudest sample of `impulse` is taken for the direct sound and put at time zero, so that words stay where they were.
    """
    direct = int(np.abs(impulse).argmax())
    size = 1 << (len(samples) + len(impulse) - 2).bit_length()
    spectrum = np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(impulse.astype(np.float64), size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(samples)]
    wet *= math.sqrt(power(samples) / float(np.mean(np.square(wet))))
    return wet.astype(np.float32)


def add_noise(samples: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """The clip with noise of the same length, which is brought to `snr_db` below it: a ratio of mean powers over the whole clip."""
    level = math.sqrt(power(samples) / power(noise) / 10 ** (snr_db / 10))
    return (samples + np.float32(level) * noise).astype(np.float32)


def cut(noise: Waveform, start: Samples, length: Samples, name: str) -> Waveform:
    """`length` samples from `start` on, wrapping around at the end. Raises `AudioError` if they are silent."""
    part = noise[(start + np.arange(length)) % len(noise)]
    if is_silent(part):
        seconds = start / SAMPLE_RATE_HZ
        raise AudioError(f"{name}: is silent for {length / SAMPLE_RATE_HZ:.1f} s from {seconds:.1f} s on; cut the silence out of it")
    return part


def telephone(samples: Waveform, codec: Codec) -> Waveform:
    """The clip as an 8 kHz line carries it, by way of a codec, with the same length. Nothing is left above 4 kHz.

    Raises `AudioError` when the system's libsndfile lacks the codec.
    """
    narrow = resample(samples, SAMPLE_RATE_HZ, TELEPHONE_RATE_HZ)
    if codec != "none":
        headroom = np.float32(max(1.0, float(np.abs(narrow).max()) / PEAK_LIMIT))
        narrow = through_codec(narrow / headroom, TELEPHONE_RATE_HZ, *_FORMATS[codec]) * headroom
    wide = resample(narrow, TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)]


def change_gain(samples: Waveform, gain_db: float) -> Waveform:
    return (samples * np.float32(10 ** (gain_db / 20))).astype(np.float32)


def join(clips: Sequence[Waveform], pauses: Sequence[Samples]) -> Waveform:
    """The clips one after another, with `pauses[i]` samples of silence after clip i."""
    parts = [clips[0]]
    for clip, pause in zip(clips[1:], pauses, strict=True):
        parts += [np.zeros(pause, np.float32), clip]
    return np.concatenate(parts)


def limit(samples: Waveform) -> Waveform:
    """The clip itself, or scaled down as a whole until its peak is `PEAK_LIMIT`."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= PEAK_LIMIT else (samples * np.float32(PEAK_LIMIT / peak)).astype(np.float32)


def power(samples: Waveform) -> float:
    """Mean square."""
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _pitch_library() -> Any:
    try:
        import python_stretch
    except ImportError as error:
        raise AudioError(
            "pitch needs python-stretch, which has no ready-made package for this system; `uv pip install python-stretch` builds it "
            "with a C++ compiler, or leave --pitch-min and --pitch-max out"
        ) from error
    return python_stretch
