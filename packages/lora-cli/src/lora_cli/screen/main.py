"""The main screen: voice and mode, live text, level, talk button, history, what the keys do."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from lora.system.terminal import shown
from lora.units import Seconds
from lora_cli.screen.keys import KEYS
from lora_cli.screen.widgets import LiveText, Meter, StatusLine, TalkButton, Utterances
from lora_cli.talking import Choice, Mode

LEAST_COLUMNS = 60
GAP = "  "


class KeyBar(Widget):
    """Every key with its word, in as many lines as the width takes."""

    def render(self) -> Content:
        return Content("\n").join(_key_lines(self.content_size.width))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        return len(_key_lines(width))


def _key_lines(width: int) -> list[Content]:
    lines: list[list[Content]] = [[]]
    left = width
    for key in KEYS:
        part = Content.assemble((key.shown, "bold underline"), f" {key.label}")
        if part.cell_length > left and lines[-1]:
            lines.append([])
            left = width
        lines[-1].append(part)
        left -= part.cell_length + len(GAP)
    return [Content(GAP).join(line) for line in lines]


class MainScreen(Screen[None]):
    """Shows the app's state, and takes the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [key.binding() for key in KEYS]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (LEAST_COLUMNS, "-wide")]  # noqa: RUF012 - Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    AUTO_FOCUS = "#history"

    def __init__(self) -> None:
        super().__init__()
        self.voice = Static(id="voice", markup=False)
        self.mode = Static(id="mode", markup=False)
        self.live = LiveText(id="live", markup=False)
        self.meter = Meter(id="meter", markup=False)
        self.talk = TalkButton(id="talk", markup=False)
        self.history = Utterances(id="history")
        self.status = StatusLine(id="status", markup=False)
        self._spoken = VerticalScroll(self.live, id="spoken", can_focus=False)

    def compose(self) -> ComposeResult:
        yield Static(
            f"! This window is too narrow: moonshine needs {LEAST_COLUMNS} columns. Only text and state are shown; q quits.", id="narrow"
        )
        with Vertical(id="all"):
            yield self.voice
            yield self.mode
            yield self._spoken
            yield self.meter
            yield self.talk
            yield self.history
            yield self.status
            yield KeyBar(id="keys")

    class Shown(Message):
        """The first frame is on the screen."""

    def on_mount(self) -> None:
        self.call_after_refresh(self.post_message, self.Shown())

    def show_voice(self, voice: str, other: str | None, source: str, *, kept: bool) -> None:
        compared = f"  A/B with: {other}" if other else ""
        kept_line = "audio, text" if kept else "nothing"
        line = shown(f"  voice: {voice}{compared}  microphone: {source}  kept: {kept_line}")
        self.voice.update(Content.assemble(("moonshine", "bold"), line))

    def show_mode(self, choice: Choice) -> None:
        self.mode.update(Content.assemble("mode: ", (choice.mode.value, "bold"), f" - {choice.reason}"))

    def show_idle(self, choice: Choice, *, finishing: bool, resumes: bool) -> None:
        """The talk button while nothing is recorded: `finishing` while a text is still to come, `resumes` where the focus is waited for."""
        if resumes:
            text = "PAUSED - another window has the focus"
        elif finishing and choice.mode is not Mode.VAD:
            text = "FINISHING - the text of what you said is on its way"
        elif choice.mode is Mode.VAD:
            text = "PAUSED - press space or click here to listen"
        elif choice.mode is Mode.TOGGLE:
            text = "Press space to talk, or hold the mouse here"
        else:
            text = "Hold space and talk, or hold the mouse here" if choice.key_works else "Hold the mouse here and talk"
        self.talk.show(text, recording=False)

    def show_recording(self, choice: Choice, length_s: Seconds | None, *, by_button: bool) -> None:
        """The talk button during a recording; `length_s` is None until the first sound has arrived."""
        if length_s is None:
            text = "... wait ..."
        elif choice.mode is Mode.VAD:
            text = "LISTENING - press space or click here to pause"
        else:
            end = "press space to end" if choice.mode is Mode.TOGGLE and not by_button else "let go to end"
            text = f"[REC] {int(length_s) // 60}:{int(length_s) % 60:02} - speak; {end}"
        self.talk.show(text, recording=True)

    def show_spoken(self, committed: str, tentative: str) -> None:
        self.live.show(committed, tentative)
        self._spoken.scroll_end(animate=False)

    def show_hint(self, text: str) -> None:
        self.live.hint(text)
