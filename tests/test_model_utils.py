"""Labels, batches and loading, on the real tiny model and on random ones of both generations."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.checkpoints.checkpoint import resolve
from lora.dataset.manifest import Utterance
from lora.errors import CheckpointError, ConfigError
from lora.model.loading import LoadedModel, choose_device, join, load_model, pad_labels
from lora.system.device import Precision
from lora.system.documents import read_json
from lora.system.files import write_json


@pytest.fixture
def copy(random_v1: LoadedModel, tmp_path: Path) -> Path:
    """A checkpoint folder that a test may break."""
    return Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "checkpoint"))


# --- labels and batches -------------------------------------------------------------------------------------------------------------------


def test_labels_end_in_eos_and_hold_no_bos(tiny: LoadedModel, clips: Sequence[Utterance]) -> None:
    for clip in clips:
        labels = tiny.labels(clip.text or "")
        assert labels[-1] == tiny.end_id
        assert labels.count(tiny.end_id) == 1
        assert tiny.start_id not in labels
        assert tiny.text(labels) == clip.text


def test_padding_labels_marks_positions_and_not_ids() -> None:
    padded = pad_labels([[5, 2], [2], [7, 8, 2]], torch.device("cpu"))
    assert padded.tolist() == [[5, 2, -100], [2, -100, -100], [7, 8, 2]]


def test_joining_pads_at_the_very_end_and_marks_what_is_sound() -> None:
    joined = join([torch.ones(2, 3), torch.ones(4, 3)])
    assert joined.mask is not None
    assert joined.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(joined.hidden, joined.mask[:, :, None].expand(2, 4, 3).float())


def test_clips_of_one_length_are_joined_without_a_mask() -> None:
    assert join([torch.ones(2, 3), torch.ones(2, 3)]).mask is None


# --- loading ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_are_float32_in_either_precision(random_speech: LoadedModel, precision: Precision) -> None:
    speech = load_model(random_speech.checkpoint, random_speech.device, precision)
    assert {parameter.dtype for parameter in speech.model.parameters()} == {torch.float32}


def test_nothing_trains_in_a_loaded_model(random_speech: LoadedModel) -> None:
    assert not any(parameter.requires_grad for parameter in random_speech.model.parameters())
    assert not random_speech.model.training


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent_is_refused_and_the_others_are_named(device: str) -> None:
    if torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available():
        assert choose_device(device).type == device  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError, match=rf"--device {device}: .* available: .*cpu"):
        choose_device(device)  # type: ignore[arg-type]


def test_auto_takes_a_device_that_can_compute() -> None:
    assert torch.ones(2, device=choose_device("auto")).sum().item() == 2


def test_missing_weights_are_refused_by_name(copy: Path) -> None:
    file = copy / "model.safetensors"
    weights = load_file(file)
    del weights["model.decoder.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing or of another shape, among them model\.decoder\.norm\.weight"):
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")


def test_weights_of_another_shape_are_refused_by_name(copy: Path) -> None:
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", config | {"intermediate_size": config["hidden_size"]})
    with pytest.raises(CheckpointError, match=r"of another shape, among them model\.\S+\.mlp\.fc"):
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")


def test_a_checkpoint_without_start_token_is_refused(random_v2: LoadedModel, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(random_v2.checkpoint.folder, tmp_path / "checkpoint"))
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", config | {"decoder_start_token_id": None})
    with pytest.raises(CheckpointError, match="decoder_start_token_id"):
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")


def test_a_processor_of_another_rate_is_refused(copy: Path) -> None:
    file = next(file for file in (copy / "processor_config.json", copy / "preprocessor_config.json") if file.is_file())
    file.write_text(file.read_text().replace("16000", "8000"))
    with pytest.raises(CheckpointError, match="wants 8000 Hz; Moonshine takes 16000 Hz"):
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json", "config.json", "generation_config.json"]
)
@pytest.mark.parametrize(
    "content",
    [b'{"a', b"[]", b'{"a": "caf\xe9"}', b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", b""],
    ids=["cut", "list", "latin", "deep", "empty"],
)
def test_a_file_that_is_no_json_is_named(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(copy / name))):
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}'),
        ("tokenizer.json", "{}"),
        ("processor_config.json", '{"feature_extractor": {"sampling_rate": 16000, "feature_extractor_type": 7}}'),
        ("config.json", '{"model_type": "moonshine", "hidden_size": "wide"}'),
        ("config.json", '{"model_type": "moonshine", "hidden_size": -8}'),
    ],
)
def test_json_of_another_kind_is_one_line_with_the_folder(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(str(copy))) as refused:
        load_model(resolve(str(copy)), torch.device("cpu"), "float32")
    assert len(str(refused.value)) < 700
