"""Moonshine v1 as ONNX graphs: the encoder, and both decoders (first tokens, tokens that follow) under one `If`.

Inputs, outputs and their shapes are those of the published base model. It has no attention masks: runtimes transcribe one clip at a
time, unpadded, and sherpa-onnx up to 2.0 answers long clips with nothing where a decoder asks for one.

Weights are laid out for few and large operations, which decide the speed where every product quantises its input first: query, key
and value are one product, and rotary pairs are moved from neighbours to halves. Keys in the cache thus have another order of entries
than in transformers; query and key share it, so scores are the same. Tokens are embedded with the weights of the output head, stored once.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lora.errors import ExportError
from lora.export.level import Place, level, test_signals
from lora.model import parts
from lora.model.loading import LoadedModel
from lora.model.word_heads import chosen

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""The first with LayerNormalization; every runtime in use reads it."""

TRACED_SAMPLES = 16_000
TRACED_TOKENS = 3
"""Sizes of the inputs that the graphs are traced with; nothing in the graphs depends on them."""


FRAME_S = 0.024
"""Of v1's encoder: 384 samples."""

_NEAR = 0.25
"""Share of the largest entry up to which entries count as small where they are multiplied apart from what is beyond."""

_LEVEL_TOKENS = 64
"""Tokens of the vocabulary, evenly spaced, with which a decoder is levelled for each test signal."""


def encoder_graph(speech: LoadedModel, *, levelled: bool = False) -> "onnx.ModelProto":
    """`input_values` `[batch_size, num_samples]` at 16 kHz to `last_hidden_state` `[batch_size, frames, width]`, float32.

    `levelled` gives a graph that is going to be quantised, see `lora.export.level` and `Product`; the output is the same.

    Raises `ExportError` for streaming checkpoints, and as `require_plain` does.
    """
    _require_v1(speech)
    encoder = _Encoder(speech)
    if levelled:
        level(encoder.places(), lambda: encoder(test_signals()))
        _take_apart(encoder.layers)
    return traced(
        encoder,
        (torch.zeros(2, TRACED_SAMPLES),),
        {"input_values": ("batch_size", "num_samples")},
        {"last_hidden_state": ("batch_size", "encoder_sequence_length")},
    )


def decoder_graph(speech: LoadedModel, *, levelled: bool = False, looks: "Looks | None" = None) -> "onnx.ModelProto":
    """Logits `[batch_size, decoder_sequence_length, tokens]` of `input_ids`, and the keys and values of all layers.

    With `use_cache_branch` false the tokens are a clip's first, and `past_key_values.*` may be anything; with true they follow those in
    `past_key_values.*`, `encoder_hidden_states` is not read, and `present.*.encoder.*` come back empty: the caller has them already.
    `levelled` is as for the encoder. With `looks`, `cross_attentions.*` `[batch_size, 1, decoder_sequence_length, frames]`, all alike, say
    how much each token hears of each frame: moonshine-voice finds the times of words in them.

    Raises `ExportError` for streaming checkpoints, and as `require_plain` does.
    """
    _require_v1(speech)
    first, following = (_Decoder(speech, follows=follows, looks=looks) for follows in (False, True))
    if levelled:
        _level_decoders(speech, first, following)
    layers, heads, width = len(first.layers), first.heads, first.width
    ids = torch.ones(2, TRACED_TOKENS, dtype=torch.long)
    named = {f"{i}.{side}.{part}": side for i in range(layers) for side in ("decoder", "encoder") for part in ("key", "value")}
    lengths = {"decoder": "past_decoder_sequence_length", "encoder": "encoder_sequence_length_out"}
    past = {f"past_key_values.{name}": ("batch_size", "", lengths[side], "") for name, side in named.items()}
    present = {f"present.{name}": ("batch_size", "", f"present_{lengths[side]}", "") for name, side in named.items()}
    tokens = {"input_ids": ("batch_size", "decoder_sequence_length")}
    logits = {"logits": ("batch_size", "decoder_sequence_length")}
    heard = {f"cross_attentions.{i}": ("batch_size", "", "decoder_sequence_length", "frames") for i in range(layers) if looks}
    opening = traced(
        first,
        (ids, torch.zeros(2, 5, speech.model.config.hidden_size)),
        {**tokens, "encoder_hidden_states": ("batch_size", "encoder_sequence_length")},
        {**logits, **present, **heard},
    )
    going_on = traced(
        following,
        (ids, *(torch.zeros(2, heads, 7, width) for _ in past)),
        {**tokens, **past},
        {**logits, **{name: axes for name, axes in present.items() if ".decoder." in name}, **heard},
    )
    return _merged(opening, going_on, heads, width)


def looks(speech: LoadedModel) -> "Looks":
    """The heads that show when words are said."""
    heads = chosen(speech)
    return Looks(heads.heads, round(heads.early_s / FRAME_S))


def _take_apart(layers: Iterable[Any]) -> None:
    """The output of an activation function is mostly small, with large values in changing channels."""
    for layer in layers:
        layer.down.apart = True


def _level_decoders(speech: LoadedModel, first: "_Decoder", following: "_Decoder") -> None:
    """Levels both in the same way, because they share their weights."""
    first.volume = nn.Parameter(torch.ones(speech.model.config.hidden_size), requires_grad=False)
    shared = zip(first.places(), following.places(), strict=True)
    places = [Place([*one.scales, *other.scales], [*one.products, *other.products]) for one, other in shared]
    places.append(Place([first.volume], [first.heard]))

    def run() -> None:
        heard = _Encoder(speech)(test_signals())
        tokens = torch.linspace(0, first.head.weight.shape[1] - 1, _LEVEL_TOKENS * len(heard)).long()
        first(tokens.view(-1, len(heard)).T, heard)

    level(places, run)
    _take_apart([*first.layers, *following.layers])


def _require_v1(speech: LoadedModel) -> None:
    require_plain(speech)
    if speech.streaming:
        raise ExportError(
            f"{speech.checkpoint.model_id}: streaming checkpoints can only be exported to `moonshine-voice`, `gguf` and `merged`"
        )


def require_plain(speech: LoadedModel) -> None:
    """Raises `ExportError` for a model that is not on the CPU, has an adapter, or positions that the graphs do not know."""
    if any(hasattr(module, "lora_A") for module in speech.model.modules()):
        raise ExportError(f"{speech.checkpoint.model_id}: an adapter is not merged; fold it in before the export")
    kind = speech.decoder.rotary_emb.rope_type
    if kind != "default":
        raise ExportError(f"{speech.checkpoint.model_id}: rotary positions of the kind {kind!r} cannot be exported, only 'default'")
    if speech.device.type != "cpu":
        raise ExportError(f"{speech.checkpoint.model_id}: is on {speech.device}; load it on the CPU for the export")


# --- modules ---------------------------------------------------------------------------------------------------------------------------


class Product(nn.Module):
    """Linear layers with the same input as one product, its weight `[in, out]` as ONNX multiplies.

    `apart` multiplies small entries apart from what large ones have beyond them: two inputs to quantise, so that a few large entries
    do not leave all others a few steps. In float32 the sum is the same.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat(list(weights)).T.contiguous(), requires_grad=False)
        present = [bias for bias in biases if bias is not None]
        self.bias = nn.Parameter(torch.cat(present), requires_grad=False) if present else None
        self.apart = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.apart:
            limit = inputs.abs().max() * _NEAR
            near = torch.minimum(torch.maximum(inputs, -limit), limit)
            output = near @ self.weight + (inputs - near) @ self.weight
        else:
            output = inputs @ self.weight
        return output if self.bias is None else output + self.bias


def product(*layers: Any) -> Product:
    return Product([layer.weight.detach() for layer in layers], [_bias(layer) for layer in layers])


def _bias(layer: Any) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


class Rotation(nn.Module):
    """Cosines and sines `[tokens, turning pairs]` of positions `[tokens]`."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.register_buffer("frequencies", module.inv_freq.detach().clone())

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * cast(Tensor, self.frequencies)
        return angles.cos(), angles.sin()


class _SelfAttention(nn.Module):
    def __init__(self, attention: parts.Attention, pairs: int) -> None:
        super().__init__()
        self.width, self.pairs, self.heads = attention.width, pairs, attention.heads
        query, key, value = attention.query, attention.key, attention.value
        order = torch.cat([torch.arange(2 * pairs).view(-1, 2).T.flatten(), torch.arange(2 * pairs, self.width)])

        def laid_out(layer: Any, scale: float) -> tuple[Tensor, Tensor | None]:
            """Rotary pairs as halves, the query scaled: a product of a whole clip less."""
            rows = (torch.arange(self.heads)[:, None] * self.width + order).flatten()
            bias = _bias(layer)
            return layer.weight.detach()[rows] * scale, None if bias is None else bias[rows] * scale

        three = [laid_out(query, attention.scale), laid_out(key, 1.0), (value.weight.detach(), _bias(value))]
        self.qkv = Product([weight for weight, _ in three], [bias for _, bias in three])
        self.out = product(attention.out)

    def forward(
        self, inputs: Tensor, turns: tuple[Tensor, Tensor] | None, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output `[batch, tokens, width]`, and keys and values `[batch, heads, tokens, width]`, those of the past included.

        Without `turns`, positions play no part but in the mask.
        """
        batch = inputs.shape[0]
        heads = self.qkv(inputs).view(batch, -1, 3 * self.heads, self.width).transpose(1, 2)
        turning, value = heads.split([2 * self.heads, self.heads], dim=1)
        query, key = (turning if turns is None else self._turned(turning, turns)).split(self.heads, dim=1)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        return self.out(_attend(query, key, value, mask, batch)), key, value

    def _turned(self, heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = turns
        rest = self.width - 2 * self.pairs
        first, second, *still = heads.split([self.pairs, self.pairs, *([rest] if rest else [])], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, *still], dim=-1)


class _CrossAttention(nn.Module):
    def __init__(self, attention: parts.Attention) -> None:
        super().__init__()
        self.width = attention.width
        bias = _bias(attention.query)
        weight = attention.query.weight.detach() * attention.scale
        self.query = Product([weight], [None if bias is None else bias * attention.scale])
        self.out = product(attention.out)
        self.weights: Tensor | None = None
        """Of the last call, `[batch, heads, tokens, frames]`."""

    def forward(self, inputs: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch = inputs.shape[0]
        query = self.query(inputs).view(batch, -1, key.shape[1], self.width).transpose(1, 2)
        self.weights = (query @ key.transpose(2, 3)).softmax(dim=-1)
        return cast(Tensor, self.out(_mixed(self.weights, value, batch)))


def hidden_from(absent: Tensor) -> Tensor:
    """What to add to scores so that those where `absent` is true count for nothing."""
    return torch.zeros(1).masked_fill(absent, -torch.inf)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, batch: int) -> Tensor:
    """Scaled queries, keys and values `[batch, heads, tokens, width]` to `[batch, tokens, heads * width]`."""
    scores = query @ key.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    return _mixed(scores.softmax(dim=-1), value, batch)


def _mixed(weights: Tensor, value: Tensor, batch: int) -> Tensor:
    mixed = (weights @ value).transpose(1, 2)
    return mixed.reshape(batch, -1, int(mixed.shape[2]) * int(mixed.shape[3]))


@dataclass(frozen=True, slots=True)
class Looks:
    """Heads of the cross-attention, each a layer and a number, that tell when words are said, and how many frames too soon they do."""

    heads: Sequence[tuple[int, int]]
    early: int

    def seen(self, layers: Iterable[Any]) -> Tensor:
        """Their mean after a forward pass, where words are: `[batch, 1, tokens, frames]`.

        The runtime averages what it is given over layers and heads, so that one mean for all says what the chosen heads do.
        """
        weights = [layer.cross.weights for layer in layers]
        mean = torch.stack([weights[layer][:, head] for layer, head in self.heads]).mean(dim=0)[:, None]
        before, after = [mean[..., :1]] * max(self.early, 0), [mean[..., -1:]] * max(-self.early, 0)
        return torch.cat([*before, mean, *after], dim=-1)[..., len(after) : mean.shape[3] + len(after)]


class EncoderLayer(nn.Module):
    def __init__(self, layer: parts.EncoderLayer, pairs: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = (copy.deepcopy(norm) for norm in layer.norms)
        self.attention = _SelfAttention(layer.attention, pairs)
        self.up, self.down, self.activation = product(layer.up), product(layer.down), layer.activation

    def forward(self, hidden: Tensor, turns: tuple[Tensor, Tensor] | None, mask: Tensor | None = None) -> Tensor:
        hidden = hidden + self.attention(self.norm_1(hidden), turns, None, mask)[0]
        return cast(Tensor, hidden + self.down(self.activation(self.up(self.norm_2(hidden)))))


class _Encoder(nn.Module):
    def __init__(self, speech: LoadedModel) -> None:
        super().__init__()
        encoder = speech.encoder
        self.conv1, self.conv2, self.conv3 = encoder.conv1, encoder.conv2, encoder.conv3
        self.groupnorm, self.norm = encoder.groupnorm, encoder.layer_norm
        self.rotation = Rotation(encoder.rotary_emb)
        self.layers = nn.ModuleList(EncoderLayer(layer, len(encoder.rotary_emb.inv_freq)) for layer in parts.encoder_layers(speech))

    def forward(self, input_values: Tensor) -> Tensor:
        hidden = self.groupnorm(self.conv1(input_values[:, None]).tanh())
        hidden = nn.functional.gelu(self.conv2(hidden))
        hidden = nn.functional.gelu(self.conv3(hidden)).transpose(1, 2)
        turns = self.rotation(torch.arange(hidden.shape[1]))
        for layer in self.layers:
            hidden = layer(hidden, turns)
        return cast(Tensor, self.norm(hidden))

    def places(self) -> list[Place]:
        """Where outliers can be moved from normalised activations into weights."""
        return [
            Place([norm.weight], [product])
            for layer in cast(Iterable[Any], self.layers)
            for norm, product in ((layer.norm_1, layer.attention.qkv), (layer.norm_2, layer.up))
        ]


class DecoderLayer(nn.Module):
    def __init__(self, layer: parts.DecoderLayer, pairs: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3 = (copy.deepcopy(norm) for norm in layer.norms)
        self.own, self.cross = _SelfAttention(layer.own, pairs), _CrossAttention(layer.cross)
        self.up, self.down, self.activation = product(layer.up), product(layer.down), layer.activation

    def forward(
        self,
        hidden: Tensor,
        turns: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
        heard: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, key, value = self.own(self.norm_1(hidden), turns, past, mask)
        hidden = hidden + mixed
        hidden = hidden + self.cross(self.norm_2(hidden), *heard)
        up, gate = self.up(self.norm_3(hidden)).split(self.down.weight.shape[0], dim=-1)
        return hidden + self.down(self.activation(gate) * up), key, value


class _Decoder(nn.Module):
    """`follows` says which decoder this is: of a clip's first tokens, or of those behind what a cache holds.

    With `looks` it also says, once for each layer, where tokens look.
    """

    def __init__(self, speech: LoadedModel, *, follows: bool, looks: Looks | None = None) -> None:
        super().__init__()
        decoder = speech.decoder
        self.follows, self.looks = follows, looks
        self.head = product(speech.head)
        table = decoder.embed_tokens.weight.detach()
        self.embedding = None if torch.equal(table, speech.head.weight) else nn.Parameter(table, requires_grad=False)
        self.rotation = Rotation(decoder.rotary_emb)
        layers = parts.decoder_layers(speech)
        self.layers = nn.ModuleList(DecoderLayer(layer, len(decoder.rotary_emb.inv_freq)) for layer in layers)
        self.norm = decoder.norm
        self.volume: nn.Parameter | None = None
        self.width, self.heads = layers[0].cross.width, layers[0].cross.key_heads
        if not follows:
            self.heard = product(*(linear for layer in layers for linear in (layer.cross.key, layer.cross.value)))

    def forward(self, input_ids: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """`given` is the encoder output, or the past: of each layer own key and value, then those of the encoder output."""
        batch, count = input_ids.shape
        past: Sequence[tuple[Tensor, ...] | None]
        if self.follows:
            before = given[0].shape[2]
            past = [given[at : at + 2] for at in range(0, len(given), 4)]
            heard = [given[at : at + 2] for at in range(2, len(given), 4)]
        else:
            before = 0
            past = [None] * len(self.layers)
            memory = given[0] if self.volume is None else given[0] * self.volume
            both = self.heard(memory).split(self.heads * self.width, dim=-1)
            laid_out = [part.view(batch, -1, self.heads, self.width).transpose(1, 2) for part in both]
            heard = [tuple(laid_out[at : at + 2]) for at in range(0, len(laid_out), 2)]
        positions = torch.arange(before, before + count)
        mask = hidden_from(torch.arange(before + count) > positions[:, None])
        turns = self.rotation(positions)
        hidden = self._embedded(input_ids)
        present: list[Tensor] = []
        for layer, own, crossed in zip(self.layers, past, heard, strict=True):
            hidden, key, value = layer(hidden, turns, own, crossed, mask)
            present += [key, value] if self.follows else [key, value, *crossed]
        seen = [self.looks.seen(self.layers)] * len(self.layers) if self.looks else []
        return self.head(self.norm(hidden)), *present, *seen

    def _embedded(self, input_ids: Tensor) -> Tensor:
        if self.embedding is not None:
            return nn.functional.embedding(input_ids, self.embedding)
        rows = self.head.weight.index_select(1, input_ids.flatten())
        return rows.T.reshape(*input_ids.shape, -1)

    def places(self) -> list[Place]:
        """As of the encoder, layer by layer."""
        return [
            Place([norm.weight], [product])
            for layer in cast(Iterable[Any], self.layers)
            for norm, product in ((layer.norm_1, layer.own.qkv), (layer.norm_2, layer.cross.query), (layer.norm_3, layer.up))
        ]


# --- ONNX ------------------------------------------------------------------------------------------------------------------------------


def traced(
    module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[str]]
) -> "onnx.ModelProto":
    """The graph of `module`; `named` and `given` are the names of inputs and outputs with those of their axes, "" for a fixed one."""
    import onnx

    axes = {name: {axis: label for axis, label in enumerate(labels) if label} for name, labels in {**named, **given}.items()}
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-export-") as folder, warnings.catch_warnings(), torch.inference_mode():
        file = Path(folder) / "graph.onnx"
        # That this exporter is no longer developed, and that sizes which the trace fixes, such as the number of heads, are fixed.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            file,
            input_names=list(named),
            output_names=list(given),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load_model(file)


def _merged(opening: "onnx.ModelProto", going_on: "onnx.ModelProto", heads: int, width: int) -> "onnx.ModelProto":
    """Both decoders as the branches of one `If`, their weights once, outside of it, where both can read them."""
    from onnx import TensorProto, checker, helper

    outputs = [_with_fixed_sizes(output, heads, width) for output in opening.graph.output]
    there = {output.name for output in going_on.graph.output}
    empty = helper.make_tensor("empty", TensorProto.FLOAT, [0, heads, 1, width], [])
    for output in outputs:
        if output.name not in there:
            going_on.graph.node.append(helper.make_node("Constant", [], [output.name], name=f"/{output.name}", value=empty))
    weights = {tensor.name: tensor for model in (opening, going_on) for tensor in model.graph.initializer}
    branches = {
        "then_branch": helper.make_graph(list(going_on.graph.node), "following_tokens", [], outputs),
        "else_branch": helper.make_graph(list(opening.graph.node), "first_tokens", [], outputs),
    }
    choice = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    node = helper.make_node("If", [choice.name], [output.name for output in outputs], name="/If", **branches)
    ids, *past = going_on.graph.input
    inputs = [ids, opening.graph.input[1], *past, choice]
    graph = helper.make_graph([node], "decoder", inputs, outputs, list(weights.values()))
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=opening.ir_version, producer_name="moonshine-lora")
    checker.check_model(model)
    return model


def _with_fixed_sizes(output: "onnx.ValueInfoProto", heads: int, width: int) -> "onnx.ValueInfoProto":
    """Keys and values with the sizes that tracing loses; the logits as they are."""
    from onnx import TensorProto, helper

    if not output.name.startswith("present."):
        return output
    batch, _, length, _ = (axis.dim_param for axis in output.type.tensor_type.shape.dim)
    return helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [batch, heads, length, width])
