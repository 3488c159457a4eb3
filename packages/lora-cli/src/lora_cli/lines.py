"""The app without a screen: lines that are only ever added, for screen readers, logs and other programs.

A file is heard from start to end; a microphone hands-free until Ctrl-C, or from one Enter to the next.
"""

import queue
import threading
from typing import Protocol, TextIO

import msgspec

from lora.errors import AudioError, LoraError
from lora.system.signals import TerminatedError
from lora.system.terminal import say, shown_json
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Problem, Ready
from lora_cli.history import entry
from lora_cli.session import Recorder, Session
from lora_cli.typed import QUIT, read_keys

FINISHING_S = 60.0
"""How long quitting waits for the text of the last words; a slow machine may still load the model."""


POLL_S = 0.1

KEYS_HELP = "Enter starts a recording, and ends it; d and Enter discards it; q and Enter quits"


class Writer(Protocol):
    """Writes events as lines."""

    def event(self, event: Event) -> None: ...
    def problem(self, problem: Problem) -> None: ...
    def note(self, text: str) -> None:
        """Says to a person what the keys do, or did."""


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

    def note(self, text: str) -> None:
        self._say(text)

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

    def note(self, text: str) -> None:
        """Whoever reads JSON knows the keys."""

    def _write(self, values: dict[str, object]) -> None:
        self._out.write(shown_json(self._encoder.encode(values)).decode() + "\n")
        self._out.flush()


def run_lines(session: Session, writer: Writer, *, hands_free: bool, until: threading.Event, keys: TextIO | None = None) -> None:
    """Hears until the source has ended (`until` is set) or the user ends it, and writes what was said; then Ctrl-C and SIGTERM go on.

    With `keys` it hears from one line to the next: Enter starts and ends a recording, d discards it, q ends.

    Raises `AudioError` when the source cannot be opened, when it gives no sound any more (once the text of what was said is written), and
    when the engine fails.
    """
    conversation = _Conversation(session, writer)
    engine = session.open_engine(conversation.event)
    ended_by: BaseException | None = None
    try:
        engine.start()
        recorder = Recorder(engine, session.postroll)
        if keys is None:
            conversation.expect()
            recorder.begin(hands_free=hands_free)
        source = session.open_source(recorder.hear, lambda _peak: None, conversation.problem)
        try:
            if keys is None:
                conversation.wait(until)
            else:
                _Pressed(recorder, conversation, writer).run(keys)
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


class _Pressed:
    """Recordings that typed lines start and end."""

    def __init__(self, recorder: Recorder, conversation: "_Conversation", writer: Writer) -> None:
        self._recorder, self._conversation, self._writer = recorder, conversation, writer
        self._recording = False

    def run(self, keys: TextIO) -> None:
        """Until q, the end of the input, or what ends the conversation."""
        typed: queue.SimpleQueue[str] = queue.SimpleQueue()
        read_keys(keys, typed.put)
        self._writer.note(KEYS_HELP)
        while not self._conversation.over:
            try:
                key = typed.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if key == QUIT:
                return
            self._press(key)

    def _press(self, key: str) -> None:
        if key == "" and not self._recording:
            self._conversation.expect()
            self._recorder.begin(hands_free=False)
            self._recording = True
            self._writer.note("recording")
        elif key == "" or (key == "d" and self._recording):
            self._recording = False
            if key:
                self._recorder.cancel()
            else:
                self._recorder.end()
            self._writer.note("discarded" if key else "the text comes")
        else:
            self._writer.note(KEYS_HELP)


class _Conversation:
    """Passes events to the writer and the results, and knows when the last one was there. Called from several threads."""

    def __init__(self, session: Session, writer: Writer) -> None:
        self._session, self._writer = session, writer
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._expected = 0
        """Recordings whose end is still to come."""
        self.broken: Exception | None = None
        self.lost: str | None = None
        """Why no sound comes any more, if so."""

    @property
    def over(self) -> bool:
        """Whether the engine broke, or no sound comes any more."""
        return self.broken is not None or self.lost is not None

    def expect(self) -> None:
        """A recording begins, whose end is to be waited for."""
        with self._lock:
            self._expected += 1
            self._ended.clear()

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
            self._expected -= 1
            if not self._expected:
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
        while not until.wait(POLL_S) and not self.over:
            pass

    def finish(self) -> None:
        """Until the last text is there. A model that is still loading takes its time; an engine that breaks ends the wait."""
        if self.broken is None and not self._ended.wait(FINISHING_S):
            raise AudioError(f"the speech engine did not answer within {FINISHING_S:.0f} s; try again with a smaller model")
