"""The output layer, which never trains: logits, the likeliest tokens, and the loss, a few positions at a time."""

import math
from typing import Any

import torch
from torch import Tensor

from lora.layers import FrozenProduct

HEAD_ROWS = 64
"""Positions whose logits exist at a time: 8 MB in float32 for 32,768 tokens, which a processor's cache can hold."""

BLOCK = 128
"""Logits that are looked at one by one only if the highest of them is close to the highest of all."""

CLOSE = 2.0**-6
"""Logits of bfloat16, which has 8 bits, are compared again when they differ by less than this share."""


class Head:
    """A frozen output layer `[tokens, width]` whose products compute in `dtype`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._exact = weight.detach()
        self._product = FrozenProduct(self._exact, dtype)

    def best_tokens(self, hidden: Tensor) -> Tensor:
        """Likeliest token `[positions]` after each state `[positions, width]`."""
        return torch.cat([self._best(rows, self._product.computed(rows)) for rows in hidden.split(HEAD_ROWS)])

    def judge(self, hidden: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Summed cross-entropy in nats of `labels` `[positions]` after the states `[positions, width]`, and the likeliest tokens."""
        nats, best = 0.0, []
        for rows, wanted in zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True):
            logits = self._product.computed(rows)
            best.append(self._best(rows, logits))
            nats += _odds(logits, wanted)[0].item()
        return nats, torch.cat(best)

    def loss_sum(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy in nats of `labels` `[positions]` after the states `[positions, width]`, in float32, with gradients."""
        loss: Tensor = _Loss.apply(hidden, labels, self)  # type: ignore[no-untyped-call]
        return loss

    def loss_and_gradients(self, hidden: Tensor, labels: Tensor, *, wanted: bool) -> tuple[Tensor, list[Tensor]]:
        """Summed cross-entropy, and where `wanted` its gradient with respect to the states, in parts of `HEAD_ROWS` positions."""
        nats = hidden.new_zeros(())
        gradients = []
        for rows, targets in zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True):
            loss, odds, total = _odds(self._product.computed(rows), targets)
            nats += loss
            if wanted:
                share = odds.div_(total)
                share.scatter_add_(1, targets[:, None], -torch.ones_like(total))
                gradients.append(self._product.backward(share))
        return nats, gradients

    def _best(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """Likeliest tokens. Of those that bfloat16 logits cannot tell apart the float32 head decides."""
        if logits.dtype == torch.float32:
            return logits.argmax(dim=-1)
        blocks = logits.unflatten(1, (-1, math.gcd(logits.shape[1], BLOCK)))
        tops = blocks.amax(dim=-1)
        highest = tops.amax(dim=-1, keepdim=True)
        least = highest - CLOSE * highest.abs()
        rows, places = (tops >= least).nonzero(as_tuple=True)
        found, inside = (blocks[rows, places] >= least[rows]).nonzero(as_tuple=True)
        rows, tokens = rows[found], places[found] * blocks.shape[2] + inside
        exact = (hidden[rows] * self._exact[tokens]).sum(dim=-1)
        top = exact.new_full((len(hidden),), -math.inf).scatter_reduce_(0, rows, exact, "amax")
        first = exact == top[rows]
        best: Tensor = tokens.new_empty(len(hidden)).scatter_(0, rows[first], tokens[first])
        return best


class _Loss(torch.autograd.Function):
    """The gradient is computed with the loss, so logits are never kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
        nats, gradients = head.loss_and_gradients(hidden, labels, wanted=ctx.needs_input_grad[0])
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
