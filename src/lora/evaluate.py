"""Scores a model on a set of examples: word error rate and loss from one pass, the same way for baseline, dev and tuned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch

from lora.decode import DecodeSettings, Transcript, batches, transcribe, transcribe_and_score
from lora.decoder import Decoder
from lora.features import Features
from lora.language import Language
from lora.manifest import Utterance
from lora.model_utils import Encoded, Speech
from lora.scoring import Score, score_utterance, total
from lora.units import Seconds


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance with its duration and the token ids that it teaches: the styled transcript and EOS."""

    utterance: Utterance
    length_s: Seconds
    labels: tuple[int, ...]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Error rates, and the loss in nats per token of the reference, end token included."""

    score: Score
    loss: float


def evaluate(
    speech: Speech,
    examples: Sequence[Example],
    features: Features,
    settings: DecodeSettings,
    batch_size: int,
    advance: Callable[[int], None] = lambda _count: None,
    expected: Sequence[str] | None = None,
) -> Evaluation:
    """Transcribes and scores the examples, in batches of similar length.

    `expected` are texts that the transcripts may resemble, say those of another step: only the time that it takes depends on them.
    """
    decoder = Decoder(speech)
    transcripts: dict[int, Transcript] = {}
    nats = 0.0
    for indices, encoded in _encoded(speech, examples, features, batch_size):
        chosen = [examples[index] for index in indices]
        lengths_s, labels = [example.length_s for example in chosen], [example.labels for example in chosen]
        drafts = [()] * len(labels) if expected is None else [speech.labels(expected[index]) for index in indices]
        loss, found = transcribe_and_score(decoder, encoded, lengths_s, settings, labels, drafts)
        nats += loss
        transcripts.update(zip(indices, found, strict=True))
        advance(len(indices))
    score = score_transcripts(examples, [transcripts[index] for index in range(len(examples))], speech.language)
    return Evaluation(score=score, loss=nats / sum(len(example.labels) for example in examples))


def transcribe_all(
    speech: Speech,
    examples: Sequence[Example],
    features: Features,
    settings: DecodeSettings,
    batch_size: int,
    advance: Callable[[int], None] = lambda _count: None,
) -> list[Transcript]:
    """Transcripts of any number of examples, in their order; their labels are not looked at."""
    decoder = Decoder(speech)
    transcripts: dict[int, Transcript] = {}
    for indices, encoded in _encoded(speech, examples, features, batch_size):
        found = transcribe(decoder, encoded, [examples[index].length_s for index in indices], settings)
        transcripts.update(zip(indices, found, strict=True))
        advance(len(indices))
    return [transcripts[index] for index in range(len(examples))]


def score_transcripts(examples: Sequence[Example], transcripts: Sequence[Transcript], language: Language) -> Score:
    """The score of transcripts against the examples' references."""
    return total(
        [
            score_utterance(
                id=example.utterance.id,
                speaker_id=example.utterance.speaker_id,
                seconds=example.length_s,
                reference=example.utterance.text or "",
                hypothesis=transcript.text,
                capped=transcript.capped,
                language=language,
            )
            for example, transcript in zip(examples, transcripts, strict=True)
        ],
        language,
    )


def _encoded(speech: Speech, examples: Sequence[Example], features: Features, batch_size: int) -> Iterator[tuple[list[int], Encoded]]:
    """Encoder outputs batch by batch, with the model in evaluation mode until the last one is used."""
    training = speech.model.training
    speech.model.eval()
    try:
        for indices in batches([example.length_s for example in examples], batch_size):
            with torch.inference_mode():
                encoded = features.batch([examples[index].utterance for index in indices])
            yield indices, encoded
    finally:
        speech.model.train(training)
