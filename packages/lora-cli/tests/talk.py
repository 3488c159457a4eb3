"""An engine in its own process that a test talks to, and what it has said."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from lora_cli.engine.events import Ended, Event, Final, Voice
from lora_cli.engine.process import Engine

from lora.audio.loading import Waveform, duration
from lora.scoring.counts import score_utterance
from lora.units import SAMPLE_RATE_HZ

NOTHING: Waveform = np.zeros(0, dtype=np.float32)
CHUNK = 1600
WAIT_S = 120.0

EventT = TypeVar("EventT", bound=Event)


class Heard:
    """Events of an engine, for a test to wait for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def until(self, kind: type[EventT], fits: Callable[[EventT], bool] = lambda _event: True) -> EventT:
        """The first event of a kind, once it is there."""
        found: list[EventT] = []

        def there() -> bool:
            found[:] = [event for event in self.events if isinstance(event, kind) and fits(event)]
            return bool(found)

        with self.news:
            assert self.news.wait_for(there, WAIT_S), self.events[-3:]
        return found[0]

    def of(self, kind: type[EventT], recording: int) -> list[EventT]:
        """What has come of a recording."""
        with self.news:
            return [event for event in self.events if isinstance(event, kind) and getattr(event, "recording", None) == recording]


class Talk:
    """An engine at work and what it says."""

    def __init__(self, voices: Sequence[Voice]) -> None:
        self.heard = Heard()
        self.engine = Engine(voices, self.heard, device="cpu")
        self.engine.start()

    def say(self, sound: Waveform, *, hands_free: bool = False, preroll: Waveform = NOTHING, real_time: bool = False) -> int:
        """A whole recording, up to its release."""
        number = self.engine.begin(hands_free=hands_free, preroll=preroll)
        started = time.monotonic()
        for at in range(0, len(sound), CHUNK):
            self.engine.feed(sound[at : at + CHUNK])
            if real_time:
                time.sleep(max(0.0, started + (at + CHUNK) / SAMPLE_RATE_HZ - time.monotonic()))
        self.engine.end()
        return number

    def finals(self, number: int) -> list[Final]:
        """All finals of a recording, once it has ended. What was fed is either speech or silence."""
        self.heard.until(Ended, lambda event: event.recording == number)
        return self.heard.of(Final, number)


def silence(length_s: float) -> Waveform:
    return np.zeros(round(length_s * SAMPLE_RATE_HZ), dtype=np.float32)


def word_errors(reference: str, hypothesis: str) -> int:
    score = score_utterance(id="", speaker_id=None, seconds=duration(NOTHING), reference=reference, hypothesis=hypothesis, capped=False)
    return score.words.errors
