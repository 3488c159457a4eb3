"""The app without a screen: lines that are only ever added, for screen readers, logs and other programs.

Keys are not read. A file is heard from start to end; a microphone hands-free, until Ctrl-C.
"""

import threading
from typing import Protocol, TextIO

import msgspec

from lora.errors import AudioError, LoraError
from lora.system.signals import TerminatedError
from lora.system.terminal import say, shown_json
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Problem, Ready
from lora_cli.history import entry
from lora_cli.session import Recorder, Session

FINISHING_S = 60.0
"""How long quitting waits for the text of the last words; a slow machine may still load the model."""


class Writer(Protocol):
    """Writes events as lines."""

    def event(self, event: Event) -> None: ...
    def problem(self, problem: Problem) -> None: ...


class PlainWriter:
    """Finished text on stdout, everything else on stderr. Nothing is printed twice or taken back."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err

    def event(self, event: Event) -> None:
        if isinstance(event, Loading):
            self._say(event.message)
        elif isinstance(event, Ready):
            self._say(f"listening with {event.voices[0].name}")
        elif isinstance(event, Final) and event.text:
            say(event.text if event.other_text is None else f"{event.voice}: {event.text}", self._out)
            if event.other_text is not None:
                say(f"{event.other_voice}: {event.other_text}", self._out)

    def problem(self, problem: Problem) -> None:
        self._say(f"warning: {problem.message}")

    def _say(self, text: str) -> None:
        say(text, self._err)


class JsonWriter:
    """Every event as a JSON object on a line of stdout, with `event` as its kind; docs/voice.md lists them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._encoder = msgspec.json.Encoder()

    def event(self, event: Event) -> None:
        kind = type(event).__name__.lower()
        values = msgspec.to_builtins(entry(event)) if isinstance(event, Final) else msgspec.to_builtins(event, enc_hook=str)
        self._write({"event": kind, **values})

    def problem(self, problem: Problem) -> None:
        self._write({"event": "problem", **msgspec.to_builtins(problem)})

    def _write(self, values: dict[str, object]) -> None:
        self._out.write(shown_json(self._encoder.encode(values)).decode() + "\n")
        self._out.flush()


def run_lines(session: Session, writer: Writer, *, hands_free: bool, until: threading.Event) -> None:
    """Hears until the source has ended (`until` is set) or the user ends it, and writes what was said; then Ctrl-C and SIGTERM go on.

    Raises `AudioError` when the source cannot be opened, when it gives no sound any more (once the text of what was said is written), and
    when the engine fails.
    """
    conversation = _Conversation(session, writer)
    engine = session.open_engine(conversation.event)
    ended_by: BaseException | None = None
    try:
        engine.start()
        recorder = Recorder(engine, session.postroll)
        recorder.begin(hands_free=hands_free)
        source = session.open_source(recorder.hear, lambda _peak: None, conversation.problem)
        try:
            conversation.wait(until)
        except (KeyboardInterrupt, TerminatedError) as signalled:
            ended_by = signalled
        finally:
            recorder.finish()
            source.close()
        conversation.finish()
    finally:
        engine.close()
    if conversation.broken is not None:
        raise conversation.broken
    if conversation.lost is not None:
        raise AudioError(conversation.lost)
    if ended_by is not None:
        raise ended_by


class _Conversation:
    """Passes events to the writer and the results, and knows when the last one was there. Called from several threads."""

    def __init__(self, session: Session, writer: Writer) -> None:
        self._session, self._writer = session, writer
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.broken: Exception | None = None
        self.lost: str | None = None
        """Why no sound comes any more, if so."""

    def event(self, event: Event) -> None:
        with self._lock:
            try:
                self._pass_on(event)
            except (LoraError, OSError) as error:  # raised again once everything is closed: this is the engine's thread
                self.broken = self.broken or error
                self._ended.set()

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, Final) and event.text:
            self._session.results.add(event)
        if isinstance(event, Failed):
            raise AudioError(event.message)
        self._writer.event(event)
        if isinstance(event, Ended):
            self._ended.set()

    def problem(self, problem: Problem) -> None:
        """Passes it on; what ends the conversation is raised instead."""
        with self._lock:
            if problem.lost:
                self.lost = problem.message
            else:
                self._writer.problem(problem)

    def wait(self, until: threading.Event) -> None:
        """Until the source is through or gone, a signal came or the engine broke."""
        while not until.wait(0.1):
            if self.broken is not None or self.lost is not None:
                return

    def finish(self) -> None:
        """Until the last text is there. A model that is still loading takes its time; an engine that breaks ends the wait."""
        if self.broken is None and not self._ended.wait(FINISHING_S):
            raise AudioError(f"the speech engine did not answer within {FINISHING_S:.0f} s; try again with a smaller model")
