"""Finds speech in a stream of sound and cuts it: at pauses, or at the quietest place if there is no pause."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.audio.loading import Waveform
from lora.audio.voice_activity import FRAME, VoiceActivity
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds, seconds


def _samples(length_s: float) -> Samples:
    return Samples(round(length_s * SAMPLE_RATE_HZ))


SPEECH: Final = 0.5
"""Probability from which a frame starts speech."""

STILL_SPEECH: Final = 0.35
"""Probability from which a frame continues it."""

LEAD: Final = _samples(0.3)
"""Kept before the first frame of speech: quiet first sounds are not judged speech."""

TAIL: Final = _samples(0.2)
"""Kept after the last."""

PAUSE: Final = _samples(0.45)
NOTHING: Final = Samples(0)
LONGEST: Final = _samples(15.0)
NEAR_THE_END: Final = _samples(4.0)
"""A segment without a pause is cut within its last 4 s."""

LEAST_FRAMES: Final = 3
"""Frames of speech that make a segment: a click has fewer."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """When a segment ends. The defaults are for live speech, where a text is wanted at every pause."""

    longest: Samples = LONGEST
    window: Samples = NEAR_THE_END
    """A segment without a pause is cut in its last part, of this length."""
    enough: Samples = NOTHING
    """What a segment holds before `PAUSE` ends it; until then a pause has to be `apart`."""
    apart: Samples = PAUSE
    lead: Samples = LEAD
    """Kept before the first frame of speech."""


@dataclass(frozen=True, slots=True)
class Speech:
    """A stretch of sound with speech in it. `start` counts from the start of the recording."""

    start: Samples
    samples: Waveform
    divided: bool = False
    """Cut without a pause: the next segment follows at once."""

    @property
    def end(self) -> Samples:
        return Samples(self.start + len(self.samples))

    @property
    def start_s(self) -> Seconds:
        return seconds(self.start)

    @property
    def length_s(self) -> Seconds:
        return seconds(len(self.samples))


LIVE: Final = Cuts()


class Segmenter:
    """Cuts one recording into segments. Sound is dropped once it can no longer belong to one."""

    def __init__(self, activity: VoiceActivity, cuts: Cuts = LIVE) -> None:
        self._activity = activity
        self._cuts = cuts
        activity.reset()
        self._kept = np.zeros(0, dtype=np.float32)
        """Sound from `_kept_from` on: the open segment, or the lead-in of a possible next one."""
        self._kept_from = 0
        self._rest = np.zeros(0, dtype=np.float32)
        """Less than a frame, not judged yet."""
        self._start: int | None = None
        """Where the open segment starts."""
        self._speech_frames = 0
        self._last_speech = 0
        """After the last frame of speech."""
        self._done = 0
        """After the last segment that was cut."""
        self.judged = 0
        """Samples that were judged."""

    @property
    def open(self) -> Speech | None:
        """The open segment, as it would be cut if only silence followed; None while there is no speech."""
        if self._start is None or self._speech_frames < LEAST_FRAMES:
            return None
        return self._cut(min(self._last_speech + TAIL, self.judged))

    @property
    def idle(self) -> bool:
        """Whether no segment is open."""
        return self._start is None

    @property
    def settled(self) -> bool:
        """Whether the tail of the open segment is complete: unless speech continues, it will be cut as it is."""
        return self._start is not None and self.judged >= self._last_speech + TAIL

    def hear(self, samples: Waveform) -> Iterator[Speech]:
        """Takes more sound; returns the segments that it completes."""
        waiting = np.concatenate([self._rest, samples])
        count = len(waiting) // FRAME
        self._rest = waiting[count * FRAME :]
        if count:
            yield from self._judge(waiting[: count * FRAME].reshape(count, FRAME))

    def finish(self) -> Iterator[Speech]:
        """The recording has ended; returns the open segment."""
        if len(self._rest):
            missing = FRAME - len(self._rest)
            last = np.concatenate([self._rest, np.zeros(missing, dtype=np.float32)])
            self._rest = self._rest[:0]
            yield from self._judge(last[None], missing)
        if self._start is not None:
            yield from self._end()

    def _judge(self, frames: npt.NDArray[np.float32], missing: int = 0) -> Iterator[Speech]:
        """`missing` samples at the end are not sound."""
        self._kept = np.concatenate([self._kept, frames.reshape(-1)[: frames.size - missing]])
        for probability in self._activity(frames).tolist():
            at, self.judged = self.judged, min(self.judged + FRAME, self._kept_from + len(self._kept))
            if probability >= (SPEECH if self._start is None else STILL_SPEECH):
                if self._start is None:
                    self._start = max(self._done, at - self._cuts.lead)
                self._speech_frames += 1
                self._last_speech = self.judged
            if self._start is None:
                self._let_go(self.judged - self._cuts.lead)
            elif self.judged - self._last_speech >= self._needed():
                yield from self._end()
            elif self.judged - self._start >= self._cuts.longest:
                yield self._divide()
        self._kept = self._kept.copy()  # dropped samples count again

    def _needed(self) -> Samples:
        """The pause that ends the open segment."""
        return PAUSE if self._start is None or self._last_speech - self._start >= self._cuts.enough else self._cuts.apart

    def _end(self) -> Iterator[Speech]:
        speech = self.open
        if speech is not None:
            self._done = speech.end
            yield speech
        self._start = None
        self._speech_frames = 0
        self._let_go(max(self._done, self.judged - self._cuts.lead))

    def _divide(self) -> Speech:
        """Cuts the open segment where it is quietest; what follows is the start of the next."""
        assert self._start is not None
        window_from = self.judged - self._cuts.window - self._kept_from
        window = self._kept[window_from : self.judged - self._kept_from]
        count = len(window) // FRAME
        power = np.square(window[: count * FRAME].reshape(count, FRAME)).mean(axis=1)
        smooth = np.convolve(power, np.ones(5) / 5, mode="valid")  # a stop consonant is quiet for less than 160 ms
        quietest = int(smooth.argmin()) + 2
        place = self._kept_from + window_from + quietest * FRAME + FRAME // 2
        speech = self._cut(place, divided=True)
        self._start = self._done = place
        self._speech_frames = max(0, self._last_speech - place) // FRAME
        self._let_go(place)
        return speech

    def _cut(self, end: int, *, divided: bool = False) -> Speech:
        assert self._start is not None
        return Speech(Samples(self._start), self._kept[self._start - self._kept_from : end - self._kept_from].copy(), divided)

    def _let_go(self, before: int) -> None:
        count = max(0, before - self._kept_from)
        self._kept = self._kept[count:]
        self._kept_from += count
