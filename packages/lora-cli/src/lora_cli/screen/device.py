"""Which microphone is heard."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from lora.system.terminal import shown
from lora_cli.session import InputDevice


class DeviceScreen(ModalScreen[InputDevice | None]):
    """Gives the device, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,i", "dismiss(None)", "Leave it")]

    def __init__(self, devices: Sequence[InputDevice]) -> None:
        super().__init__()
        self._devices = devices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Listen to", classes="title")
            yield OptionList(*(shown(device.label) for device in self._devices), id="devices", markup=False, compact=True)
            yield Static("Enter opens it, Esc closes this; * is the system's own choice", classes="ending")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._devices[event.option_index])
