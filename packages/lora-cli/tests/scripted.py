"""A session whose engine and source write down what they are asked, so that tests play their parts by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from lora_cli.engine.events import Event, Final, Voice
from lora_cli.session import Corrections, History, InputDevice, OnLevel, OnProblem, OnSamples, SaveFormat, Session
from lora_cli.sound.microphone import Device
from lora_cli.talking import Background

from lora.audio.loading import Waveform
from lora.errors import AudioError, RunFolderError
from lora.units import Seconds

BASE = Voice("tiny", "packaged:moonshine-tiny")
TUNED = Voice("tuned", "packaged:moonshine-tiny", Path("outputs/x/lora_adapter"))
"""300 ms of sound, its last chunk unlike any other."""

CHUNK = np.full(320, 0.1, dtype=np.float32)
"""20 ms of sound."""


@dataclass
class Script:
    """What the app asked for, and the ends of the wires that a test pulls."""

    voices: tuple[Voice, ...] = (BASE, TUNED)
    source_error: str | None = None
    opened: int = 0
    """How often a source was opened."""
    asked: list[object] = field(default_factory=list)
    fed: list[Waveform] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    """Of each recording: samples at its start that belong to the one before too."""
    postroll: int = 0
    """Samples behind the last recording that belong to it."""
    folder: Path = Path()
    refusal: str | None = None
    """What every result is refused with, when set."""
    results: History | None = None
    """What takes the results in place of the script."""

    background: Background = Background.LISTEN
    devices: tuple[str, ...] | None = ("built-in", "headset")
    """Microphones; those named `broken` cannot be opened. None for a recording."""

    def session(self) -> Session:
        devices = None if self.devices is None else self._devices
        open_again = None if self.devices is None else self._open_again
        return Session(
            self.voices,
            self._engine,
            self._source,
            "default",
            self.results or self,
            devices,
            open_again,
            add_replacement=lambda entry: self.asked.append(("replace", entry.spoken, entry.written)),
            background=self.background,
        )

    def _devices(self) -> tuple[InputDevice, ...]:
        assert self.devices is not None
        return tuple(
            InputDevice(name, Device(index, name, 2, 48_000, index == 0).label, partial(self._open, name))
            for index, name in enumerate(self.devices)
        )

    def _open(self, name: str, on_samples: OnSamples, on_level: OnLevel, on_problem: OnProblem) -> "Script":
        if name == "broken":
            raise AudioError("broken: cannot be opened; choose another with --microphone")
        self.asked.append(("open", name))
        return self._source(on_samples, on_level, on_problem)

    def _open_again(self, wanted: str | None, on_samples: OnSamples, on_level: OnLevel, on_problem: OnProblem) -> "Script":
        return self._open(wanted or "default", on_samples, on_level, on_problem)

    def _engine(self, emit: Callable[[Event], None]) -> "Script":
        self.emit = emit
        return self

    def _source(self, on_samples: OnSamples, on_level: OnLevel, on_problem: OnProblem) -> "Script":
        if self.source_error is not None:
            raise AudioError(self.source_error)
        self.on_samples, self.on_level, self.on_problem = on_samples, on_level, on_problem
        self.opened += 1
        return self

    # the engine

    def start(self) -> None:
        self.asked.append("start")

    def begin(self, *, hands_free: bool, preroll: Waveform, repeated: int = 0) -> int:
        self.fed.append(preroll)
        self.repeated.append(repeated)
        self.asked.append("begin hands-free" if hands_free else "begin")
        return sum(str(asked).startswith("begin") for asked in self.asked)

    def feed(self, samples: Waveform) -> None:
        self.fed.append(samples)

    def end(self, postroll: int = 0) -> None:
        self.asked.append("end")
        self.postroll = postroll

    def cancel(self) -> None:
        self.asked.append("cancel")

    def use(self, name: str) -> None:
        self.asked.append(("use", name))

    def compare(self, name: str | None) -> None:
        self.asked.append(("compare", name))

    # engine and source

    def close(self) -> None:
        self.asked.append("close")

    # the results

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise RunFolderError(self.refusal)

    def add(self, final: Final) -> None:
        self._refuse()
        self.asked.append(("add", final.text))

    def remove(self, final: Final) -> None:
        self._refuse()
        self.asked.append(("remove", final.text))

    def copy(self, text: str) -> None:
        self._refuse()
        self.asked.append(("copy", text))

    def save(self, form: SaveFormat) -> Path:
        self._refuse()
        self.asked.append(("save", form))
        return self.folder / f"history.{form}"

    def restore(self, final: Final) -> None:
        self._refuse()
        self.asked.append(("restore", final.text))

    def prefer(self, final: Final, voice: str) -> None:
        self._refuse()
        self.asked.append(("prefer", final.text, voice))

    def correct(self, final: Final, text: str) -> Corrections:
        self._refuse()
        self.asked.append(("correct", final.text, text))
        count = sum(asked[0] == "correct" for asked in self.asked)
        return Corrections(self.folder / "corrections.jsonl", count, Seconds(3.0 * count))

    def replay(self, final: Final) -> None:
        self._refuse()
        self.asked.append(("replay", final.text))
