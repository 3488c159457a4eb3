"""What a front end works with, and the path of sound from the source to the engine."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np

from lora.audio.loading import Waveform
from lora.units import SAMPLE_RATE_HZ, Seconds
from lora_cli.engine.events import Event, Final, Problem, Voice
from lora_cli.replacements import Replacement
from lora_cli.talking import Background

PREROLL_SAMPLES = round(0.3 * SAMPLE_RATE_HZ)
"""Sound from before the key press that belongs to a recording: people start to speak as the key goes down."""

POSTROLL_SAMPLES = round(0.25 * SAMPLE_RATE_HZ)
"""Sound from behind the release that belongs to it: people let go in their last word."""

GRACE_S = 0.5
"""How long the sound behind a release may be late."""

NOTHING: Waveform = np.zeros(0, dtype=np.float32)


class Engine(Protocol):
    """What hears. See `lora_cli.engine.process`."""

    def start(self) -> None: ...
    def begin(self, *, hands_free: bool, preroll: Waveform, repeated: int = 0) -> int: ...
    def feed(self, samples: Waveform) -> None: ...
    def end(self, postroll: int = 0) -> None: ...
    def cancel(self) -> None: ...
    def use(self, name: str) -> None: ...
    def compare(self, name: str | None) -> None: ...
    def close(self) -> None: ...


class Source(Protocol):
    """Where sound comes from: a microphone, or a file paced as if spoken."""

    def close(self) -> None: ...


class SaveFormat(StrEnum):
    TEXT = "txt"
    MANIFEST = "jsonl"
    SRT = "srt"


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a manifest of corrections holds."""

    file: Path
    count: int
    length_s: Seconds


class History(Protocol):
    """Storage of finished utterances. Every method may be slow, and raises `lora.errors.LoraError` when it fails."""

    def add(self, final: Final) -> None:
        """Keeps it on disk."""

    def remove(self, final: Final) -> None:
        """From the disk; what was removed last can be restored until the app ends."""

    def restore(self, final: Final) -> None:
        """Brings back what `remove` took, where it stood."""

    def prefer(self, final: Final, voice: str) -> None:
        """Keeps which voice's text is the better one."""

    def copy(self, text: str) -> None:
        """Into the system's clipboard, if there is one; the terminal's own is the screen's business."""

    def save(self, form: SaveFormat) -> Path:
        """Writes all that is kept; returns the file."""

    def correct(self, final: Final, text: str) -> Corrections:
        """Appends sound and corrected text to a manifest, on disk when this returns; returns what that holds now."""

    def replay(self, final: Final) -> None:
        """Plays it, and returns when it was played."""


OnSamples = Callable[[Waveform], bool]
"""Takes sound; says whether it is being recorded."""
OnLevel = Callable[[float], None]
"""Takes the peak of the latest sound, 0 to 1."""
OnProblem = Callable[[Problem], None]
OpenSource = Callable[[OnSamples, OnLevel, OnProblem], Source]
"""Opens a source of sound; raises `lora.errors.LoraError` where there is none."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A microphone to choose: `label` says what it is, and `open` raises `lora.errors.LoraError` when it cannot be opened."""

    name: str
    label: str
    open: OpenSource


@dataclass(frozen=True, slots=True)
class Session:
    """The makers of what the app needs; it calls them once its first frame is on the screen.

    `open_source` raises `lora.errors.LoraError` when there is no device.
    """

    voices: tuple[Voice, ...]
    open_engine: Callable[[Callable[[Event], None]], Engine]
    open_source: OpenSource
    source_name: str
    results: History
    devices: Callable[[], tuple[InputDevice, ...]] | None = None
    """The microphones there are now; None where a recording is heard in place of one. No source may be open. Raises `LoraError` without a
    sound library."""
    open_again: Callable[[str | None, OnSamples, OnLevel, OnProblem], Source] | None = None
    """Opens the microphone of that name, or that of the start, if it is there now. No source may be open. Raises `LoraError`."""
    add_replacement: Callable[[Replacement], None] | None = None
    """Puts an entry into the user's table, for what is heard from then on. Raises `LoraError`."""
    theme: str = "dark"
    """Or `light`."""
    background: Background = Background.LISTEN
    kept: bool = True
    """Whether sound and text stay on the disk."""
    postroll: int = POSTROLL_SAMPLES
    """Samples of it."""


class Recorder:
    """Carries sound to the engine while a recording is on and for a moment behind it, and keeps the last moment in memory while none is.

    Sound and commands come from different threads; one lock makes a recording start without a gap and without a chunk heard twice.
    """

    def __init__(self, engine: Engine, postroll: int = POSTROLL_SAMPLES) -> None:
        """`postroll` samples behind the end of a recording belong to it."""
        self._engine = engine
        self._postroll = postroll
        self._lock = threading.Lock()
        self._on = False
        self._kept: deque[Waveform] = deque()
        self._since = 0
        """Samples since the last recording ended."""
        self._followed = 0
        """Those of them that were fed."""
        self._due = 0
        """Samples of the post-roll that are still to come."""
        self.heard = threading.Event()
        """Set once the recording's first sound has arrived."""
        self._complete = threading.Event()
        """Set while no sound of a post-roll is to come."""
        self._complete.set()

    def begin(self, *, hands_free: bool) -> int:
        """Starts a recording with the sound just before it; returns its number. One whose post-roll is still to come is over."""
        with self._lock:
            self.heard.clear()
            preroll = np.concatenate([NOTHING, *self._kept])[-PREROLL_SAMPLES:]
            repeated = max(0, self._followed - (self._since - len(preroll)))
            self._kept.clear()
            self._on = True
            self._expect(0)
            return self._engine.begin(hands_free=hands_free, preroll=preroll, repeated=repeated)

    def hear(self, samples: Waveform) -> bool:
        """Takes samples from the source; says whether they are being recorded."""
        with self._lock:
            if self._on:
                self._engine.feed(samples)
                self.heard.set()
                return True
            self._since += len(samples)
            self._kept.append(samples)
            while sum(map(len, self._kept)) - len(self._kept[0]) >= PREROLL_SAMPLES:
                self._kept.popleft()
            return self._follow(samples[: self._due])

    def cancel(self) -> None:
        """Ends the recording and forgets it, at once; one whose post-roll is still to come too."""
        with self._lock:
            if self._on or self._due:
                self._on = False
                self._since = self._followed = 0
                self._expect(0)
                self._engine.cancel()

    def end(self) -> None:
        """Ends the recording; its text is still to come."""
        with self._lock:
            if self._on:
                self._on = False
                self._since = self._followed = 0
                self._expect(self._postroll)
                self._engine.end(self._postroll)

    def finish(self) -> None:
        """Ends the recording, and returns when all its sound has come: the source may be closed then."""
        self.end()
        self._complete.wait(self._postroll / SAMPLE_RATE_HZ + GRACE_S)

    def _follow(self, samples: Waveform) -> bool:
        """Sound behind the end; says whether there is any."""
        if len(samples):
            self._followed += len(samples)
            self._engine.feed(samples)
            self._expect(self._due - len(samples))
        return len(samples) > 0

    def _expect(self, count: int) -> None:
        self._due = count
        if count:
            self._complete.clear()
        else:
            self._complete.set()
