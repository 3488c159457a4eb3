"""Teaches terms alone: which tokens are taught; all others keep the distributions of the model before training."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from lora.dataset.manifest import Utterance
from lora.errors import TermsError
from lora.evaluation.evaluate import Example
from lora.model.decoder import Decoder
from lora.model.encoder_outputs import Features
from lora.model.loading import Encoded, LoadedModel, pad_labels
from lora.text.style import ResolvedStyle, apply_style
from lora.text.terms import Terms
from lora.training.adapter import Adapted, merged

_SHOWN = 8
"""How many terms without a training sentence a message names."""


def marked(speech: LoadedModel, examples: Sequence[Example], terms: Terms, style: ResolvedStyle) -> list[Example]:
    """The examples with the tokens of terms marked: those that hold a character of one, its ending included."""
    return [replace(one, taught=_taught(speech, apply_style(style, one.utterance.text or ""), terms)) for one in examples]


def _taught(speech: LoadedModel, text: str, terms: Terms) -> tuple[bool, ...]:
    found = terms.found(text)
    return tuple(any(start < one.end and end > one.start for one in found) for start, end in speech.spans(text)) if found else ()


def require_sentences(terms: Terms, utterances: Iterable[Utterance]) -> str | None:
    """A message that names the terms that occur in no training sentence, so are not taught; None if there are none.

    Raises `TermsError` if no sentence holds any.
    """
    held = {found.term for utterance in utterances for found in terms.found(utterance.text or "")}
    absent = [term.written for term in terms if term.written not in held]
    if not held:
        raise TermsError(f"{terms.path}: no training sentence holds any of its terms; give speech that does, or --teach transcripts")
    if not absent:
        return None
    more = f", and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    return f"not taught, for no training sentence holds them: {', '.join(absent[:_SHOWN])}{more}"


class Teacher:
    """A frozen copy of a model with its current adapter: the target for tokens that are not taught."""

    def __init__(self, adapted: Adapted, features: Features) -> None:
        with merged(adapted) as speech:
            before = replace(speech, model=deepcopy(speech.model).requires_grad_(False))
        self._decoder = Decoder(before)
        self._features = features.encoded_by(before) if adapted.trains_encoder else None

    @torch.no_grad()
    def states(self, examples: Sequence[Example], encoded: Encoded, labels: Tensor) -> Tensor:
        """Decoder states `[batch, tokens, width]` before each of the labels. `encoded` is what the learner hears, which the teacher hears
        too unless the encoder trains.
        """
        heard = encoded if self._features is None else self._features.batch([example.utterance for example in examples])
        return self._decoder(self._decoder.inputs(labels), self._decoder.listen(heard))


def taught_mask(examples: Sequence[Example], labels: Tensor) -> Tensor:
    """Which of the padded labels `[batch, tokens]` are taught."""
    rows = [[int(taught) for taught in example.taught] or [0] * len(example.labels) for example in examples]
    return pad_labels(rows, labels.device) == 1
