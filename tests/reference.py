"""What transformers' own modules give: the yardstick for encoder, decoder and loss. Gradients flow through all of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lora.audio.loading import Waveform
from lora.model.encoder import FRAME_SAMPLES
from lora.model.loading import IGNORED_LABEL, Encoded, LoadedModel, join


def whole(samples: Waveform) -> Waveform:
    """The clip up to its last whole frame of v2, which transformers pads and this project cuts."""
    return samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES]


def encoded(speech: LoadedModel, waveforms: Sequence[Waveform]) -> Encoded:
    """Encoder output of each clip alone, padded at the very end."""
    return join([_alone(speech, whole(samples)) for samples in waveforms])


def _alone(speech: LoadedModel, samples: Waveform) -> Tensor:
    values = torch.from_numpy(samples)[None]
    mask = torch.ones_like(values, dtype=torch.long) if speech.streaming else None
    hidden: Tensor = speech.encoder(input_values=values, attention_mask=mask).last_hidden_state[0]
    return hidden


def states(speech: LoadedModel, tokens: Tensor, heard: Encoded) -> Tensor:
    """Decoder states `[batch, tokens, width]`. The streaming decoder adds positions to what it is given in place."""
    decoder, copy = speech.decoder, heard.hidden.clone()
    found: Tensor = decoder(
        input_ids=tokens, encoder_hidden_states=copy, encoder_attention_mask=heard.mask, use_cache=False
    ).last_hidden_state
    return found


def loss_sum(speech: LoadedModel, heard: Encoded, labels: Tensor) -> Tensor:
    """Summed cross-entropy of the labels, from all logits at once."""
    start = torch.full((len(labels), 1), speech.start_id)
    tokens = torch.cat([start, labels[:, :-1]], dim=1)
    logits = speech.head(states(speech, tokens.masked_fill(tokens == IGNORED_LABEL, speech.end_id), heard))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
