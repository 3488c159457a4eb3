"""The terminal app: passes what the user does to microphone, engine and history, and shows what they say."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import ClassVar

from textual import events, work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.scrollbar import ScrollBar
from textual.timer import Timer

from lora.console import EXIT_BROKEN_PIPE
from lora.errors import LoraError
from lora.system.process_settings import keep_objects
from lora.units import Seconds
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Partial, Problem, Ready, Switched, Voice
from lora_cli.screen.correct import CorrectScreen
from lora_cli.screen.device import DeviceScreen
from lora_cli.screen.driver import ENDING_SIGNALS, TalkDriver, check_terminal
from lora_cli.screen.help import HelpScreen
from lora_cli.screen.keyboard import KeyReleased, KeyReleaseSupport, KeyRepeated
from lora_cli.screen.main import MainScreen
from lora_cli.screen.save import SaveScreen
from lora_cli.screen.widgets import PlainScrollBar
from lora_cli.session import NOTHING, Engine, InputDevice, Recorder, SaveFormat, Session, Source
from lora_cli.talking import AUTO, EndsWith, Input, Mode, Talking, choose

TICK_S = 0.1
"""How often level, clock and live text are brought up to date: ten times a second is smooth and costs next to nothing."""

FALLING = 0.7
"""What is left of the meter's peak after a tick without a higher one, so that it falls rather than flickers."""

FINISHING_S = 5.0
"""How long quitting waits for the text of what was said last."""

BEHIND_S = 2.0
"""Sound that waits this long to be heard is worth a word."""

NAVIGATION = frozenset({"up", "down", "pageup", "pagedown", "home", "end"})
"""Keys of the main screen that do more when they are held."""


class EngineSpoke(Message):
    """The engine's event, from its thread to the screen's."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class SourceOpened(Message):
    """The microphone is open."""


class SourceProblem(Message):
    """Something is wrong with the microphone."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class MoonshineApp(App[None]):
    """Draws on stderr. `run_app` runs it and frees what it opened."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    TITLE = "moonshine"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True)]

    def __init__(
        self,
        session: Session,
        *,
        mode: str = AUTO,
        on_final: Callable[[Final], None] | None = None,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(driver_class=TalkDriver)
        ScrollBar.renderer = PlainScrollBar
        self._session = session
        self._clock = clock
        self._on_final = on_final
        self._environment = environment
        self._wish = mode
        self._releases: bool | None = None
        self._talking = Talking(choose(mode, None, environment))
        self._engine: Engine | None = None
        self._source: Source | None = None
        self._no_source: str | None = None
        """Why no sound comes, if so. A recording may begin before the microphone is open: it hears from then on."""
        self._source_name = session.source_name
        self._recorder: Recorder | None = None
        self._voice = session.voices[0].name
        self._other: str | None = None
        self._pending: set[int] = set()
        """Recordings whose text is still to come."""
        self._peak = 0.0
        self._partial: Partial | None = None
        self._partial_shown: Partial | None = None
        self._began = 0.0
        self._quitting = False
        self._shown = False
        self.ticking: Timer | None = None
        self.main = MainScreen()

    # -- start and end -------------------------------------------------------------------------------------------------------------

    def get_default_screen(self) -> MainScreen:
        return self.main

    def on_mount(self) -> None:
        self.theme = f"textual-{self._session.theme}"
        if not self.is_headless:
            for number in ENDING_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)

    async def on_main_screen_shown(self) -> None:
        """Starts the engine and opens the microphone, now that there is something to look at."""
        self._shown = True
        self._show_voice()
        self._show_talking()
        self.main.show_hint("What you say appears here.")
        self.ticking = self.set_interval(TICK_S, self.tick)
        self._engine = await asyncio.to_thread(self._session.open_engine, self._on_event)  # it is imported then
        keep_objects()  # a round of garbage collection would keep the screen waiting
        self._engine.start()
        self._recorder = Recorder(self._engine)
        self._open_source(self._recorder)

    @work(thread=True)
    def _open_source(self, recorder: Recorder) -> None:
        try:
            source = self._session.open_source(recorder.hear, self._on_level, self._on_problem)
        except LoraError as error:
            self.post_message(SourceProblem(Problem(str(error), lost=True)))
            return
        self._source = source
        self.post_message(SourceOpened())

    def on_source_opened(self) -> None:
        """Hands-free listens from here on."""
        if self._talking.recording is None and self._talking.choice.mode is Mode.VAD:
            self._switch(self._wish)

    def close(self) -> None:
        """Ends what the app opened; waits for the engine's process to end."""
        if self._source is not None:
            self._source.close()
        if self._engine is not None:
            self._engine.close()

    async def action_quit(self) -> None:
        """Quits once the last text is there; asked twice, at once."""
        self._talk(Input.LOST)
        if self._quitting or not self._pending:
            self.exit()
            return
        self._quitting = True
        self.main.status.say("waiting for the last text; q again quits at once")
        self.set_timer(FINISHING_S, self.exit)

    def on_terminal_gone(self) -> None:
        self._talk(Input.LOST)
        self.exit(return_code=1)

    # -- talking -------------------------------------------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Drops repeats of held keys on the main screen, where a key does its work once."""
        if isinstance(event, KeyRepeated) and self.screen is self.main and event.key not in NAVIGATION:
            if event.key == "space":
                self._talk(Input.KEY_REPEAT)
            return
        await super().on_event(event)

    def on_key_release_support(self, message: KeyReleaseSupport) -> None:
        self._releases = message.reported
        choice = choose(self._wish, self._releases, self._environment)
        if choice != self._talking.choice:
            self._become(self._talking.switched(choice))

    def on_key_released(self, message: KeyReleased) -> None:
        if message.key == "space":
            self._talk(Input.KEY_UP)

    def on_app_blur(self) -> None:
        self._talk(Input.LOST)

    def on_talk_button_pressed(self) -> None:
        self._talk(Input.BUTTON_DOWN)

    def on_talk_button_released(self) -> None:
        self._talk(Input.BUTTON_UP)

    def action_talk(self) -> None:
        if not self._talking.choice.key_works:
            self.main.status.say(self._talking.choice.reason, serious=True)
        self._talk(Input.KEY_DOWN)

    def action_next_mode(self) -> None:
        modes = list(Mode)
        self._switch(modes[(modes.index(self._talking.choice.mode) + 1) % len(modes)])

    def _switch(self, wish: str) -> None:
        self._wish = wish
        self._become(self._talking.switched(choose(wish, self._releases, self._environment)))

    def _talk(self, what: Input) -> None:
        self._become(self._talking.after(what, Seconds(self._clock())))

    def _become(self, talking: Talking) -> None:
        """Starts or ends a recording, where the new state says so."""
        before, self._talking = self._talking.recording, talking
        if before != talking.recording:
            if before is not None and self._recorder is not None:
                self._recorder.end()
            if talking.recording is not None:
                self._begin(hands_free=talking.recording.hands_free)
        self._show_talking()

    def _begin(self, *, hands_free: bool) -> None:
        if self._recorder is None or self._no_source is not None:
            self._talking = self._talking.after(Input.LOST, Seconds(self._clock()))
            self.main.status.say(self._no_source or "the app is not ready yet", serious=True)
            return
        self._pending.add(self._recorder.begin(hands_free=hands_free))
        self._began = self._clock()

    # -- what the engine and the microphone say ------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Takes an event in the engine's thread."""
        self.post_message(EngineSpoke(event))

    def _on_problem(self, problem: Problem) -> None:
        """Takes it in the microphone's thread."""
        self.post_message(SourceProblem(problem))

    def _on_level(self, peak: float) -> None:
        """Takes the level in the microphone's thread. A device that was lost is back with it."""
        self._no_source = None
        self._peak = max(self._peak, peak)

    def tick(self) -> None:
        """Brings level, clock and live text up to date."""
        self.main.meter.show(self._peak)
        self._peak *= FALLING
        if self._talking.recording is not None:
            self._show_talking()
        if self._partial is not self._partial_shown and self._partial is not None:
            self._partial_shown = self._partial
            self.main.show_spoken(self._partial.committed, self._partial.tentative)

    def on_source_problem(self, message: SourceProblem) -> None:
        """Says it. Without sound a recording ends, and what was said so far becomes text."""
        self.main.status.say(message.problem.message, serious=True)
        if message.problem.lost:
            self._no_source = message.problem.message
            self._talk(Input.LOST)

    async def on_engine_spoke(self, message: EngineSpoke) -> None:
        event = message.event
        status = self.main.status
        if isinstance(event, Loading):
            status.progress(f"{event.message} ({event.step} of {event.steps}); you can talk already, the text comes later")
        elif isinstance(event, Ready):
            status.progress(f"ready after {event.seconds:.1f} s")
        elif isinstance(event, Partial):
            self._partial = event
            if event.behind_s > BEHIND_S:
                status.say(f"this machine is {event.behind_s:.0f} s behind; nothing is lost, the text comes later", serious=True)
        elif isinstance(event, Final):
            await self._finished(event)
        elif isinstance(event, Ended):
            self._ended(event)
        elif isinstance(event, Switched):
            self._voice, self._other = event.voice, event.other
            self._show_voice()
        elif isinstance(event, Failed):
            self._talk(Input.LOST)
            self._pending.clear()
            status.say(event.message, serious=True)

    async def _finished(self, final: Final) -> None:
        if self._partial is not None and self._partial.recording == final.recording:
            self._partial = self._partial_shown = None
        self.main.show_spoken(final.text or "(no speech found)", "")
        if not final.text:
            return
        self.main.history.add(replace(final, samples=NOTHING))
        with self._refusals_shown():
            await asyncio.to_thread(self._session.results.add, final)
        if self._on_final is not None:
            try:
                await asyncio.to_thread(self._on_final, final)
            except BrokenPipeError:  # whoever reads the lines is gone, as `head` is after the last one it wants
                self.exit(return_code=EXIT_BROKEN_PIPE)

    def _ended(self, event: Ended) -> None:
        self._pending.discard(event.recording)
        if self._partial is not None and self._partial.recording == event.recording:
            self._partial = self._partial_shown = None
        if self._quitting and not self._pending:
            self.exit()

    # -- commands ------------------------------------------------------------------------------------------------------------------

    def action_next_voice(self) -> None:
        if self._engine is None or (voice := self._after(self._voice)) is None:
            self.main.status.say("there is one voice only; start with --run, --adapter-dir or --model-id for more")
            return
        self._engine.use(voice.name)

    def action_compare(self) -> None:
        if self._engine is None or (voice := self._after(self._voice)) is None:
            self.main.status.say("A/B takes two voices; start with --run, --adapter-dir or --model-id for more")
            return
        self._engine.compare(None if self._other else voice.name)

    def _after(self, name: str) -> Voice | None:
        """The voice behind the one of this name; None when it is alone."""
        voices = self._session.voices
        names = [voice.name for voice in voices]
        return voices[(names.index(name) + 1) % len(voices)] if len(voices) > 1 else None

    @work(exclusive=True, group="device")
    async def action_device(self) -> None:
        if self._session.devices is None:
            self.main.status.say("a recording is heard; start without --file to choose a microphone")
            return
        if self._recorder is None or (self._source is None and self._no_source is None):
            self.main.status.say("the microphone is being opened")
            return
        self._talk(Input.LOST)
        with self._refusals_shown():
            devices = await asyncio.to_thread(self._session.devices)
            device: InputDevice | None = await self.push_screen_wait(DeviceScreen(devices))
            if device is None:
                return
            self._no_source = f"{device.name} is being opened"
            try:
                self._source = await asyncio.to_thread(self._reopened, device, self._recorder)
            except LoraError as error:
                self._source, self._no_source = None, str(error)
                raise
            self._no_source, self._source_name = None, device.name
            self._show_voice()
            self.main.status.say(f"listening to {device.name}")
            self.post_message(SourceOpened())

    def _reopened(self, device: InputDevice, recorder: Recorder) -> Source:
        """Opens another microphone in the place of the one that is open."""
        if self._source is not None:
            self._source.close()
        return device.open(recorder.hear, self._on_level, self._on_problem)

    async def action_copy(self) -> None:
        if final := self._chosen():
            self.copy_to_clipboard(final.text)
            self.main.status.say("copied")
            with self._refusals_shown():
                await asyncio.to_thread(self._session.results.copy, final.text)

    @work
    async def action_correct(self) -> None:
        final = self._chosen()
        if final is None:
            return
        self._talk(Input.LOST)
        text = await self.push_screen_wait(CorrectScreen(final.text if final.heard is None else final.heard))
        if text is None:
            return
        if not text:
            self.main.status.say("an utterance without text cannot be trained on; nothing was saved", serious=True)
            return
        with self._refusals_shown():
            path = await asyncio.to_thread(self._session.results.correct, final, text)
            self.main.status.say(f"saved for training: {path}")
            self.main.history.exchange(final, replace(final, text=text, heard=None, applied=()))

    @work
    async def action_save(self) -> None:
        if self._chosen() is None:
            return
        self._talk(Input.LOST)
        form: SaveFormat | None = await self.push_screen_wait(SaveScreen())
        if form is None:
            return
        with self._refusals_shown():
            path = await asyncio.to_thread(self._session.results.save, form)
            self.main.status.say(f"saved: {path}")

    async def action_delete(self) -> None:
        if final := self._chosen():
            with self._refusals_shown():
                await asyncio.to_thread(self._session.results.remove, final)
                self.main.history.drop(final)
                self.main.status.say("deleted")

    @work(exclusive=True, group="replay")
    async def action_replay(self) -> None:
        if final := self._chosen():
            self._talk(Input.LOST)
            self.main.status.say("playing")
            with self._refusals_shown():
                await asyncio.to_thread(self._session.results.replay, final)
                self.main.status.say("played")

    def action_light(self) -> None:
        self.theme = "textual-light" if self.theme == "textual-dark" else "textual-dark"

    def action_help(self) -> None:
        self._talk(Input.LOST)
        self.push_screen(HelpScreen())

    @contextmanager
    def _refusals_shown(self) -> Iterator[None]:
        """A command that cannot be done says why on the status line."""
        try:
            yield
        except LoraError as error:
            self.main.status.say(str(error), serious=True)

    def _chosen(self) -> Final | None:
        if (final := self.main.history.chosen) is None:
            self.main.status.say("nothing was said yet")
        return final

    # -- showing -------------------------------------------------------------------------------------------------------------------

    def _show_voice(self) -> None:
        self.main.show_voice(self._voice, self._other, self._source_name)

    def _show_talking(self) -> None:
        if not self._shown:
            return
        recording = self._talking.recording
        self.main.show_mode(self._talking.choice)
        if recording is None or self._recorder is None:
            self.main.show_idle(self._talking.choice)
        else:
            length = Seconds(self._clock() - self._began) if self._recorder.heard.is_set() else None
            self.main.show_recording(self._talking.choice, length, by_button=recording.ends_with is EndsWith.BUTTON_UP)


def run_app(
    session: Session,
    *,
    mode: str = AUTO,
    on_final: Callable[[Final], None] | None = None,
    app_class: type[MoonshineApp] = MoonshineApp,
) -> int:
    """Runs the app in the terminal until it is quit; returns the exit code.

    `on_final` is called with every finished utterance, to write it for another program.

    Raises `ConfigError` when there is no terminal that can show it.
    """
    check_terminal()
    # It starts with the stderr of the moment, and Textual's has no file behind it: the engine's process could not start.
    resource_tracker.ensure_running()
    app = app_class(session, mode=mode, on_final=on_final)
    try:
        app.run()
    finally:
        app.close()
    return app.return_code or 0
