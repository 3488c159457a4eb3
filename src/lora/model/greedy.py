"""Greedy transcription: one settings object and one loop for baseline, dev, tuned, export checks, transcribe and live use."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lora.model.cross_attention import Memory
from lora.model.decoder import Cache, Decoder
from lora.model.loading import IGNORED_LABEL, Encoded, pad_labels
from lora.model.products import rounded
from lora.model.transcript import Clip, DecodeSettings, Enough, Transcript, agreement
from lora.system.parallel import AT_A_TIME
from lora.units import Seconds

BATCH_SECONDS = 250.0
"""Most seconds of audio decoded together. With tiny each second takes 0.3 MB; longer batches are a little faster."""


@torch.inference_mode()
def transcribe(
    decoder: Decoder,
    encoded: Encoded,
    lengths_s: Sequence[Seconds],
    settings: DecodeSettings,
    drafts: Sequence[Sequence[int]] | None = None,
    enough: Sequence[Enough] | None = None,
) -> list[Transcript]:
    """Transcripts of a batch of clips from their encoder output and durations, in their order. Each is what the clip gives alone.

    `drafts` are tokens that the transcripts may resemble: only the time that it takes depends on them. A clip for which
    `enough` is true of its tokens ends there. Six parameters: the sound, the settings, and two things that spare work.
    """
    end = decoder.speech.end_id
    drafts = [()] * len(lengths_s) if drafts is None else drafts
    rows = [[*draft, end] for draft in drafts]
    targets = pad_labels(rows, decoder.speech.device)
    memory, cache = decoder.listen(encoded), Cache()
    hidden = decoder(decoder.inputs(targets), memory, cache)
    best = decoder.head.best_tokens(hidden[targets != IGNORED_LABEL])
    return _finish(decoder, _begun(rows, best, lengths_s, settings, drafts, enough), memory, cache)


@torch.inference_mode()
def transcribe_and_score(
    decoder: Decoder,
    encoded: Encoded,
    lengths_s: Sequence[Seconds],
    settings: DecodeSettings,
    labels: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
) -> tuple[float, list[Transcript]]:
    """Summed loss of the labels in nats, and what `transcribe` gives, sooner where labels or `drafts` resemble it.

    Six parameters: those of `transcribe`, and the labels.
    """
    targets = pad_labels(labels, decoder.speech.device)
    memory, cache = decoder.listen(encoded), Cache()
    hidden = decoder(decoder.inputs(targets), memory, cache)
    wanted = targets != IGNORED_LABEL
    nats, best = decoder.head.judge(hidden[wanted], targets[wanted])
    return nats, _finish(decoder, _begun(labels, best, lengths_s, settings, drafts), memory, cache)


def _begun(
    rows: Sequence[Sequence[int]],
    best: Tensor,
    lengths_s: Sequence[Seconds],
    settings: DecodeSettings,
    drafts: Sequence[Sequence[int]],
    enough: Sequence[Enough] | None = None,
) -> list[Clip]:
    """Clips after the decoder was taken over all of `rows` at once.

    That also shows what it would have said itself after each token: up to the first difference it is its own transcript, and decoding
    starts there. Six parameters: what each clip has, and the settings of all.
    """
    own = [part.tolist() for part in best.split([len(row) for row in rows])]
    tells: Sequence[Enough | None] = enough if enough is not None else [None] * len(rows)
    return [
        Clip(said[: agreement(row, said) + 1], settings.cap(length_s), draft, tell)
        for row, said, length_s, draft, tell in zip(rows, own, lengths_s, drafts, tells, strict=True)
    ]


def batches(lengths_s: Sequence[Seconds], size: int, most_s: float = BATCH_SECONDS) -> Iterator[list[int]]:
    """Indices in batches of clips of similar length, of at most `size` clips and, padded, `most_s` seconds; or of one clip.

    All hold about as much, and there is one for each that `spread` works on at a time. The longest clips come first, so that a batch too
    big for the memory fails at once.
    """
    order = sorted(range(len(lengths_s)), key=lambda i: -lengths_s[i])
    total_s = sum(lengths_s)
    share_s = total_s / (AT_A_TIME * max(1, math.ceil(total_s / (AT_A_TIME * most_s))))
    batch: list[int] = []
    before_s, share = 0.0, 0
    for index in order:
        its_share = int((before_s + lengths_s[index] / 2) / share_s) if share_s else 0
        padded_s = (len(batch) + 1) * lengths_s[batch[0]] if batch else 0.0
        if batch and (len(batch) == size or its_share > share or padded_s > most_s):
            yield batch
            batch = []
        batch.append(index)
        before_s, share = before_s + lengths_s[index], its_share
    if batch:
        yield batch


def _finish(decoder: Decoder, clips: list[Clip], memory: Memory, cache: Cache) -> list[Transcript]:
    """Decodes to the end. Each round takes a clip's last token and its draft's next ones; finished clips free their place at once."""
    end, device = decoder.speech.end_id, decoder.speech.device
    for clip in clips:
        clip.cut(end)
    running = list(clips)
    _close_up(running, end, memory, cache)
    while running:
        guesses = [clip.guess() for clip in running]
        rows = [[clip.said[-1], *guess] for clip, guess in zip(running, guesses, strict=True)]
        count, width = min(rounded(len(rows), 8), len(clips)), rounded(max(map(len, rows)), 4)
        tokens = torch.tensor([[*row, *[end] * (width - len(row))] for row in [*rows, *[[end]] * (count - len(rows))]], device=device)
        cache.set_lengths([*(len(clip.said) for clip in running), *[0] * (count - len(rows))], device)
        hidden = decoder(tokens, memory.part(0, count), cache)
        best = decoder.head.best_tokens(hidden.flatten(0, 1)).view(tokens.shape).tolist()
        for clip, guess, own in zip(running, guesses, best, strict=False):
            clip.hear(own[: agreement(guess, own) + 1], end)
        _close_up(running, end, memory, cache)
    return [clip.transcript(end, decoder.speech.text) for clip in clips]


def _close_up(running: list[Clip], end: int, memory: Memory, cache: Cache) -> None:
    """Moves the last running clips into the places of finished ones: a copy would hold the largest tensors of a run twice."""
    for place in reversed(range(len(running))):
        if running[place].ended(end):
            last = running.pop()
            if place < len(running):
                memory.move(len(running), place)
                cache.move(len(running), place)
                running[place] = last
