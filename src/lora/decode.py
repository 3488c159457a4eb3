"""Greedy transcription: one settings object and one loop for baseline, dev, tuned, export checks, transcribe and live use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from lora.model_utils import Encoded, Speech, decode_hidden, new_cache
from lora.units import Seconds

EXTRA_TOKENS = 8
"""Head room of the token cap for very short clips."""

SHRINK_AT = 0.75
"""Finished clips leave the batch once this share of it is still running: leaving copies the cache, staying computes in vain."""


class DecodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the transcript of a clip. No beams, no penalties, no n-gram bans: on-device runtimes have none."""

    tokens_per_second: float

    def cap(self, length_s: Seconds) -> int:
        """Most tokens a clip of that length may give. English speech has 3.3 to 5.3 a second; a loop runs into the cap."""
        return int(length_s * self.tokens_per_second) + EXTRA_TOKENS


@dataclass(frozen=True, slots=True)
class Transcript:
    """Text and token ids, without start and end tokens. `capped` when the model had not ended by the cap."""

    text: str
    tokens: tuple[int, ...]
    capped: bool


def transcribe(speech: Speech, encoded: Encoded, lengths_s: Sequence[Seconds], settings: DecodeSettings) -> list[Transcript]:
    """Transcripts of a batch of clips from their encoder output and durations, in their order. Each is what the clip gives alone."""
    caps = [settings.cap(length_s) for length_s in lengths_s]
    tokens = _greedy(speech, encoded, caps)
    return [Transcript(speech.text(row), tuple(row), len(row) == cap) for row, cap in zip(tokens, caps, strict=True)]


def batches(lengths_s: Sequence[Seconds], size: int) -> Iterator[list[int]]:
    """Indices in batches of clips of similar length, longest first, so that a batch too big for the memory fails at once."""
    order = sorted(range(len(lengths_s)), key=lambda i: -lengths_s[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def _greedy(speech: Speech, encoded: Encoded, caps: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in caps]
    running = list(range(len(caps)))
    alive = [True] * len(caps)
    cache = new_cache(speech)
    tokens = torch.full((len(caps), 1), speech.start_id, device=speech.device)
    while True:
        hidden = decode_hidden(speech, tokens, encoded, cache)
        tokens = speech.head(hidden[:, -1:]).argmax(dim=-1)
        for row, token in zip(running, tokens[:, 0].tolist(), strict=True):
            if not alive[row]:
                continue
            if token == speech.end_id:
                alive[row] = False
            else:
                rows[row].append(token)
                alive[row] = len(rows[row]) < caps[row]
        keep = [index for index, row in enumerate(running) if alive[row]]
        if not keep:
            return rows
        if len(keep) <= SHRINK_AT * len(running):
            chosen = torch.tensor(keep, device=speech.device)
            cache.batch_select_indices(chosen)
            encoded, tokens = _select(encoded, chosen), tokens[chosen]
            running = [running[index] for index in keep]


def _select(encoded: Encoded, chosen: Tensor) -> Encoded:
    return Encoded(encoded.hidden[chosen], None if encoded.mask is None else encoded.mask[chosen])
