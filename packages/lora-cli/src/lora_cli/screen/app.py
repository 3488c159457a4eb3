"""The terminal app: passes the user's input to microphone, engine and history, and shows their output."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import ClassVar

from textual import events, work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.scrollbar import ScrollBar
from textual.timer import Timer

from lora.console import EXIT_BROKEN_PIPE
from lora.errors import LoraError
from lora.system.process_settings import keep_objects
from lora.units import Seconds
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Partial, Problem, Ready, Switched, Voice
from lora_cli.screen.device import DeviceScreen
from lora_cli.screen.driver import ENDING_SIGNALS, TalkDriver, check_terminal
from lora_cli.screen.help import HelpScreen
from lora_cli.screen.keyboard import KeyReleased, KeyReleaseSupport, KeyRepeated
from lora_cli.screen.main import MainScreen
from lora_cli.screen.utterance_keys import UtteranceKeys
from lora_cli.screen.widgets import PlainScrollBar
from lora_cli.session import NOTHING, Engine, InputDevice, OpenSource, Recorder, Session, Source
from lora_cli.sound.reopening import Calls, Reopening
from lora_cli.talking import AUTO, EndsWith, Input, Mode, Talking, choose

TICK_S = 0.1
"""How often level, clock and live text are brought up to date: ten times a second is smooth and costs next to nothing."""

FALLING = 0.7
"""Decay of the meter's peak per tick without a higher one, so that it falls rather than flickers."""

FINISHING_S = 5.0
"""How long quitting waits for the text of the last words."""

NAVIGATION = frozenset({"up", "down", "pageup", "pagedown", "home", "end"})
"""Keys of the main screen that do more when they are held."""


class EngineSpoke(Message):
    """The engine's event, from its thread to the screen's."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class SourceOpened(Message):
    """The microphone is open; hands-free is to listen, or was paused by the user."""

    def __init__(self, *, listen: bool = True, again: bool = False) -> None:
        super().__init__()
        self.listen, self.again = listen, again


class SourceProblem(Message):
    """Something is wrong with the microphone."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class MoonshineApp(UtteranceKeys):
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
        super().__init__(session, TalkDriver)
        ScrollBar.renderer = PlainScrollBar
        self._clock = clock
        self._on_final = on_final
        self._environment = environment
        self._wish = mode
        self._releases: bool | None = None
        self._talking = Talking(choose(mode, None, environment), background=session.background)
        self._engine: Engine | None = None
        self._source: Source | None = None
        self._no_source: str | None = None
        """Why no sound comes, if so. A recording may begin before the microphone is open: it hears from then on."""
        self._source_name = session.source_name
        self._listened = True
        """Whether hands-free listened when the microphone was lost."""
        self._wanted: str | None = None
        """The name of the microphone that was chosen in place of the first one."""
        self._recorder: Recorder | None = None
        self._voice = session.voices[0].name
        self._other: str | None = None
        self._pending: set[int] = set()
        """Recordings whose text is still to come."""
        self._discarded: int | None = None
        """The cancelled recording, whose text is dropped."""
        self._peak = 0.0
        self._partial: Partial | None = None
        self._partial_shown: Partial | None = None
        self._began = 0.0
        self._quitting = False
        self._shown = False
        self.ticking: Timer | None = None

    # -- start and end -------------------------------------------------------------------------------------------------------------

    def get_default_screen(self) -> MainScreen:
        return self.main

    def on_mount(self) -> None:
        self.theme = f"textual-{self.session.theme}"
        if not self.is_headless:
            for number in ENDING_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)

    async def on_main_screen_shown(self) -> None:
        """Starts the engine and opens the microphone, once the first screen is shown."""
        self._shown = True
        self._show_voice()
        self._show_talking()
        self.main.show_hint("What you say appears here.")
        self.ticking = self.set_interval(TICK_S, self.tick)
        self._engine = await asyncio.to_thread(self.session.open_engine, self._on_event)  # it is imported then
        keep_objects()  # a round of garbage collection would keep the screen waiting
        self._engine.start()
        self._recorder = Recorder(self._engine, self.session.postroll)
        self._open_source(self._recorder)

    @work(thread=True)
    def _open_source(self, recorder: Recorder) -> None:
        try:
            source = self._kept_open(self.session.open_source, recorder)
        except LoraError as error:
            self.post_message(SourceProblem(Problem(str(error), lost=True)))
            return
        self._source = source
        self.post_message(SourceOpened())

    def on_source_opened(self, message: SourceOpened) -> None:
        """Hands-free listens from here on."""
        if message.again:
            self.main.status.say(f"listening to {self._source_name} again")
        if message.listen and self._talking.recording is None and self._talking.choice.mode is Mode.VAD:
            self._switch(self._wish)

    def close(self) -> None:
        """Ends what the app opened; waits for the engine's process to end."""
        if self._source is not None:
            self._source.close()
        if self._engine is not None:
            self._engine.close()

    async def action_quit(self) -> None:
        """Quits once the last text is there; asked twice, at once."""
        self._talk(Input.STOP)
        if self._quitting or not self._pending:
            self.exit()
            return
        self._quitting = True
        self.main.status.say("waiting for the last text; q again quits at once")
        self.set_timer(FINISHING_S, self.exit)

    def on_terminal_gone(self) -> None:
        self._talk(Input.STOP)
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
        recorded = self._talking.recording is not None
        self._talk(Input.BLUR)
        if recorded and self._talking.recording is None and not self._talking.resumes:
            self.main.status.say("the recording ended here: another window has the focus")

    def on_app_focus(self) -> None:
        self._talk(Input.FOCUS)

    def on_talk_button_pressed(self) -> None:
        self._talk(Input.BUTTON_DOWN)

    def on_talk_button_released(self) -> None:
        self._talk(Input.BUTTON_UP)

    def action_talk(self) -> None:
        if not self._talking.choice.key_works:
            self.main.status.say(self._talking.choice.reason, serious=True)
        self._talk(Input.KEY_DOWN)

    def action_discard(self) -> None:
        """Forgets what is being recorded; hands-free listens on."""
        recording = self._talking.recording
        if recording is None or self._recorder is None:
            self.main.status.say("nothing is being recorded; d deletes the chosen utterance")
            return
        self._discarded = max(self._pending, default=None)
        self._pending.discard(self._discarded or 0)
        self._recorder.cancel()
        self._partial = self._partial_shown = None
        self.main.show_spoken("", "")
        if recording.hands_free:
            self._begin(hands_free=True)
        else:
            self._talk(Input.STOP)
        self.main.status.say("discarded; listening goes on" if recording.hands_free else "discarded")

    def action_next_mode(self) -> None:
        modes = list(Mode)
        self._switch(modes[(modes.index(self._talking.choice.mode) + 1) % len(modes)])

    def stop_talking(self) -> None:
        self._talk(Input.STOP)

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
                self.main.talk.let_go()
            if talking.recording is not None:
                self._begin(hands_free=talking.recording.hands_free)
        self._show_talking()

    def _begin(self, *, hands_free: bool) -> None:
        if self._recorder is None or self._no_source is not None:
            self._talking = self._talking.after(Input.STOP, Seconds(self._clock()))
            self.main.status.say(self._no_source or "the app opens the microphone; a moment", serious=True)
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

    def _on_back(self) -> None:
        """Takes it in a thread of the microphone's: it was lost, and sound comes again."""
        self._no_source = None
        self.post_message(SourceOpened(listen=self._listened, again=True))

    def _on_level(self, peak: float) -> None:
        """Takes the level in the microphone's thread."""
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
        self.main.status.age(TICK_S)
        self._show_standing()

    def on_source_problem(self, message: SourceProblem) -> None:
        """Says it. Without sound a recording ends, and what was said so far becomes text."""
        if not message.problem.lost:
            self.main.status.say(message.problem.message, serious=True)
            return
        self._no_source = message.problem.message
        self._listened = self._talking.recording is not None and self._talking.recording.hands_free
        self._talk(Input.STOP)
        self._show_standing()

    async def on_engine_spoke(self, message: EngineSpoke) -> None:
        event, standing = message.event, self.standing
        if isinstance(event, Loading):
            standing.loading = f"{event.message} ({event.step} of {event.steps})"
        elif isinstance(event, Ready):
            standing.loading, standing.ready_s = None, event.seconds
        elif isinstance(event, Partial):
            self._heard_so_far(event)
        elif isinstance(event, Final):
            standing.behind_s = 0.0
            await self._finished(event)
        elif isinstance(event, Ended):
            standing.behind_s = 0.0
            self._ended(event)
        elif isinstance(event, Switched):
            self._voice, self._other = event.voice, event.other
            self._show_voice()
        elif isinstance(event, Failed):
            self._talk(Input.STOP)
            self._pending.clear()
            standing.failed = event.message
        self._show_standing()

    def _heard_so_far(self, partial: Partial) -> None:
        if partial.recording != self._discarded:
            self._partial = partial
            self.standing.behind_s = partial.behind_s

    async def _finished(self, final: Final) -> None:
        if self._partial is not None and self._partial.recording == final.recording:
            self._partial = self._partial_shown = None
        self.main.show_spoken(final.text or "(no speech found)", "")
        if not final.text:
            return
        self.main.history.add(replace(final, samples=NOTHING))
        self.standing.utterances += 1
        with self.refusals_shown():
            await asyncio.to_thread(self.session.results.add, final)
        if self._on_final is not None:
            try:
                await asyncio.to_thread(self._on_final, final)
            except BrokenPipeError:  # the reader of the lines is gone, as `head` is after its last line
                self.exit(return_code=EXIT_BROKEN_PIPE)

    def _ended(self, event: Ended) -> None:
        self._pending.discard(event.recording)
        if self._partial is not None and self._partial.recording == event.recording:
            self._partial = self._partial_shown = None
        self._show_talking()
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
        voices = self.session.voices
        names = [voice.name for voice in voices]
        return voices[(names.index(name) + 1) % len(voices)] if len(voices) > 1 else None

    @work(exclusive=True, group="device")
    async def action_device(self) -> None:
        if self.session.devices is None:
            self.main.status.say("a recording is heard; start without --file to choose a microphone")
            return
        if self._recorder is None or (self._source is None and self._no_source is None):
            self.main.status.say("the microphone is being opened")
            return
        recorder, listened = self._recorder, self._talking.recording is not None
        self._talk(Input.STOP)
        if self._source is not None:  # which microphones there are is only seen with none open
            await asyncio.to_thread(self._source.close)
        self._source, self._no_source = None, "a microphone is being chosen"
        device: InputDevice | None = None
        try:
            devices = await asyncio.to_thread(self.session.devices)
            device = await self.push_screen_wait(DeviceScreen(devices))
            self._wanted = self._wanted if device is None else device.name
            self._source = await asyncio.to_thread(self._opened, device, recorder)
        except LoraError as error:
            self._no_source = str(error)
            self.main.status.say(str(error), serious=True)
            return
        self._no_source = None
        if device is not None:
            self._source_name = device.name
            self._show_voice()
            self.main.status.say(f"listening to {device.name}")
        self.post_message(SourceOpened(listen=listened or device is not None))

    def _opened(self, device: InputDevice | None, recorder: Recorder) -> Source:
        """The chosen microphone, or for None the one that was heard before."""
        assert self.session.open_again is not None  # where there are microphones to choose
        return self._kept_open(partial(self.session.open_again, self._wanted) if device is None else device.open, recorder)

    def _kept_open(self, open_source: OpenSource, recorder: Recorder) -> Source:
        """A microphone is opened again by itself once it was lost; a recording that is heard is not."""
        if self.session.open_again is None:
            return open_source(recorder.hear, self._on_level, self._on_problem)
        calls = Calls(recorder.hear, self._on_level, self._on_problem, self._on_back)
        return Reopening(open_source, partial(self.session.open_again, self._wanted), calls)

    def action_light(self) -> None:
        self.theme = "textual-light" if self.theme == "textual-dark" else "textual-dark"

    def action_help(self) -> None:
        self.stop_talking()
        self.push_screen(HelpScreen())

    # -- showing -------------------------------------------------------------------------------------------------------------------

    def _show_voice(self) -> None:
        self.main.show_voice(self._voice, self._other, self._source_name, kept=self.session.kept)

    def _show_standing(self) -> None:
        self.standing.no_source = self._no_source
        text, wrong = self.standing.line()
        self.main.status.stands(text, serious=wrong)

    def _show_talking(self) -> None:
        if not self._shown:
            return
        recording = self._talking.recording
        self.main.show_mode(self._talking.choice)
        if recording is None or self._recorder is None:
            self.main.show_idle(self._talking.choice, finishing=bool(self._pending), resumes=self._talking.resumes)
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
