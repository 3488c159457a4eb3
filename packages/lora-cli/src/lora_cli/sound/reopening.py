"""A microphone that is opened again by itself where it gives no sound any more."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lora.audio.loading import Waveform
from lora.errors import LoraError
from lora_cli.engine.events import Problem
from lora_cli.session import OnLevel, OnProblem, OnSamples, OpenSource, Source

RETRY_S: Final = 2.0
BACK: Final = "the microphone is back"


@dataclass(frozen=True, slots=True)
class Calls:
    """What is called with sound, with its level, and with what is wrong; `on_back` once sound comes again."""

    on_samples: OnSamples
    on_level: OnLevel
    on_problem: OnProblem
    on_back: Callable[[], None]


class Reopening:
    """Keeps a microphone open. All that it calls, it calls from other threads than the one that made it."""

    def __init__(self, open_source: OpenSource, open_again: OpenSource, calls: Calls) -> None:
        """Opens it, and with `open_again` once it was lost.

        Raises `LoraError` when it cannot be opened: without a microphone at the start there is nothing to wait for.
        """
        self._open_again, self._calls = open_again, calls
        self._lost, self._ended = threading.Event(), threading.Event()
        self._silent = False
        """Whether no sound has come since the microphone was lost."""
        self._source: Source | None = open_source(self._hear, calls.on_level, self._tell)
        self._keeper = threading.Thread(target=self._keep_open, name="microphone's keeper", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Closes the microphone; nothing is called any more when this returns."""
        self._ended.set()
        self._lost.set()
        self._keeper.join()
        self._close_source()

    def _hear(self, samples: Waveform) -> bool:
        if self._silent:
            self._silent = False
            self._calls.on_back()
        return self._calls.on_samples(samples)

    def _tell(self, problem: Problem) -> None:
        """Is called from the microphone's own thread, which cannot close it: the keeper does."""
        if not problem.lost:
            self._calls.on_problem(problem)
            return
        if not self._silent:
            self._calls.on_problem(Problem(f"{problem.message}; it is used again when it is back", lost=True))
        self._silent = True
        self._lost.set()

    def _keep_open(self) -> None:
        while not self._ended.is_set():
            self._lost.wait()
            if self._ended.is_set():
                return
            self._lost.clear()
            self._close_source()
            self._reopen()

    def _reopen(self) -> None:
        while self._source is None and not self._ended.wait(RETRY_S):
            try:
                self._source = self._open_again(self._hear, self._calls.on_level, self._tell)
            except LoraError:  # it is not back yet, which was said when it was lost
                continue

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None
