"""The recorder without a screen, for screen readers: lines that are only ever added, and keys that are typed with Enter."""

import queue
import sys
import time
from typing import Final, TextIO

from lora.errors import AudioError, LoraError
from lora.system.terminal import say
from lora_cli.engine.events import Event, Failed, Loading, Problem, Ready
from lora_cli.engine.events import Final as Spoken
from lora_cli.recorder.booth import KEYS, Booth, complaints, place, sound
from lora_cli.recorder.sitting import Phase, Sitting
from lora_cli.sound.reopening import BACK, Calls, Reopening
from lora_cli.typed import QUIT, read_keys

POLL_S: Final = 0.05

HELP: Final = (
    "Enter records, and ends; " + "; ".join(f"{key} {what}" for key, _, what in KEYS[1:] if len(key) == 1) + "; d discards the take"
)


def run_plain(booth: Booth, keys: TextIO | None = None) -> int:
    """Records until `q` or the end of the input; returns the exit code.

    Raises `ConfigError` without anything to read keys from, and what keeps microphone or model from working.
    """
    news: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine = booth.open_engine(news.put) if booth.open_engine is not None else None
    try:
        if engine is not None:
            engine.start()
        sitting = booth.sitting(engine)
        calls = Calls(sitting.capture.hear, lambda _peak: None, news.put, lambda: news.put(Problem(BACK)))
        microphone = Reopening(booth.open_source, booth.open_source, calls)
        try:
            read_keys(keys or sys.stdin, news.put)
            Conversation(booth, sitting).run(news)
        finally:
            microphone.close()
    finally:
        if engine is not None:
            engine.close()
    return 0


class Conversation:
    """Says what changed, once."""

    def __init__(self, booth: Booth, sitting: Sitting) -> None:
        self._booth, self._sitting = booth, sitting
        self._asked: tuple[str, bool] | None = None

    def run(self, news: "queue.SimpleQueue[object]") -> None:
        self.begin()
        while self._sitting.phase is not Phase.DONE or not news.empty():
            try:
                what = news.get(timeout=POLL_S)
            except queue.Empty:
                what = None
            if what == QUIT:
                return
            self.step(what)

    def begin(self) -> None:
        """Says what the keys do, and the first sentence."""
        say(HELP)
        self._ask()

    def step(self, what: object) -> None:
        """Handles a typed key or an event of engine or microphone, and prints the result. Raises `AudioError` without a model."""
        before, said = self._sitting.phase, self._sitting.said
        self._do(what)
        self._sitting.tick()
        self._tell(before, said)

    def _do(self, what: object) -> None:
        sitting = self._sitting
        if isinstance(what, str):
            self._key(what)
        elif isinstance(what, Problem):
            say(f"warning: {what.message}")
            if what.lost:
                sitting.lose()
        elif isinstance(what, Spoken):
            sitting.heard(what.recording, what.text)
        elif isinstance(what, Loading | Ready):
            self._event(what)
        elif isinstance(what, Failed):
            raise AudioError(what.message)

    def _event(self, event: Event) -> None:
        self._sitting.model_ready = isinstance(event, Ready)
        say(event.message if isinstance(event, Loading) else "the model listens")

    def _key(self, key: str) -> None:
        sitting = self._sitting
        actions = {"k": sitting.keep, "r": sitting.again, "s": sitting.skip, "d": sitting.discard, "p": self._play}
        if key == "":
            sitting.press(time.monotonic())
        elif key in actions:
            actions[key]()
            self._asked = None
        else:
            say(f"{key!r} is no key; {HELP}")

    def _play(self) -> None:
        if self._sitting.phase in (Phase.RECORDING, Phase.ENDING):
            return
        if (samples := sound(self._booth, self._sitting)) is None:
            say("nothing was recorded in this sitting yet")
            return
        from lora_cli.sound.microphone import play

        try:
            play(samples)
        except LoraError as error:
            say(f"warning: {error}")

    def _tell(self, before: Phase, said: str) -> None:
        sitting = self._sitting
        if sitting.said and sitting.said != said:
            say(sitting.said)
        if sitting.phase is before:
            if self._asked is None:
                self._ask()
            return
        if sitting.phase is Phase.RECORDING:
            say("recording")
        elif sitting.phase is Phase.FAULTY:
            for line in complaints(sitting):
                say(f"! {line}")
        self._ask()

    def _ask(self) -> None:
        """Says the sentence that is to be read, where it is another one or has to be read again."""
        sitting = self._sitting
        if sitting.phase is Phase.DONE:
            say("all sentences are recorded")
            return
        if sitting.phase not in (Phase.READY, Phase.FAULTY) or sitting.prompt is None:
            return
        asked = (sitting.prompt.text, sitting.phase is Phase.FAULTY)
        if asked != self._asked:
            self._asked = asked
            say(place(self._booth, sitting))
            say(f"read: {sitting.prompt.text}" if sitting.phase is Phase.READY else f"again, or k to keep it: {sitting.prompt.text}")
