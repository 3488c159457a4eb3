"""A checkpoint as one GGUF file, as transcribe.cpp and the apps that are built on it load it: header, tokenizer and weights.

Names of keys and tensors are those that its loader asks for (`arch/moonshine` and `arch/moonshine_streaming` of transcribe.cpp 0.4). It
checks that none is missing and that shapes fit; that rotary positions and norms are the checkpoint's it cannot check, and the proof does.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from torch import Tensor

from lora.errors import ExportError
from lora.export.about import About
from lora.export.tokens import vocabulary
from lora.language import code
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from lora.model.loading import LoadedModel

GgufType = Literal["F32", "F16", "Q8_0"]

GGUF_FILE: Final = "model.gguf"

_BLOCK: Final = 32
"""Weights that share a scale in Q8_0; a row that is no multiple of it is kept in float16."""

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
"""Kinds of tokens (`llama_token_type` of llama.cpp)."""

_ENCODER_LAYER: Final = {
    "input_layernorm": "norm_attn",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.out",
    "post_attention_layernorm": "norm_ffn",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
}
_DECODER_LAYER: Final = {
    "input_layernorm": "norm_self",
    "self_attn.q_proj": "self_attn.q",
    "self_attn.k_proj": "self_attn.k",
    "self_attn.v_proj": "self_attn.v",
    "self_attn.o_proj": "self_attn.out",
    "post_attention_layernorm": "norm_cross",
    "encoder_attn.q_proj": "cross_attn.q",
    "encoder_attn.k_proj": "cross_attn.k",
    "encoder_attn.v_proj": "cross_attn.v",
    "encoder_attn.o_proj": "cross_attn.out",
    "final_layernorm": "norm_ffn",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
}
_OTHERS: Final = {
    "encoder.conv1": "enc.conv.0",
    "encoder.conv2": "enc.conv.1",
    "encoder.conv3": "enc.conv.2",
    "encoder.groupnorm": "enc.conv.norm",
    "encoder.layer_norm": "enc.final_norm",
    "encoder.embedder.comp": "enc.embedder.comp",
    "encoder.embedder.linear": "enc.embedder.linear",
    "encoder.embedder.conv1": "enc.embedder.conv1",
    "encoder.embedder.conv2": "enc.embedder.conv2",
    "encoder.final_norm": "enc.final_norm",
    "decoder.embed_tokens": "dec.token_embd",
    "decoder.norm": "dec.final_norm",
    "decoder.pos_emb": "adapter.pos_emb",
    "decoder.proj": "adapter.proj",
    "proj_out": "dec.lm_head",
}
"""The name of a weight in the file, by its name in transformers without `model.`."""


def write_gguf(speech: "LoadedModel", kind: GgufType, about: About, folder: Path) -> None:
    """Writes `model.gguf`. The same model gives the same bytes. The operating system's errors pass.

    Convolutions, norms and biases are float32 in all kinds; matrices are what `kind` says.

    Raises `ExportError` for a model that transcribe.cpp would refuse, or run with wrong results.
    """
    from gguf import GGUFWriter

    _require_known(speech)
    family = speech.model.config.model_type
    writer = GGUFWriter(folder / GGUF_FILE, family)
    _add_origin(writer, speech, kind, about)
    _add_tokenizer(writer, speech)
    _add_sizes(writer, f"stt.{family}", _sizes(speech) | (_streaming_sizes(speech) if speech.streaming else _v1_sizes(speech)))
    for name, weight in gguf_weights(speech):
        _add_weight(writer, name, weight, kind)
    with closing(writer), _short_writes(folder / GGUF_FILE):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


@contextmanager
def _short_writes(file: Path) -> Iterator[None]:
    """numpy reports a disk that takes a part of an array without an error number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error


def gguf_weights(speech: "LoadedModel") -> Iterator[tuple[str, np.ndarray]]:
    """Each weight by its name there, float32. Raises `ExportError` for one that has none."""
    tied = bool(speech.model.config.tie_word_embeddings)
    for name, weight in speech.model.state_dict().items():
        if tied and name == "proj_out.weight":
            continue
        yield _named(name, weight)


def _named(name: str, weight: Tensor) -> tuple[str, np.ndarray]:
    module, _, part = name.removeprefix("model.").rpartition(".")
    values = weight.detach().float().numpy()
    if part == "gamma":  # of an encoder's norm in streaming models, whose gain is one more
        part, values = "weight", values + np.float32(1)
    if layer := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", module):
        table = _ENCODER_LAYER if layer[1] == "encoder" else _DECODER_LAYER
        found = f"{layer[1][:3]}.blocks.{layer[2]}.{_known(table, layer[3], name)}"
    else:
        found = _known(_OTHERS, module, name)
    return f"{found}.{part}", np.atleast_1d(values)


def _known(table: Mapping[str, str], module: str, name: str) -> str:
    if module not in table:
        raise ExportError(f"transcribe.cpp has no place for the weight {name}; export the model to `merged`")
    return table[module]


def _add_weight(writer: "GGUFWriter", name: str, weight: np.ndarray, kind: GgufType) -> None:
    from gguf import GGMLQuantizationType, quants

    if weight.ndim != 2 or name == "adapter.pos_emb.weight":
        kind = "F32"
    elif kind == "Q8_0" and weight.shape[-1] % _BLOCK:
        kind = "F16"
    stored = GGMLQuantizationType[kind]
    writer.add_tensor(name, quants.quantize(np.ascontiguousarray(weight), stored), raw_dtype=stored)


# --- header ------------------------------------------------------------------------------------------------------------------------------


def _add_origin(writer: "GGUFWriter", speech: "LoadedModel", kind: GgufType, about: About) -> None:
    from gguf import LlamaFileType

    base = Path(speech.checkpoint.model_id.partition(":")[2] or speech.checkpoint.model_id).name
    parameters = sum(weight.numel() for weight in speech.model.parameters())
    writer.add_name(f"{base} {about.adapter}" if about.adapter else base)
    writer.add_basename(speech.model.config.model_type)
    writer.add_size_label(f"{parameters / 1e6:.0f}M")
    writer.add_file_type({"F32": LlamaFileType.ALL_F32, "F16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}[kind])
    writer.add_languages([code(speech.language)])
    if about.license is not None:
        writer.add_license(about.license)
    if about.adapter is not None:
        writer.add_finetune(about.adapter)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
    writer.add_string("stt.variant", base)
    for name, able in {"lang_detect": False, "translate": False, "timestamps": False, "streaming": speech.streaming}.items():
        writer.add_bool(f"stt.capability.{name}", able)
    writer.add_string("stt.frontend.type", "raw")
    writer.add_uint32("stt.frontend.sample_rate", SAMPLE_RATE_HZ)
    writer.add_uint32("stt.frontend.num_mels", 1)


def _add_tokenizer(writer: "GGUFWriter", speech: "LoadedModel") -> None:
    tokenizer = speech.processor.tokenizer
    rows = len(vocabulary(tokenizer, speech.head.weight.shape[0]))
    tokens = tokenizer.convert_ids_to_tokens(list(range(rows)))
    special = set(tokenizer.all_special_ids)
    config = speech.model.config
    writer.add_tokenizer_model("bpe")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([_kind(token, number in special, tokenizer) for number, token in enumerate(tokens)])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]])
    writer.add_bool("tokenizer.ggml.byte_fallback", True)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(True)


def _kind(token: str, special: bool, tokenizer: Any) -> int:
    if token == tokenizer.unk_token:
        return _UNKNOWN
    if special:
        return _CONTROL
    return _BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else _NORMAL


Size = bool | int | float | str | list[int]


def _add_sizes(writer: "GGUFWriter", prefix: str, sizes: Mapping[str, Size]) -> None:
    for name, value in sizes.items():
        key = f"{prefix}.{name}"
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)


def _sizes(speech: "LoadedModel") -> dict[str, Size]:
    """Keys that both generations have."""
    config = speech.model.config
    rotary = config.rope_parameters
    return {
        "decoder.d_model": config.hidden_size,
        "decoder.ffn_dim": config.intermediate_size,
        "decoder.vocab_size": config.vocab_size,
        "decoder.max_position_embeddings": config.max_position_embeddings,
        "decoder.tie_word_embeddings": bool(config.tie_word_embeddings),
        "decoder_start_token_id": config.decoder_start_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "partial_rotary_factor": float(rotary["partial_rotary_factor"]),
        "rope_theta": float(rotary["rope_theta"]),
        "attention_bias": False,
        "pad_head_dim_to_multiple_of": config.pad_head_dim_to_multiple_of or 0,
    }


def _v1_sizes(speech: "LoadedModel") -> dict[str, Size]:
    config, encoder = speech.model.config, speech.encoder
    convolutions = (encoder.conv1, encoder.conv2, encoder.conv3)
    return {
        "encoder.n_layers": config.encoder_num_hidden_layers,
        "encoder.d_model": config.hidden_size,
        "encoder.n_heads": config.encoder_num_attention_heads,
        "encoder.n_kv_heads": config.encoder_num_key_value_heads,
        "encoder.ffn_dim": config.intermediate_size,
        "encoder.activation": config.encoder_hidden_act,
        "decoder.n_layers": config.decoder_num_hidden_layers,
        "decoder.n_heads": config.decoder_num_attention_heads,
        "decoder.n_kv_heads": config.decoder_num_key_value_heads,
        "decoder.activation": config.decoder_hidden_act,
        "conv_stem.channels": [layer.out_channels for layer in convolutions],
        "conv_stem.kernel_sizes": [layer.kernel_size[0] for layer in convolutions],
        "conv_stem.strides": [layer.stride[0] for layer in convolutions],
        "conv_stem.groupnorm_num_groups": encoder.groupnorm.num_groups,
        "conv_stem.groupnorm_eps": float(encoder.groupnorm.eps),
    }


def _streaming_sizes(speech: "LoadedModel") -> dict[str, Size]:
    config, encoder = speech.model.config, speech.encoder.config
    return {
        "encoder.n_layers": encoder.num_hidden_layers,
        "encoder.d_model": encoder.hidden_size,
        "encoder.n_heads": encoder.num_attention_heads,
        "encoder.n_kv_heads": encoder.num_key_value_heads,
        "encoder.head_dim": encoder.head_dim,
        "encoder.ffn_dim": encoder.intermediate_size,
        "encoder.activation": encoder.hidden_act,
        "encoder.frame_ms": float(encoder.frame_ms),
        "encoder.frame_len": int(speech.encoder.embedder.frame_len),
        "encoder.sliding_windows": [edge for window in encoder.sliding_windows for edge in window],
        "encoder_layernorm_unit_offset": True,
        "encoder_hidden_size": encoder.hidden_size,
        "cmvn_eps": 1e-6,
        "adapter_has_proj": encoder.hidden_size != config.hidden_size,
        "decoder.n_layers": config.num_hidden_layers,
        "decoder.n_heads": config.num_attention_heads,
        "decoder.n_kv_heads": config.num_key_value_heads,
        "decoder.head_dim": config.head_dim,
        "decoder.activation": config.hidden_act,
    }


def _require_known(speech: "LoadedModel") -> None:
    """Refuses what transcribe.cpp cannot represent, or would compute differently."""
    sizes = _streaming_sizes(speech) if speech.streaming else _v1_sizes(speech)
    model_id = speech.checkpoint.model_id
    if speech.model.config.attention_bias:
        raise ExportError(f"{model_id}: its attention has biases, which transcribe.cpp does not know; export it to `merged`")
    if bool(speech.model.config.tie_word_embeddings) == speech.streaming:
        raise ExportError(f"{model_id}: transcribe.cpp ties output and embedding in v1 and not in streaming models; export it to `merged`")
    for part, activation in (("encoder", "gelu"), ("decoder", "silu")):
        if sizes[f"{part}.activation"] != activation:
            raise ExportError(f"{model_id}: transcribe.cpp runs only {activation} in the {part}; export it to `merged`")
        if sizes[f"{part}.n_heads"] != sizes[f"{part}.n_kv_heads"]:
            raise ExportError(f"{model_id}: the {part}'s heads share keys, which transcribe.cpp does not know; export it to `merged`")
