"""What every key does, and how to read the screen."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from lora_cli.screen.keys import KEYS
from lora_cli.screen.widgets import TENTATIVE_MARK

MORE = (
    ("up, down", "choose an utterance"),
    ("mouse", "hold the talk button: it records until you let go, in every terminal"),
    (f"{TENTATIVE_MARK} words", "may still change; words before the mark hardly ever do"),
)
NOTES = (
    "In hold and toggle mode, recording stops when the window loses the focus; hands-free goes on (--in-background).",
    "While nothing is recorded the last 300 ms of sound stay in memory, so that the first word is whole. They go nowhere else.",
)


class HelpScreen(ModalScreen[None]):
    """Any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,escape,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Static("Keys", classes="title")
            for shown, text in (*((key.shown, key.help) for key in KEYS), *MORE):
                yield Static(Content.assemble((f"{shown:10}", "bold"), text), classes="key")
            for note in NOTES:
                yield Static(note, classes="note")
            yield Static("? or Esc closes this", classes="ending")
