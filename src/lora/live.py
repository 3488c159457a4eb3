"""Text of speech that is still going on: a clip is heard again as it grows, and words that stay the same are taken as said."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora.audio import AudioSettings, Waveform, duration, prepare
from lora.decode import DecodeSettings, Transcript, transcribe
from lora.decoder import Decoder
from lora.encoder import Encoder
from lora.model_utils import Encoded
from lora.transcribe import Transcriber

HELD_BACK = 2
"""Words at the end of a hypothesis that are never committed: what follows them is not heard yet."""


class Ear:
    """A loaded model that hears one clip at a time, decoded as in evaluation."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._encoder = Encoder(transcriber.speech)
        self._decoder = Decoder(transcriber.speech)
        self._decode: DecodeSettings = transcriber.decode
        self._audio: AudioSettings = transcriber.audio

    @torch.inference_mode()
    def encode(self, samples: Waveform) -> Encoded:
        """Encoder output of a clip of at least `lora.encoder.MIN_SAMPLES`. Raises `AudioError` when it is shorter or not finite."""
        return self._encoder([prepare(samples, self._audio, "the microphone")])

    def decode(self, encoded: Encoded, samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        """The transcript of the clip; a `draft`, such as the tokens of a shorter part of it, saves time and changes nothing."""
        return transcribe(self._decoder, encoded, [duration(samples)], self._decode, [draft])[0]

    def __call__(self, samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        return self.decode(self.encode(samples), samples, draft)


@dataclass(frozen=True, slots=True)
class Growing:
    """What is known of a clip that grows: `committed` words stand, the rest of the last hypothesis may change."""

    committed: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Of the last hypothesis."""

    def heard(self, text: str) -> "Growing":
        """After another hypothesis. Words that two in a row begin with are committed, but for the last ones of either."""
        words = tuple(text.split())
        same = _agreement(self.words, words)
        count = min(same, len(words) - HELD_BACK, len(self.words) - HELD_BACK)
        kept = len(self.committed)
        return Growing(self.committed + words[kept:count], words)

    @property
    def tentative(self) -> tuple[str, ...]:
        return self.words[len(self.committed) :]


def _agreement(before: Sequence[str], after: Sequence[str]) -> int:
    return next((index for index, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), min(len(before), len(after)))
