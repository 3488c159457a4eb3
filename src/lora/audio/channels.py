"""Reduces several channels to one: the chosen one, or the mean if all clearly hold the same sound."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from lora.errors import AudioError

Channel = int | Literal["mix"]
"""A channel, counted from 1, or the mean of all whatever they hold."""

_QUIET_DB: Final = 30.0
"""A channel so far below the loudest cannot mask its speech, and no speaker is that much quieter than another."""

_SAME: Final = 0.4
"""Correlation from which two channels are one sound. None of 400 pairs of speakers reaches one of the three marks, with crosstalk at -20 dB
one does; all of 180 pairs of microphones in simulated rooms reach one."""

_SAME_DELAYED: Final = 0.3
"""The same if one microphone hears it up to `_DELAY_S` later."""

_SAME_ENVELOPE: Final = 0.9
"""Correlation of the loudness, frame by frame: two microphones in one room, further apart than the delay shows."""

_OPPOSITE: Final = -0.4
_LOWEST_HZ: Final = 70.0
"""Below the lowest voice: an offset and mains hum are the same on both sides of a call, and make them look alike."""

_DELAY_S: Final = 0.02
_FRAME_S: Final = 0.02
_Samples = npt.NDArray[np.float32]


def mono(samples: _Samples, rate_hz: int, channel: Channel | None, name: str) -> _Samples:
    """One channel `[frames]` of samples `[frames, channels]`.

    Raises `AudioError` if the channel is not there; and, without one, if the mean would not be what was recorded: channels
    that cancel, or that hold different sounds.
    """
    if channel is None and samples.shape[1] > 1:
        require_one_sound(samples, rate_hz, name)
    return mixed(samples, channel, name)


def mixed(samples: _Samples, channel: Channel | None, name: str) -> _Samples:
    """A channel, or the mean of all, whatever they hold. Raises `AudioError` if the channel is not there."""
    count = samples.shape[1]
    if isinstance(channel, int):
        if not 1 <= channel <= count:
            raise AudioError(f"{name}: has no channel {channel}, only {count}; channels are counted from 1")
        return np.ascontiguousarray(samples[:, channel - 1])
    if count == 1:
        return samples[:, 0]
    mean: _Samples = samples.mean(axis=1)
    return mean


def require_one_sound(samples: _Samples, rate_hz: int, name: str) -> None:
    """Raises `AudioError` if the mean of samples `[frames, channels]` would not be what was recorded."""
    _require_one_sound(_voices(samples, rate_hz), rate_hz, name)


def _voices(samples: _Samples, rate_hz: int) -> _Samples:
    """The channels without frequencies below any voice."""
    frames = len(samples)
    if not frames:
        return samples
    size = 1 << (frames - 1).bit_length()
    with np.errstate(invalid="ignore"):  # samples that are not finite are reported where the sound is used
        spectrum = np.fft.rfft(samples - samples.mean(axis=0), size, axis=0)
        spectrum[: int(np.ceil(_LOWEST_HZ * size / rate_hz))] = 0
        return np.fft.irfft(spectrum, size, axis=0)[:frames].astype(np.float32)


def _require_one_sound(samples: _Samples, rate_hz: int, name: str) -> None:
    powers = np.einsum("fc,fc->c", samples, samples, dtype=np.float64)
    loudest = int(powers.argmax())
    for other in np.flatnonzero(powers > powers[loudest] * 10 ** (-_QUIET_DB / 10)):
        if other == loudest:
            continue
        first, second = samples[:, loudest], samples[:, other]
        alike = float(np.dot(first, second)) / float(np.sqrt(powers[loudest] * powers[other]))
        low, high = sorted((loudest, int(other)))
        numbers = f"channels {low + 1} and {high + 1}"
        if alike < _OPPOSITE:
            raise AudioError(f"{name}: {numbers} are of opposite phase and cancel when they are mixed; {_choose(samples)}")
        if alike < _SAME and not _same_room(first, second, rate_hz):
            raise AudioError(f"{name}: {numbers} hold different sounds, such as the two sides of a call; {_choose(samples)}")


def _choose(samples: _Samples) -> str:
    numbers = "|".join(map(str, range(1, min(samples.shape[1], 3) + 1)))
    return f"choose with --channel {numbers}|mix (transcribe and manifest import take split, too), or with `channel` in a manifest"


def _same_room(first: _Samples, second: _Samples, rate_hz: int) -> bool:
    """Whether two channels are two microphones' recordings of one sound."""
    frame = int(_FRAME_S * rate_hz)
    loudness = [np.sqrt(np.square(one[: len(one) // frame * frame].reshape(-1, frame)).mean(axis=1)) for one in (first, second)]
    if len(loudness[0]) < 2 or min(float(one.std()) for one in loudness) == 0:
        return False
    if float(np.corrcoef(*loudness)[0, 1]) >= _SAME_ENVELOPE:
        return True
    return _delayed(first, second, rate_hz) >= _SAME_DELAYED


def _delayed(first: _Samples, second: _Samples, rate_hz: int) -> float:
    """Largest correlation over delays of up to `_DELAY_S`."""
    lags = int(_DELAY_S * rate_hz)
    size = 1 << (len(first) + lags - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size)), size)
    near = np.concatenate([product[: lags + 1], product[-lags:]])
    return float(np.abs(near).max() / np.sqrt(np.dot(first, first) * np.dot(second, second)))
