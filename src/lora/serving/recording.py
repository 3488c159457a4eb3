"""A client's recording, from its first piece to its transcript."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from lora.audio.loading import EncodedAudio, Waveform, duration
from lora.longform.command import LONGEST_S
from lora.longform.pieces import Piece, pieces
from lora.longform.recording import Heard, mend, passage, seam
from lora.model.transcript import Transcript
from lora.passages import Passage, Word
from lora.serving.models import Served
from lora.units import Seconds, seconds

NOTHING: Final = Transcript("", (), False)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Sound that is decoded at once: a piece of a recording, or what lies around the seam before it."""

    recording: "Recording"
    place: int
    samples: Waveform
    piece: Piece | None
    """None of a seam."""

    @property
    def timed(self) -> bool:
        return self.piece is not None and self.recording.timed

    @property
    def length_s(self) -> Seconds:
        return duration(self.samples)


class Recording:
    """A recording that is cut, heard piece by piece in any order, and joined. But for `cut`, one thread at a time."""

    def __init__(self, served: Served, source: EncodedAudio, max_s: float, *, timed: bool) -> None:
        self.served = served
        self.timed = timed
        self.future: Future[Heard] = Future()
        self.waiting: deque[Clip] = deque()
        """Cut, and not taken by anybody yet."""
        self.waiting_s = 0.0
        self._cuts: Iterator[Piece] = pieces(0, source, LONGEST_S, served.transcriber.audio, max_s)
        self._before: Piece | None = None
        self._whole = False
        """Whether all of it is cut."""
        self._passages: list[Passage | None] = []
        self._seams: dict[int, str | None] = {}
        self._found = Heard()

    @property
    def done(self) -> bool:
        return self._whole and None not in self._passages and None not in self._seams.values()

    def cut(self) -> Piece | None:
        """The next piece; None after the last. Raises `AudioError`."""
        return next(self._cuts, None)

    def take(self, piece: Piece | None) -> None:
        """What was cut waits to be heard; a piece in which nobody speaks is not heard at all, for the model would invent words."""
        if piece is None:
            self._whole, self._before = True, None
            return
        place = len(self._passages)
        self._found.length_s, self._found.speech = seconds(piece.total), self._found.speech or piece.speech
        self._passages.append(None if piece.speech else passage(piece, NOTHING, [] if self.timed else None))
        if piece.speech:
            self._wait(Clip(self, place, piece.samples, piece))
        if self._before is not None and (sound := seam(self._before, piece)) is not None:
            self._seams[place] = None
            self._wait(Clip(self, place, sound, None))
        self._before = piece

    def give(self, clip: Clip) -> None:
        """A clip that waited is heard now."""
        self.waiting.remove(clip)
        self.waiting_s -= clip.length_s

    def _wait(self, clip: Clip) -> None:
        self.waiting.append(clip)
        self.waiting_s += clip.length_s

    def hear(self, clip: Clip, transcript: Transcript, said: Sequence[Word] | None) -> None:
        """Keeps what a clip says."""
        if clip.piece is None:
            self._seams[clip.place] = transcript.text
        else:
            self._passages[clip.place] = passage(clip.piece, transcript, said)

    def joined(self) -> Heard:
        """The transcript of the whole recording."""
        self._found.passages = [one for one in self._passages if one is not None]
        for place, heard in sorted(self._seams.items()):
            mend(self._found.passages, place, heard or "")
        return self._found
