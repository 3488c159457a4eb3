"""Moonshine's encoders as plain tensor operations: each clip as if it were alone, many at a time.

Operations on single frames take the frames of all clips concatenated, without padding; what mixes over time
(convolutions, group norm, attention) takes clip by clip. A clip's features thus cannot depend on the others in its batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lora.audio.loading import Waveform
from lora.errors import AudioError
from lora.model.layers import FrozenProduct, Projection, Rotation
from lora.model.loading import Encoded, LoadedModel, join
from lora.model.parts import EncoderLayer, encoder_layers
from lora.model.products import PRODUCT_DTYPES, matmul
from lora.units import SAMPLE_RATE_HZ, Samples, seconds

MIN_SAMPLES = Samples(895)
"""Shortest clip that gives one v1 encoder frame: 127 + 64 * (7 + 3 * (3 - 1) - 1) samples through the three convolutions."""

FRAME_SAMPLES = Samples(80)
"""v2 works on whole frames of 5 ms."""

CHUNK_FRAMES = 128
"""Frames whose scores exist at a time where attention is plain products: of 13 s of speech they take 2 MB, which a cache can hold."""


AT_ONCE = Samples(60 * SAMPLE_RATE_HZ)
"""Sound that goes through the layers at once where nothing trains on a CPU: four minutes take a quarter longer, for their frames leave the
cache between two layers, and more memory."""


class _Layer:
    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        own = layer.attention
        self.norms = layer.norms
        self.qkv = Projection([own.query, own.key, own.value], dtype)
        self.out = Projection([own.out], dtype)
        self.up = Projection([layer.up], dtype)
        self.down = Projection([layer.down], dtype)
        self.activation = layer.activation
        self.width = own.width
        self.scale = own.scale
        self.dropout = own.dropout


class Encoder:
    """The encoder of a loaded checkpoint, adapter included.

    Frozen weights are taken as they are now; an adapter's are read in each call, so an encoder made before training trains along.
    With `gradient_checkpointing` a layer's activations are computed again for its gradient instead of being kept.
    """

    def __init__(self, speech: LoadedModel, *, gradient_checkpointing: bool = False) -> None:
        self.speech = speech
        self._checkpointing = gradient_checkpointing
        self._dtype = PRODUCT_DTYPES[speech.precision]
        self._layers = [_Layer(layer, self._dtype) for layer in encoder_layers(speech)]
        if speech.streaming:
            self._norm = speech.encoder.final_norm
            self._windows: list[tuple[int, int] | None] = [tuple(window) for window in speech.encoder.config.sliding_windows]
        else:
            self._norm = speech.encoder.layer_norm
            self._windows = [None] * len(self._layers)
            self._rotation = Rotation(speech.encoder.rotary_emb, speech.device)
            self._stem = Stem(speech.encoder, self._dtype)

    def __call__(self, waveforms: Sequence[Waveform]) -> Encoded:
        """Encoder output of each clip as if it were alone, padded to the longest at the very end.

        Keeps gradients when the encoder is trained. Raises `AudioError` for a clip that is too short for a single frame.
        """
        return join(self.each(waveforms))

    def each(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """Encoder output `[frames, width]` of each clip."""
        if torch.is_grad_enabled() or self.speech.device.type != "cpu":
            return self._together(waveforms)
        return [output for some in _within_reach(waveforms) for output in self._together(some)]

    def _together(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        clips = [self._input_values(samples) for samples in waveforms]
        stems = [self._embedded(clip) for clip in clips] if self.speech.streaming else self._stem(clips)
        lengths = [len(stem) for stem in stems]
        hidden = torch.cat(stems)
        for layer, window in zip(self._layers, self._windows, strict=True):
            if self._checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(self._through, layer, window, lengths, hidden, use_reentrant=False)
            else:
                hidden = self._through(layer, window, lengths, hidden)
        return list(self._norm(hidden).split(lengths))

    def _through(self, layer: _Layer, window: tuple[int, int] | None, lengths: list[int], hidden: Tensor) -> Tensor:
        """One layer over the frames `[frames, width]` of all clips."""
        query, key, value = (part.unflatten(-1, (-1, layer.width)).transpose(0, 1) for part in layer.qkv(layer.norms[0](hidden)))
        if not self.speech.streaming:
            both = torch.cat([query, key])
            turned = [self._rotation.first(clip.shape[1])(clip[None])[0] for clip in both.split(lengths, dim=1)]
            query, key = torch.cat(turned, dim=1).split([len(query), len(key)])
        in_chunks = not torch.is_grad_enabled() and hidden.device.type == "cpu" and (window is not None or self._dtype != torch.float32)
        if in_chunks:
            query, key, value = ((layer.scale * query).to(self._dtype), key.to(self._dtype), value.to(self._dtype))
        clips = zip(*(part.split(lengths, dim=1) for part in (query, key, value)), strict=True)
        mixed = torch.cat([_attend_in_chunks(window, *clip) if in_chunks else self._attend(layer, window, *clip) for clip in clips], dim=1)
        hidden = hidden + layer.out(mixed.transpose(0, 1).flatten(1))[0]
        return hidden + layer.down(layer.up.activated(layer.norms[1](hidden), layer.activation))[0]

    def _attend(self, layer: _Layer, window: tuple[int, int] | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Self-attention `[heads, frames, width]` of one clip."""
        frames = torch.arange(query.shape[1], device=query.device)
        within = None if window is None else _within(frames, frames, window)
        dropout = layer.dropout if self.speech.model.training else 0.0
        grouped = key.shape[0] != query.shape[0]
        mixed = functional.scaled_dot_product_attention(
            query[None], key[None], value[None], within, dropout, scale=layer.scale, enable_gqa=grouped
        )
        return mixed[0]

    def _input_values(self, samples: Waveform) -> Tensor:
        """`[samples]` on the model's device, as the checkpoint's own feature extractor gives it."""
        if samples.shape[-1] < MIN_SAMPLES:
            raise AudioError(f"a clip of {seconds(samples.shape[-1]):.3f} s is too short; Moonshine needs {seconds(MIN_SAMPLES):.3f} s")
        extract = self.speech.processor.feature_extractor
        values: Tensor = extract(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_values[0]
        return values.to(self.speech.device, non_blocking=True)

    def _embedded(self, clip: Tensor) -> Tensor:
        """The embedder on one clip: its own padded path keeps up to three frames of padding behind a clip as sound."""
        whole = clip[None, : clip.shape[0] // FRAME_SAMPLES * FRAME_SAMPLES]
        frames: Tensor = self.speech.encoder.embedder(whole)[0][0]
        return frames


def _within_reach(waveforms: Sequence[Waveform]) -> Iterator[list[Waveform]]:
    """Clips in their order, as many as make up `AT_ONCE`, or a single one."""
    some, count = list[Waveform](), 0
    for samples in waveforms:
        if some and count + len(samples) > AT_ONCE:
            yield some
            some, count = [], 0
        some.append(samples)
        count += len(samples)
    if some:
        yield some


class Stem:
    """The convolutions of v1 and its group norm, which runs over the time and the channels of a whole clip.

    A convolution is a product of the samples below its kernel, so clips of any length are one product; `group_norm`'s scale and shift
    are part of the next convolution, for none of them is padded.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        norm, convolutions = encoder.groupnorm, (encoder.conv1, encoder.conv2, encoder.conv3)
        weights = [convolution.weight.detach() for convolution in convolutions]
        biases = [None if convolution.bias is None else convolution.bias.detach() for convolution in convolutions]
        shift = (weights[1] * norm.bias.detach()[:, None]).sum(dim=(1, 2))
        weights[1] = weights[1] * norm.weight.detach()[:, None]
        biases[1] = shift if biases[1] is None else biases[1] + shift
        self._epsilon = norm.eps
        self._products = [FrozenProduct(weight.transpose(1, 2).flatten(1), dtype) for weight in weights]
        self._biases = biases
        self._spans = [(convolution.kernel_size[0], convolution.stride[0]) for convolution in convolutions]

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Frames `[frames, width]` of each clip `[samples]`."""
        parts = self._convolved(0, [clip[:, None] for clip in clips], torch.tanh)
        normed = [functional.layer_norm(part.float(), part.shape, None, None, self._epsilon).to(part.dtype) for part in parts]
        return [part.float() for part in self._convolved(2, self._convolved(1, normed, functional.gelu), functional.gelu)]

    def _convolved(self, index: int, parts: Sequence[Tensor], activation: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """`[steps, channels]` of each clip to fewer steps with other channels."""
        below = [_below(part.contiguous(), *self._spans[index]) for part in parts]
        joined = torch.cat(below) if len(below) > 1 else below[0].contiguous()
        output = self._products[index].activated(joined, self._biases[index], activation)
        return list(output.split([len(part) for part in below]))


def _below(steps: Tensor, kernel: int, stride: int) -> Tensor:
    """A view `[places, kernel * channels]` of contiguous `steps` `[steps, channels]` below a kernel that moves along them."""
    channels = steps.shape[1]
    return steps.as_strided(((len(steps) - kernel) // stride + 1, kernel * channels), (stride * channels, 1), steps.storage_offset())


def _attend_in_chunks(window: tuple[int, int] | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Self-attention `[heads, frames, width]` of one clip, without gradients: plain products of some frames with those that they hear.

    The query is scaled already. PyTorch's own kernel takes twice as long for bfloat16, and computes what is outside a window too.
    """
    count = query.shape[1]
    mixed = []
    for start in range(0, count, CHUNK_FRAMES):
        stop = min(start + CHUNK_FRAMES, count)
        first, last = (0, count) if window is None else (max(0, start - window[0] + 1), min(count, stop + max(0, window[1] - 1)))
        scores = matmul(query[:, start:stop], key[:, first:last].transpose(1, 2)).float()
        if window is not None:
            scores.masked_fill_(~_within(torch.arange(start, stop), torch.arange(first, last), window), -math.inf)
        mixed.append(matmul(scores.softmax(dim=-1).to(value.dtype), value[:, first:last]))
    return torch.cat(mixed, dim=1)


def _within(frames: Tensor, others: Tensor, window: tuple[int, int]) -> Tensor:
    """Which frames each one hears, bool `[frames, others]`: those less than `window` before (itself is 0) and after it."""
    distance = frames[:, None] - others
    return ((distance >= 0) & (distance < window[0])) | ((distance < 0) & (-distance < window[1]))
