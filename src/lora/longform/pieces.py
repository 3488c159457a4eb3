"""A recording as pieces that the model hears at once: the whole of a short one, the speech of a long one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np

from lora.audio.loading import AudioSettings, AudioSource, EncodedAudio, FileAudio, Waveform, load, prepare
from lora.audio.segments import Cuts, Segmenter, Speech
from lora.audio.streaming import blocks
from lora.audio.voice_activity import VoiceActivity, holds_speech
from lora.dataset.manifest import MIN_S
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds, seconds

ENOUGH_S: Final = 10.0
"""A piece ends at the first pause behind this: the model hears more than a phrase, and most pauses are no cut."""

APART_S: Final = 1.2
"""A pause that ends a piece, however short: decoding it would be wasted."""

_WINDOW_S: Final = 12.0
"""Without a pause, a piece is cut in its last part, where it is quietest."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one recording, ready for the encoder."""

    recording: int
    start: Samples
    samples: Waveform
    pause: Samples | None
    """Silence between the piece before and this one; None for a recording's first."""
    speech: bool
    """Whether it may hold speech."""
    total: Samples
    """The recording's samples so far; of its last piece, all of them."""
    heard: bool = True
    """False of silence that stands for a long recording in which nobody speaks."""

    @property
    def start_s(self) -> Seconds:
        return seconds(self.start)

    @property
    def length_s(self) -> Seconds:
        return seconds(len(self.samples))


def cuts(longest_s: float) -> Cuts:
    """How recordings are cut into pieces of up to `longest_s`."""
    enough_s, window_s = min(ENOUGH_S, longest_s / 2), min(_WINDOW_S, longest_s / 2)
    return Cuts(*(Samples(round(length_s * SAMPLE_RATE_HZ)) for length_s in (longest_s, window_s, enough_s, APART_S)))


def pieces(
    number: int, source: FileAudio | EncodedAudio, longest_s: float, audio: AudioSettings, max_s: float | None = None
) -> Iterator[Piece]:
    """The pieces of a file; a file without speech gives one, of its first second.

    Raises `AudioError`, also for one under `MIN_S`, and `TooLongError` as soon as more than `max_s` of it are decoded.
    """
    sound = blocks(source, max_s)
    beginning, sound = _beginning(sound, longest_s)
    if beginning is None:
        yield from _cut(number, sound, str(source), longest_s, audio)
        return
    if len(beginning) < MIN_S * SAMPLE_RATE_HZ:
        raise AudioError(f"{source}: lasts {seconds(len(beginning)):.2f} s; Moonshine takes {MIN_S:g} s and more")
    yield _whole(number, prepare(beginning, audio, str(source)))


def whole(number: int, source: AudioSource, audio: AudioSettings) -> Piece:
    """A clip as one piece."""
    return _whole(number, load(source, audio))


def _whole(number: int, samples: Waveform) -> Piece:
    return Piece(number, Samples(0), samples, None, holds_speech(samples), Samples(len(samples)))


def _beginning(sound: Iterator[Waveform], longest_s: float) -> tuple[Waveform | None, Iterator[Waveform]]:
    """All of a short recording; or None, and a long one from its start."""
    heard, count = list[Waveform](), 0
    for block in sound:
        heard.append(block)
        count += len(block)
        if count > longest_s * SAMPLE_RATE_HZ:
            return None, chain(heard, sound)
    return np.concatenate(heard), sound


def _cut(number: int, sound: Iterable[Waveform], name: str, longest_s: float, audio: AudioSettings) -> Iterator[Piece]:
    segmenter = Segmenter(VoiceActivity(), cuts(longest_s))
    waiting: Piece | None = None
    end: Samples | None = None
    for speech in _segments(segmenter, sound):
        if waiting is not None:
            yield waiting
        pause = None if end is None else Samples(max(0, speech.start - end))
        waiting, end = Piece(number, speech.start, prepare(speech.samples, audio, name), pause, True, speech.end), speech.end
    total = Samples(segmenter.judged)
    if waiting is None:
        silence = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
        yield Piece(number, Samples(0), silence, None, False, total, heard=False)
    else:
        yield replace(waiting, total=total)


def _segments(segmenter: Segmenter, sound: Iterable[Waveform]) -> Iterator[Speech]:
    for block in sound:
        yield from segmenter.hear(block)
    yield from segmenter.finish()
