"""Greedy transcription of clips that join and leave a batch at any time: what a server decodes while others still come."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lora.model.cross_attention import Apart, Memory
from lora.model.decoder import Cache, Decoder
from lora.model.loading import Encoded
from lora.model.transcript import DecodeSettings, Transcript
from lora.units import Seconds

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Clip(Generic[Key]):
    key: Key
    memory: Memory
    cap: int
    said: list[int] = field(default_factory=list)


class Joining(Generic[Key]):
    """Clips that are decoded together, a token of each in a round. Each gives what it gives alone; one thread at a time.

    A round for eight clips takes twice the time of one for a single clip, because the weights are read once. In a batch that all enter at
    once most rounds have few clips left; here others take the place of those that have ended.
    """

    def __init__(self, decoder: Decoder, settings: DecodeSettings) -> None:
        self._decoder = decoder
        self._settings = settings
        self._clips: list[_Clip[Key]] = []
        self._cache = Cache()

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def keys(self) -> list[Key]:
        """Of the clips that are being decoded."""
        return [clip.key for clip in self._clips]

    @torch.inference_mode()
    def join(self, key: Key, frames: Tensor, length_s: Seconds) -> None:
        """Adds a clip with its encoder output `[frames, width]`."""
        memory = self._decoder.listen(Encoded(frames[None], None))
        self._clips.append(_Clip(key, memory, self._settings.cap(length_s)))

    @torch.inference_mode()
    def round(self) -> list[tuple[Key, Transcript]]:
        """The next token of every clip; gives those that have ended, which leave. Raises `NotFiniteError`, for all of them."""
        decoder, speech = self._decoder, self._decoder.speech
        last = [clip.said[-1] if clip.said else speech.start_id for clip in self._clips]
        self._cache.set_lengths([len(clip.said) for clip in self._clips], speech.device)
        states = decoder(torch.tensor(last, device=speech.device)[:, None], Apart([clip.memory for clip in self._clips]), self._cache)
        for clip, token in zip(self._clips, decoder.head.best_tokens(states[:, 0]).tolist(), strict=True):
            clip.said.append(token)
        ended = [clip for clip in self._clips if clip.said[-1] == speech.end_id or len(clip.said) == clip.cap]
        self.leave([clip.key for clip in ended])
        return [(clip.key, _transcript(decoder, clip.said)) for clip in ended]

    @torch.inference_mode()
    def leave(self, keys: Collection[Key]) -> None:
        """Takes clips out: the last ones get their places."""
        for place in reversed(range(len(self._clips))):
            if self._clips[place].key in keys:
                last = self._clips.pop()
                if place < len(self._clips):
                    self._cache.move(len(self._clips), place)
                    self._clips[place] = last
        if not self._clips:
            self._cache = Cache()  # the room that a long clip needed


def _transcript(decoder: Decoder, said: list[int]) -> Transcript:
    capped = said[-1] != decoder.speech.end_id
    row = said if capped else said[:-1]
    return Transcript(decoder.speech.text(row), tuple(row), capped)
