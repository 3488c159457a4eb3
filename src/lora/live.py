"""Live text of ongoing speech: a growing clip is decoded again and again, and words that stay the same are committed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from lora.audio.loading import AudioSettings, Waveform, duration, prepare
from lora.language import Language
from lora.model.transcript import DecodeSettings, Transcript

if TYPE_CHECKING:
    from lora.model.loading import Encoded
    from lora.transcribe import Transcriber

# PyTorch is imported by what computes with it: an export is heard without.

AGREEING = 3
"""Hypotheses in a row that must agree on a word. On read speech, heard every 0.3 s, 98 % of the words committed so are in the final text
(96 % with their punctuation); with two it is 96 % (93 %)."""

HELD_BACK = 2
"""Words at the end of a hypothesis that are never committed: what follows them is not heard yet."""

ANCHOR = 3
"""Committed words by which a hypothesis is aligned with them."""


class Hearer(Protocol):
    """A model that hears one clip at a time: `Ear` with PyTorch, `lora.runtimes.ear.OnnxEar` without. Its encoder output is its own."""

    language: Language

    def encode(self, samples: Waveform) -> Any: ...
    def decode(self, encoded: Any, samples: Waveform, draft: Sequence[int] = ()) -> Transcript: ...
    def __call__(self, samples: Waveform, draft: Sequence[int] = ()) -> Transcript: ...


class Ear:
    """A loaded model that hears one clip at a time, decoded as in evaluation."""

    def __init__(self, transcriber: "Transcriber") -> None:
        from lora.model.decoder import Decoder
        from lora.model.encoder import Encoder

        self._encoder = Encoder(transcriber.speech)
        self._decoder = Decoder(transcriber.speech)
        self._decode: DecodeSettings = transcriber.decode
        self._audio: AudioSettings = transcriber.audio
        self.language: Language = transcriber.language

    def encode(self, samples: Waveform) -> "Encoded":
        """Encoder output of a clip of at least `lora.model.encoder.MIN_SAMPLES`. Raises `AudioError` when it is shorter or not finite."""
        import torch

        with torch.inference_mode():
            return self._encoder([prepare(samples, self._audio, "the microphone")])

    def decode(self, encoded: "Encoded", samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        """The transcript of the clip; a `draft`, such as the tokens of a shorter part of it, saves time and changes nothing."""
        from lora.model.greedy import transcribe

        return transcribe(self._decoder, encoded, [duration(samples)], self._decode, [draft])[0]

    def __call__(self, samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        return self.decode(self.encode(samples), samples, draft)


@dataclass(frozen=True, slots=True)
class Growing:
    """The text of a growing clip: `committed` words are final, later words of the last hypothesis may change."""

    committed: tuple[str, ...] = ()
    hypotheses: tuple[tuple[str, ...], ...] = ()
    """Words of the last `AGREEING` hypotheses, the newest last."""

    def heard(self, text: str) -> "Growing":
        """After another hypothesis. What the last `AGREEING` have in common behind the committed words is committed, but for their ends."""
        hypotheses = (*self.hypotheses, tuple(text.split()))[-AGREEING:]
        if len(hypotheses) < AGREEING:
            return Growing(self.committed, hypotheses)
        places = [_behind(self.committed, words) for words in hypotheses]
        new = [
            words[place : max(place, len(words) - HELD_BACK)] for words, place in zip(hypotheses, places, strict=True) if place is not None
        ]
        if len(new) < AGREEING:
            return Growing(self.committed, hypotheses)
        same = takewhile(lambda words: len(set(words)) == 1, zip(*new, strict=False))
        return Growing((*self.committed, *(words[0] for words in same)), hypotheses)

    @property
    def tentative(self) -> tuple[str, ...]:
        words = self.hypotheses[-1] if self.hypotheses else ()
        place = _behind(self.committed, words)
        return words[len(self.committed) if place is None else place :]


def _behind(committed: Sequence[str], words: Sequence[str]) -> int | None:
    """Where a hypothesis continues after the committed words, found by the last of them; None if they are not near their place."""
    last = [_plain(word) for word in committed[-ANCHOR:]]
    for shift in (0, 1, -1, 2, -2):
        place = len(committed) + shift
        if len(last) <= place <= len(words) and [_plain(word) for word in words[place - len(last) : place]] == last:
            return place
    return None


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())
