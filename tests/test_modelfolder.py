"""Folders of models and processors: no code of theirs is run, no pickle is opened, and what is damaged is refused in one line."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import refusal
from safetensors.torch import load_file, save_file

from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.provenance import read
from lora.errors import CheckpointError
from lora.export.official import load_official
from lora.model.loading import LoadedModel, load_model, load_processor

WEIGHTS = "model.safetensors"
PICKLED = ("pytorch_model.bin", "model.pt", "model.PTH", "last.ckpt", "weights.pkl")


class Spy:
    """Something whose pickle makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.fixture
def folder(random_v1: LoadedModel, tmp_path: Path) -> Path:
    """A model's folder that a test may damage."""
    return Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "model"))


def loaded(folder: Path) -> LoadedModel:
    return load_model(resolve(str(folder)), torch.device("cpu"), "float32")


def change(file: Path, path: str, value: object) -> None:
    """Puts a value into a JSON file, at a path such as `feature_extractor.auto_map`."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    place[last] = value
    file.write_text(json.dumps(content))


CODE = [
    ("config.json", "auto_map", {"AutoConfig": "spy.Config"}),
    ("config.json", "auto_map", {"AutoModelForSpeechSeq2Seq": "owner/name--spy.Model"}),
    ("generation_config.json", "custom_generate", "owner/name"),
    ("processor_config.json", "auto_map", {"AutoProcessor": "spy.Processor"}),
    ("processor_config.json", "feature_extractor.auto_map", {"AutoFeatureExtractor": "spy.Extractor"}),
    ("preprocessor_config.json", "auto_map", {"AutoFeatureExtractor": "spy.Extractor"}),
    ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["spy.Tokenizer", None]}),
    ("config.json", "encoder_config", {"auto_map": {"AutoConfig": "spy.Config"}}),
    ("video_preprocessor_config.json", "custom_pipelines", {"x": {"impl": "spy.Pipe"}}),
]


@pytest.mark.parametrize(("file", "key", "value"), CODE)
def test_a_model_that_asks_for_code_is_refused_and_the_code_is_not_run(folder: Path, file: str, key: str, value: object) -> None:
    ran = folder.parent / "ran"
    (folder / "spy.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()")
    change(folder / file, key, value)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(folder / file))}: asks for code of its own .*, which is never run"):
        loaded(folder)
    assert not ran.exists()


def test_a_processor_that_asks_for_code_is_refused_without_a_question(random_v1: LoadedModel, folder: Path, tmp_path: Path) -> None:
    change(folder / "tokenizer_config.json", "auto_map", {"AutoTokenizer": ["spy.Tokenizer", None]})
    message = refusal(
        *("transcribe", "--model-id", random_v1.checkpoint.folder, "--processor-dir", folder, "--audio", tmp_path / "none.wav"),
        *("--output", tmp_path / "out.json"),
    )
    assert f"{folder}/tokenizer_config.json: asks for code of its own" in message


@pytest.mark.parametrize("name", PICKLED)
def test_pickled_weights_are_named_and_not_opened(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Spy(folder.parent / "ran")))
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: is a pickle, which can run code .* save the weights as \.safetensors"):
        loaded(folder)
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_beside_the_weights_is_not_opened(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Spy(folder.parent / "ran")))
    loaded(folder)
    assert not (folder.parent / "ran").exists()


def test_pickled_adapters_are_not_opened(random_v1: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "adapter_model.bin"
    file.write_bytes(pickle.dumps(Spy(tmp_path / "ran")))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "moonshine_lora.json").write_text('{"base_model_id": "x", "base_revision": null, "base_sha256": "0"}')
    from lora.checkpoints.provenance import Origin

    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: is a pickle"):
        read(tmp_path, Origin)
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: is a pickle"):
        load_official(random_v1, file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 100_000),
        ("hidden_size", -1),
        ("intermediate_size", 10**9),
        ("vocab_size", 10**7),
        ("encoder_num_hidden_layers", 10**9),
        ("decoder_num_hidden_layers", "2"),
        ("decoder_num_hidden_layers", None),
        ("decoder_num_attention_heads", 0),
        ("decoder_num_attention_heads", 10**6),
        ("encoder_hidden_act", "none"),
        ("rope_parameters", {"rope_type": "none"}),
        ("rope_parameters", []),
        ("decoder_start_token_id", None),
        ("decoder_start_token_id", "one"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(folder: Path, key: str, value: object) -> None:
    change(folder / "config.json", key, value)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        loaded(folder)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def nothing(_content: bytes) -> bytes:
    return b""


def a_list(_content: bytes) -> bytes:
    return b"[1, 2]"


def empty(_content: bytes) -> bytes:
    return b"{}"


def latin(content: bytes) -> bytes:
    return content.replace(b"{", b'{"\xe9": 1,', 1)


@pytest.mark.parametrize("damage", [cut, nothing, a_list, empty, latin], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", WEIGHTS])
def test_damaged_files_are_refused_in_one_line(folder: Path, file: str, damage: Callable[[bytes], bytes]) -> None:
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    if (file, damage) == ("tokenizer_config.json", empty):
        loaded(folder)  # the tokenizer's class follows from its file
        return
    with pytest.raises(CheckpointError, match=re.escape(str(folder))) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_weights_that_no_training_gives_are_refused(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    name = "model.decoder.layers.1.mlp.fc1.weight"
    weights[name][3, 4] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.*; get the checkpoint again"):
        loaded(folder)


def test_a_tokenizer_of_a_larger_model_is_refused(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 40_000, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="its tokenizer has 32769 tokens, the model 32768; give the processor that"):
        loaded(folder)


@pytest.mark.parametrize("rate", [8000, None, "16000", -1])
def test_a_processor_of_another_rate_is_refused(folder: Path, rate: object) -> None:
    change(folder / "processor_config.json", "feature_extractor.sampling_rate", rate)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        load_processor(folder)
