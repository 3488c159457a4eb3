"""What the recorder's front ends share: the folder, the sentences, and how engine and microphone are opened."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lora.audio.loading import AudioSettings, Waveform, read_file
from lora_cli.engine.events import Event
from lora_cli.recorder.progress import lines
from lora_cli.recorder.prompts import Prompt
from lora_cli.recorder.sitting import Phase, Sitting
from lora_cli.recorder.store import SETS, Folder, Heading, counted
from lora_cli.session import Engine, OpenSource

KEYS: Final = (
    ("space", "record", "record, and end"),
    ("k", "keep", "keep it though something is wrong"),
    ("r", "repeat", "read the sentence before once more"),
    ("s", "skip", "skip; it comes again at the end"),
    ("escape", "discard", "discard the take"),
    ("p", "play", "play the take, or the one kept last"),
    ("q", "quit", "quit; everything that was kept is on the disk"),
)
"""A key, its label on the screen, and what it does."""


@dataclass(frozen=True, slots=True)
class Booth:
    """`open_engine` is None if no model listens; `open_source` raises `lora.errors.LoraError` without a microphone."""

    folder: Folder
    prompts: Sequence[Prompt]
    heading: Heading
    device: str
    open_engine: Callable[[Callable[[Event], None]], Engine] | None
    open_source: OpenSource

    def sitting(self, engine: Engine | None) -> Sitting:
        """The next sentences in turn."""
        return Sitting(self.folder, self.prompts, engine, self.device)

    def summary(self) -> Iterator[str]:
        """What is said at the end."""
        return lines(self.folder.path, self.folder.rows, self.prompts, self.heading)


def place(booth: Booth, sitting: Sitting) -> str:
    """Progress, in a line."""
    train, test = (counted(booth.folder.rows[name]) for name in SETS)
    recorded = train.sentences + test.sentences
    return f"{recorded} recorded, {sitting.left} left; training {train.length_s / 60:.1f} min, test {test.length_s / 60:.1f} min"


def state(sitting: Sitting) -> str:
    """What happens now, and what the talk key does, in a line."""
    if sitting.phase is Phase.RECORDING:
        length_s = int(sitting.capture.length_s)
        return f"[REC] {length_s // 60}:{length_s % 60:02} - read the sentence, then press space"
    if sitting.phase is Phase.LISTENING and not sitting.model_ready:
        return "... the model is still loading; it hears the take as soon as it can ..."
    if sitting.phase in (Phase.READY, Phase.FAULTY) and not sitting.capture.sounds:
        return "... waiting for the microphone ..."
    texts = {
        Phase.READY: "Press space, read the sentence, press space",
        Phase.ENDING: "... a moment ...",
        Phase.LISTENING: "... listening to it ...",
        Phase.FAULTY: "Not kept - press space and read it again, or k to keep it as it is",
        Phase.DONE: "All sentences are recorded - q quits",
    }
    return texts[sitting.phase]


def complaints(sitting: Sitting) -> list[str]:
    """What is wrong with the take, as soon as it is known."""
    return [fault.message for fault in sitting.take.faults] if sitting.take is not None else []


def sound(booth: Booth, sitting: Sitting) -> Waveform | None:
    """What the play key plays: the take that is being judged, or the one kept last. None if there is neither."""
    if sitting.playable is not None:
        return sitting.playable
    row = sitting.last and booth.folder.rows[sitting.last.set].get(sitting.last.id)
    return read_file(booth.folder.sound(row), AudioSettings()) if row else None
