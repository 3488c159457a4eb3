"""General English to guard with and to rehearse: three recordings of the moonshine-voice wheel, cut into utterances at pauses.

The wheel and its assets are under the MIT licence (copyright Moonshine AI).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora.audio.loading import AudioSettings, EncodedAudio, Waveform, duration, encode_flac, load
from lora.checkpoints.wheels import MOONSHINE_VOICE, read_member
from lora.dataset.manifest import Row, write
from lora.system.files import atomic_folder
from lora.units import SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Cut:
    """One utterance of a recording: where it starts and ends, in seconds, and what is said."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording of the wheel and its utterances. Its name is their speaker's id: no voice is in two of the recordings."""

    name: str
    cuts: tuple[Cut, ...]

    @property
    def member(self) -> str:
        """Its file inside the wheel."""
        return f"moonshine_voice/assets/{self.name}.wav"


@dataclass(frozen=True, slots=True)
class GeneralManifests:
    """Held-out speech, which no training sees, and replay speech, which training may rehearse; from different recordings."""

    heldout: Path
    replay: Path


# How the cuts were made: frames of 10 ms under -48 dBFS (two_cities), -52 dBFS (beckett) or -60 dBFS (endgame, whose pauses are
# digital silence) for at least 0.38 s are pauses, and a cut lies in the middle of one. Both the tiny and the base model
# transcribed the pieces. The words of the first two are those of the works that are read (Dickens, A Tale of Two Cities, book 1,
# chapter 1, in capitalisation of today; Beckett, Worstward Ho); those of the third are what the models hear, as the dialogue differs
# from the printed Endgame: they disagree on "heartily" (base: "hotly") and "You thought" (base: "It thought"), where the tiny one's
# word was taken. It is replay speech, which the base model labels itself by default. Left out: the chapter numbers around the Dickens
# ("One", "Two", cut off), and a word in Endgame between 19.12 and 20.10 s on which the two disagree as well.
HELDOUT: Final = (
    Recording(
        "two_cities",
        (
            Cut(0.90, 4.79, "It was the best of times, it was the worst of times,"),
            Cut(4.79, 8.50, "it was the age of wisdom, it was the age of foolishness,"),
            Cut(8.50, 13.12, "it was the epoch of belief, it was the epoch of incredulity,"),
            Cut(13.12, 17.11, "it was the season of light, it was the season of darkness,"),
            Cut(17.11, 20.85, "it was the spring of hope, it was the winter of despair,"),
            Cut(20.85, 24.32, "we had everything before us, we had nothing before us,"),
            Cut(24.32, 28.68, "we were all going direct to heaven, we were all going direct the other way."),
            Cut(28.68, 32.50, "In short, the period was so far like the present period,"),
            Cut(32.50, 36.72, "that some of its noisiest authorities insisted on its being received,"),
            Cut(36.72, 42.20, "for good or for evil, in the superlative degree of comparison only."),
        ),
    ),
    Recording(
        "beckett",
        (
            Cut(0.00, 6.05, "Ever tried. Ever failed. No matter. Try again."),
            Cut(6.05, 9.96, "Fail again. Fail better."),
        ),
    ),
)
REPLAY: Final = (
    Recording(
        "endgame_nagg_nell",
        (
            Cut(0.00, 4.52, "Do you hear me? Yes. Do you hear me? Yes."),
            Cut(4.52, 8.42, "We laugh less heartily, so we have still that resource."),
            Cut(8.42, 11.68, "Laugh less heartily, so we have still that resource."),
            Cut(11.68, 14.34, "No, not heartily, just less heartily."),
            Cut(14.34, 17.28, "Ah, that's a good story. Ah, that's a good story."),
            Cut(17.28, 19.12, "What are you talking about?"),
            Cut(20.10, 23.44, "You thought you were in pain. Not now."),
            Cut(23.44, 28.27, "Do you remember the day I went and fetched you from that ditch? No."),
        ),
    ),
)


def waveform(recording: Recording) -> Waveform:
    """The whole recording, mono at 16 kHz. Raises `FetchError` when the wheel cannot be had."""
    return load(EncodedAudio(read_member(MOONSHINE_VOICE, recording.member), f"{recording.name}.wav"), AudioSettings())


def prepare(folder: Path) -> GeneralManifests:
    """Writes `folder/general/`: `audio/ID.flac` (16 kHz), `heldout.jsonl` and `replay.jsonl`.

    Raises `FetchError` when the wheel cannot be had.
    """
    target = folder / "general"
    with atomic_folder(target) as temporary:
        (temporary / "audio").mkdir()
        write(temporary / "heldout.jsonl", _rows(HELDOUT, temporary))
        write(temporary / "replay.jsonl", _rows(REPLAY, temporary))
    return GeneralManifests(target / "heldout.jsonl", target / "replay.jsonl")


def _rows(recordings: Sequence[Recording], folder: Path) -> list[Row]:
    rows = []
    for recording in recordings:
        samples = waveform(recording)
        for number, cut in enumerate(recording.cuts, start=1):
            piece = samples[round(cut.start_s * SAMPLE_RATE_HZ) : round(cut.end_s * SAMPLE_RATE_HZ)]
            name = f"{recording.name}-{number:02d}"
            (folder / "audio" / f"{name}.flac").write_bytes(encode_flac(piece))
            length_s = round(duration(piece), 3)
            rows.append(Row(audio=f"audio/{name}.flac", text=cut.text, speaker_id=recording.name, id=name, duration=length_s))
    return rows
