"""The recorder's screen: one sentence, what happens, what is wrong, and the progress."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import ClassVar

from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from lora.errors import AudioError, LoraError
from lora.system.terminal import shown
from lora_cli.engine.events import Event, Failed, Final, Loading, Problem, Ready
from lora_cli.recorder.booth import KEYS, Booth, complaints, place, sound, state
from lora_cli.recorder.sitting import Phase, Sitting
from lora_cli.screen.driver import ENDING_SIGNALS, TalkDriver, TerminalGone, check_terminal
from lora_cli.screen.keyboard import KeyRepeated
from lora_cli.screen.widgets import Meter
from lora_cli.session import Engine
from lora_cli.sound.reopening import BACK, Calls, Reopening

TICK_S = 0.1
READ_ALREADY = "you can begin to read already"
FALLING = 0.7
"""Decay of the meter's peak per tick without a higher one."""


class EngineSpoke(Message):
    """The engine's event, from its thread to the screen's."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class SourceProblem(Message):
    """Something is wrong with the microphone."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class RecorderApp(App[None]):
    """Draws on stderr. `run_screen` runs it and frees what it opened."""

    TITLE = "moonshine record"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #place, #keys { height: auto; padding: 0 1; background: $panel; }
    #prompt { height: 1fr; min-height: 3; padding: 0 2; content-align: center middle; text-style: bold; border: solid $primary; }
    #prompt.-recording { border: double $error; }
    #state { height: auto; padding: 0 1; text-style: bold; content-align: center middle; width: 100%; }
    #faults { height: auto; padding: 0 1; color: $text-error; text-style: bold; }
    #said, #outlook { height: auto; padding: 0 1; }
    #meter { height: 1; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, word, word, show=False) for key, word, _ in KEYS),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, booth: Booth, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(driver_class=TalkDriver)
        self._booth = booth
        self._clock = clock
        self._engine: Engine | None = None
        self._microphone: Reopening | None = None
        self._peak = 0.0
        self._playing = False
        self._sounded = False
        """Whether sound came when that was last shown."""
        self._notice = ""
        """What microphone or model say, until the next press."""
        self.broken: LoraError | None = None
        self.sitting: Sitting | None = None
        self.ticking: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="place", markup=False)
        yield Static(id="prompt", markup=False)
        yield Static(id="state", markup=False)
        yield Static(id="faults", markup=False)
        yield Meter(id="meter", markup=False)
        yield Static(id="said", markup=False)
        yield Static(id="outlook", markup=False)
        parts = (Content.assemble(("esc" if key == "escape" else key, "bold underline"), f" {word}") for key, word, _ in KEYS)
        yield Static(Content("  ").join(parts), id="keys")

    def on_mount(self) -> None:
        if not self.is_headless:
            for number in ENDING_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)
        self.call_after_refresh(self._open)

    def _open(self) -> None:
        if self._booth.open_engine is not None:
            self._notice = f"the model is loading; {READ_ALREADY}"
            self._engine = self._booth.open_engine(self._on_event)
            self._engine.start()
        self.sitting = self._booth.sitting(self._engine)
        self.ticking = self.set_interval(TICK_S, self.tick)
        self._open_source(self.sitting)
        self.show()

    @work(thread=True)
    def _open_source(self, sitting: Sitting) -> None:
        try:
            calls = Calls(sitting.capture.hear, self._on_level, self._on_problem, self._on_back)
            self._microphone = Reopening(self._booth.open_source, self._booth.open_source, calls)
        except LoraError as error:
            self.call_from_thread(self._break, error)

    def close(self) -> None:
        """Ends what was opened; waits for the engine's process to end."""
        if self._microphone is not None:
            self._microphone.close()
        if self._engine is not None:
            self._engine.close()

    def _break(self, error: LoraError) -> None:
        self.broken = error
        self.exit()

    def _on_event(self, event: Event) -> None:
        self.post_message(EngineSpoke(event))

    def _on_level(self, peak: float) -> None:
        self._peak = max(self._peak, peak)

    def _on_problem(self, problem: Problem) -> None:
        self.post_message(SourceProblem(problem))

    def _on_back(self) -> None:
        self.post_message(SourceProblem(Problem(BACK)))

    def on_source_problem(self, message: SourceProblem) -> None:
        """Says it. Without sound the take is lost, and the sentence stays."""
        self._notice = message.problem.message
        if message.problem.lost and self.sitting is not None:
            self.sitting.lose()
        self.show()

    def on_engine_spoke(self, message: EngineSpoke) -> None:
        self._hear(message.event)
        self.show()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Loading):
            self._notice = f"{event.message} ({event.step} of {event.steps}); {READ_ALREADY}"
        elif isinstance(event, Ready):
            self._notice = ""
            if self.sitting is not None:
                self.sitting.model_ready = True
        elif isinstance(event, Failed):
            self._break(AudioError(event.message))
        elif isinstance(event, Final) and self.sitting is not None:
            self.sitting.heard(event.recording, event.text)

    def on_terminal_gone(self, _message: TerminalGone) -> None:
        self.exit(return_code=1)

    async def on_event(self, event: events.Event) -> None:
        """Drops repeats of held keys: each does its work once."""
        if not isinstance(event, KeyRepeated):
            await super().on_event(event)

    def tick(self) -> None:
        """Brings level, clock and judgement up to date."""
        self.query_one(Meter).show(self._peak)
        self._peak *= FALLING
        if self.sitting is None:
            return
        if self.sitting.phase in (Phase.RECORDING, Phase.ENDING) or self.sitting.capture.sounds is not self._sounded:
            self._sounded = self.sitting.capture.sounds
            self.sitting.tick()
            self.show()

    @contextmanager
    def _shown(self) -> Iterator[Sitting | None]:
        self._notice = ""
        yield None if self._playing else self.sitting
        self.show()

    def action_record(self) -> None:
        with self._shown() as sitting:
            if sitting is not None:
                sitting.press(self._clock())

    def action_keep(self) -> None:
        with self._shown() as sitting:
            if sitting is not None:
                sitting.keep()

    def action_repeat(self) -> None:
        with self._shown() as sitting:
            if sitting is not None:
                sitting.again()

    def action_skip(self) -> None:
        with self._shown() as sitting:
            if sitting is not None:
                sitting.skip()

    def action_discard(self) -> None:
        with self._shown() as sitting:
            if sitting is not None:
                sitting.discard()

    @work(exclusive=True, group="play")
    async def action_play(self) -> None:
        """Plays; nothing is recorded meanwhile, for the microphone would hear it."""
        if self.sitting is None or self._playing or self.sitting.phase in (Phase.RECORDING, Phase.ENDING):
            return
        if (samples := sound(self._booth, self.sitting)) is None:
            self._notice = "nothing was recorded in this sitting yet"
        else:
            from lora_cli.sound.microphone import play

            self._playing = True
            try:
                await asyncio.to_thread(play, samples)
            except AudioError as error:
                self._notice = str(error)
            finally:
                self._playing = False
        self.show()

    async def action_quit(self) -> None:
        self.exit()

    def show(self) -> None:
        """Draws the current state."""
        if self.sitting is None or not self.is_running:
            return
        sitting, recording = self.sitting, self.sitting.phase is Phase.RECORDING
        texts = {
            "place": f"moonshine record  {place(self._booth, sitting)}  microphone: {self._booth.device}",
            "prompt": sitting.prompt.text if sitting.prompt is not None else "Thank you.",
            "state": state(sitting),
            "faults": "\n".join(f"! {one}" for one in complaints(sitting)),
            "said": self._notice or sitting.said,
            "outlook": sitting.outlook.sentence,
        }
        for name, text in texts.items():
            self.query_one(f"#{name}", Static).update("\n".join(shown(line) for line in text.split("\n")))
        self.query_one("#prompt").set_class(recording, "-recording")


def run_screen(booth: Booth) -> int:
    """Runs in the terminal until it is quit; returns the exit code.

    Raises `ConfigError` when there is no terminal that can show it, and what keeps microphone or model from working.
    """
    check_terminal()
    resource_tracker.ensure_running()  # with the stderr of the moment: Textual's has no file behind it
    app = RecorderApp(booth)
    try:
        app.run()
    finally:
        app.close()
    if app.broken is not None:
        raise app.broken
    return app.return_code or 0
