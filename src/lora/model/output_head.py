"""The output layer, which never trains: logits, the likeliest tokens, and the loss, a few positions at a time."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.errors import NotFiniteError
from lora.model.layers import FrozenProduct

HEAD_ROWS = 64
"""Positions whose logits exist at a time: 8 MB in float32 for 32,768 tokens, which a processor's cache can hold."""

BLOCK = 128
"""Logits per group: single ones are compared only if the group's highest is close to the highest of all."""

CLOSE = 2.0**-6
"""Logits of bfloat16, which has 8 bits, are compared again when they differ by less than this share."""


class Head:
    """A frozen output layer `[tokens, width]` whose products compute in `dtype`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._exact = weight.detach()
        self._product = FrozenProduct(self._exact, dtype)

    def best_tokens(self, hidden: Tensor) -> Tensor:
        """Likeliest token `[positions]` after each state `[positions, width]`. Raises `NotFiniteError` for states that have none."""
        found = [self._best(rows, self._product.computed(rows)) for rows in hidden.split(HEAD_ROWS)]
        return _chosen([best for best, _ in found], [highest for _, highest in found])

    def judge(self, hidden: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Summed cross-entropy in nats of `labels` `[positions]` after the states `[positions, width]`, and the likeliest tokens.

        Raises `NotFiniteError` for states that have none.
        """
        nats, best, tops = 0.0, [], []
        for rows, wanted in zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True):
            logits = self._product.computed(rows)
            tokens, highest = self._best(rows, logits)
            best.append(tokens)
            tops.append(highest)
            nats += _odds(logits, wanted)[0].item()
        return nats, _chosen(best, tops)

    def log_odds(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Logarithm of the probability of each of the `labels` `[positions]` after the states `[positions, width]`."""
        parts = zip(hidden.split(HEAD_ROWS), labels.split(HEAD_ROWS), strict=True)
        return torch.cat(
            [-functional.cross_entropy(self._product.computed(rows).float(), wanted, reduction="none") for rows, wanted in parts]
        )

    def loss_sum(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy in nats of `labels` `[positions]` after the states `[positions, width]`, in float32, with gradients."""
        loss: Tensor = _Loss.apply(hidden, labels, self.loss_and_gradients)  # type: ignore[no-untyped-call]
        return loss

    def divergence_sum(self, hidden: Tensor, before: Tensor) -> Tensor:
        """How far the distributions after the states `hidden` are from those after the states `before`, both `[positions, width]`.

        Summed Kullback-Leibler divergence in nats, in float32, with gradients of `hidden`: what distillation lowers
        (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
        """
        loss: Tensor = _Loss.apply(hidden, before, self.divergence_and_gradients)  # type: ignore[no-untyped-call]
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

    def divergence_and_gradients(self, hidden: Tensor, before: Tensor, *, wanted: bool) -> tuple[Tensor, list[Tensor]]:
        """The divergence, and where `wanted` its gradient with respect to the states, in parts of `HEAD_ROWS` positions."""
        nats = hidden.new_zeros(())
        gradients = []
        for rows, held in zip(hidden.split(HEAD_ROWS), before.split(HEAD_ROWS), strict=True):
            found, kept = (self._product.computed(states).float().log_softmax(dim=-1) for states in (rows, held))
            shares = kept.exp()
            nats += kept.sub_(found).mul_(shares).sum()
            if wanted:
                gradients.append(self._product.backward(found.exp_().sub_(shares)))
        return nats, gradients

    def _best(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Likeliest tokens, and their logits. Of those that bfloat16 logits cannot tell apart the float32 head decides.

        A state that is not finite has a logit that is not, and no token that counts.
        """
        if logits.dtype == torch.float32:
            values, tokens = logits.max(dim=-1)
            return tokens, values
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
        best = tokens.new_zeros(len(hidden)).scatter_(0, rows[first], tokens[first])
        return best, highest[:, 0]


def _chosen(tokens: list[Tensor], highest: list[Tensor]) -> Tensor:
    """All tokens, if each was chosen: NaN passes through every maximum, and nothing is likelier than an infinity."""
    faults = int((~torch.cat(highest).isfinite()).sum())
    if faults:
        raise NotFiniteError(f"the decoder's states at {faults} of {sum(map(len, tokens))} positions are not finite, so no token is likely")
    return torch.cat(tokens)


class _Loss(torch.autograd.Function):
    """The gradient is computed with the loss, so logits are never kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, compute: Callable[..., tuple[Tensor, list[Tensor]]]) -> Tensor:
        nats, gradients = compute(hidden, targets, wanted=ctx.needs_input_grad[0])
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
