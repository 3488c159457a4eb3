"""Messages between the microphone, the engine and the front end. Plain values, because they pass between processes.

A source (microphone or file) gives 16 kHz mono chunks. The engine hears them while a recording is on and emits events. A front end
(terminal UI, plain lines, JSON lines) shows events and asks the engine for what the user wants. None of them knows another's inside.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lora.audio.loading import Waveform
from lora.language import Language
from lora.units import Samples, Seconds
from lora_cli.replacements import Applied


@dataclass(frozen=True, slots=True)
class Voice:
    """A model that can be talked to: a checkpoint, with or without an adapter. `name` is what the user sees."""

    name: str
    model_id: str
    adapter_folder: Path | None = None
    processor_folder: Path | None = None
    revision: str | None = None
    language: Language | None = None
    """None for what the adapter says, and English without one."""
    export_folder: Path | None = None
    """An export that ONNX Runtime runs in place of PyTorch."""


@dataclass(frozen=True, slots=True)
class Loading:
    """A step of loading: what happens now, and which step of how many."""

    message: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine hears. Voices stand in the order asked for; the first is in use."""

    voices: tuple[Voice, ...]
    seconds: Seconds
    """Since the process of the app was started, up to when the app has this event."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The recording's text so far: `committed` hardly ever changes in the final text, `tentative` may."""

    recording: int
    committed: str
    tentative: str
    length_s: Seconds
    behind_s: Seconds
    """Longest delay of audio since the last event: more than a second means that the machine is too slow."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech between pauses, as finally decoded."""

    start_s: Seconds
    """From the start of the recording."""
    length_s: Seconds
    text: str


@dataclass(frozen=True, slots=True)
class Final:
    """A finished recording. In hands-free mode each utterance between pauses is one.

    `latency_s` is from the release, or the end of the pause, to this event. `other_text` is what the voice
    compared with says in A/B mode. An empty `text` means that no speech was found. `looped` says that the model repeated a phrase over
    and over: the text holds it once.
    """

    recording: int
    started_at: datetime
    voice: str
    text: str
    segments: tuple[Segment, ...]
    samples: Waveform
    """What was heard; empty in what a front end keeps, for sound is kept on disk."""
    length_s: Seconds
    latency_s: Seconds
    other_voice: str | None = None
    other_text: str | None = None
    heard: str | None = None
    """What `text` was before the user's replacements; None if they changed nothing."""
    applied: tuple[Applied, ...] = ()
    corrected: bool = False
    """Whether `text` is the user's correction."""
    preferred: str | None = None
    """The voice whose text the user prefers, in A/B mode."""
    looped: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A recording is over, after its last `Final`. All samples that were fed are either in speech or in silence."""

    recording: int
    cancelled: bool
    speech: Samples
    silence: Samples


@dataclass(frozen=True, slots=True)
class Switched:
    """The voice now in use, and the one that is compared with it in A/B mode."""

    voice: str
    other: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot continue; `message` is one line for the user, as on the command line."""

    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the source of sound, in one line. `lost` says that no sound comes any more, so that nothing can be recorded."""

    message: str
    lost: bool = False


Event = Loading | Ready | Partial | Final | Ended | Switched | Failed
