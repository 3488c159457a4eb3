"""A sitting: which sentence is read, when a take begins and ends, how it is judged, and whether it is kept. Knows no screen.

All methods but `Capture.hear` are called from one thread, the front end's.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import numpy as np

from lora.audio.loading import SILENCE_DBFS, Waveform
from lora.errors import LoraError
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds
from lora_cli.recorder import sound, words
from lora_cli.recorder.faults import Fault, FaultCode
from lora_cli.recorder.progress import Outlook, outlook
from lora_cli.recorder.prompts import Prompt
from lora_cli.recorder.store import Folder
from lora_cli.session import NOTHING, Engine

PREROLL: Final = round(0.3 * SAMPLE_RATE_HZ)
POSTROLL: Final = round(0.3 * SAMPLE_RATE_HZ)
"""Audio before and after the key presses that belongs to a take: people speak as they press."""

BOUNCE_S: Final = Seconds(0.15)
"""Presses closer than this are one key that is held, told as repeats."""

_LONGEST: Final = round(sound.LONGEST_S * SAMPLE_RATE_HZ)
_SHORTEST: Final = sound.FRAME * 10


class Phase(StrEnum):
    READY = "ready"
    RECORDING = "recording"
    ENDING = "ending"
    LISTENING = "listening"
    FAULTY = "faulty"
    DONE = "done"


class Capture:
    """Keeps the sound of a take, with a moment before and after it. `hear` is called from the microphone's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: deque[Waveform] = deque()
        self._left: int | None = None
        """Samples that are still to come; None while no end was asked for."""
        self._on = False
        self.sounds = False
        """Whether sound comes: not before the microphone has opened, nor after it was lost."""

    def hear(self, samples: Waveform) -> bool:
        """Takes sound; says whether it belongs to a take."""
        with self._lock:
            self.sounds = True
            belongs = self._on and (self._left is None or self._left > 0)
            if belongs or not self._on:
                self._chunks.append(samples)
            if self._left is not None:
                self._left -= len(samples)
            while not self._on and self._kept - len(self._chunks[0]) >= PREROLL:
                self._chunks.popleft()
            if self._on and self._left is None and self._kept >= _LONGEST:
                self._left = 0
            return belongs

    @property
    def _kept(self) -> int:
        return sum(map(len, self._chunks))

    def begin(self) -> None:
        """A take begins with the moment just before."""
        with self._lock:
            self._on, self._left = True, None

    def end(self) -> None:
        """The take ends a moment from now."""
        with self._lock:
            if self._on and self._left is None:
                self._left = POSTROLL

    @property
    def ended(self) -> bool:
        """Whether all of the take is there."""
        with self._lock:
            return self._on and self._left is not None and self._left <= 0

    @property
    def length_s(self) -> Seconds:
        with self._lock:
            return seconds(self._kept)

    def take(self) -> Waveform:
        """The take, and nothing is kept any more."""
        with self._lock:
            samples = np.concatenate([NOTHING, *self._chunks])[:_LONGEST]
            self._chunks.clear()
            self._on, self._left = False, None
            return samples


@dataclass(slots=True)
class Take:
    """The latest take: its sound, and what is known about it so far."""

    prompt: Prompt
    samples: Waveform
    measures: sound.Measures
    faults: tuple[Fault, ...]
    heard: str | None = None
    recording: int | None = None
    """Its number at the engine, while the engine listens."""

    @property
    def codes(self) -> list[str]:
        return [fault.code.value for fault in self.faults]


@dataclass
class Sitting:
    """Sentences in turn. `engine` is the model that listens; None for none."""

    folder: Folder
    prompts: Sequence[Prompt]
    engine: Engine | None
    device: str
    capture: Capture = field(default_factory=Capture)
    phase: Phase = Phase.READY
    take: Take | None = None
    """The one that is being judged, or was found wrong."""
    said: str = ""
    """What became of the last thing that was done, in a line."""
    model_ready: bool = False
    """Whether the model listens by now; before that a take waits for it."""

    def __post_init__(self) -> None:
        self._queue = deque(prompt for prompt in self.prompts if prompt.id not in self.folder.rows[prompt.set])
        self._again: Prompt | None = None
        """A sentence that is read once more, before the queue goes on."""
        self._last: Prompt | None = None
        self._pressed_at: float | None = None
        self._outlook = outlook(self.folder.rows, self.folder.language)
        self._settle()

    @property
    def prompt(self) -> Prompt | None:
        """What is to be read; None when all is recorded."""
        return self._again or (self._queue[0] if self._queue else None)

    @property
    def left(self) -> int:
        return len(self._queue)

    @property
    def outlook(self) -> Outlook:
        return self._outlook

    @property
    def playable(self) -> Waveform | None:
        """The sound of the take that is being judged."""
        return self.take.samples if self.take is not None else None

    @property
    def last(self) -> Prompt | None:
        """The sentence that was kept last, in this sitting."""
        return self._last

    def press(self, now: float) -> None:
        """The talk key: begins a take, or ends it. Another take replaces one that was found wrong."""
        bounced = self._pressed_at is not None and now - self._pressed_at < BOUNCE_S
        self._pressed_at = now
        if bounced:
            return
        if not self.capture.sounds:
            self.said = "no sound comes from the microphone yet; wait for it, then press space"
        elif self.phase in (Phase.READY, Phase.FAULTY):
            self.take, self.said = None, ""
            self.capture.begin()
            self.phase = Phase.RECORDING
        elif self.phase is Phase.RECORDING:
            self.capture.end()
            self.phase = Phase.ENDING

    def lose(self) -> None:
        """The microphone is lost, and with it a take that was being recorded; the sentence stays."""
        self.capture.sounds = False
        if self.phase in (Phase.RECORDING, Phase.ENDING):
            self.discard("the take is lost with the microphone; the sentence is still to be read")

    def discard(self, why: str = "discarded") -> None:
        """Forgets the take that is being recorded or was found wrong; the sentence stays."""
        if self.phase in (Phase.RECORDING, Phase.ENDING):
            self.capture.take()
        if self.phase is not Phase.DONE:
            self.take, self.said, self.phase = None, why, Phase.READY

    def tick(self) -> None:
        """Looks whether a take is complete, and judges its sound at once."""
        if self.phase in (Phase.RECORDING, Phase.ENDING) and self.capture.ended:
            self._judge_sound(self.capture.take())

    def heard(self, recording: int, text: str) -> None:
        """What the model understood; a take without a fault is kept."""
        take = self.take
        if self.phase is not Phase.LISTENING or take is None or take.recording != recording:
            return
        take.heard = text
        said = () if take.prompt.said is None else (take.prompt.said,)
        if (fault := words.fault(take.prompt.text, said, text, self.folder.language)) is not None:
            take.faults = (*take.faults, fault)
        self._judged(take)

    def keep(self) -> None:
        """Keeps the take though something is wrong."""
        if self.phase is not Phase.FAULTY or self.take is None:
            self.said = "there is nothing to keep: read the sentence first"
        elif any(fault.final for fault in self.take.faults):
            self.said = "without speech there is nothing to train on: read it again"
        else:
            self._keep(self.take)

    def again(self) -> None:
        """Goes back to the sentence that was kept last; its recording stays until there is a new one."""
        if self.phase in (Phase.READY, Phase.FAULTY, Phase.DONE) and self._last is not None:
            self._again, self.take, self.said = self._last, None, "once more; the recording of before stays until there is a new one"
            self.phase = Phase.READY
        elif self._last is None:
            self.said = "nothing was recorded in this sitting yet"

    def skip(self) -> None:
        """Moves the sentence to the end of the queue."""
        if self.phase not in (Phase.READY, Phase.FAULTY):
            return
        if self._again is None:
            self._queue.rotate(-1)
        self._again, self.take, self.said = None, None, "skipped; it comes again at the end"
        self._settle()

    def _judge_sound(self, samples: Waveform) -> None:
        assert self.prompt is not None  # or no take would have begun
        if len(samples) < _SHORTEST:
            self.discard("the microphone gave no sound; press space and read")
            return
        measures = sound.measure(samples)
        take = self.take = Take(self.prompt, samples, measures, sound.faults(measures))
        if measures.peak_dbfs < SILENCE_DBFS:
            take.faults = (Fault(FaultCode.SILENT, "complete silence; is the microphone muted?"),)
        if self.engine is None or (take.faults and take.faults[0].final):
            self._judged(take)
            return
        self.phase = Phase.LISTENING
        take.recording = self.engine.begin(hands_free=False, preroll=NOTHING)
        self.engine.feed(samples)
        self.engine.end()

    def _judged(self, take: Take) -> None:
        if take.faults:
            self.phase = Phase.FAULTY
        else:
            self._keep(take)

    def _keep(self, take: Take) -> None:
        try:
            self.folder.keep(take.prompt, take.samples, self._meta(take))
        except LoraError as error:  # said on the screen; the take is still there to be kept
            self.phase, self.said = Phase.FAULTY, f"not kept: {error}"
            return
        if self._queue and self._queue[0].id == take.prompt.id:
            self._queue.popleft()
        self._again, self.take, self._last = None, None, take.prompt
        self.said = f"kept, {take.measures.length_s:.1f} s"
        self._outlook = outlook(self.folder.rows, self.folder.language)
        self._settle()

    def _meta(self, take: Take) -> Mapping[str, object]:
        levels = {
            "peak_dbfs": take.measures.peak_dbfs,
            "voice_dbfs": take.measures.voice_dbfs,
            "background_dbfs": take.measures.background_dbfs,
        }
        despite = {"kept_despite": take.codes} if take.faults else {}
        recorded_at = datetime.now().astimezone().isoformat(timespec="seconds")
        rounded = {name: round(level, 1) for name, level in levels.items()}
        return {"heard": take.heard, "recorded_at": recorded_at, "device": self.device, **rounded, **despite}

    def _settle(self) -> None:
        self.phase = Phase.DONE if self.prompt is None else Phase.READY
