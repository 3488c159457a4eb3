"""What a front end is given to work with, and the one thing it does with sound: carry it from the source to the engine."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np

from lora.audio import Waveform
from lora_cli.events import Event, Final, Voice

NOTHING: Waveform = np.zeros(0, dtype=np.float32)


class Engine(Protocol):
    """What hears. See `lora_cli.engine`."""

    def start(self) -> None: ...
    def begin(self, *, hands_free: bool, preroll: Waveform) -> int: ...
    def feed(self, samples: Waveform) -> None: ...
    def end(self) -> None: ...
    def cancel(self) -> None: ...
    def use(self, name: str) -> None: ...
    def compare(self, name: str | None) -> None: ...
    def close(self) -> None: ...


class Source(Protocol):
    """Where sound comes from: a microphone, or a file paced as if spoken."""

    def preroll(self) -> Waveform:
        """The latest sound, `[samples]` at 16 kHz: people start to speak as the key goes down. A file starts to speak now."""

    def close(self) -> None: ...


class SaveFormat(StrEnum):
    TEXT = "txt"
    JSONL = "jsonl"
    SRT = "srt"


class Results(Protocol):
    """What becomes of finished utterances. Every method may take its time and raises `lora.errors.LoraError` when it cannot do it."""

    def add(self, final: Final) -> None:
        """Keeps it on disk."""

    def remove(self, final: Final) -> None: ...
    def copy(self, text: str) -> None:
        """Into the system's clipboard, where there is one; the terminal's own is the screen's business."""

    def save(self, form: SaveFormat) -> Path:
        """Writes all that is kept; returns the file."""

    def correct(self, final: Final, text: str) -> Path:
        """Appends sound and corrected text to a manifest, on disk when this returns; returns the manifest."""

    def replay(self, final: Final) -> None:
        """Plays it, and returns when it was played."""


OnSamples = Callable[[Waveform], None]
OnLevel = Callable[[float], None]
"""Takes the peak of the latest sound, 0 to 1."""
OnProblem = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Session:
    """The makers of what the app needs; it calls them once its first frame is on the screen.

    `open_source` raises `lora.errors.LoraError` when there is no device.
    """

    voices: tuple[Voice, ...]
    open_engine: Callable[[Callable[[Event], None]], Engine]
    open_source: Callable[[OnSamples, OnLevel, OnProblem], Source]
    source_name: str
    results: Results


class Recorder:
    """Carries sound from a source to the engine while a recording is on. Sound and commands come from different threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._on = False
        self._preroll = NOTHING
        self.heard = threading.Event()
        """Set once the recording's first sound has arrived."""

    def begin(self, source: Source, *, hands_free: bool) -> int:
        """Starts a recording with what the source kept in memory; returns its number."""
        with self._lock:
            self.heard.clear()
            self._preroll = source.preroll()
            self._on = True
            return self._engine.begin(hands_free=hands_free, preroll=self._preroll)

    def hear(self, samples: Waveform) -> None:
        """Takes samples from the source; drops them while nothing is recorded."""
        with self._lock:
            if not self._on:
                return
            # The source keeps a chunk before it passes it on: one that was on its way as the recording began is in the preroll.
            if not np.array_equal(self._preroll[-len(samples) :], samples):
                self._engine.feed(samples)
            self._preroll = NOTHING
            self.heard.set()

    def end(self) -> None:
        """Ends the recording; its text is still to come."""
        with self._lock:
            if self._on:
                self._on = False
                self._engine.end()
