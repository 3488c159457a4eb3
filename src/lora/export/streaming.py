"""Moonshine streaming as the graphs of moonshine-voice: a clip is heard in chunks, each graph where its part can go on.

`frontend` turns samples into features and keeps what is left over for the next chunk, `encoder` reads a window of features, `adapter`
adds positions, `cross_kv` makes keys and values of all layers, `decoder_kv` takes tokens; `decoder_kv_with_attention` is taken in its place
where times of words are asked for. Names and shapes are those the runtime binds.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lora.errors import ExportError
from lora.export.graphs import DecoderLayer, EncoderLayer, Looks, Rotation, hidden_from, looks, product, require_plain, traced
from lora.model import parts
from lora.model.loading import LoadedModel

if TYPE_CHECKING:
    import onnx

CARRIED = 4
"""Frames that the runtime keeps between chunks for each of the two convolutions: their kernels of 5, less one."""

QUANTISED = ("encoder", "cross_kv", "decoder_kv", "decoder_kv_with_attention")
"""The graphs that hold nearly all weights; the other two stay float32, for features and positions are what all else is made of."""

_TRACED_FEATURES = 37
_TRACED_CACHE = 7


def streaming_graphs(speech: LoadedModel) -> Mapping[str, Callable[[], "onnx.ModelProto"]]:
    """The graphs by their files' names, each made when it is called.

    Raises `ExportError` for a model that is not plain Moonshine streaming, as the runtime runs it.
    """
    require_plain(speech)
    _require_runnable(speech)
    return {
        "frontend": lambda: _frontend(speech),
        "encoder": lambda: _encoder(speech),
        "adapter": lambda: _adapter(speech),
        "cross_kv": lambda: _cross_kv(speech),
        "decoder_kv": lambda: _decoder_kv(speech, None),
        "decoder_kv_with_attention": lambda: _decoder_kv(speech, looks(speech)),
    }


def streaming_config(speech: LoadedModel) -> dict[str, Any]:
    """What `streaming_config.json` tells the runtime: sizes, special tokens, and the state that it carries from chunk to chunk."""
    config, encoder = speech.model.config, speech.encoder.config
    wide, frame = encoder.hidden_size, speech.encoder.embedder.frame_len
    attention = parts.decoder_layers(speech)[0].own
    return {
        "encoder_dim": wide,
        "decoder_dim": config.hidden_size,
        "depth": len(speech.decoder.layers),
        "nheads": attention.key_heads,
        "head_dim": attention.width,
        "vocab_size": speech.head.weight.shape[0],
        "bos_id": speech.start_id,
        "eos_id": speech.end_id,
        "frame_len": frame,
        "total_lookahead": sum(max(0, after - 1) for _, after in encoder.sliding_windows),  # a window counts the frame itself
        "d_model_frontend": wide,
        "c1": 2 * wide,
        "c2": wide,
        "frontend_state_shapes": {
            "sample_buffer": [1, frame - 1],
            "sample_len": [1],
            "conv1_buffer": [1, wide, CARRIED],
            "conv2_buffer": [1, 2 * wide, CARRIED],
            "frame_count": [1],
        },
    }


def _require_runnable(speech: LoadedModel) -> None:
    first = (("encoder", parts.encoder_layers(speech)[0].attention), ("decoder", parts.decoder_layers(speech)[0].own))
    for side, attention in first:
        if attention.heads != attention.key_heads:
            raise ExportError(
                f"{speech.checkpoint.model_id}: heads of the {side} share keys; the runtime's graphs have a key for each head"
            )
    embedder = speech.encoder.embedder
    kernels = {int(convolution.kernel_size[0]) for convolution in (embedder.conv1, embedder.conv2)}
    if kernels != {CARRIED + 1} or embedder.frame_len != 80:
        raise ExportError(f"{speech.checkpoint.model_id}: the runtime takes frames of 80 samples and kernels of {CARRIED + 1} frames only")
    reach = sum(max(0, before - 1) for before, _ in speech.encoder.config.sliding_windows)
    if reach > 16 * len(speech.decoder.layers):  # what the runtime keeps
        raise ExportError(
            f"{speech.checkpoint.model_id}: the encoder looks {reach} frames back, the runtime keeps {16 * len(speech.decoder.layers)}"
        )


class _Asinh(torch.autograd.Function):
    """ONNX has the operator, but the exporter does not translate it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # noqa: ARG004
        return inputs.asinh()

    @staticmethod
    def symbolic(graph: Any, inputs: Any) -> Any:
        return graph.op("Asinh", inputs)


class _Frontend(nn.Module):
    def __init__(self, speech: LoadedModel) -> None:
        super().__init__()
        embedder = speech.encoder.embedder
        self.frame = int(embedder.frame_len)
        self.cmvn, self.linear, self.conv1, self.conv2 = embedder.cmvn, embedder.linear, embedder.conv1, embedder.conv2
        self.gain = nn.Parameter(embedder.comp.log_k.detach().exp(), requires_grad=False)

    def forward(
        self, audio: Tensor, samples: Tensor, kept: Tensor, before_1: Tensor, before_2: Tensor, count: Tensor
    ) -> tuple[Tensor, ...]:
        """Features of the whole frames, and what the next chunk starts with: samples, frames before each convolution, frames so far.

        Six parameters: they are the inputs of the graph, as the runtime names them.
        """
        heard = torch.cat([samples[:, : kept[0]], audio], dim=1)
        whole = heard.shape[1] // self.frame
        used = whole * self.frame
        frames = self.linear(_compressed(self.cmvn(heard[:, :used].reshape(1, -1, self.frame)), self.gain))
        first = torch.cat([before_1, nn.functional.silu(frames).transpose(1, 2)], dim=2)
        second = torch.cat([before_2, nn.functional.silu(_convolved(self.conv1, first))], dim=2)
        rest = heard[:, used:]
        padded = torch.cat([rest, torch.zeros_like(samples)], dim=1)[:, : self.frame - 1]
        left = torch.ones_like(rest[0], dtype=torch.long).sum().reshape(1)
        return (
            _convolved(self.conv2, second).transpose(1, 2),
            padded,
            left,
            first[:, :, -CARRIED:],
            second[:, :, -CARRIED:],
            count + whole,
        )


def _compressed(frames: Tensor, gain: Tensor) -> Tensor:
    return cast(Tensor, _Asinh.apply(gain * frames))  # type: ignore[no-untyped-call]


def _convolved(layer: Any, frames: Tensor) -> Tensor:
    """Without the zeros that the layer puts in front: the frames of the chunk before stand there."""
    return nn.functional.conv1d(frames, layer.weight, layer.bias, layer.stride)


def _frontend(speech: LoadedModel) -> "onnx.ModelProto":
    wide, frame = speech.encoder.config.hidden_size, int(speech.encoder.embedder.frame_len)
    state = (
        torch.zeros(1, frame - 1),
        torch.tensor([3]),
        torch.zeros(1, wide, CARRIED),
        torch.zeros(1, 2 * wide, CARRIED),
        torch.zeros(1, dtype=torch.long),
    )
    names = ("sample_buffer", "sample_len", "conv1_buffer", "conv2_buffer", "frame_count")
    return traced(
        _Frontend(speech),
        (torch.zeros(1, 40 * frame + 11), *state),
        {"audio_chunk": ("", "chunk_len"), **{name: () for name in names}},
        {"features": ("", "feat_len", ""), **{f"{name}_out": () for name in names}},
    )


class _Encoder(nn.Module):
    def __init__(self, speech: LoadedModel) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(layer, 0) for layer in parts.encoder_layers(speech))
        self.norm = speech.encoder.final_norm
        self.windows = [tuple(window) for window in speech.encoder.config.sliding_windows]

    def forward(self, features: Tensor) -> Tensor:
        at = torch.arange(features.shape[1])
        distance = at[:, None] - at
        masks = {window: hidden_from((distance >= window[0]) | (distance <= -max(window[1], 1))) for window in dict.fromkeys(self.windows)}
        hidden = features
        for layer, window in zip(self.layers, self.windows, strict=True):
            hidden = layer(hidden, None, masks[window])
        return cast(Tensor, self.norm(hidden))


def _encoder(speech: LoadedModel) -> "onnx.ModelProto":
    features = torch.zeros(1, _TRACED_FEATURES, speech.encoder.config.hidden_size)
    return traced(_Encoder(speech), (features,), {"features": ("", "feat_len")}, {"encoded": ("", "feat_len")})


class _Adapter(nn.Module):
    def __init__(self, speech: LoadedModel) -> None:
        super().__init__()
        decoder = speech.decoder
        self.positions = nn.Parameter(decoder.pos_emb.weight.detach(), requires_grad=False)
        self.projection = product(decoder.proj) if isinstance(decoder.proj, nn.Linear) else decoder.proj

    def forward(self, encoded: Tensor, offset: Tensor) -> Tensor:
        places = torch.arange(encoded.shape[1]) + offset
        return cast(Tensor, self.projection(encoded + nn.functional.embedding(places, self.positions)))


def _adapter(speech: LoadedModel) -> "onnx.ModelProto":
    encoded = torch.zeros(1, _TRACED_FEATURES, speech.encoder.config.hidden_size)
    inputs = {"encoded": ("", "enc_len"), "pos_offset": ()}
    return traced(_Adapter(speech), (encoded, torch.tensor([0])), inputs, {"memory": ("", "enc_len")})


class _CrossKV(nn.Module):
    def __init__(self, speech: LoadedModel) -> None:
        super().__init__()
        attention = [layer.cross for layer in parts.decoder_layers(speech)]
        self.width, self.heads = attention[0].width, attention[0].key_heads
        self.heard = product(*(one.key for one in attention), *(one.value for one in attention))

    def forward(self, memory: Tensor) -> tuple[Tensor, ...]:
        both = self.heard(memory).view(1, memory.shape[1], -1, self.heads, self.width).permute(2, 0, 3, 1, 4)
        keys, values = both.chunk(2)
        return keys, values


def _cross_kv(speech: LoadedModel) -> "onnx.ModelProto":
    axes = ("", "", "", "mem_len", "")
    memory = torch.zeros(1, _TRACED_FEATURES, speech.model.config.hidden_size)
    return traced(_CrossKV(speech), (memory,), {"memory": ("", "mem_len")}, {"k_cross": axes, "v_cross": axes})


class _DecoderKV(nn.Module):
    def __init__(self, speech: LoadedModel, looks: Looks | None) -> None:
        super().__init__()
        decoder = speech.decoder
        self.looks = looks
        self.embedding = nn.Parameter(decoder.embed_tokens.weight.detach(), requires_grad=False)
        self.rotation = Rotation(decoder.rotary_emb)
        layers = parts.decoder_layers(speech)
        self.layers = nn.ModuleList(DecoderLayer(layer, len(decoder.rotary_emb.inv_freq)) for layer in layers)
        self.norm, self.head = decoder.norm, product(speech.head)

    def forward(self, token: Tensor, keys: Tensor, values: Tensor, heard_keys: Tensor, heard_values: Tensor) -> tuple[Tensor, ...]:
        before = keys.shape[3]
        positions = torch.arange(before, before + token.shape[1])
        mask = hidden_from(torch.arange(before + token.shape[1]) > positions[:, None])
        turns = self.rotation(positions)
        hidden = nn.functional.embedding(token, self.embedding)
        present = []
        for index, layer in enumerate(self.layers):
            past, heard = (keys[index], values[index]), (heard_keys[index], heard_values[index])
            hidden, key, value = layer(hidden, turns, past, heard, mask)
            present.append((key, value))
        seen = [self.looks.seen(self.layers)] * len(self.layers) if self.looks else []
        return self.head(self.norm(hidden)), *(torch.stack(each) for each in zip(*present, strict=True)), *seen


def _decoder_kv(speech: LoadedModel, looks: Looks | None) -> "onnx.ModelProto":
    config = streaming_config(speech)
    shape = (config["depth"], 1, config["nheads"])
    own = torch.zeros(*shape, _TRACED_CACHE, config["head_dim"])
    heard = torch.zeros(*shape, _TRACED_FEATURES, config["head_dim"])
    cache, memory = ("", "", "", "cache_len", ""), ("", "", "", "memory_len", "")
    grown = ("", "", "", "cache_len_out", "")
    seen = {f"cross_attentions.{layer}": ("", "", "token_len", "memory_len") for layer in range(config["depth"]) if looks}
    model = traced(
        _DecoderKV(speech, looks),
        (torch.ones(1, 3, dtype=torch.long), own, own, heard, heard),
        {"token": ("", "token_len"), "k_self": cache, "v_self": cache, "out_k_cross": memory, "out_v_cross": memory},
        {"logits": ("", "token_len"), "out_k_self": grown, "out_v_self": grown, **seen},
    )
    # Older runtimes ask for what they gave by the same names.
    model.graph.output.extend(entry for entry in model.graph.input if entry.name in ("out_k_cross", "out_v_cross"))
    return model
