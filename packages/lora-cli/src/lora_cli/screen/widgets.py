"""The parts of the main screen. Each shows what it is given; none decides anything."""

import math
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.scrollbar import ScrollBarRender
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from lora.system.terminal import shown
from lora_cli.engine.events import Final

TENTATIVE_MARK = "~"
"""Stands before words that may still change, for those who see neither dim nor italic."""

FLOOR_DBFS = -60.0
"""The meter's left end: a quiet room is about there, speech 20 to 50 dB above."""

MOST_ROWS = 200
"""Rows kept in the list; older ones stay where the history is stored."""

_TRIM_ROWS = 20


class PlainScrollBar(ScrollBarRender):
    """A scroll bar without the eighths of blocks, which many fonts lack."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


class LiveText(Static):
    """What is being said: firm words as they are, words that may still change dim, italic and behind a mark."""

    def show(self, committed: str, tentative: str) -> None:
        gap = " " if committed and tentative else ""
        unsure = (f"{TENTATIVE_MARK} {shown(tentative)}", "dim italic") if tentative else ""
        self.update(Content.assemble(shown(committed), gap, unsure))

    def hint(self, text: str) -> None:
        """Shows what to do while nothing is said."""
        self.update(Content.styled(text, "dim"))


class Meter(Static):
    """The level of the latest sound: a heavy line on a light one, with the number beside it."""

    _shown: tuple[int, int, str] | None = None

    def show(self, peak: float) -> None:
        dbfs = 20 * math.log10(peak) if peak > 0 else FLOOR_DBFS
        width = max(10, self.size.width - len("level  -60 dB "))
        filled = round(width * min(1.0, max(0.0, 1 - dbfs / FLOOR_DBFS)))
        number = f"{max(FLOOR_DBFS, dbfs):4.0f} dB"
        if (shown := (width, filled, number)) != self._shown:
            self._shown = shown
            self.update(Content.assemble("level ", ("━" * filled, "$success"), ("─" * (width - filled), "dim"), " ", number), layout=False)


class TalkButton(Static):
    """Held with the mouse it records: pressed and let go are two messages, and a pointer that leaves still lets go."""

    class Pressed(Message):
        """The mouse button went down on it."""

    class Released(Message):
        """The mouse button went up, wherever the pointer is by then."""

    _text = ""

    def on_mouse_down(self, event: events.MouseDown) -> None:
        event.stop()
        self.capture_mouse()
        self.post_message(self.Pressed())

    def on_mouse_up(self, event: events.MouseUp) -> None:
        event.stop()
        if self.app.mouse_captured is self:
            self.release_mouse()
            self.post_message(self.Released())

    def show(self, text: str, *, recording: bool) -> None:
        self.set_class(recording, "-recording")
        if text != self._text:
            self._text = text
            self.update(text, layout=False)


class Utterances(OptionList):
    """The history, newest last. Renders only the rows in sight."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("end", "last", "Newest", show=False)]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False, compact=True)
        self._finals: list[Final] = []

    def add(self, final: Final) -> None:
        """Appends a row and goes there, unless an older row was chosen."""
        follows = self.highlighted is None or self.highlighted == self.option_count - 1
        self._finals.append(final)
        self.add_option(Option(row(final)))
        if len(self._finals) > MOST_ROWS:
            self._drop_oldest()
        if follows:
            self.highlighted = self.option_count - 1

    @property
    def chosen(self) -> Final | None:
        return None if self.highlighted is None else self._finals[self.highlighted]

    def exchange(self, old: Final, new: Final) -> None:
        index = self._index(old)
        self._finals[index] = new
        self.replace_option_prompt_at_index(index, row(new))

    def drop(self, final: Final) -> None:
        """Takes a row away; the one behind it is chosen then."""
        index = self._index(final)
        del self._finals[index]
        self.remove_option_at_index(index)
        self.highlighted = min(index, self.option_count - 1) if self.option_count else None

    def _index(self, final: Final) -> int:
        return next(index for index, other in enumerate(self._finals) if other is final)

    def _drop_oldest(self) -> None:
        """Makes room for many rows at once, for every removal lays the list out again."""
        chosen, kept = self.highlighted, list(self.options)[_TRIM_ROWS:]
        del self._finals[:_TRIM_ROWS]
        self.clear_options()
        self.add_options(kept)
        if chosen is not None:
            self.highlighted = max(0, chosen - _TRIM_ROWS)


def row(final: Final) -> Content:
    """When, how long, how late, and the text; a second line for what the other voice says."""
    times = f"{final.started_at:%H:%M:%S} {final.length_s:5.1f} s {final.latency_s * 1000:4.0f} ms  "
    text = shown(final.text) or "(no speech)"
    if final.other_voice is None:
        return Content.assemble((times, "dim"), text, (_applied(final), "dim"))
    width = max(len(final.voice), len(final.other_voice))
    margin = " " * len(times)
    return Content.assemble(
        (times, "dim"), (f"{shown(final.voice):{width}}: ", "bold"), text, (_applied(final), "dim"), "\n", margin,
        (f"{shown(final.other_voice):{width}}: ", "bold"), shown(final.other_text or "(no speech)"),
    )  # fmt: skip


def _applied(final: Final) -> str:
    """What was heard where something else is written."""
    return f"  (heard: {', '.join(shown(one.heard) for one in final.applied)})" if final.applied else ""


class StatusLine(Static):
    """One line: progress, hints, or what went wrong, which starts with an exclamation mark."""

    text: reactive[str] = reactive("")
    serious: reactive[bool] = reactive(False)

    def say(self, text: str, *, serious: bool = False) -> None:
        self.text = text
        self.serious = serious

    def progress(self, text: str) -> None:
        """Says how far things are, unless something serious stands there."""
        if not self.serious:
            self.text = text

    def watch_text(self) -> None:
        self._show()

    def watch_serious(self) -> None:
        self._show()

    def _show(self) -> None:
        self.set_class(self.serious, "-serious")
        self.update(Content(f"! {shown(self.text)}" if self.serious else shown(self.text)))
