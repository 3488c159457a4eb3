"""Moonshine's decoder as plain tensor operations: the one that trains, scores and decodes, for both generations.

transformers' own modules hold the weights; here layers with the same input are one product, keys and values of the encoder output are
never computed, the head sees only the positions that are wanted, and a clip leaves the batch the moment it ends. Tests hold
outputs and gradients to those of transformers and PEFT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from lora.model.cross_attention import Apart, CrossAttention, Memory
from lora.model.layers import Projection, Rotation
from lora.model.loading import IGNORED_LABEL, Encoded, LoadedModel
from lora.model.output_head import Head
from lora.model.parts import DecoderLayer, decoder_layers
from lora.model.products import PRODUCT_DTYPES, matmul

SUM_STEP = 64
"""Attention that transcribes takes a multiple of so many frames or tokens, those that do not count masked: sums are then the same, to the
last bit in bfloat16, whatever else a batch or a draft holds."""

CLIP_STEP = 4
"""Clips for which room is made at once where they join a batch one after another."""


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
        self._keys.append(_lengthened(keys))
        self._values.append(_lengthened(values))

    def set_lengths(self, lengths: Sequence[int], device: torch.device) -> None:
        """Sets how many of the stored tokens count for each clip; later ones will be overwritten."""
        self.lengths, self.longest = torch.tensor(lengths, device=device), max(lengths)

    def add(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Stores more tokens `[batch, heads, new, width]` of the first clips at `positions` `[batch, new]`; clips may be new."""
        if layer == len(self._keys):
            self.fill(keys[:, :, :0], values[:, :, :0])
        if len(keys) > len(self._keys[layer]):
            self._keys[layer], self._values[layer] = _widened(self._keys[layer], len(keys)), _widened(self._values[layer], len(keys))
        if self.longest + keys.shape[2] > self._keys[layer].shape[2]:
            self._keys[layer] = _lengthened(self._keys[layer], keys.shape[2])
            self._values[layer] = _lengthened(self._values[layer], keys.shape[2])
        clips = torch.arange(keys.shape[0], device=keys.device)[:, None]
        self._keys[layer][clips, :, positions] = keys.transpose(1, 2)
        self._values[layer][clips, :, positions] = values.transpose(1, 2)

    def held(self, layer: int, count: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `count` clips; of tokens as many as are asked for, and up to a multiple of `SUM_STEP`."""
        reach = -(-tokens // SUM_STEP) * SUM_STEP
        return self._keys[layer][:count, :, :reach], self._values[layer][:count, :, :reach]

    def move(self, source: int, target: int) -> None:
        """Puts one clip in another's place."""
        for part in (*self._keys, *self._values):
            part[target] = part[source]


def _widened(part: Tensor, clips: int) -> Tensor:
    """Room for so many clips in `[batch, heads, tokens, width]`, up to a multiple of `CLIP_STEP`."""
    return functional.pad(part, (0, 0, 0, 0, 0, 0, 0, -(-clips // CLIP_STEP) * CLIP_STEP - len(part)))


def _lengthened(part: Tensor, tokens: int = 0) -> Tensor:
    """Room for this many more tokens in `[batch, heads, tokens, width]`, up to a multiple of `SUM_STEP`."""
    held = part.shape[2]
    return functional.pad(part, (0, 0, 0, -(-(held + tokens) // SUM_STEP) * SUM_STEP - held))


class _Layer:
    def __init__(self, layer: DecoderLayer, dtype: torch.dtype) -> None:
        own = layer.own
        self.norms = layer.norms
        self.qkv = Projection([own.query, own.key, own.value], dtype)
        self.out = Projection([own.out], dtype)
        self.cross = CrossAttention(layer.cross, dtype)
        self.up = Projection([layer.up], dtype)
        self.down = Projection([layer.down], dtype)
        self.activation = layer.activation


@dataclass
class Watch:
    """Heads whose cross-attention is kept, by layer; and what was found, layer by layer `[batch, heads, tokens, frames]`."""

    heads: dict[int, list[int]]
    found: list[Tensor] = field(default_factory=list)


class Decoder:
    """The decoder of a loaded checkpoint, adapter included.

    Frozen weights are taken as they are now; an adapter's are read in each call, so a decoder made before training trains along.
    """

    def __init__(self, speech: LoadedModel) -> None:
        decoder, dtype = speech.decoder, PRODUCT_DTYPES[speech.precision]
        self.speech = speech
        self._embedding = decoder.embed_tokens.weight
        layers = decoder_layers(speech)
        self._layers = [_Layer(layer, dtype) for layer in layers]
        self._dtype = dtype
        self._norm = decoder.norm
        self.head = Head(speech.head.weight, dtype)
        self._width = layers[0].cross.width
        self._dropout = layers[0].cross.dropout
        self._scale = layers[0].cross.scale
        self._rotation = Rotation(decoder.rotary_emb, speech.device)

    def listen(self, encoded: Encoded) -> Memory:
        """What all layers attend to, from an encoder output."""
        hidden = encoded.hidden
        if self.speech.streaming:
            decoder = self.speech.decoder
            hidden = decoder.proj(hidden + decoder.pos_emb.weight[: hidden.shape[1]])
        there = encoded.mask
        extra = -hidden.shape[1] % (2 if torch.is_grad_enabled() else SUM_STEP)
        if extra and (self._dtype == torch.bfloat16 or not torch.is_grad_enabled()):  # sums over frames are products too
            there = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if there is None else there
            hidden, there = functional.pad(hidden, (0, 0, 0, extra)), functional.pad(there, (0, extra))
        mask = None if there is None else hidden.new_zeros(there.shape).masked_fill_(~there, -math.inf)[:, None]
        downs = tuple(down for layer in self._layers for down in layer.cross.downs(hidden))
        return Memory(hidden.to(self._dtype, copy=True), downs, mask)  # a copy, because decoding moves clips in it

    @property
    def heads(self) -> list[tuple[int, int]]:
        """Layer and number of every head of the cross-attention."""
        return [(index, head) for index, layer in enumerate(self._layers) for head in range(layer.cross.heads)]

    def attention(self, tokens: Tensor, memory: Memory, heads: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """States `[batch, tokens, width]` of the clips' first tokens, and their attention over frames `[batch, tokens, frames]`.

        The latter is the mean of some heads, each a layer and a number.
        """
        watch = Watch({layer: [head for at, head in heads if at == layer] for layer, _ in heads})
        states = self(tokens, memory, watch=watch)
        return states, torch.cat(watch.found, dim=1).mean(dim=1)

    def __call__(self, tokens: Tensor, memory: Memory | Apart, cache: Cache | None = None, watch: "Watch | None" = None) -> Tensor:
        """Decoder states `[batch, tokens, width]` of input `tokens` `[batch, tokens]`.

        They are the clips' first tokens, which an empty `cache` stores, or those that follow what the clips have in `cache`.
        """
        hidden = functional.embedding(tokens, self._embedding)
        new, learning = tokens.shape[1], torch.is_grad_enabled()
        cache = Cache() if cache is None else cache
        if cache.lengths is None:
            rotation, positions = self._rotation.first(new), torch.arange(new, device=tokens.device)[None]
        else:
            positions = cache.lengths[:, None] + torch.arange(new, device=tokens.device)
            rotation = self._rotation.at(positions, cache.longest + new)
        reach = cache.longest + new
        later = torch.arange(-(-reach // SUM_STEP) * SUM_STEP, device=tokens.device) > positions[:, :, None]
        past = None if learning else hidden.new_zeros(later.shape).masked_fill_(later, -math.inf)[:, None]
        for index, layer in enumerate(self._layers):
            query, key, value = layer.qkv(layer.norms[0](hidden))
            query, key = rotation(self._heads(torch.cat([query, key], dim=-1))).chunk(2, dim=1)
            value = self._heads(value)
            if not learning:
                key, value = key.to(self._dtype), value.to(self._dtype)
                if cache.lengths is None:
                    cache.fill(key, value)
                else:
                    cache.add(index, key, value, positions)
                key, value = cache.held(index, len(tokens), reach)
            mixed = self._attend(query, key, value, past)
            hidden = hidden + layer.out(mixed.transpose(1, 2).flatten(2))[0]
            asking = layer.norms[1](hidden)
            if watch is not None and index in watch.heads:
                assert isinstance(memory, Memory)
                watch.found.append(layer.cross.weights(asking, memory, index, watch.heads[index]))
            hidden = hidden + layer.cross(asking, memory, index, training=self.speech.model.training)
            up, gate = layer.up(layer.norms[2](hidden))[0].chunk(2, dim=-1)
            hidden = hidden + layer.down(layer.activation(gate) * up)[0]
        states: Tensor = self._norm(hidden)
        return states

    def loss_sum(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Summed cross-entropy in nats over the labels `[batch, tokens]` that are not `IGNORED_LABEL`, in float32, with gradients.

        Labels are targets as they stand: the decoder's input is the same row shifted right by one after the start token.
        """
        hidden = self(self.inputs(labels), self.listen(encoded))
        wanted = labels != IGNORED_LABEL
        return self.head.loss_sum(hidden[wanted], labels[wanted])

    def taught_loss_sum(self, encoded: Encoded, labels: Tensor, taught: Tensor, before: Tensor) -> Tensor:
        """Summed cross-entropy of the labels that are `taught` `[batch, tokens]`, and for all others the divergence from the distributions
        after the states `before` `[batch, tokens, width]`, in nats, in float32, with gradients.
        """
        hidden = self(self.inputs(labels), self.listen(encoded))
        kept = (labels != IGNORED_LABEL) & ~taught
        return self.head.loss_sum(hidden[taught], labels[taught]) + self.head.divergence_sum(hidden[kept], before[kept])

    def inputs(self, labels: Tensor) -> Tensor:
        """What the decoder is given to predict `labels`: the start token, then all but the last."""
        start = labels.new_full((labels.shape[0], 1), self.speech.start_id)
        tokens = torch.cat([start, labels[:, :-1]], dim=1)
        return tokens.masked_fill(tokens == IGNORED_LABEL, self.speech.end_id)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention `[batch, heads, new, width]` of tokens, to those before them if there is no mask."""
        dropout = self._dropout if self.speech.model.training else 0.0
        if mask is None:
            return functional.scaled_dot_product_attention(query, keys, values, None, dropout, True, scale=self._scale)
        scores = matmul((self._scale * query).to(keys.dtype), keys.transpose(2, 3)).float()
        scores += mask
        return matmul(scores.softmax(dim=-1).to(values.dtype), values).float()

    def _heads(self, states: Tensor) -> Tensor:
        heads: Tensor = states.unflatten(-1, (-1, self._width))
        return heads.transpose(1, 2)
