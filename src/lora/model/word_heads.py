"""Which heads of the cross-attention show when words are said: chosen on data for each kind of model (`benchmarks/word_times.py`)."""

from dataclasses import dataclass
from typing import Final

from lora.model.loading import LoadedModel
from lora.model.parts import decoder_layers

Heads = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Heads of the cross-attention, each a layer and a number, and how much earlier than the word they attend to it."""

    heads: Heads
    early_s: float


CHOSEN: Final[dict[tuple[bool, int, int], Chosen]] = {
    (False, 6, 288): Chosen(((5, 6), (4, 4), (3, 1), (2, 5), (0, 1), (2, 2), (5, 1), (2, 6), (5, 0), (1, 6)), 0.026),  # tiny
    (False, 8, 416): Chosen(((5, 4), (5, 5), (5, 1), (0, 5), (0, 1), (2, 3), (1, 6)), -0.048),  # base
}
"""By kind of model: streaming or not, layers of the decoder, width. One speaker's 50 clips of LibriSpeech chose them."""


def chosen(speech: LoadedModel) -> Chosen:
    """The heads for a model of its kind; all of them if none were chosen."""
    config = speech.decoder.config
    count = decoder_layers(speech)[0].cross.heads
    everything = tuple((layer, head) for layer in range(config.num_hidden_layers) for head in range(count))
    return CHOSEN.get((speech.streaming, config.num_hidden_layers, config.hidden_size), Chosen(everything, 0.0))
