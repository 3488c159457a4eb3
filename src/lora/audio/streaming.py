"""A recording of any length, block by block as 16 kHz mono samples: memory does not grow with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lora.audio.channels import Channel, mixed, require_one_sound
from lora.audio.decoding import Sound, stream
from lora.audio.loading import FILE_PEAK, RESAMPLER_QUALITY, EncodedAudio, FileAudio, Span, Waveform, require_scale
from lora.errors import AudioError, TooLongError
from lora.units import SAMPLE_RATE_HZ

LOOKED_AT_S: Final = 60.0
"""How much of a recording with several channels is compared to decide whether they hold the same sound."""


def blocks(source: FileAudio | EncodedAudio, max_s: float | None = None) -> Iterator[Waveform]:
    """Mono samples at 16 kHz of a whole file, about a minute at a time.

    Raises what `lora.audio.loading.load` raises, `TooLongError` only beyond `max_s`: as soon as that much is decoded.
    """
    channel = source.channel if source.channel is not None else _channel(source, max_s)
    resampler: _Resampler | None = None
    for sound in _sounds(source, max_s):
        samples = mixed(sound.samples, channel, str(source))
        if not np.isfinite(samples).all():
            raise AudioError(f"{source}: holds NaN or infinite samples; write the file again")
        require_scale(samples, FILE_PEAK, str(source), "write them again, divided")
        resampler = resampler or _Resampler(sound.rate_hz)
        yield resampler(samples)
    if resampler is None:
        raise AudioError(f"{source}: holds no samples; remove it or record it again")
    yield resampler.rest()


def _sounds(source: FileAudio | EncodedAudio, max_s: float | None) -> Iterator[Sound]:
    heard_s = 0.0
    for sound in stream(source.path if isinstance(source, FileAudio) else source.data, str(source), source.track):
        heard_s += len(sound.samples) / sound.rate_hz
        if max_s is not None and heard_s > max_s:
            raise TooLongError(str(source), None, max_s)
        yield sound


def parts(source: FileAudio, spans: Sequence[Span]) -> Iterator[Waveform]:
    """The samples of several parts, in the order of their starts, of a recording that is decoded once and never held whole.

    A part that reaches beyond the end is shorter. Raises what `blocks` raises.
    """
    sound = blocks(source) if spans else iter(())
    kept, kept_from = np.zeros(0, dtype=np.float32), 0
    for span in spans:
        while kept_from + len(kept) < span.start + span.count and (block := next(sound, None)) is not None:
            needed = min(max(0, span.start - kept_from), len(kept))
            kept, kept_from = np.concatenate([kept[needed:], block]), kept_from + needed
        yield kept[max(0, span.start - kept_from) : max(0, span.start + span.count - kept_from)].copy()


class _Resampler:
    def __init__(self, rate_hz: int) -> None:
        import soxr

        self._stream = None if rate_hz == SAMPLE_RATE_HZ else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, quality=RESAMPLER_QUALITY)

    def __call__(self, samples: Waveform, *, last: bool = False) -> Waveform:
        if self._stream is not None:
            samples = self._stream.resample_chunk(samples, last=last)
        return np.ascontiguousarray(samples, dtype=np.float32)

    def rest(self) -> Waveform:
        return self(np.zeros(0, dtype=np.float32), last=True)


def _channel(source: FileAudio | EncodedAudio, max_s: float | None) -> Channel | None:
    """`mix` if all channels hold the same sound, None if there is one. Raises `AudioError` if one has to be chosen.

    Channels are compared where all of them are loud: there the two sides of a call differ most.
    """
    loudest = _Stretch(np.zeros((0, 1), dtype=np.float32), -1.0)
    rate_hz = SAMPLE_RATE_HZ
    for sound in _sounds(source, max_s):
        if sound.samples.shape[1] == 1:
            return None
        rate_hz = sound.rate_hz
        loudest = max(loudest, *_stretches(sound), key=lambda stretch: stretch.power)
    require_one_sound(loudest.samples, rate_hz, str(source))
    return "mix"


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Samples `[frames, channels]`, and the power of the channel that is least loud."""

    samples: Waveform
    power: float


def _stretches(sound: Sound) -> Iterator[_Stretch]:
    length = round(LOOKED_AT_S * sound.rate_hz)
    for start in range(0, len(sound.samples), length):
        part = sound.samples[start : start + length]
        yield _Stretch(part, float(np.square(part).mean(axis=0, dtype=np.float64).min()))
