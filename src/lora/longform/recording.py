"""Transcripts of recordings of any length: pieces are decoded together, whatever file they come from, and joined again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from lora.audio.decoding import stored_format
from lora.audio.loading import AudioSettings, FileAudio, Waveform, duration
from lora.dataset.manifest import Utterance
from lora.errors import AudioError, NotFiniteError
from lora.evaluation.evaluate import Example
from lora.language import Language
from lora.longform.pieces import Piece, pieces, whole
from lora.longform.seams import OPEN, across, mended, told
from lora.longform.words import words
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import batches, transcribe
from lora.model.joining import Joining
from lora.model.loading import IGNORED_LABEL, Encoded, pad_labels
from lora.model.transcript import Enough, Transcript
from lora.passages import Passage, Word
from lora.system import distributed
from lora.system.parallel import ahead, spread
from lora.system.process import give_back_memory
from lora.transcribe import Result, Said, Transcriber, result
from lora.units import Seconds, seconds

NOTHING_S: Final = Seconds(0.0)
CHUNK_S: Final = 1000.0
"""Sound that is decoded before more is taken: two of the largest batches, 64 MB."""

BATCH_S: Final = 500.0
"""Sound decoded together at most: steps of twice as many pieces take 0.85 of the time, for the decoder's weights are read half as often."""

TIMED: Final = 8
"""Clips whose words are timed at once: each takes 5 MB for what its tokens look at."""


@dataclass(slots=True)
class Heard:
    """The transcript of one recording."""

    length_s: Seconds = NOTHING_S
    speech: bool = False
    """Whether it may hold any."""
    passages: list[Passage] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(passage.text for passage in self.passages if passage.text)

    @property
    def capped(self) -> bool:
        return any(passage.capped for passage in self.passages)


class Listener:
    """A loaded model that hears pieces.

    `timed` says when each word is said; without `mended` each piece has the marks and capitals at its ends that it has alone.
    """

    def __init__(self, transcriber: Transcriber, *, timed: bool, mended: bool = True) -> None:
        self._transcriber = transcriber
        self._encoder = Encoder(transcriber.speech)
        self._decoder = Decoder(transcriber.speech)
        self._timed = timed
        self._mended = mended

    def __call__(self, cut: Iterable[Piece]) -> list[Heard]:
        """The transcript of each recording, from pieces in order. Of several processes each decodes a part, and all get the whole."""
        found = list[Heard]()
        before: Piece | None = None
        for chunk in ahead(_chunks(cut)):
            for piece, passage in zip(chunk, self._passages(chunk), strict=True):
                if piece.recording == len(found):
                    found.append(Heard())
                found[piece.recording].passages.append(passage)
                found[piece.recording].speech |= piece.speech
                found[piece.recording].length_s = seconds(piece.total)
            if self._mended:
                self._mend(found, [before, *chunk] if before is not None else chunk)
            before = chunk[-1]
        return found

    def _passages(self, chunk: Sequence[Piece]) -> list[Passage]:
        texts = self._texts([piece.samples for piece in chunk], timed=self._timed)
        return [passage(piece, transcript, said) for piece, (transcript, said) in zip(chunk, texts, strict=True)]

    def _mend(self, found: list[Heard], chunk: Sequence[Piece]) -> None:
        """Hears across the seams between neighbours of a chunk."""
        seams = list(_seams(found, chunk))
        enough = [partial(one.told, self._transcriber.speech.text) for one in seams]
        for one, (transcript, _) in zip(seams, self._texts([one.sound for one in seams], timed=False, enough=enough), strict=True):
            mend(one.passages, one.place, transcript.text)

    @torch.inference_mode()
    def losses(self, sounds: Sequence[Waveform], texts: Sequence[tuple[int, str]]) -> list[float]:
        """How unlikely each text is for its clip, which is given by its place, in nats."""
        speech = self._transcriber.speech

        def one(places: list[int]) -> list[tuple[int, float]]:
            asked = [(number, places.index(place), text) for number, (place, text) in enumerate(texts) if place in places]
            targets = pad_labels([speech.labels(text) for _, _, text in asked], speech.device)
            rows = [row for _, row, _ in asked]
            encoded = self._encoder([sounds[place] for place in places])
            heard = Encoded(encoded.hidden[rows], None if encoded.mask is None else encoded.mask[rows])
            states = self._decoder(self._decoder.inputs(targets), self._decoder.listen(heard))
            wanted = targets != IGNORED_LABEL
            parts = self._decoder.head.log_odds(states[wanted], targets[wanted]).split(wanted.sum(dim=1).tolist())
            return [(number, -float(part.sum())) for (number, _, _), part in zip(asked, parts, strict=True)]

        shares = list(batches([duration(samples) for samples in sounds], self._transcriber.request.batch_size))
        found = dict(pair for batch in spread(shares, one, speech.device, lambda _: give_back_memory()) for pair in batch)
        return [found[number] for number in range(len(texts))]

    @torch.inference_mode()
    def batch(
        self, sounds: Sequence[Waveform], timed: Sequence[bool], enough: Sequence[Enough] | None = None
    ) -> list[tuple[Transcript, list[Word] | None]]:
        """Transcripts of clips that are decoded at once, in this thread, each up to where `enough` is heard; with words if `timed`."""
        encoded, lengths_s = self._encoder(sounds), [duration(samples) for samples in sounds]
        try:
            transcripts = transcribe(self._decoder, encoded, lengths_s, self._transcriber.decode, enough=enough)
            rows = [row for row, wanted in enumerate(timed) if wanted]
            said = dict(zip(rows, self._words(encoded, transcripts, sounds, rows), strict=True))
        except NotFiniteError as error:
            speech = self._transcriber.speech
            raise NotFiniteError(f"{error.fault} ({speech.computing})", speech.when_not_finite) from error
        return [(transcript, said.get(row)) for row, transcript in enumerate(transcripts)]

    @torch.inference_mode()
    def frames(self, sound: Waveform) -> Tensor:
        """Encoder output `[frames, width]` of a clip that joins others. Raises `AudioError` for one that is too short."""
        return self._encoder.each([sound])[0]

    def joining(self) -> Joining[Any]:
        """A batch that clips join and leave at any time."""
        return Joining(self._decoder, self._transcriber.decode)

    @torch.inference_mode()
    def words(self, frames: Tensor, transcript: Transcript, sound: Waveform) -> list[Word]:
        """The words of a clip, with times from its start."""
        return words(self._decoder, Encoded(frames[None], None), [transcript], [sound])[0]

    def _words(
        self, encoded: Encoded, transcripts: Sequence[Transcript], sounds: Sequence[Waveform], rows: Sequence[int]
    ) -> list[list[Word]]:
        """Of some rows of a batch."""
        found = list[list[Word]]()
        for at in range(0, len(rows), TIMED):
            some = rows[at : at + TIMED]
            part = Encoded(encoded.hidden[some], None if encoded.mask is None else encoded.mask[some])
            found += words(self._decoder, part, [transcripts[row] for row in some], [sounds[row] for row in some])
        return found

    @property
    def language(self) -> Language:
        return self._transcriber.language

    @property
    def audio(self) -> AudioSettings:
        """What is done to every waveform that it hears."""
        return self._transcriber.audio

    def _texts(
        self, sounds: Sequence[Waveform], *, timed: bool, enough: Sequence[Enough] | None = None
    ) -> list[tuple[Transcript, list[Word] | None]]:
        """Transcripts of clips, in their order, up to where `enough` is heard, with their words if they are `timed`."""
        lengths_s = [duration(samples) for samples in sounds]

        def one(indices: list[int]) -> list[tuple[int, Transcript, list[Word] | None]]:
            tells = None if enough is None else [enough[index] for index in indices]
            found = self.batch([sounds[index] for index in indices], [timed] * len(indices), tells)
            return [(index, text, said) for index, (text, said) in zip(indices, found, strict=True)]

        def own() -> list[list[tuple[int, Transcript, list[Word] | None]]]:
            shares = distributed.part(list(batches(lengths_s, self._transcriber.request.batch_size, BATCH_S)))
            return spread(shares, one, self._transcriber.speech.device, lambda _: give_back_memory())

        found = {index: (text, said) for part in distributed.gathered(own) for batch in part for index, text, said in batch}
        return [found[index] for index in range(len(sounds))]


def transcribe_files(transcriber: Transcriber, files: Sequence[Utterance], longest_s: float, *, timed: bool) -> Result:
    """Transcripts of files of any length, cut into pieces of up to `longest_s`.

    Raises `AudioError` for a file that `lora.longform.pieces` refuses, and if nobody speaks in any, of which one was cut.
    """
    sources = [one.audio for one in files if isinstance(one.audio, FileAudio)]
    for source in sources:
        stored_format(source.path, source.track)  # an unreadable file is refused before hours of others are decoded
    cut = (piece for number, source in enumerate(sources) for piece in pieces(number, source, longest_s, transcriber.audio))
    heard = Listener(transcriber, timed=timed)(cut)
    if not any(one.speech for one in heard) and any(one.length_s > longest_s for one in heard):
        names = ", ".join(one.id for one in files[:3]) + (", ..." if len(files) > 3 else "")
        raise AudioError(f"{names}: no speech found; check that it is the right recording, channel and track, and that it is loud enough")
    return _result(transcriber, files, heard)


def timed_clips(transcriber: Transcriber, utterances: Sequence[Utterance]) -> Result:
    """Transcripts of clips, with the times of their words; those with a text are scored."""
    clips = (whole(number, utterance.audio, transcriber.audio) for number, utterance in enumerate(utterances))
    return _result(transcriber, utterances, Listener(transcriber, timed=True)(clips))


def _result(transcriber: Transcriber, utterances: Sequence[Utterance], heard: Sequence[Heard]) -> Result:
    told = [one.passages if len(one.passages) > 1 or any(p.words is not None for p in one.passages) else [] for one in heard]
    return result(
        [Example(utterance, one.length_s, ()) for utterance, one in zip(utterances, heard, strict=True)],
        [Said(one.text, one.capped, None, tuple(some), one.speech) for one, some in zip(heard, told, strict=True)],
        transcriber.hearing,
    )


def _chunks(cut: Iterable[Piece]) -> Iterator[list[Piece]]:
    chunk = list[Piece]()
    for piece in cut:
        chunk.append(piece)
        if sum(one.length_s for one in chunk) >= CHUNK_S:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class _Seam:
    """The place between two passages of a recording, and the sound around it."""

    passages: list[Passage]
    place: int
    """Of the second one."""
    sound: Waveform

    def told(self, text: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> bool:
        """Whether these tokens of what is heard across it say all that it takes."""
        before, after = (passage.text.split() for passage in self.passages[self.place - 1 : self.place + 1])
        return told(before, after, text(tokens).split())


def _seams(found: Sequence[Heard], chunk: Sequence[Piece]) -> Iterator[_Seam]:
    """The seams between neighbours of a chunk, whose passages are the last ones found."""
    for number in range(1, len(chunk)):
        sound, passages = seam(chunk[number - 1], chunk[number]), found[chunk[number].recording].passages
        if sound is not None:
            later = sum(piece.recording == chunk[number].recording for piece in chunk[number + 1 :])
            yield _Seam(passages, len(passages) - 1 - later, sound)


def seam(before: Piece, after: Piece) -> Waveform | None:
    """The sound around the cut between two pieces of a recording; None if no sentence continues across it."""
    if after.pause is None or after.pause >= OPEN:
        return None
    return across(before.samples, after.pause, after.samples)


def mend(passages: list[Passage], place: int, heard: str) -> None:
    """Writes the words on both sides of the seam before `passages[place]` as they are heard across it."""
    first, second = passages[place - 1 : place + 1]
    join = mended(first.text.split(), second.text.split(), heard.split())
    if join is not None:
        passages[place - 1 : place + 1] = _rewritten(first, -1, join.before), _rewritten(second, 0, join.after)


def passage(piece: Piece, transcript: Transcript, said: Sequence[Word] | None) -> Passage:
    """A piece without speech has no passage if its recording was cut."""
    text = transcript.text if piece.heard else ""
    start_s, end_s = piece.start_s, Seconds(piece.start_s + piece.length_s)
    moved = None if said is None else tuple(_moved(word, start_s) for word in said if piece.heard)
    return Passage(start_s=start_s, end_s=end_s, text=text, capped=transcript.capped, words=moved)


def _moved(word: Word, by_s: Seconds) -> Word:
    return msgspec.structs.replace(word, start_s=Seconds(word.start_s + by_s), end_s=Seconds(word.end_s + by_s))


def _rewritten(passage: Passage, place: int, text: str) -> Passage:
    """With its first or last word written otherwise."""
    spelled = passage.text.split()
    spelled[place] = text
    said = None if passage.words is None else list(passage.words)
    if said:
        said[place] = msgspec.structs.replace(said[place], text=text)
    return msgspec.structs.replace(passage, text=" ".join(spelled), words=None if said is None else tuple(said))
