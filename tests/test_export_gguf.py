"""GGUF files: what their header says, which weights they hold, what is refused, and that the proof finds wrong ones."""

import re
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from test_export_merged import fresh, tuned

from lora.audio.loading import Waveform, duration
from lora.errors import ConfigError, ExportError
from lora.export.about import About
from lora.export.agreement import ThreeScores, compare_export
from lora.export.targets import ExportPrecision, require_export, write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runtimes.runtime import Clip
from lora.runtimes.runtime import transcribe as on_device
from lora.scoring.counts import Score, score_utterance, total
from lora.system.files import sha256_file

SETTINGS = DecodeSettings(tokens_per_second=6.5)


def header(folder: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(folder / "model.gguf").fields.items()}


def weights(folder: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Kind and float32 values of each tensor, shaped as in PyTorch."""
    found = {}
    for tensor in GGUFReader(folder / "model.gguf").tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in reversed(tensor.shape)])
        found[tensor.name] = (tensor.tensor_type.name, values)
    return found


def said(speech: LoadedModel, clips: Sequence[Waveform], settings: DecodeSettings = SETTINGS) -> list[str]:
    encoder, decoder = Encoder(speech), Decoder(speech)
    with torch.inference_mode():
        return [transcribe(decoder, encoder([clip]), [duration(clip)], settings)[0].text for clip in clips]


def heard(folder: Path, clips: Sequence[Waveform]) -> list[str]:
    given = [Clip(str(number), clip, SETTINGS.cap(duration(clip))) for number, clip in enumerate(clips)]
    return [one.text for one in on_device("gguf", folder, "tiny", given).heard]


# --- the file ----------------------------------------------------------------------------------------------------------------------------


def test_the_header_says_what_the_model_is_and_where_it_comes_from(tiny: LoadedModel, tmp_path: Path) -> None:
    write_target(tiny, "gguf", "u8", tmp_path, About("calls", "cc-by-4.0"))
    found = header(tmp_path)
    assert found["general.architecture"] == "moonshine"
    assert (found["general.name"], found["general.finetune"]) == ("moonshine-tiny calls", "calls")
    assert (found["general.base_model.0.name"], found["general.license"]) == ("moonshine-tiny", "cc-by-4.0")
    assert (found["general.languages"], found["general.size_label"]) == (["en"], "27M")
    assert round(found["stt.moonshine.partial_rotary_factor"], 6) == 0.9
    assert found["stt.moonshine.conv_stem.strides"] == [64, 3, 2]
    assert len(found["tokenizer.ggml.tokens"]) == found["stt.moonshine.decoder.vocab_size"] == 32_768
    kinds = found["tokenizer.ggml.token_type"]
    assert (kinds[0], kinds[1], kinds[3], kinds[300]) == (2, 3, 6, 1)
    assert sum(kind == 6 for kind in kinds) == 256


def test_what_nobody_has_said_is_left_out(random_v1: LoadedModel, tmp_path: Path) -> None:
    write_target(random_v1, "gguf", "fp32", tmp_path)
    assert not {"general.license", "general.finetune", "general.base_model.count"} & header(tmp_path).keys()


@pytest.mark.parametrize(("precision", "kinds"), [("fp32", {"F32"}), ("fp16", {"F16", "F32"}), ("u8", {"Q8_0", "F16", "F32"})])
def test_the_weights_are_the_tuned_ones(random_speech: LoadedModel, precision: ExportPrecision, kinds: set[str], tmp_path: Path) -> None:
    """A streaming encoder keeps the gain of its norms less one, the file the whole gain. Rows of 48 are no blocks of 32."""
    own = tuned(random_speech)
    write_target(own, "gguf", precision, tmp_path)
    found = weights(tmp_path)
    assert {kind for kind, _ in found.values()} == kinds
    layer = own.decoder.layers[1]
    for name, module in {
        "self_attn.q": layer.self_attn.q_proj,
        "cross_attn.v": layer.encoder_attn.v_proj,
        "ffn.fc2": layer.mlp.fc2,
    }.items():
        kind, values = found[f"dec.blocks.1.{name}.weight"]
        error = {"F32": 0, "F16": 2e-3, "Q8_0": 1e-2}[kind] * module.weight.abs().max().item()
        assert np.abs(values - module.weight.detach().numpy()).max() <= error
        assert np.abs(values - module.weight.detach().numpy()).max() > 0 or kind == "F32"
    norm = own.encoder.layers[0].input_layernorm
    gain = norm.gamma + 1 if own.streaming else norm.weight
    assert np.array_equal(found["enc.blocks.0.norm_attn.weight"][1], gain.detach().numpy())
    tied = {"proj_out.weight"} if own.model.config.tie_word_embeddings else set()
    assert len(found) == len(own.model.state_dict().keys() - tied)


@pytest.mark.parametrize("precision", ["u8", "fp32"])
def test_the_same_model_gives_the_same_file(random_v1: LoadedModel, precision: ExportPrecision, tmp_path: Path) -> None:
    hashes = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (file,) = write_target(fresh(random_v1), "gguf", precision, tmp_path / name)
        hashes.add(sha256_file(file))
    assert len(hashes) == 1


def test_a_token_that_was_added_is_spelled(random_v1: LoadedModel, tmp_path: Path) -> None:
    speech = fresh(random_v1)
    speech.processor.tokenizer.add_tokens(["Ærøskøbing"])
    with pytest.raises(ExportError, match="has 32769 tokens with ids up to 32768, the model 32768"):
        write_target(speech, "gguf", "u8", tmp_path)
    assert not list(tmp_path.iterdir())
    speech.model.resize_token_embeddings(32_769)
    write_target(speech, "gguf", "u8", tmp_path)
    found = header(tmp_path)
    assert (found["tokenizer.ggml.tokens"][-1].strip("▁"), found["tokenizer.ggml.token_type"][-1]) == ("Ærøskøbing", 1)


# --- in the runtime ----------------------------------------------------------------------------------------------------------------------


def test_nothing_of_the_runtime_stays(
    random_v1: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It copies the file, and its process is killed."""
    write_target(random_v1, "gguf", "u8", tmp_path)
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    heard(tmp_path, waveforms[:1])
    assert not list(temporary.iterdir())


def test_16_bits_say_what_pytorch_says(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    write_target(tiny, "gguf", "fp16", tmp_path)
    assert heard(tmp_path, waveforms[:4]) == said(tiny, waveforms[:4])


def test_8_bits_are_a_third_of_float32_and_stay_close(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    sizes = {}
    for precision in ("u8", "fp32"):
        (tmp_path / precision).mkdir()
        (file,) = write_target(tiny, "gguf", precision, tmp_path / precision)  # type: ignore[arg-type]  # it is one of the two
        sizes[precision] = file.stat().st_size
    assert sizes["u8"] < sizes["fp32"] / 3
    same = sum(a == b for a, b in zip(heard(tmp_path / "u8", waveforms[:4]), said(tiny, waveforms[:4]), strict=True))
    assert same >= 3


def test_a_streaming_model_says_what_it_says_in_pytorch(random_v2: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    """Some tokens of random weights. transcribe.cpp writes tokens that PyTorch leaves out, and takes samples in frames of 80."""
    write_target(random_v2, "gguf", "fp32", tmp_path)
    clip = waveforms[2][: len(waveforms[2]) // 80 * 80]
    (found,) = on_device("gguf", tmp_path, "streaming", [Clip("clip", clip, 10)]).heard
    assert found.capped
    few = DecodeSettings(tokens_per_second=2.1 / duration(clip))
    assert few.cap(duration(clip)) == 10
    assert re.sub(r"<<ST_\d+>>", "", found.text) == said(random_v2, [clip], few)[0] != ""


# --- the wrong file ----------------------------------------------------------------------------------------------------------------------


def scored(texts: Sequence[str], references: Sequence[str]) -> Score:
    rows = enumerate(zip(texts, references, strict=True))
    return total(
        [
            score_utterance(id=str(number), speaker_id=None, seconds=2.0, reference=reference, hypothesis=text)  # type: ignore[arg-type]
            for number, (text, reference) in rows
        ]
    )


def test_a_wrong_rotary_factor_is_caught(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    """The file loads and transcribes without a complaint; only its texts are wrong."""
    (file,) = write_target(tiny, "gguf", "fp32", tmp_path)
    content = bytearray(file.read_bytes())
    place = content.index(b"stt.moonshine.partial_rotary_factor") + len("stt.moonshine.partial_rotary_factor") + 4
    assert struct.unpack_from("<f", content, place)[0] == pytest.approx(0.9)
    struct.pack_into("<f", content, place, 0.62)  # that of base
    file.write_bytes(content)
    clips = waveforms[:4]
    right = said(tiny, clips)
    scores = ThreeScores(scored(right, right), scored(right, right), scored(heard(tmp_path, clips), right))
    for bound in (0, 0.5):
        failures = compare_export({"domain": scores}, adapted=False, max_drift_points=bound).failures
        assert "in the runtime and 0.00 % in PyTorch" in failures[0]


@pytest.mark.slow
def test_weights_of_the_base_model_are_caught(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    """A tuned model that spells a little otherwise, and the base model's file in place of its own."""
    own = fresh(tiny)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in own.decoder.layers:
            weight = layer.self_attn.v_proj.weight
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    clips = waveforms[:5]
    base, tuned_says = said(tiny, clips), said(own, clips)
    assert base != tuned_says
    found = {}
    for name, speech in (("base", tiny), ("tuned", own)):
        (tmp_path / name).mkdir()
        write_target(speech, "gguf", "fp32", tmp_path / name)
        scores = ThreeScores(*(scored(texts, tuned_says) for texts in (base, tuned_says, heard(tmp_path / name, clips))))
        found[name] = compare_export({"domain": scores}, adapted=True, max_drift_points=1000).failures
    assert found["tuned"] == ()
    assert "it takes the base model's side" in found["base"][0]


# --- refusals ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("attention_bias", True, "its attention has biases"),
        ("tie_word_embeddings", False, "ties output and embedding in v1 and not in streaming models"),
        ("decoder_hidden_act", "gelu", "runs only silu in the decoder"),
        ("encoder_num_key_value_heads", 1, "the encoder's heads share keys"),
    ],
)
def test_what_transcribe_cpp_does_not_know_is_refused(
    random_v1: LoadedModel, setting: str, value: object, message: str, tmp_path: Path
) -> None:
    speech = fresh(random_v1)
    setattr(speech.model.config, setting, value)
    with pytest.raises(ExportError, match=rf"{message}.*export it to `merged`$"):
        write_target(speech, "gguf", "u8", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_has_no_place_is_named(random_v1: LoadedModel, tmp_path: Path) -> None:
    speech = fresh(random_v1)
    speech.encoder.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(
        ExportError, match=r"no place for the weight model\.encoder\.layers\.0\.extra\.weight; export the model to `merged`"
    ):
        write_target(speech, "gguf", "u8", tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_gguf_files_have_16_bits() -> None:
    require_export(["merged", "gguf"], "fp16")
    with pytest.raises(ConfigError, match="--precision fp16: only gguf files have it; choose u8 or fp32 for onnx"):
        require_export(["gguf", "onnx"], "fp16")


def test_kinds_are_those_of_the_format() -> None:
    assert {"F32", "F16", "Q8_0"} <= set(GGMLQuantizationType.__members__)
