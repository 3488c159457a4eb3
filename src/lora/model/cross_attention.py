"""The decoder's attention to the encoder output, without ever computing keys and values of frames.

A key is a linear function of a frame, so a query times a key is the query, taken back through that function, times the frame; and a sum
of values is the values' function of a sum of frames. There are many more frames than tokens, so what is computed for tokens alone is
less; and the frames are the same for all layers, so a clip's memory is its encoder output and little else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.model.layers import Projection, dora_gain
from lora.model.parts import Attention
from lora.model.products import matmul

SCORES = 2**21
"""Limit on the scores of whole clips held at a time, 8 MB in float32; training, whose batches are small, holds all for its gradients."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The encoder output of a batch of clips, as the decoder attends to it."""

    frames: Tensor
    """`[batch, frames, width]`, in the type that products compute in."""
    downs: tuple[Tensor | None, ...]
    """`[batch, frames, rank]`: what the updates of keys and values of one layer after the other make of the frames first."""
    mask: Tensor | None
    """Added to the scores, `[batch, 1, frames]`: minus infinity where a clip has ended."""

    def part(self, start: int, stop: int) -> "Memory":
        """A view of some of the clips."""
        downs = tuple(None if down is None else down[start:stop] for down in self.downs)
        return Memory(self.frames[start:stop], downs, None if self.mask is None else self.mask[start:stop])

    def move(self, source: int, target: int) -> None:
        """Moves one clip to another's place."""
        for part in (self.frames, *self.downs, self.mask):
            if part is not None:
                part[target] = part[source]

    def parts(self, rows: int) -> "list[tuple[slice, Memory]]":
        """Views of the clips whose scores, of `rows` for each clip, are held at a time; all of them where gradients are wanted."""
        count, held = len(self.frames), max(1, SCORES // (rows * self.frames.shape[1]))
        if count <= held or torch.is_grad_enabled():
            return [(slice(0, count), self)]
        return [(slice(at, at + held), self.part(at, at + held)) for at in range(0, count, held)]


@dataclass(frozen=True, slots=True)
class Apart:
    """Memories of one clip each, of any lengths: nothing is computed for the frames that a shorter clip lacks."""

    clips: list[Memory]

    def parts(self, _rows: int) -> list[tuple[slice, Memory]]:
        """Each clip, whatever its scores take."""
        return [(slice(at, at + 1), memory) for at, memory in enumerate(self.clips)]


class FromFrames:
    """A linear layer from frames to heads, with its LoRA update if it has one that is not merged."""

    def __init__(self, module: Any, heads: int, dtype: torch.dtype) -> None:
        layer = getattr(module, "base_layer", module)
        adapted = hasattr(module, "lora_A")
        self.heads = heads
        self._layer = layer
        self._live = layer.weight.requires_grad
        self._exact = layer.weight.detach().clone() if adapted else layer.weight.detach()  # merging changes it in place
        self._weight = self._exact.to(dtype)
        self._adapter: Any = module if adapted and not module.merged else None

    @property
    def adapted(self) -> bool:
        """Whether it has an update of its own."""
        return self._adapter is not None

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self._layer.bias
        return bias

    def weight(self) -> Tensor:
        """`[heads, head width, width]`, in the products' type; as it is now where it trains itself."""
        return self._by_head(self._layer.weight.to(self._weight.dtype) if self._live else self._weight)

    def down(self, frames: Tensor) -> Tensor | None:
        """What the update makes of frames `[batch, frames, width]` first: `[batch, frames, rank]`."""
        if self._adapter is None:
            return None
        name = self._adapter.active_adapters[0]
        return functional.linear(self._adapter.lora_dropout[name](frames), self._adapter.lora_A[name].weight)

    def up(self) -> Tensor:
        """`[heads, head width, rank]`: what the update makes of that."""
        name = self._adapter.active_adapters[0]
        return self._by_head(self._adapter.scaling[name] * self._adapter.lora_B[name].weight)

    def gain(self) -> Tensor | None:
        """DoRA's factor `[heads, 1, head width]` of what the layer gives."""
        gain = None if self._adapter is None else dora_gain(self._adapter, self._exact)
        return None if gain is None else gain.view(self.heads, 1, -1)

    def _by_head(self, weight: Tensor) -> Tensor:
        return weight.view(self.heads, -1, weight.shape[1])


class CrossAttention:
    """One layer's attention of tokens to frames. A bias of the keys adds the same to all scores of a token, so it is left out.

    Updates are apart from the frozen weights, in float32: added to bfloat16 their first steps would be rounded away.
    """

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        self.heads = attention.key_heads
        self._query = Projection([attention.query], dtype)
        self._key = FromFrames(attention.key, self.heads, dtype)
        self._value = FromFrames(attention.value, self.heads, dtype)
        self._out = Projection([attention.out], dtype)
        self._scale = attention.scale
        self._dropout = attention.dropout

    def downs(self, frames: Tensor) -> Sequence[Tensor | None]:
        """What the updates of keys and values make of frames `[batch, frames, width]` first, for `Memory`."""
        return self._key.down(frames), self._value.down(frames)

    def __call__(self, states: Tensor, memory: "Memory | Apart", layer: int, *, training: bool) -> Tensor:
        """What tokens with `states` `[batch, tokens, width]` take from the memory in this layer, `[batch, tokens, width]`."""
        batch, tokens = states.shape[:2]
        wanted, low = self._wanted(states)
        found = [
            self._found(wanted[rows], None if low is None else low[rows], part, layer, training)
            for rows, part in memory.parts(self.heads * tokens)
        ]
        frames, lows = found[0] if len(found) == 1 else _joined(found)
        mixed = matmul(self._by_head(frames, tokens), self._value.weight().transpose(1, 2)).float()
        if lows is not None:
            mixed = torch.baddbmm(mixed, self._by_head(lows, tokens), self._value.up().transpose(1, 2))
        if (gain := self._value.gain()) is not None:
            mixed = mixed * gain
        mixed = mixed.transpose(0, 1).reshape(batch, tokens, -1)
        if self._value.bias is not None:
            mixed = mixed + self._value.bias
        return self._out(mixed)[0]

    def _found(self, wanted: Tensor, low: Tensor | None, memory: Memory, layer: int, training: bool) -> tuple[Tensor, Tensor | None]:
        """Sums of frames `[batch, heads * tokens, width]`, and of what the values' update makes of them first."""
        down = memory.downs[2 * layer + 1]
        odds = functional.dropout(self._scores(wanted, low, memory, layer).softmax(dim=-1), self._dropout, training)
        return matmul(odds.to(memory.frames.dtype), memory.frames), None if down is None else matmul(odds, down)

    def weights(self, states: Tensor, memory: Memory, layer: int, heads: Sequence[int]) -> Tensor:
        """Attention weights of tokens over frames in some of the heads, `[batch, heads, tokens, frames]`."""
        scores = self._scores(*self._wanted(states), memory, layer).unflatten(1, (self.heads, -1))
        odds: Tensor = scores[:, list(heads)].softmax(dim=-1)
        return odds

    def _wanted(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """The queries taken back through the keys' function `[batch, heads * tokens, width]`, and through its update."""
        batch, tokens = states.shape[:2]
        query = self._scale * self._query(states)[0].view(batch * tokens, self.heads, -1).transpose(0, 1)
        if (gain := self._key.gain()) is not None:
            query = query * gain
        weight = self._key.weight()
        low = self._by_clip(matmul(query, self._key.up()), batch) if self._key.adapted else None
        return self._by_clip(matmul(query.to(weight.dtype), weight), batch), low

    def _scores(self, wanted: Tensor, low: Tensor | None, memory: Memory, layer: int) -> Tensor:
        """Scores of frames `[batch, heads * tokens, frames]`."""
        down = memory.downs[2 * layer]
        scores = matmul(wanted, memory.frames.transpose(1, 2)).float()
        if low is not None and down is not None:
            scores = torch.baddbmm(scores, low, down.transpose(1, 2))
        if memory.mask is not None:
            scores += memory.mask
        return scores

    def _by_clip(self, rows: Tensor, batch: int) -> Tensor:
        """`[heads, batch * tokens, size]` to `[batch, heads * tokens, size]`."""
        return rows.view(rows.shape[0], batch, -1, rows.shape[2]).transpose(0, 1).flatten(1, 2)

    def _by_head(self, rows: Tensor, tokens: int) -> Tensor:
        """`[batch, heads * tokens, size]` to `[heads, batch * tokens, size]`."""
        return rows.view(rows.shape[0], self.heads, tokens, rows.shape[2]).transpose(0, 1).flatten(1, 2)


def _joined(found: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """The parts of a batch, one behind the other."""
    lows = [low for _, low in found if low is not None]
    return torch.cat([frames for frames, _ in found]), torch.cat(lows) if lows else None
