"""Moonshine's decoder as plain tensor operations: the one that trains, scores and decodes, for both generations.

transformers' own modules hold the weights; here layers with the same input are one product, keys and values of the encoder output
are computed once, the head sees only the positions that are wanted, and a clip leaves the batch the moment it ends. Tests hold
outputs and gradients to those of transformers and PEFT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.layers import PRODUCT_DTYPES, PackedProduct, Projection, Rotation
from lora.model_utils import IGNORED_LABEL, Encoded, Speech

HEAD_ROWS = 64
"""Positions whose logits exist at a time: 8 MB in float32 for 32,768 tokens, which a processor's cache can hold."""

CLOSE = 2.0**-6
"""Logits of bfloat16, which has 8 bits, are compared again when they differ by less than this share."""

CACHE_STEP = 32
"""Tokens by which the self-attention cache grows."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the decoder hears: keys and values `[batch, heads, frames, width]` of one layer after the other."""

    parts: tuple[Tensor, ...]
    mask: Tensor | None
    """Added to the scores, `[batch, 1, 1, frames]`: minus infinity where a clip has ended."""

    def first(self, count: int) -> "Memory":
        """A view of the first clips."""
        return Memory(tuple(part[:count] for part in self.parts), None if self.mask is None else self.mask[:count])

    def move(self, source: int, target: int) -> None:
        """Puts one clip in another's place."""
        for part in (*self.parts, *(() if self.mask is None else (self.mask,))):
            part[target] = part[source]


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
        self.cross_query = Projection([cross.q_proj], dtype)
        self.cross_out = Projection([cross.o_proj], dtype)
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
        self._cross = Projection([projection for module in attention for projection in (module.k_proj, module.v_proj)], dtype)
        self._norm = decoder.norm
        self._exact_head = speech.head.weight.detach()
        self._head = self._exact_head.to(dtype)
        self._packed_head = PackedProduct(self._head) if PackedProduct.takes(self._head) else None
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
            mask = hidden.new_zeros(encoded.mask.shape).masked_fill_(~encoded.mask, -math.inf)[:, None, None]
        return Memory(tuple(self._cross.laid_out(hidden, self._width)), mask)

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
        dropout = self._dropout if self.speech.model.training else 0.0
        for index, layer in enumerate(self._layers):
            query, key, value = layer.qkv(layer.norms[0](hidden))
            query, key = rotation(self._heads(torch.cat([query, key], dim=-1))).chunk(2, dim=1)
            value = self._heads(value)
            if cache is not None:
                if positions is None:
                    cache.fill(key, value)
                else:
                    key, value = cache.add(index, key, value, positions)
            causal = past is None and new > 1
            mixed = functional.scaled_dot_product_attention(query, key, value, past, dropout, causal, scale=self._scale)
            hidden = hidden + layer.out(mixed.transpose(1, 2).flatten(2))[0]
            query = self._heads(layer.cross_query(layer.norms[1](hidden))[0])
            keys, values = memory.parts[2 * index : 2 * index + 2]
            mixed = functional.scaled_dot_product_attention(query, keys, values, memory.mask, dropout, scale=self._scale)
            hidden = hidden + layer.cross_out(mixed.transpose(1, 2).flatten(2))[0]
            up, gate = layer.up(layer.norms[2](hidden))[0].chunk(2, dim=-1)
            hidden = hidden + layer.down(layer.activation(gate) * up)[0]
        normed: Tensor = self._norm(hidden)
        return normed

    def best_tokens(self, hidden: Tensor) -> Tensor:
        """Likeliest token `[positions]` after each state `[positions, width]`."""
        product = self._logits if self._packed_head is None else self._packed_head
        return torch.cat([self._best(rows, product(rows)) for rows in hidden.split(HEAD_ROWS)])

    def judge(self, hidden: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Summed cross-entropy in nats of `labels` `[positions]` after the states `[positions, width]`, and the likeliest tokens."""
        nats, best = 0.0, []
        for rows, wanted in zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True):
            logits = self._logits(rows)
            best.append(self._best(rows, logits))
            nats += _odds(logits, wanted)[0].item()
        return nats, torch.cat(best)

    def loss_sum(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Summed cross-entropy in nats over the labels `[batch, tokens]` that are not `IGNORED_LABEL`, in float32, with gradients.

        Labels are targets as they stand: the decoder's input is the same row shifted right by one behind the start token.
        """
        hidden = self(self.inputs(labels), self.listen(encoded))
        wanted = labels != IGNORED_LABEL
        loss: Tensor = _HeadLoss.apply(hidden[wanted], labels[wanted], self._head)  # type: ignore[no-untyped-call]
        return loss

    def inputs(self, labels: Tensor) -> Tensor:
        """What the decoder is given to predict `labels`: the start token, then all but the last."""
        start = labels.new_full((labels.shape[0], 1), self.speech.start_id)
        tokens = torch.cat([start, labels[:, :-1]], dim=1)
        return tokens.masked_fill(tokens == IGNORED_LABEL, self.speech.end_id)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = functional.linear(hidden.to(self._head.dtype), self._head)
        return logits

    def _best(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """Likeliest tokens. Of those that bfloat16 logits cannot tell apart the float32 head decides."""
        if logits.dtype == torch.float32:
            return logits.argmax(dim=-1)
        highest = logits.amax(dim=-1, keepdim=True)
        rows, tokens = (logits >= highest - CLOSE * highest.abs()).nonzero(as_tuple=True)
        exact = (hidden[rows] * self._exact_head[tokens]).sum(dim=-1)
        top = exact.new_full((len(hidden),), -math.inf).scatter_reduce_(0, rows, exact, "amax")
        first = exact == top[rows]
        best: Tensor = tokens.new_empty(len(hidden)).scatter_(0, rows[first], tokens[first])
        return best

    def _heads(self, states: Tensor) -> Tensor:
        heads: Tensor = states.unflatten(-1, (-1, self._width))
        return heads.transpose(1, 2)


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy behind a frozen head; the gradient is computed with the loss, so logits are never kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        nats = hidden.new_zeros(())
        gradients = []
        for rows, wanted in zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True):
            loss, odds, total = _odds(functional.linear(rows.to(weight.dtype), weight), wanted)
            nats += loss
            if ctx.needs_input_grad[0]:
                share = odds.div_(total)
                share.scatter_add_(1, wanted[:, None], -torch.ones_like(total))
                gradients.append((share.to(weight.dtype) @ weight).to(hidden.dtype))
        ctx.save_for_backward(*gradients)
        return nats

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return torch.cat(ctx.saved_tensors) * upstream[0], None, None


def _odds(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed cross-entropy of `labels` `[positions]`, and softmax of `logits` `[positions, tokens]` before and as its division."""
    odds = logits.float()
    highest = odds.amax(dim=-1, keepdim=True)
    at_label = odds.gather(1, labels[:, None])
    odds = odds.sub_(highest).exp_() if odds is not logits else odds.sub(highest).exp_()
    total = odds.sum(dim=-1, keepdim=True)
    return (total.log() + highest - at_label).sum(), odds, total
