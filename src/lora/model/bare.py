"""Moonshine's first generation as bare modules that hold its weights, read without transformers.

Importing transformers' model classes takes twice as long as importing PyTorch, and all that transcribing takes from them is weights under
names and a few numbers: `model.encoder` and `model.decoder` compute. Modules have transformers' names, so that adapters fit. A checkpoint
that is not of the usual form is left to transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from lora.errors import CheckpointError
from lora.system.documents import read_json

_WEIGHTS: Final = "model.safetensors"
_HEAD: Final = "proj_out.weight"
_ACTIVATIONS: Final = {"gelu": functional.gelu, "silu": functional.silu}


class _Rotary(msgspec.Struct, frozen=True):
    """Rotary positions as transformers 5 writes them."""

    rope_theta: float
    partial_rotary_factor: float
    rope_type: Literal["default"] = "default"


class Config(msgspec.Struct, frozen=True):
    """What `config.json` says, under its names. What is None or has one value only is otherwise in checkpoints of no usual form."""

    model_type: Literal["moonshine"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    encoder_num_hidden_layers: int
    decoder_num_hidden_layers: int
    encoder_num_attention_heads: int
    decoder_num_attention_heads: int
    decoder_start_token_id: int
    eos_token_id: int
    encoder_hidden_act: Literal["gelu", "silu"]
    decoder_hidden_act: Literal["gelu", "silu"]
    attention_bias: bool
    attention_dropout: float
    encoder_num_key_value_heads: int | None = None
    decoder_num_key_value_heads: int | None = None
    rope_parameters: _Rotary | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    rope_scaling: None = None
    head_dim: None = None
    tie_word_embeddings: bool = True

    @property
    def num_hidden_layers(self) -> int:
        """Of the decoder."""
        return self.decoder_num_hidden_layers

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.decoder_num_attention_heads

    @property
    def rotary(self) -> _Rotary | None:
        """Where transformers 5 writes it, or where version 4 did."""
        if self.rope_parameters is not None or self.rope_theta is None or self.partial_rotary_factor is None:
            return self.rope_parameters
        return _Rotary(self.rope_theta, self.partial_rotary_factor)

    @property
    def usual(self) -> bool:
        """Whether the modules below can represent this model."""
        heads = self.encoder_num_attention_heads == self.decoder_num_attention_heads
        return self.tie_word_embeddings and self.rotary is not None and heads and self.hidden_size % self.decoder_num_attention_heads == 0


class _Turns(nn.Module):
    """Cosine and sine of the rotary positions."""

    def __init__(self, rotary: _Rotary, head_width: int) -> None:
        super().__init__()
        turning = int(head_width * rotary.partial_rotary_factor)
        self.frequencies = 1.0 / (rotary.rope_theta ** (torch.arange(0, turning, 2, dtype=torch.float, device="cpu") / turning))

    def forward(self, like: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, positions, turning]`, in the type and on the device of `like`."""
        angles = position_ids[..., None].float() * self.frequencies.to(like.device)
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(like.dtype), both.sin().to(like.dtype)


class _Attention(nn.Module):
    def __init__(self, config: Config, key_value_heads: int) -> None:
        super().__init__()
        self.head_dim = config.head_width
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        wide, shared = config.hidden_size, key_value_heads * self.head_dim
        self.q_proj = nn.Linear(wide, wide, bias=config.attention_bias)
        self.k_proj = nn.Linear(wide, shared, bias=config.attention_bias)
        self.v_proj = nn.Linear(wide, shared, bias=config.attention_bias)
        self.o_proj = nn.Linear(wide, wide, bias=False)


class _Mlp(nn.Module):
    def __init__(self, config: Config, activation: str, *, gated: bool) -> None:
        super().__init__()
        self.activation_fn = _ACTIVATIONS[activation]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size * (2 if gated else 1))
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)


class _EncoderLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = _Attention(config, config.encoder_num_key_value_heads or config.encoder_num_attention_heads)
        self.mlp = _Mlp(config, config.encoder_hidden_act, gated=False)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, bias=False)


class _DecoderLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        groups = config.decoder_num_key_value_heads or config.decoder_num_attention_heads
        self.self_attn = _Attention(config, groups)
        self.encoder_attn = _Attention(config, groups)
        self.mlp = _Mlp(config, config.decoder_hidden_act, gated=True)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.final_layernorm = nn.LayerNorm(config.hidden_size, bias=False)


class _Encoder(nn.Module):
    def __init__(self, config: Config, rotary: _Rotary) -> None:
        super().__init__()
        wide = config.hidden_size
        self.config = config
        self.conv1 = nn.Conv1d(1, wide, kernel_size=127, stride=64, bias=False)
        self.conv2 = nn.Conv1d(wide, 2 * wide, kernel_size=7, stride=3)
        self.conv3 = nn.Conv1d(2 * wide, wide, kernel_size=3, stride=2)
        self.groupnorm = nn.GroupNorm(1, wide, eps=1e-5)
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.encoder_num_hidden_layers))
        self.layer_norm = nn.LayerNorm(wide, bias=False)
        self.rotary_emb = _Turns(rotary, config.head_width)


class _Decoder(nn.Module):
    def __init__(self, config: Config, rotary: _Rotary) -> None:
        super().__init__()
        self.config = config
        # Not by size: drawing weights on the meta device, where they have no values, would load PyTorch's compiler.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(_DecoderLayer(config) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, bias=False)
        self.rotary_emb = _Turns(rotary, config.head_width)


class Moonshine(nn.Module):
    """The modules of a checkpoint. They do not compute."""

    def __init__(self, config: Config, rotary: _Rotary) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"encoder": _Encoder(config, rotary), "decoder": _Decoder(config, rotary)})
        self.proj_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_encoder(self) -> Any:
        return self.model["encoder"]

    def get_decoder(self) -> Any:
        return self.model["decoder"]

    def get_output_embeddings(self) -> nn.Linear:
        return self.proj_out

    def fill(self, weights: Mapping[str, Tensor]) -> None:
        """Puts the weights of a file into the modules, float32; the head has those of the embedding."""
        self.load_state_dict({**weights, _HEAD: weights["model.decoder.embed_tokens.weight"]}, assign=True)
        self.proj_out.weight = self.get_decoder().embed_tokens.weight


def read(folder: Path) -> Moonshine | None:
    """The model of a checkpoint folder in float32, frozen, in evaluation mode; None if it is not of the usual form.

    Usual are one file of weights, a head that shares those of the embedding, and the settings of the published checkpoints.
    """
    config, file = _config(folder), folder / _WEIGHTS
    if config is None or config.rotary is None or not config.usual or not file.is_file():
        return None
    with torch.device("meta"):  # neither memory nor random numbers for weights that come from the file
        model = Moonshine(config, config.rotary)
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items() if name != _HEAD}
    with safe_open(file, framework="pt") as opened:
        if {name: opened.get_slice(name).get_shape() for name in opened.keys()} != shapes:  # noqa: SIM118  # no dict
            return None
        # A copy, for the file may be replaced while the model is in use.
        model.fill({name: opened.get_tensor(name).to(torch.float32, copy=True) for name in shapes})
    return model.requires_grad_(False).eval()


def _config(folder: Path) -> Config | None:
    said = read_json(folder / "config.json", dict[str, Any], CheckpointError)
    try:
        return msgspec.convert(said, Config)
    except msgspec.ValidationError:
        return None
