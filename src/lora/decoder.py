"""Moonshine's decoder as plain tensor operations: the one that trains, scores and decodes, for both generations.

transformers' own modules hold the weights; here layers with the same input are one product, keys and values of the encoder output
are computed once, the head sees only the positions that are wanted, and a clip leaves the batch the moment it ends. Tests hold
outputs and gradients to those of transformers and PEFT.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.cross import CrossAttention, Memory
from lora.head import Head
from lora.layers import PRODUCT_DTYPES, Projection, Rotation
from lora.model_utils import IGNORED_LABEL, Encoded, Speech

CACHE_STEP = 32
"""Tokens by which the self-attention cache grows."""


class Cache:
    """Self-attention keys and values `[batch, heads, tokens, width]` of each layer; clips may hold different numbers of tokens."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.lengths: Tensor | None = None
        """Tokens of each clip that count, `[batch]`; None while the cache is empty."""
        self.longest = 0

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Stores a layer's first tokens, the same number for each clip."""
        self._keys.append(keys)
        self._values.append(values)

    def set_lengths(self, lengths: Sequence[int], device: torch.device) -> None:
        """Says how many of the stored tokens count for each clip; those behind them will be overwritten."""
        self.lengths, self.longest = torch.tensor(lengths, device=device), max(lengths)

    def add(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Stores more tokens `[batch, heads, new, width]` of the first clips at `positions` `[batch, new]`; returns what they hold."""
        count, reach = keys.shape[0], self.longest + keys.shape[2]
        if reach > self._keys[layer].shape[2]:
            grown = (0, 0, 0, reach + CACHE_STEP - self._keys[layer].shape[2])
            self._keys[layer] = functional.pad(self._keys[layer], grown)
            self._values[layer] = functional.pad(self._values[layer], grown)
        clips = torch.arange(count, device=keys.device)[:, None]
        self._keys[layer][clips, :, positions] = keys.transpose(1, 2)
        self._values[layer][clips, :, positions] = values.transpose(1, 2)
        return self._keys[layer][:count, :, :reach], self._values[layer][:count, :, :reach]

    def move(self, source: int, target: int) -> None:
        """Puts one clip in another's place."""
        for part in (*self._keys, *self._values):
            part[target] = part[source]


class _Layer:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        own, cross, mlp = module.self_attn, module.encoder_attn, module.mlp
        self.norms = (module.input_layernorm, module.post_attention_layernorm, module.final_layernorm)
        self.qkv = Projection([own.q_proj, own.k_proj, own.v_proj], dtype)
        self.out = Projection([own.o_proj], dtype)
        self.cross = CrossAttention(cross, dtype)
        self.up = Projection([mlp.fc1], dtype)
        self.down = Projection([mlp.fc2], dtype)
        self.activation = mlp.activation_fn


class Decoder:
    """The decoder of a loaded checkpoint, adapter included.

    Frozen weights are taken as they are now; an adapter's are read in each call, so a decoder made before training trains along.
    """

    def __init__(self, speech: Speech) -> None:
        decoder, dtype = speech.decoder, PRODUCT_DTYPES[speech.precision]
        self.speech = speech
        self._embedding = decoder.embed_tokens.weight
        self._layers = [_Layer(layer, dtype) for layer in decoder.layers]
        attention = [layer.encoder_attn for layer in decoder.layers]
        self._dtype = dtype
        self._norm = decoder.norm
        self.head = Head(speech.head.weight, dtype)
        self._width = attention[0].head_dim
        self._dropout = attention[0].attention_dropout
        self._scale = attention[0].scaling
        self._rotation = Rotation(decoder.rotary_emb, speech.device)

    def listen(self, encoded: Encoded) -> Memory:
        """What all layers attend to, from an encoder output."""
        hidden = encoded.hidden
        if self.speech.streaming:
            decoder = self.speech.decoder
            hidden = decoder.proj(hidden + decoder.pos_emb.weight[: hidden.shape[1]])
        mask = None
        if encoded.mask is not None:
            mask = hidden.new_zeros(encoded.mask.shape).masked_fill_(~encoded.mask, -math.inf)[:, None]
        downs = tuple(down for layer in self._layers for down in layer.cross.downs(hidden))
        return Memory(hidden.to(self._dtype, copy=True), downs, mask)  # a copy, for decoding moves clips in it

    def __call__(self, tokens: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        """Decoder states `[batch, tokens, width]` of input `tokens` `[batch, tokens]`.

        They are the clips' first tokens, which an empty `cache` stores, or those that follow what the clips have in `cache`.
        """
        hidden = functional.embedding(tokens, self._embedding)
        new = tokens.shape[1]
        if cache is None or cache.lengths is None:
            rotation, past, positions = self._rotation.first(new), None, None
        else:
            positions = cache.lengths[:, None] + torch.arange(new, device=tokens.device)
            rotation = self._rotation.at(positions, cache.longest + new)
            later = torch.arange(cache.longest + new, device=tokens.device) > positions[:, :, None]
            past = hidden.new_zeros(later.shape).masked_fill_(later, -math.inf)[:, None]
        for index, layer in enumerate(self._layers):
            query, key, value = layer.qkv(layer.norms[0](hidden))
            query, key = rotation(self._heads(torch.cat([query, key], dim=-1))).chunk(2, dim=1)
            value = self._heads(value)
            if cache is not None:
                if positions is None:
                    cache.fill(key, value)
                else:
                    key, value = cache.add(index, key, value, positions)
            mixed = self._attend(query, key, value, past, causal=past is None and new > 1)
            hidden = hidden + layer.out(mixed.transpose(1, 2).flatten(2))[0]
            downs = memory.downs[2 * index : 2 * index + 2]
            hidden = hidden + layer.cross(layer.norms[1](hidden), memory, downs, training=self.speech.model.training)
            up, gate = layer.up(layer.norms[2](hidden))[0].chunk(2, dim=-1)
            hidden = hidden + layer.down(layer.activation(gate) * up)[0]
        states: Tensor = self._norm(hidden)
        return states

    def loss_sum(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Summed cross-entropy in nats over the labels `[batch, tokens]` that are not `IGNORED_LABEL`, in float32, with gradients.

        Labels are targets as they stand: the decoder's input is the same row shifted right by one behind the start token.
        """
        hidden = self(self.inputs(labels), self.listen(encoded))
        wanted = labels != IGNORED_LABEL
        return self.head.loss_sum(hidden[wanted], labels[wanted])

    def inputs(self, labels: Tensor) -> Tensor:
        """What the decoder is given to predict `labels`: the start token, then all but the last."""
        start = labels.new_full((labels.shape[0], 1), self.speech.start_id)
        tokens = torch.cat([start, labels[:, :-1]], dim=1)
        return tokens.masked_fill(tokens == IGNORED_LABEL, self.speech.end_id)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """Attention `[batch, heads, new, width]`. One new token on a CPU is two plain products, sooner than PyTorch's own kernel."""
        dropout = self._dropout if self.speech.model.training else 0.0
        if query.shape[2] > 1 or query.device.type != "cpu" or dropout:
            return functional.scaled_dot_product_attention(query, keys, values, mask, dropout, causal, scale=self._scale)
        scores = torch.matmul(self._scale * query, keys.transpose(2, 3))
        if mask is not None:
            scores = scores + mask
        return torch.matmul(scores.softmax(dim=-1), values)

    def _heads(self, states: Tensor) -> Tensor:
        heads: Tensor = states.unflatten(-1, (-1, self._width))
        return heads.transpose(1, 2)
