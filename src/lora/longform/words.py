"""When each word of a transcript is said, and how sure the model is of it: both from one more pass of the decoder over its own text.

A token attends to the frames it was heard in. A few heads of the cross-attention attend only there; they were chosen on data
for each checkpoint (`benchmarks/word_times.py`). The way through their attention is dynamic time warping: every frame belongs to one
token, in order.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from lora.audio.loading import Waveform, duration
from lora.language import traits
from lora.longform.word_edges import at_pauses
from lora.model.decoder import Decoder
from lora.model.loading import IGNORED_LABEL, Encoded, LoadedModel, pad_labels
from lora.model.transcript import Transcript
from lora.model.word_heads import chosen
from lora.passages import Word
from lora.units import Seconds

Array = npt.NDArray[np.float32]


CONFIDENT: Final = (0.726, 0.686)
"""Slope and intercept that turn the log odds of a word's probability into those of its being right, by logistic regression there."""


@torch.inference_mode()
def words(decoder: Decoder, encoded: Encoded, transcripts: Sequence[Transcript], sounds: Sequence[Waveform]) -> list[list[Word]]:
    """The words of each transcript of a batch of clips, with times from the clip's start."""
    rows = [[*transcript.tokens, decoder.speech.end_id] for transcript in transcripts]
    targets = pad_labels(rows, decoder.speech.device)
    states, looks = decoder.attention(decoder.inputs(targets), decoder.listen(encoded), chosen(decoder.speech).heads)
    log_odds = decoder.head.log_odds(states[targets != IGNORED_LABEL], targets[targets != IGNORED_LABEL])
    frames = [encoded.hidden.shape[1]] * len(rows) if encoded.mask is None else encoded.mask.sum(dim=1).tolist()
    parts = log_odds.split([len(row) for row in rows])
    return [
        _words(decoder, row[:-1], looks[index, : len(row), : frames[index]].cpu().numpy(), parts[index].cpu().numpy(), sound)
        for index, (row, sound) in enumerate(zip(rows, sounds, strict=True))
    ]


def _words(decoder: Decoder, tokens: list[int], looks: Array, log_odds: Array, sound: Waveform) -> list[Word]:
    """`looks` `[tokens, frames]` and `log_odds` `[tokens]` have a row for the end token too."""
    if not tokens:
        return []
    speech = decoder.speech
    found = [(start, stop, text) for start, stop in spans(speech, tokens) if (text := speech.text(tokens[start:stop]))]
    length_s = duration(sound)
    borders_s = np.clip(warped(looks) * (length_s / looks.shape[1]) + chosen(decoder.speech).early_s, 0.0, length_s)
    borders_s[0] = 0.0
    times_s = np.array([(borders_s[start], borders_s[stop]) for start, stop, _ in found]).reshape(-1, 2)
    return [
        Word(text=text, start_s=Seconds(float(from_s)), end_s=Seconds(float(to_s)), confidence=confidence(log_odds[start:stop]))
        for (start, stop, text), (from_s, to_s) in zip(found, at_pauses(times_s, sound), strict=True)
    ]


def spans(speech: LoadedModel, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Where the words lie among tokens; if a language does not separate words, its characters."""
    pieces: list[str] = [speech.processor.tokenizer.convert_ids_to_tokens(token) for token in tokens]
    apart = traits(speech.language).separates_words
    starts = [index for index, piece in enumerate(pieces) if not index or piece.startswith("▁") or not (apart or piece.startswith("<0x"))]
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True))


def warped(looks: Array) -> npt.NDArray[np.int64]:
    """First frame of each token, and the end of the last: the way through `looks` `[tokens, frames]` on which tokens look most.

    Each frame belongs to one token and tokens follow each other; with more tokens than frames some get none.
    """
    tokens, frames = looks.shape
    gain = np.log(np.maximum(looks, 1e-6)).astype(np.float64)
    best = np.full(tokens, -math.inf)
    best[0] = gain[0, 0]
    moved = np.zeros((frames, tokens), dtype=bool)
    for frame in range(1, frames):
        before = np.concatenate([[-math.inf], best[:-1]])
        moved[frame] = before > best
        best = np.maximum(best, before) + gain[:, frame]
    borders = np.zeros(tokens + 1, dtype=np.int64)
    borders[tokens] = frames
    token = int(np.flatnonzero(np.isfinite(best)).max())
    borders[token + 1 :] = frames
    for frame in range(frames - 1, 0, -1):
        if moved[frame, token]:
            borders[token] = frame
            token -= 1
    return borders


def confidence(log_odds: Array) -> float:
    """The probability that a word is right, from the logarithms of its tokens' probabilities."""
    slope, intercept = CONFIDENT
    total = min(float(log_odds.sum()), -1e-4)
    odds = math.exp(total) / -math.expm1(total)
    return 1 / (1 + math.exp(-slope * math.log(max(odds, 1e-12)) - intercept))
