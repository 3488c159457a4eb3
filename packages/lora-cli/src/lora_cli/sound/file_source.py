"""A recording in place of the microphone, paced as if it were spoken."""

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from lora.audio.loading import Waveform
from lora.units import SAMPLE_RATE_HZ

CHUNK: Final = SAMPLE_RATE_HZ // 50
"""Samples given at a time: 20 ms, as from a microphone."""


class FileSource:
    """Plays a file once, from when it is opened; silence follows as long as it stays open.

    Chunks of 16 kHz mono go to `on_samples`, peaks to `on_level`, and `on_end` is called once the file is through, all from a thread of
    the source's own.
    """

    def __init__(
        self, samples: Waveform, on_samples: Callable[[Waveform], object], on_level: Callable[[float], None], on_end: Callable[[], None]
    ) -> None:
        """`samples` are the recording, 16 kHz mono."""
        self._samples = samples
        self._on_samples, self._on_level, self._on_end = on_samples, on_level, on_end
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        due, at = time.monotonic(), 0
        silence = np.zeros(CHUNK, dtype=np.float32)
        while True:
            due += CHUNK / SAMPLE_RATE_HZ
            if self._closed.wait(max(0.0, due - time.monotonic())):
                return
            chunk = self._samples[at : at + CHUNK] if at < len(self._samples) else silence
            self._on_samples(chunk)
            self._on_level(float(np.abs(chunk).max(initial=0.0)))
            if at < len(self._samples) <= at + CHUNK:
                self._on_end()
            at += CHUNK
