"""Finds texts that belong to other recordings by the model's own loss: rows that are shifted, swallowed or mixed up."""

import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import torch

from lora.evaluation.evaluate import Example
from lora.model.decoder import Decoder
from lora.model.encoder_outputs import Features
from lora.model.loading import Encoded, LoadedModel, pad_labels
from lora.system import distributed
from lora.system.parallel import spread

OTHERS: Final = 4
"""How many texts of other clips a clip's own text is compared with."""

BETTER_NATS: Final = 1.0
"""How much likelier, in nats per token, a clip's own text must be than others. Right texts are so by 1.5 to 8 nats (105 clips of AN4,
LibriSpeech and speechocean762, tiny), texts of other clips by 0.1 on average."""


def foreign_texts(
    speech: LoadedModel, examples: Sequence[Example], features: Features, seed: int, advance: Callable[[], None]
) -> list[int]:
    """Places of the examples whose text the model finds hardly likelier than those of other clips.

    Texts are compared in lower case, so that their style does not count. An example without a text, or whose set has no other texts, is
    skipped. Of several processes each takes a part; all get the whole.
    """
    decoder = Decoder(speech)
    texts = sorted({_plain(example) for example in examples} - {""})

    def foreign(place: int) -> tuple[int, bool]:
        own = _plain(examples[place])
        others = random.Random(f"{seed} {place}").sample(texts, min(OTHERS + 1, len(texts)))
        with torch.inference_mode():
            encoded = features.batch([examples[place].utterance])
            losses = [_loss(speech, decoder, encoded, text) for text in (own, *[other for other in others if other != own][:OTHERS])]
        return place, losses[0] > median(losses[1:]) - BETTER_NATS

    def own_part() -> list[tuple[int, bool]]:
        places = [place for place, example in enumerate(examples) if _plain(example) and len(texts) > 1]
        return spread(distributed.part(places), foreign, speech.device, lambda _place: advance())

    return sorted(place for part in distributed.gathered(own_part) for place, is_foreign in part if is_foreign)


def _plain(example: Example) -> str:
    return " ".join((example.utterance.text or "").lower().split())


def _loss(speech: LoadedModel, decoder: Decoder, encoded: Encoded, text: str) -> float:
    labels = speech.labels(text)
    return decoder.loss_sum(encoded, pad_labels([labels], speech.device)).item() / len(labels)
