"""Marks doubtful transcripts: no speech, a loop, or the token cap. The text itself is unchanged."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from lora.audio.loading import AudioSettings, AudioSource, load
from lora.audio.voice_activity import holds_speech
from lora.language import Language
from lora.scoring.analysis import is_loop

Mark = Literal["no speech", "loop", "cap"]
"""Nobody speaks in the recording; a phrase is repeated over and over; the transcript ran into the token cap."""

ORDER: tuple[Mark, ...] = ("no speech", "loop", "cap")


def marks(speech: bool, text: str, capped: bool | None, language: Language) -> tuple[Mark, ...]:
    """The marks of one transcript; `speech` says whether the recording may hold any."""
    found = {"no speech": not speech, "loop": is_loop(text, language), "cap": bool(capped)}
    return tuple(mark for mark in ORDER if found[mark])


def speech_in(sources: Sequence[AudioSource], audio: AudioSettings) -> list[bool]:
    """For each recording, whether it may hold speech."""
    return [holds_speech(load(source, audio)) for source in sources]


def summary(rows: Iterable[Sequence[Mark]]) -> str | None:
    """How many transcripts are marked, in words; None if none is."""
    marked = [row for row in rows if row]
    if not marked:
        return None
    counts = Counter(mark for row in marked for mark in row)
    return f"{len(marked)} marked as doubtful: " + ", ".join(f"{counts[mark]} {mark}" for mark in ORDER)
