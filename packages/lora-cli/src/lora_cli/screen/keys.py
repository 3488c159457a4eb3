"""Every key of the main screen, in the order in which they are listed."""

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True, slots=True)
class KeyHelp:
    """A key, the action it runs, the word that names it on the main screen, and what the help says."""

    key: str
    shown: str
    action: str
    label: str
    help: str

    def binding(self) -> Binding:
        return Binding(self.key, f"app.{self.action}", self.label, priority=True)


KEYS = (
    KeyHelp("space", "space", "talk", "talk", "talk: hold it, or press it to start and to stop, as the mode says"),
    KeyHelp("escape", "esc", "discard", "discard", "discard what is being recorded"),
    KeyHelp("m", "m", "next_mode", "mode", "next mode: hold, toggle, vad (hands-free)"),
    KeyHelp("i", "i", "device", "input", "input: another microphone"),
    KeyHelp("v", "v", "next_voice", "voice", "next voice: another model or adapter"),
    KeyHelp("b", "b", "compare", "A/B", "A/B: the next voice says its text of the same speech too; again: off"),
    KeyHelp("1", "1", "prefer(1)", "first", "A/B: the first text is better"),
    KeyHelp("2", "2", "prefer(2)", "second", "A/B: the second text is better"),
    KeyHelp("0", "0", "prefer(0)", "equal", "A/B: both texts are as good"),
    KeyHelp("c", "c", "copy", "copy", "copy the chosen utterance's text"),
    KeyHelp("e", "e", "correct", "correct", "correct the text; sound and text become training data"),
    KeyHelp("s", "s", "save", "save", "save the history as text, a manifest or subtitles"),
    KeyHelp("d", "d", "delete", "delete", "delete the chosen utterance"),
    KeyHelp("u", "u", "undelete", "undo", "bring back what was deleted last"),
    KeyHelp("r", "r", "replay", "replay", "replay the chosen utterance"),
    KeyHelp("l", "l", "light", "light", "light or dark"),
    KeyHelp("question_mark", "?", "help", "help", "this list"),
    KeyHelp("q", "q", "quit", "quit", "quit"),
)
