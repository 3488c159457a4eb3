"""Activations with the same reach in every channel, for products that quantise their input to 256 steps.

A few channels of a normalised activation reach ten times as far as the others, and one scale is kept for all, so that the others are left
with a few steps. Their reach is moved into the weights, which have a scale for each output: an activation is divided by a number for each
channel and the rows of the weights that it meets are multiplied by the same (SmoothQuant, https://arxiv.org/abs/2211.10438). In float32
the model stays what it was.

Which channels these are is a property of the model, not of what it hears: noise shows the same ones as speech, and no recording is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora.units import SAMPLE_RATE_HZ

_CLIPS, _CLIP_S = 4, 8
_SYLLABLES_HZ = 4.0
_STEPS_PER_OCTAVE = 4
"""Of the divisors. Coarse, so that sums in another order on another machine give the same bytes."""

_SMALLEST = 1e-3
"""Reach below which a channel counts as silent."""


@dataclass(frozen=True)
class Place:
    """A normalised activation: what scales it, `[channels]` each, and the products `[channels, out]` that it goes into.

    Of a place that is in several graphs every copy is listed, with the same numbers.
    """

    scales: Sequence[nn.Parameter]
    products: Sequence[Any]


def level(places: Sequence[Place], run: Callable[[], Any]) -> None:
    """Changes scales and products in place. `run` takes test signals through the first product of each place."""
    reach: dict[int, Tensor] = {}

    def watch(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            found = given[0].abs().flatten(0, -2).amax(dim=0)
            reach[number] = torch.maximum(reach[number], found) if number in reach else found

        return note

    hooks = [place.products[0].register_forward_pre_hook(watch(number)) for number, place in enumerate(places)]
    with torch.inference_mode():
        run()
    for hook in hooks:
        hook.remove()
    for number, place in enumerate(places):
        divisor = _divisor(reach[number], place.products[0].weight)
        for scale in place.scales:
            scale.data = scale.data / divisor
        for product in place.products:
            product.weight.data = product.weight.data * divisor[:, None]


def _divisor(reach: Tensor, weight: Any) -> Tensor:
    """For each channel the root of its reach over that of its weights, 1 on the geometric mean over the channels."""
    octaves = (reach.clamp_min(_SMALLEST).log2() - weight.abs().amax(dim=1).clamp_min(_SMALLEST).log2()) / 2
    return torch.exp2(((octaves - octaves.mean()) * _STEPS_PER_OCTAVE).round() / _STEPS_PER_OCTAVE)


def test_signals() -> Tensor:
    """Noise that rises and falls as speech does, from light to dark, `[clips, samples]` float32 at 16 kHz; the same each time."""
    count = _CLIP_S * SAMPLE_RATE_HZ
    random = np.random.default_rng(0)
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    loudness = np.sin(2 * np.pi * _SYLLABLES_HZ * np.arange(count) / SAMPLE_RATE_HZ).clip(0)
    clips = []
    for slope in np.linspace(0.5, 1.5, _CLIPS):
        noise = np.fft.irfft(np.fft.rfft(random.standard_normal(count)) / hertz.clip(80) ** slope, count) * loudness
        clips.append(noise / (2 * np.abs(noise).max()))
    return torch.from_numpy(np.stack(clips).astype(np.float32))
