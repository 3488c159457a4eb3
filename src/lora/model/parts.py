"""The parts of a transformers layer under our names. Only this module knows their names in transformers.

Encoder, decoder, exports and adapters take a layer apart with it. Files of other tools have names of their own for the same weights:
`checkpoints.packaged`, `export.gguf_file` and `export.official` know those; `model.bare` makes layers with transformers' names.
"""

from dataclasses import dataclass
from typing import Any, Final

from lora.model.loading import LoadedModel

_ATTENTION: Final = "(q|k|v|o)_proj"
_DECODER: Final = r"model\.decoder\.layers\.\d+"
FROM_FRAMES: Final = rf"{_DECODER}\.encoder_attn\.(k|v)_proj\."
"""What makes keys and values of frames, as a pattern for the beginning of a weight's full name."""

_ENCODER: Final = r"model\.encoder\.layers\.\d+"
SITES = {
    "decoder": rf"{_DECODER}\.((self_attn|encoder_attn)\.{_ATTENTION}|mlp\.fc[12])",
    "self": rf"{_DECODER}\.self_attn\.{_ATTENTION}",
    "cross": rf"{_DECODER}\.encoder_attn\.{_ATTENTION}",
    "mlp": rf"{_DECODER}\.mlp\.fc[12]",
    "encoder": rf"{_ENCODER}\.(self_attn\.{_ATTENTION}|mlp\.fc[12])",
}
SITES["both"] = SITES["all"] = f"{SITES['decoder']}|{SITES['encoder']}"
"""Linear layers that an adapter may change, as patterns over full module names. None touches the head or the embedding: v1 ties the two."""


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention's linear layers and numbers. With an adapter attached the layers are PEFT's."""

    query: Any
    key: Any
    value: Any
    out: Any
    width: int
    """Of a head."""
    scale: float
    dropout: float

    @property
    def heads(self) -> int:
        """Heads of the query."""
        return int(self.query.weight.shape[0]) // self.width

    @property
    def key_heads(self) -> int:
        """Heads of keys and values; several heads of the query may share one."""
        return int(self.key.weight.shape[0]) // self.width


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Norms before attention and feed-forward, and these two; `up`, `activation` and `down` are the feed-forward."""

    norms: tuple[Any, Any]
    attention: Attention
    up: Any
    activation: Any
    down: Any


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Norms before self-attention, cross-attention and feed-forward, and these three."""

    norms: tuple[Any, Any, Any]
    own: Attention
    cross: Attention
    up: Any
    activation: Any
    down: Any


def encoder_layers(speech: LoadedModel) -> list[EncoderLayer]:
    """The encoder's layers, from the first on."""
    return [_encoder_layer(module) for module in speech.encoder.layers]


def decoder_layers(speech: LoadedModel) -> list[DecoderLayer]:
    """The decoder's layers, from the first on."""
    return [_decoder_layer(module) for module in speech.decoder.layers]


def _encoder_layer(module: Any) -> EncoderLayer:
    mlp, norms = module.mlp, (module.input_layernorm, module.post_attention_layernorm)
    return EncoderLayer(norms, _attention(module.self_attn), mlp.fc1, mlp.activation_fn, mlp.fc2)


def _decoder_layer(module: Any) -> DecoderLayer:
    mlp, norms = module.mlp, (module.input_layernorm, module.post_attention_layernorm, module.final_layernorm)
    return DecoderLayer(norms, _attention(module.self_attn), _attention(module.encoder_attn), mlp.fc1, mlp.activation_fn, mlp.fc2)


def _attention(module: Any) -> Attention:
    linear = (module.q_proj, module.k_proj, module.v_proj, module.o_proj)
    return Attention(*linear, int(module.head_dim), module.scaling, module.attention_dropout)
