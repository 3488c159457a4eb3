"""The dictation service: one queue of what clients ask, the engine says and the microphone lacks; one thread that answers all of it."""

import queue
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from lora.errors import AudioError, DictationError, LoraError
from lora.system.signals import TerminatedError
from lora.system.terminal import say
from lora_cli.dictation.delivery import Delivered, Deliverer, Way
from lora_cli.dictation.server import Answer, listening
from lora_cli.dictation.x11 import Window
from lora_cli.engine.events import Ended, Event, Failed, Problem, Ready
from lora_cli.engine.events import Final as Finished
from lora_cli.session import Recorder, Session

LOST_S: Final = 10.0
"""A microphone without sound for this long is lost for good."""

FINISHING_S: Final = 10.0
"""How long quitting waits for the text of the last words."""

_REPLY_S: Final = 8.0


class State(StrEnum):
    LOADING = "loading the model"
    READY = "ready"
    RECORDING = "recording"
    FINISHING = "finishing"


@dataclass(frozen=True, slots=True)
class Asked:
    """A client waits for the answer."""

    command: str
    answer: Future[Answer]


Message = Asked | Event | Problem | Delivered


class Service:
    """`run` is its life. Everything here happens in the thread that calls it, but for the callbacks, which only put messages away."""

    def __init__(self, session: Session, way: Way) -> None:
        self._session = session
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._deliverer = Deliverer(way, self._messages.put)
        self._way = way
        self._engine = session.open_engine(self._messages.put)
        self._recorder = Recorder(self._engine, session.postroll)
        self._ready = False
        self._recording: int | None = None
        self._targets: dict[int, Window | None] = {}
        """Recordings whose text is pending."""
        self._delivering: set[int] = set()
        self._lost: str | None = None
        self._lost_at = 0.0
        self._last: dict[str, Any] = {}
        self._problem: str | None = None

    def run(self, socket_path: Path) -> None:
        """Answers clients until a signal comes.

        Raises `AudioError` when there is no microphone (any more) and when the engine fails, and `BrokenPipeError` when nobody reads.
        """
        source = self._session.open_source(self._recorder.hear, self._on_level, self._messages.put)
        try:
            self._engine.start()
            with listening(socket_path, self._ask):
                self._serve()
        finally:
            source.close()
            self._engine.close()
            self._deliverer.close()

    # -- called from other threads -------------------------------------------------------------------------------------------------

    def _on_level(self, _peak: float) -> None:
        self._lost = None

    def _ask(self, command: str) -> Answer:
        asked = Asked(command, Future())
        self._messages.put(asked)
        return asked.answer.result(_REPLY_S)

    # -- the one thread ------------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while True:
                self._step()
        except (KeyboardInterrupt, TerminatedError):
            self._finish()
            raise

    def _finish(self) -> None:
        """Until what was said is delivered."""
        self._end()
        until = time.monotonic() + FINISHING_S
        while (self._targets or self._delivering) and time.monotonic() < until:
            self._step(0.1)

    def _step(self, wait_s: float | None = None) -> None:
        """Does what comes next, or what is due."""
        try:
            message = self._messages.get(timeout=self._wait_s() if wait_s is None else wait_s)
        except queue.Empty:
            self._due()
            return
        if isinstance(message, Asked):
            self._answer(message)
        elif isinstance(message, Problem):
            self._trouble(message)
        elif isinstance(message, Delivered):
            self._delivered(message)
        else:
            self._heard(message)

    def _wait_s(self) -> float | None:
        """Until something is due; None where nothing is."""
        if self._lost is None or self._targets:
            return None
        return max(0.0, self._lost_at + LOST_S - time.monotonic())

    def _due(self) -> None:
        lost = self._lost
        if lost is not None and time.monotonic() >= self._lost_at + LOST_S and not self._targets:
            raise AudioError(lost)

    def _answer(self, asked: Asked) -> None:
        commands: dict[str, Callable[[], None]] = {
            "toggle": self._toggle,
            "start": self._start,
            "stop": self._stop,
            "cancel": self._cancel,
            "status": lambda: None,
        }
        try:
            commands[asked.command]()
        except LoraError as error:
            asked.answer.set_exception(error)
        else:
            asked.answer.set_result({"lines": self._lines() if asked.command == "status" else [self._state], "status": self._status()})

    # -- commands ------------------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> State:
        if self._recording is not None:
            return State.RECORDING
        if not self._ready:
            return State.LOADING
        return State.FINISHING if self._targets or self._delivering else State.READY

    def _toggle(self) -> None:
        if self._state is State.RECORDING:
            self._stop()
        else:
            self._start()

    def _start(self) -> None:
        if self._state is State.RECORDING:
            raise DictationError("a recording is on already; end it: moonshine stop")
        if self._lost is not None:
            raise DictationError(self._lost)
        target = self._way.target()
        self._end()
        self._recording = self._recorder.begin(hands_free=False)
        self._targets[self._recording] = target

    def _stop(self) -> None:
        if self._state is not State.RECORDING:
            raise DictationError("no recording is on; start one: moonshine start")
        self._end()

    def _cancel(self) -> None:
        if not self._targets and not self._delivering:
            raise DictationError("there is nothing to cancel")
        self._recorder.cancel()
        self._recording = None
        self._targets.clear()
        self._deliverer.forget()

    def _end(self) -> None:
        """Ends the recording, if one is on."""
        self._recorder.end()
        self._recording = None

    # -- what is said --------------------------------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        if isinstance(event, Ready):
            self._ready = True
            say(f"ready with {event.voices[0].name}; moonshine toggle starts and ends a recording", sys.stderr)
        elif isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Ended):
            self._targets.pop(event.recording, None)
        elif isinstance(event, Failed):
            raise AudioError(event.message)

    def _finished(self, final: Finished) -> None:
        """Delivers first: keeping it on the disk takes longer."""
        if final.recording not in self._targets:  # cancelled while it was decoded
            return
        target = self._targets.pop(final.recording)
        self._last = {"text": final.text, "seconds": final.length_s, "latency_s": final.latency_s}
        if not final.text:
            return
        self._problem = None
        self._delivering.add(final.recording)
        self._deliverer.put(final.recording, final.text, target)
        try:
            self._session.results.add(final)
        except LoraError as error:
            self._warn(str(error))

    def _delivered(self, delivered: Delivered) -> None:
        self._delivering.discard(delivered.recording)
        if delivered.broken is not None:
            raise delivered.broken
        if delivered.problem is not None:
            self._warn(delivered.problem)

    def _trouble(self, problem: Problem) -> None:
        """Without sound a recording ends, and what was said so far becomes text."""
        self._warn(problem.message)
        if problem.lost:
            self._lost, self._lost_at = problem.message, time.monotonic()
            self._end()

    def _warn(self, problem: str) -> None:
        self._problem = problem
        say(f"warning: {problem}", sys.stderr)

    def _status(self) -> Answer:
        return {
            "state": self._state.name.lower(),
            "voice": self._session.voices[0].name,
            "microphone": self._session.source_name,
            "last": self._last or None,
            "problem": self._lost or self._problem,
        }

    def _lines(self) -> list[str]:
        told = self._status()
        lines = [f"{self._state}: {told['voice']}, {told['microphone']}"]
        if self._last:
            lines.append(f"last: {self._last['text'] or '(no speech found)'}")
        return [*lines, *([f"problem: {told['problem']}"] if told["problem"] else [])]
