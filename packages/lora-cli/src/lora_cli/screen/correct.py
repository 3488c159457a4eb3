"""The editor of one utterance's text."""

from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea


@dataclass(frozen=True, slots=True)
class Correction:
    """The text as the user wants it, and whether what differs is to be written so from now on."""

    text: str
    always: bool = False


class CorrectScreen(ModalScreen[Correction | None]):
    """Gives the correction, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "keep", "Save", priority=True),
        Binding("ctrl+r", "keep(True)", "Save, and write it so from now on", priority=True),
        Binding("escape", "dismiss(None)", "Leave it", priority=True),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Correct the text", classes="title")
            yield TextArea(self._text, id="text", soft_wrap=True, compact=True, highlight_cursor_line=False)
            yield Static(
                "Enter saves sound and text for training. Ctrl-R does so too, and from now on the changed words are written as here. "
                "Esc leaves everything as it was.",
                classes="ending",
            )

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.cursor_blink = False
        area.move_cursor(area.document.end)

    def action_keep(self, always: bool = False) -> None:
        self.dismiss(Correction(" ".join(self.query_one(TextArea).text.split()), always))
