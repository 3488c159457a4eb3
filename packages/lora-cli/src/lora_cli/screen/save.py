"""In which form the history is saved."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from lora_cli.session import SaveFormat

CHOICES = {
    SaveFormat.TEXT: "text: one utterance per line",
    SaveFormat.MANIFEST: "manifest (JSON lines): sound and text, to train on or to test with",
    SaveFormat.SRT: "SRT: subtitles",
}


class SaveScreen(ModalScreen[SaveFormat | None]):
    """Gives the format, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "Leave it")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Save the history as", classes="title")
            yield OptionList(*(Option(text, id=kind.value) for kind, text in CHOICES.items()), id="formats", markup=False, compact=True)
            yield Static("Enter saves, Esc closes this", classes="ending")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        assert event.option.id is not None
        self.dismiss(SaveFormat(event.option.id))
