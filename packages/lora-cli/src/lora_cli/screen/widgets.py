"""The parts of the main screen. Each shows what it is given; none decides anything."""

import difflib
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
"""Marks words that may still change, for those who see neither dim nor italic."""

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
    """What is being said: final words plain, words that may still change dim, italic and after a mark."""

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

    def let_go(self) -> None:
        """Treats the mouse button as released, wherever that was: many terminals do not report events outside their window."""
        if self.app.mouse_captured is self:
            self.release_mouse()
            self.post_message(self.Released())

    def on_mouse_down(self, event: events.MouseDown) -> None:
        event.stop()
        self.capture_mouse()
        self.post_message(self.Pressed())

    def on_mouse_up(self, event: events.MouseUp) -> None:
        event.stop()
        self.let_go()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """A pointer that comes back with no button down was let go outside the window."""
        if not event.button:
            self.let_go()

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

    def drop(self, final: Final) -> int:
        """Takes a row away and returns its place; the one behind it is chosen then."""
        index = self._index(final)
        del self._finals[index]
        self.remove_option_at_index(index)
        self.highlighted = min(index, self.option_count - 1) if self.option_count else None
        return index

    def put_back(self, index: int, final: Final) -> None:
        """Shows a row again at its place, or as near as there is one, and chooses it."""
        index = min(index, len(self._finals))
        self._finals.insert(index, final)
        self.clear_options()
        self.add_options([Option(row(one)) for one in self._finals])
        self.highlighted = index

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
    """When, how long, how late, and the text; where two voices differ a line for each, with the words that differ marked."""
    times = (f"{final.started_at:%H:%M:%S} {final.length_s:5.1f} s {final.latency_s * 1000:4.0f} ms  ", "dim")
    notes = (_applied(final) + ("  (corrected)" if final.corrected else ""), "dim")
    if final.other_voice is None:
        return Content.assemble(times, shown(final.text) or "(no speech)", notes)
    if final.text == final.other_text:
        return Content.assemble(times, ("both: ", "bold"), shown(final.text) or "(no speech)", notes)
    first, second = compared(final.text, final.other_text or "")
    width = max(len(shown(final.voice)), len(shown(final.other_voice)))
    return Content.assemble(
        times, _voice(final.voice, final, width), first, notes, "\n", " " * len(times[0]), _voice(final.other_voice, final, width), second
    )


def _voice(name: str, final: Final, width: int) -> Content:
    """A voice's name before its text, with an asterisk where that is preferred."""
    return Content.styled(f"{'*' if name == final.preferred else ' '}{shown(name):{width}}: ", "bold")


def compared(first: str, second: str) -> tuple[Content, Content]:
    """Two texts of the same speech; words that the other one lacks are underlined."""
    words = first.split(), second.split()
    spans = difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    return _marked(words[0], [(start, end) for kind, start, end, _, _ in spans if kind != "equal"]), _marked(
        words[1], [(start, end) for kind, _, _, start, end in spans if kind != "equal"]
    )


def _marked(words: list[str], differing: list[tuple[int, int]]) -> Content:
    if not words:
        return Content("(no speech)")
    marked = {place for start, end in differing for place in range(start, end)}
    parts = [Content.styled(shown(word), "bold underline" if place in marked else "") for place, word in enumerate(words)]
    return Content(" ").join(parts)


def _applied(final: Final) -> str:
    """What was heard where something else is written."""
    return f"  (heard: {', '.join(shown(one.heard) for one in final.applied)})" if final.applied else ""


SAID_S = 6.0
"""How long the line shows what happened."""

SERIOUS_S = 15.0
"""How long it shows what went wrong."""


class StatusLine(Static):
    """One line: for a while what just happened, then how things stand again. What is wrong starts with an exclamation mark."""

    text: reactive[str] = reactive("")
    serious: reactive[bool] = reactive(False)
    _left_s = 0.0
    """How long what is said stays."""
    _state = ("", False)

    def say(self, text: str, *, serious: bool = False) -> None:
        """Shows what happened, for a while."""
        self._left_s = SERIOUS_S if serious else SAID_S
        self.text, self.serious = text, serious

    def stands(self, text: str, *, serious: bool = False) -> None:
        """How things stand: shown from now on, while nothing else is said. What is wrong is shown at once."""
        if (text, serious) == self._state:
            return
        self._state = (text, serious)
        if serious or self._left_s <= 0:
            self._forget()

    def age(self, by_s: float) -> None:
        """Time has passed."""
        if self._left_s > 0:
            self._left_s -= by_s
            if self._left_s <= 0:
                self._forget()

    def _forget(self) -> None:
        self._left_s = 0.0
        self.text, self.serious = self._state

    def watch_text(self) -> None:
        self._show()

    def watch_serious(self) -> None:
        self._show()

    def _show(self) -> None:
        self.set_class(self.serious, "-serious")
        self.update(Content(f"! {shown(self.text)}" if self.serious else shown(self.text)))
