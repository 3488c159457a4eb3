"""Moonshine's encoders as plain tensor operations: each clip as if it were alone, many at a time.

Frames of all clips stand one behind the other, without padding, in whatever looks at single frames; what mixes over time
(convolutions, group norm, attention) takes clip by clip. A clip's features thus cannot depend on the others in its batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lora.audio import Waveform
from lora.errors import AudioError
from lora.layers import PRODUCT_DTYPES, Projection, Rotation
from lora.model_utils import Encoded, Speech, join
from lora.units import SAMPLE_RATE_HZ, Samples, seconds

MIN_SAMPLES = Samples(895)
"""Shortest clip that gives one v1 encoder frame: 127 + 64 * (7 + 3 * (3 - 1) - 1) samples through the three convolutions."""

FRAME_SAMPLES = Samples(80)
"""v2 works on whole frames of 5 ms."""


class _Layer:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        own = module.self_attn
        self.norms = (module.input_layernorm, module.post_attention_layernorm)
        self.qkv = Projection([own.q_proj, own.k_proj, own.v_proj], dtype)
        self.out = Projection([own.o_proj], dtype)
        self.up = Projection([module.mlp.fc1], dtype)
        self.down = Projection([module.mlp.fc2], dtype)
        self.activation = module.mlp.activation_fn
        self.width = own.head_dim
        self.scale = own.scaling
        self.dropout = own.attention_dropout


class Encoder:
    """The encoder of a loaded checkpoint, adapter included.

    Frozen weights are taken as they are now; an adapter's are read in each call, so an encoder made before training trains along.
    With `gradient_checkpointing` a layer's activations are computed again for its gradient instead of being kept.
    """

    def __init__(self, speech: Speech, *, gradient_checkpointing: bool = False) -> None:
        self.speech = speech
        self._checkpointing = gradient_checkpointing
        self._dtype = PRODUCT_DTYPES[speech.precision]
        self._layers = [_Layer(layer, self._dtype) for layer in speech.encoder.layers]
        if speech.streaming:
            self._norm = speech.encoder.final_norm
            self._windows: list[tuple[int, int] | None] = [tuple(window) for window in speech.encoder.config.sliding_windows]
        else:
            self._norm = speech.encoder.layer_norm
            self._windows = [None] * len(self._layers)
            self._rotation = Rotation(speech.encoder.rotary_emb, speech.device)
            convolutions = (speech.encoder.conv1, speech.encoder.conv2, speech.encoder.conv3)
            self._kernels = [convolution.weight.detach().to(self._dtype) for convolution in convolutions]

    def __call__(self, waveforms: Sequence[Waveform]) -> Encoded:
        """Encoder output of each clip as if it were alone, padded to the longest at the very end.

        Keeps gradients when the encoder is trained. Raises `AudioError` for a clip that is too short for a single frame.
        """
        return join(self.each(waveforms))

    def each(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """Encoder output `[frames, width]` of each clip."""
        clips = [self._input_values(samples) for samples in waveforms]
        stems = [self._stem_v2(clip) if self.speech.streaming else self._stem_v1(clip) for clip in clips]
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
        parts = [part.unflatten(-1, (-1, layer.width)) for part in layer.qkv(layer.norms[0](hidden))]
        query, key, value = (part.split(lengths) for part in parts)
        mixed = [self._attend(layer, window, *clip) for clip in zip(query, key, value, strict=True)]
        hidden = hidden + layer.out(torch.cat(mixed))[0]
        return hidden + layer.down(layer.activation(layer.up(layer.norms[1](hidden))[0]))[0]

    def _attend(self, layer: _Layer, window: tuple[int, int] | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Self-attention of one clip: `[frames, heads, width]` each to `[frames, heads * width]`."""
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        if self.speech.streaming:
            within = None if window is None else _window(query.shape[2], window, query.device)
        else:
            turn, within = self._rotation.first(query.shape[2]), None
            query, key = turn(query), turn(key)
        dropout = layer.dropout if self.speech.model.training else 0.0
        grouped = key.shape[1] != query.shape[1]
        mixed = functional.scaled_dot_product_attention(query, key, value, within, dropout, scale=layer.scale, enable_gqa=grouped)
        return mixed[0].transpose(0, 1).flatten(1)

    def _input_values(self, samples: Waveform) -> Tensor:
        """`[samples]` on the model's device, as the checkpoint's own feature extractor gives it."""
        if samples.shape[-1] < MIN_SAMPLES:
            raise AudioError(f"a clip of {seconds(samples.shape[-1]):.3f} s is too short; Moonshine needs {seconds(MIN_SAMPLES):.3f} s")
        extract = self.speech.processor.feature_extractor
        values: Tensor = extract(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_values[0]
        return values.to(self.speech.device, non_blocking=True)

    def _stem_v1(self, clip: Tensor) -> Tensor:
        """Convolutions and the group norm over time, for one clip: `[samples]` to `[frames, width]`."""
        encoder = self.speech.encoder
        hidden = torch.tanh(self._convolved(0, encoder.conv1, clip[None, None]))
        hidden = encoder.groupnorm(hidden)
        hidden = functional.gelu(self._convolved(1, encoder.conv2, hidden))
        hidden = functional.gelu(self._convolved(2, encoder.conv3, hidden))
        return hidden[0].T

    def _convolved(self, index: int, layer: Any, hidden: Tensor) -> Tensor:
        output = functional.conv1d(hidden.to(self._dtype), self._kernels[index], None, layer.stride).float()
        return output if layer.bias is None else output + layer.bias[:, None]

    def _stem_v2(self, clip: Tensor) -> Tensor:
        """The embedder on one clip: its own padded path keeps up to three frames of padding behind a clip as sound."""
        whole = clip[None, : clip.shape[0] // FRAME_SAMPLES * FRAME_SAMPLES]
        frames: Tensor = self.speech.encoder.embedder(whole)[0][0]
        return frames


def _window(frames: int, window: tuple[int, int], device: torch.device) -> Tensor:
    """Which frames each one hears, bool `[frames, frames]`: those less than `window` before (itself is 0) and after it."""
    at = torch.arange(frames, device=device)
    distance = at[:, None] - at
    return ((distance >= 0) & (distance < window[0])) | ((distance < 0) & (-distance < window[1]))
