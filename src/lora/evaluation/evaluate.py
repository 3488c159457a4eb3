"""Scores a model on a set of examples: word error rate and loss from one pass, the same way for baseline, dev and tuned."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lora.dataset.manifest import Utterance
from lora.errors import NotFiniteError
from lora.language import Language
from lora.model.decoder import Decoder
from lora.model.encoder_outputs import Features
from lora.model.greedy import batches, transcribe, transcribe_and_score
from lora.model.loading import Encoded, LoadedModel
from lora.model.transcript import DecodeSettings, Transcript
from lora.runs.outcomes import Evaluation
from lora.scoring.counts import Score, score_utterance, total
from lora.system import distributed
from lora.system.parallel import spread
from lora.system.process import give_back_memory
from lora.units import Seconds

NAMED = 8
"""How many clips of a batch a message names."""


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance with its duration and the token ids that it teaches: the styled transcript and EOS."""

    utterance: Utterance
    length_s: Seconds
    labels: tuple[int, ...]
    taught: tuple[bool, ...] = ()
    """Which of the labels training teaches, where it teaches terms alone (`--teach terms`); empty for none."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A model, and how it is evaluated."""

    speech: LoadedModel
    features: Features
    settings: DecodeSettings
    batch_size: int

    def evaluate(
        self,
        examples: Sequence[Example],
        advance: Callable[[int], None] = lambda _count: None,
        expected: Sequence[str] | None = None,
    ) -> Evaluation:
        """Transcribes and scores the examples, in batches of similar length. Several processes share the batches; all get the whole.

        `expected` are texts that the transcripts may resemble, say those of another step: only the time that it takes depends on them.
        """
        speech, decoder = self.speech, Decoder(self.speech)
        drafts: list[Sequence[int]] = [()] * len(examples) if expected is None else [speech.labels(text) for text in expected]

        def batch(indices: Sequence[int], encoded: Encoded) -> tuple[float, list[Transcript]]:
            chosen = [examples[index] for index in indices]
            lengths_s, labels = [example.length_s for example in chosen], [example.labels for example in chosen]
            return transcribe_and_score(decoder, encoded, lengths_s, self.settings, labels, [drafts[index] for index in indices])

        losses, transcripts = self._shared(examples, advance, batch)
        score = score_transcripts(examples, transcripts, speech.language)
        return Evaluation(score=score, loss=sum(losses) / sum(len(example.labels) for example in examples))

    def transcribe(self, examples: Sequence[Example], advance: Callable[[int], None] = lambda _count: None) -> list[Transcript]:
        """Transcripts of any number of examples, in their order; their labels are not used. Several processes share the batches."""
        decoder = Decoder(self.speech)

        def batch(indices: Sequence[int], encoded: Encoded) -> tuple[float, list[Transcript]]:
            return 0.0, transcribe(decoder, encoded, [examples[index].length_s for index in indices], self.settings)

        _, transcripts = self._shared(examples, advance, batch)
        return transcripts

    def _shared(
        self,
        examples: Sequence[Example],
        advance: Callable[[int], None],
        compute: Callable[[Sequence[int], Encoded], tuple[float, list[Transcript]]],
    ) -> tuple[list[float], list[Transcript]]:
        """Losses by batch and transcripts by example. Each process takes whole batches, so that every number is that of one process."""

        def one(piece: tuple[int, list[int]]) -> _Batch:
            number, indices = piece
            with torch.inference_mode():
                encoded = self.features.batch([examples[index].utterance for index in indices])
            try:
                nats, transcripts = compute(indices, encoded)
            except NotFiniteError as error:
                raise _not_finite(self.speech, [examples[index] for index in indices], error.fault) from error
            if not math.isfinite(nats):
                raise _not_finite(self.speech, [examples[index] for index in indices], f"the loss is {nats}")
            return _Batch(number, indices, nats, transcripts)

        def done(piece: tuple[int, list[int]]) -> None:
            give_back_memory()  # a batch takes more than a step of training
            advance(len(piece[1]))

        def own() -> list[_Batch]:
            pieces = distributed.part(list(enumerate(batches([example.length_s for example in examples], self.batch_size))))
            return spread(pieces, one, self.speech.device, done)

        training = self.speech.model.training
        self.speech.model.eval()
        try:
            everything = sorted((batch for part in distributed.gathered(own) for batch in part), key=lambda batch: batch.number)
        finally:
            self.speech.model.train(training)
        transcripts = {index: found for batch in everything for index, found in zip(batch.indices, batch.transcripts, strict=True)}
        return [batch.nats for batch in everything], [transcripts[index] for index in range(len(examples))]


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


class _Batch(NamedTuple):
    """The result of a batch: its number, its examples, their summed loss and transcripts."""

    number: int
    indices: list[int]
    nats: float
    transcripts: list[Transcript]


def _not_finite(speech: LoadedModel, batch: Sequence[Example], fault: str) -> NotFiniteError:
    """The refusal of a batch whose numbers are not finite."""
    names = ", ".join(example.utterance.id for example in batch[:NAMED]) + (", ..." if len(batch) > NAMED else "")
    return NotFiniteError(f"{fault}, in a batch of {len(batch)} clips ({names}; {speech.computing})", speech.when_not_finite)
