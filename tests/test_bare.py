"""What is read without transformers is what transformers reads: weights, tokens, texts, transcripts, adapters; the rest is left to it."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from test_adapter import VARIANTS, fresh, provenance, trained, variant_name

from lora.audio.loading import Waveform
from lora.checkpoints.checkpoint import Checkpoint, resolve
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.errors import CheckpointError
from lora.evaluation.evaluate import Evaluator, Example
from lora.model import bare
from lora.model import processor as processors
from lora.model.encoder import Encoder
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel, load_for_use, load_model
from lora.model.transcript import DecodeSettings
from lora.system.documents import read_json
from lora.system.files import write_json
from lora.training.adapter import fold_in, fold_plain, is_plain, load, read_provenance, save

CPU = torch.device("cpu")


def for_use(checkpoint: Checkpoint) -> LoadedModel:
    speech = load_for_use(checkpoint, CPU, "float32")
    assert isinstance(speech.model, bare.Moonshine)
    return speech


def by_transformers(speech: LoadedModel) -> bool:
    return type(speech.model).__module__.startswith("transformers.")


@pytest.fixture
def copy(random_v1: LoadedModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "checkpoint"))


def change(file: Path, **values: Any) -> None:
    """Sets values of a JSON file, which may be new; None takes one out."""
    said = read_json(file) if file.exists() else {}
    write_json(file, {key: value for key, value in (said | values).items() if value is not None})


# --- the same as transformers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "random_v1"])
def test_weights_and_encoder_outputs_are_those_of_transformers_to_the_bit(
    request: pytest.FixtureRequest, waveforms: Sequence[Waveform], name: str
) -> None:
    speech: LoadedModel = request.getfixturevalue(name)
    own = for_use(speech.checkpoint)
    expected = dict(speech.model.named_parameters())
    found = dict(own.model.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not any(parameter.requires_grad for parameter in found.values())
    assert (own.start_id, own.end_id, own.streaming) == (speech.start_id, speech.end_id, False)
    with torch.inference_mode():
        assert torch.equal(Encoder(own)(waveforms[:3]).hidden, Encoder(speech)(waveforms[:3]).hidden)


def test_transcripts_are_those_of_transformers_model(tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    examples = [Example(clip, len(sound) / 16000, ()) for clip, sound in zip(clips[:6], waveforms, strict=False)]

    def heard(speech: LoadedModel) -> list[str]:
        evaluator = Evaluator(speech, LiveFeatures(speech, provenance(speech).audio), DecodeSettings(tokens_per_second=6.5), 4)
        return [found.text for found in evaluator.transcribe(examples)]

    assert heard(for_use(tiny.checkpoint)) == heard(tiny)


def test_tokens_and_texts_are_those_of_transformers_tokenizer(tiny: LoadedModel, clips: Sequence[Utterance]) -> None:
    own = for_use(tiny.checkpoint)
    assert len(own.processor.tokenizer) == len(tiny.processor.tokenizer)
    for text in [*(clip.text or "" for clip in clips), "", " two  spaces ", "Ærøskøbing が <s>", "<<ST_3>> 1,5 µm"]:
        assert own.labels(text) == tiny.labels(text)
        assert own.spans(text) == tiny.spans(text)
    draw = random.Random(1)
    for _ in range(200):
        tokens = [draw.randrange(32768) if draw.random() < 0.7 else draw.randrange(3, 259) for _ in range(draw.randrange(1, 20))]
        assert own.text(tokens) == tiny.text(tokens)


@pytest.mark.parametrize("normalize", [False, True])
def test_input_values_are_those_of_transformers_extractor(copy: Path, waveforms: Sequence[Waveform], normalize: bool) -> None:
    file = copy / "processor_config.json"
    said = read_json(file)
    change(file, feature_extractor=said["feature_extractor"] | {"do_normalize": normalize})
    for speech in (for_use(resolve(str(copy))), load_model(resolve(str(copy)), CPU, "float32")):
        extract = speech.processor.feature_extractor
        values = extract(waveforms[0], sampling_rate=16000, return_tensors="pt").input_values[0]
        expected = waveforms[0] if not normalize else (waveforms[0] - waveforms[0].mean()) / np.sqrt(waveforms[0].var() + 1e-7)
        assert values.dtype == torch.float32
        assert torch.equal(values, torch.from_numpy(expected))


def test_rotary_positions_where_transformers_4_wrote_them_are_read_too(copy: Path, waveforms: Sequence[Waveform]) -> None:
    change(copy / "config.json", rope_parameters=None, rope_theta=5000.0, partial_rotary_factor=0.5)
    checkpoint = resolve(str(copy))
    with torch.inference_mode():
        expected = Encoder(load_model(checkpoint, CPU, "float32"))(waveforms[:1]).hidden
        assert torch.equal(Encoder(for_use(checkpoint))(waveforms[:1]).hidden, expected)


# --- what is left to transformers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"tie_word_embeddings": False},
        {"head_dim": 8},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.9}},
        {"rope_parameters": {"rope_theta": 10000.0}},
        {"encoder_hidden_act": "relu"},
        {"attention_bias": "yes"},
        {"vocab_size": None},
        {"decoder_num_hidden_layers": 1},
    ],
    ids=lambda values: ",".join(values),
)
def test_a_model_that_is_not_of_the_usual_form_is_not_read_here(copy: Path, values: dict[str, Any]) -> None:
    assert bare.read(copy) is not None
    change(copy / "config.json", **values)
    assert bare.read(copy) is None


def test_other_rotary_positions_and_streaming_models_are_loaded_by_transformers(copy: Path, random_v2: LoadedModel) -> None:
    change(copy / "config.json", encoder_hidden_act="relu")
    assert by_transformers(load_for_use(resolve(str(copy)), CPU, "float32"))
    assert by_transformers(load_for_use(random_v2.checkpoint, CPU, "float32"))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"}),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}),
        ("tokenizer_config.json", {"eos_token": "</end>"}),
        ("tokenizer_config.json", {"extra_special_tokens": ["<new>"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "<seven>", "special": True}}}),
        ("special_tokens_map.json", {"mask_token": "<mask>"}),
        ("added_tokens.json", {"<new>": 32768}),
        ("preprocessor_config.json", {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}),
        ("processor_config.json", {"feature_extractor": {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}}),
    ],
)
def test_a_processor_that_is_not_of_the_usual_form_is_not_read_here(copy: Path, file: str, values: dict[str, Any]) -> None:
    assert processors.read(copy) is not None
    change(copy / file, **values)
    assert processors.read(copy) is None


def test_tokens_that_the_settings_repeat_change_nothing(copy: Path) -> None:
    known = json.loads((copy / "tokenizer.json").read_text())["added_tokens"]
    again = {str(token.pop("id")): token for token in known}
    change(copy / "tokenizer_config.json", added_tokens_decoder=again, eos_token={"content": "</s>", "special": True})
    assert processors.read(copy) is not None


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


def test_damaged_files_are_refused_in_one_line(copy: Path) -> None:
    checkpoint = resolve(str(copy))
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(.*\); a file there is damaged"):
        load_for_use(checkpoint, CPU, "float32")


def test_weights_that_are_not_finite_and_other_rates_are_refused_as_when_a_model_is_trained(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    file, checkpoint = copy / "model.safetensors", resolve(str(copy))
    weights = load_file(file)
    weights["model.decoder.norm.weight"][3] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights hold NaN or infinity, among them model\.decoder\.norm\.weight"):
        load_for_use(checkpoint, CPU, "float32")
    settings = copy / "processor_config.json"
    settings.write_text(settings.read_text().replace("16000", "8000"))
    with pytest.raises(CheckpointError, match="wants 8000 Hz; Moonshine takes 16000 Hz"):
        load_for_use(checkpoint, CPU, "float32")


# --- adapters ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_an_adapter_is_folded_in_to_the_bit_as_peft_does_it(
    random_v1: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path, config: AdapterConfig
) -> None:
    save(trained(random_v1, config, waveforms[0]), tmp_path, provenance(random_v1))
    assert is_plain(tmp_path, read_provenance(tmp_path)) is not config.use_dora
    if config.use_dora:
        return
    expected = load(fresh(random_v1), tmp_path)
    fold_in(expected)
    own = for_use(random_v1.checkpoint)
    fold_plain(own, tmp_path)
    found = dict(own.model.named_parameters())
    assert all(torch.equal(found[name], weight) for name, weight in expected.speech.model.named_parameters())
    assert any(not torch.equal(found[name], weight) for name, weight in random_v1.model.named_parameters())


def test_an_adapter_without_a_seal_is_left_to_peft(random_v1: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    save(trained(random_v1, AdapterConfig(), waveforms[0]), tmp_path, provenance(random_v1))
    assert not is_plain(tmp_path, msgspec.structs.replace(read_provenance(tmp_path), sealed=None))


def test_an_adapter_of_another_model_is_refused(
    random_v1: LoadedModel, tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path
) -> None:
    save(trained(random_v1, AdapterConfig(), waveforms[0]), tmp_path, provenance(random_v1))
    with pytest.raises(CheckpointError, match="was trained on"):
        fold_plain(for_use(tiny.checkpoint), tmp_path)
