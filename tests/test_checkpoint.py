"""The real packaged weights, real hub client against a server on this machine, and folders broken the way folders break."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from lora.checkpoints import packaged
from lora.checkpoints.checkpoint import Checkpoint, resolve
from lora.checkpoints.packaged import BASE, PACKAGED, TINY, PackagedModel
from lora.checkpoints.wheels import fetch, read_member
from lora.errors import CheckpointError
from lora.system.documents import read_json
from lora.system.files import cache_dir, sha256_bytes, sha256_file


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that holds the wheels of tiny, so that nothing is downloaded."""
    found = [fetch(packaged.USEFUL_MOONSHINE_ONNX), fetch(TINY.wheel)]
    folder = tmp_path / "cache"
    (folder / "wheels").mkdir(parents=True)
    for wheel in found:
        shutil.copy(wheel, folder / "wheels")
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(folder))
    return folder


@pytest.fixture
def own_conversion(tiny_checkpoint: Checkpoint, own_cache: Path) -> Path:
    """A converted tiny checkpoint in the test's own cache."""
    return Path(shutil.copytree(tiny_checkpoint.folder, own_cache / "checkpoints" / TINY.name))


def transcribe(model: PackagedModel, folder: Path) -> str:
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(packaged._speech(model), sampling_rate=16_000, return_tensors="pt")
    tokens = AutoModelForSpeechSeq2Seq.from_pretrained(folder).generate(**inputs)
    return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])


def refusal(model_id: str | Path, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        resolve(str(model_id), revision)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- packaged --------------------------------------------------------------------------------------------------------------------------


def test_packaged_checkpoint_describes_itself(tiny_checkpoint: Checkpoint) -> None:
    assert tiny_checkpoint.kind == "packaged"
    assert tiny_checkpoint.model_id == "packaged:moonshine-tiny"
    assert tiny_checkpoint.revision is None
    assert tiny_checkpoint.folder == cache_dir() / "checkpoints" / "moonshine-tiny"
    assert tiny_checkpoint.sha256 == sha256_file(tiny_checkpoint.folder / "model.safetensors")


def test_every_parameter_is_set_in_float32_and_none_is_left_over(tiny_checkpoint: Checkpoint) -> None:
    import torch
    from transformers import AutoModelForSpeechSeq2Seq

    model, loading = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_checkpoint.folder, output_loading_info=True)
    assert not any(loading.values()), loading
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == 27_092_736
    with safe_open(tiny_checkpoint.folder / "model.safetensors", "np") as weights:
        assert set(weights.keys()) == {name for name, _ in model.named_parameters()}


def test_output_projection_is_tied_to_the_embedding(tiny_checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForSpeechSeq2Seq

    model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_checkpoint.folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_known_transcript(tiny_checkpoint: Checkpoint) -> None:
    assert transcribe(TINY, tiny_checkpoint.folder) == "Ever tried, ever failed, no matter, try again, fail again, fail better."


def test_tokenizer_begins_with_bos_and_has_the_published_ids(tiny_checkpoint: Checkpoint) -> None:
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(tiny_checkpoint.folder).tokenizer
    assert len(tokenizer) == 32_768
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    tokens = tokenizer("Fail better.").input_ids
    assert tokens[0] == 1
    assert 2 not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "Fail better."


def test_audio_is_neither_normalised_nor_unmasked(tiny_checkpoint: Checkpoint) -> None:
    import numpy as np
    from transformers import AutoProcessor

    audio = np.full(1600, 0.25, dtype=np.float32)
    inputs = AutoProcessor.from_pretrained(tiny_checkpoint.folder)(audio, sampling_rate=16_000, return_tensors="np")
    assert inputs["input_values"].tolist() == [audio.tolist()]
    assert inputs["attention_mask"].tolist() == [[1] * 1600]


def test_conversion_is_recorded(tiny_checkpoint: Checkpoint) -> None:
    record = read_json(tiny_checkpoint.folder / "conversion.json", packaged.Conversion)
    assert record.wheel == "moonshine-voice==0.1.0"
    assert record.wheel_sha256 == TINY.wheel.sha256
    assert record.weights_sha256 == record.files["model.safetensors"] == tiny_checkpoint.sha256
    assert record.tensors_sha256 == packaged.tensors_digest(load_file(tiny_checkpoint.folder / "model.safetensors")) == TINY.digest
    assert record.transcript == TINY.transcript
    assert record.converter == packaged.CONVERTER


def test_cached_conversion_is_reused(tiny_checkpoint: Checkpoint) -> None:
    weights = tiny_checkpoint.folder / "model.safetensors"
    before = weights.stat()
    assert resolve("packaged:moonshine-tiny") == tiny_checkpoint
    assert weights.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_changed_file_in_the_cache_is_refused(own_conversion: Path, name: str) -> None:
    path = own_conversion / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    message = refusal("packaged:moonshine-tiny")
    assert f"{path}: changed since its conversion" in message
    assert f"delete the folder {own_conversion}" in message


def test_missing_file_in_the_cache_is_refused(own_conversion: Path) -> None:
    (own_conversion / "model.safetensors").unlink()
    assert f"delete the folder {own_conversion}" in refusal("packaged:moonshine-tiny")


def test_cached_folder_without_its_record_is_refused(own_conversion: Path) -> None:
    (own_conversion / "conversion.json").unlink()
    assert f"delete the folder {own_conversion}" in refusal("packaged:moonshine-tiny")


@pytest.mark.parametrize("content", ["{", "[]", '{"converter": "one"}'])
def test_cached_folder_with_a_broken_record_is_refused(own_conversion: Path, content: str) -> None:
    (own_conversion / "conversion.json").write_text(content)
    assert f"delete the folder {own_conversion}" in refusal("packaged:moonshine-tiny")


def test_conversion_of_another_version_is_done_anew_and_gives_the_same_bytes(own_conversion: Path, tiny_checkpoint: Checkpoint) -> None:
    edit_json(own_conversion / "conversion.json", lambda record: record.update(converter=0))
    (own_conversion / "model.safetensors").write_bytes(b"of another version")
    again = resolve("packaged:moonshine-tiny")
    assert again.folder == own_conversion
    assert again.sha256 == tiny_checkpoint.sha256
    for name in ("config.json", "tokenizer.json", "conversion.json"):
        assert (own_conversion / name).read_bytes() == (tiny_checkpoint.folder / name).read_bytes()
    assert [path.name for path in own_conversion.parent.iterdir() if path.is_dir()] == ["moonshine-tiny"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "0" * 64}, "have SHA-256"),
        pytest.param({"transcript": "Hello."}, "expected 'Hello.'", marks=pytest.mark.slow),
    ],
)
def test_conversion_that_does_not_check_out_leaves_nothing(own_cache: Path, change: dict[str, str], reason: str) -> None:
    folder = own_cache / "checkpoints" / "moonshine-tiny"
    with pytest.raises(CheckpointError, match=reason):
        packaged._convert(replace(TINY, **change), folder)
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []


def test_parameters_that_stay_unset_are_named(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = load_file(tiny_checkpoint.folder / "model.safetensors")
    del tensors["model.decoder.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing: model\.decoder\.norm\.weight$"):
        packaged._save_config(TINY, tmp_path, tensors)


def test_parameters_the_model_has_no_place_for_are_named(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = load_file(tiny_checkpoint.folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"left over: .*model\.encoder\.layers\.5\.self_attn\.q_proj\.weight"):
        packaged._save_config(replace(TINY, layers=5), tmp_path, tensors)


def test_parameters_of_another_shape_are_named(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = load_file(tiny_checkpoint.folder / "model.safetensors")
    tensors["model.encoder.conv2.bias"] = tensors["model.encoder.conv2.bias"][:-1]
    with pytest.raises(CheckpointError, match=r"of another shape: model\.encoder\.conv2\.bias$"):
        packaged._save_config(TINY, tmp_path, tensors)


def test_runtime_weight_that_no_module_explains_is_named() -> None:
    content = read_member(TINY.wheel, f"{TINY.folder}/encoder_model.ort").replace(b"layers.0.mlp.fc1.bias", b"layers.0.mlp.fc1.blob")
    with pytest.raises(CheckpointError, match=r"encoder_model\.ort: weights left over, used by no module: layers\.0\.mlp\.fc1\.blob$"):
        list(packaged._read_ort("encoder_model.ort", content))


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_two_processes_may_convert_at_once() -> None:
    program = "from lora.checkpoints.checkpoint import resolve; print(resolve('packaged:moonshine-tiny').sha256)"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0].split()[-1] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1]


@pytest.mark.slow
def test_base_converts_and_transcribes() -> None:
    checkpoint = resolve("packaged:moonshine-base")
    config = json.loads((checkpoint.folder / "config.json").read_text())
    assert config["rope_parameters"]["partial_rotary_factor"] == 0.62
    assert packaged.tensors_digest(load_file(checkpoint.folder / "model.safetensors")) == BASE.digest
    assert transcribe(BASE, checkpoint.folder) == "Ever tried ever failed, no matter try again fail again fail better."


# --- forms of a model id ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", ["", "moonshine", "a/b/c", "owner/", "own er/name", "C:tiny"])
def test_what_is_no_model_id_lists_the_three_forms(model_id: str) -> None:
    message = refusal(model_id)
    assert repr(model_id) in message
    assert "owner/name" in message
    assert "local folder" in message
    assert all(f"packaged:{name}" in message for name in PACKAGED)


@pytest.mark.parametrize(
    ("model_id", "meant"),
    [
        ("moonshine-tiny", "moonshine-tiny"),
        ("packaged:tiny", "moonshine-tiny"),
        ("packaged:moonshine_base", "moonshine-base"),
        ("packged:moonshine-base", "moonshine-base"),
        ("moonshin-tny", "moonshine-tiny"),
    ],
)
def test_near_misses_of_packaged_names_are_suggested(model_id: str, meant: str) -> None:
    assert f"did you mean `packaged:{meant}`?" in refusal(model_id)


def test_far_misses_are_not_suggested() -> None:
    assert "did you mean" not in refusal("packaged:whisper")


@pytest.mark.parametrize("model_id", ["packaged:moonshine-tiny", "./checkpoint"])
def test_revision_is_refused_away_from_the_hub(model_id: str) -> None:
    assert "only checkpoints on the model hub have revisions" in refusal(model_id, "main")


# --- local folders ---------------------------------------------------------------------------------------------------------------------


def test_local_checkpoint_resolves(local: Path) -> None:
    checkpoint = resolve(str(local))
    assert checkpoint == Checkpoint(str(local), "local", local, None, sha256_file(local / "model.safetensors"))


def test_existing_folder_wins_over_the_hub(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(local.parent.parent)
    model_id = f"{local.parent.name}/{local.name}"
    checkpoint = resolve(model_id)
    assert (checkpoint.kind, checkpoint.folder, checkpoint.model_id) == ("local", local, model_id)


def test_home_is_expanded(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(local.parent))
    assert resolve("~/checkpoint").folder == local


def test_sharded_checkpoint_resolves_and_hashes_all_shards(local: Path) -> None:
    from transformers import AutoModelForSpeechSeq2Seq

    model = AutoModelForSpeechSeq2Seq.from_pretrained(local)
    (local / "model.safetensors").unlink()
    model.save_pretrained(local, max_shard_size="40KB")
    shards = sorted(local.glob("model-*.safetensors"))
    assert len(shards) > 1
    lines = "".join(f"{sha256_file(path)}  {path.name}\n" for path in shards)
    assert resolve(str(local)).sha256 == sha256_bytes(lines.encode())
    shards[0].unlink()
    assert f"are missing: {shards[0].name};" in refusal(local)


def test_broken_shard_index_is_refused(local: Path) -> None:
    (local / "model.safetensors").unlink()
    index = local / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"model.decoder.norm.weight": 1}}')
    assert f"{index}: no weight_map" in refusal(local)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nothing'}: no such folder" in refusal(tmp_path / "nothing")


def test_file_in_place_of_a_folder_is_refused(local: Path) -> None:
    assert "is a file, not a folder" in refusal(local / "config.json")


def test_missing_configuration_is_refused(local: Path) -> None:
    (local / "config.json").unlink()
    assert f"{local / 'config.json'}: missing" in refusal(local)


def test_adapter_in_place_of_a_checkpoint_is_named_as_such(local: Path) -> None:
    (local / "config.json").rename(local / "adapter_config.json")
    assert "LoRA adapter" in refusal(local)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_invalid_configuration_is_refused(local: Path, content: str) -> None:
    (local / "config.json").write_text(content)
    assert refusal(local).startswith(f"{local / 'config.json'}: ")


@pytest.mark.parametrize("model_type", ["whisper", None])
def test_other_models_are_refused(local: Path, model_type: str | None) -> None:
    edit_json(local / "config.json", lambda config: config.update(model_type=model_type))
    assert f"model_type is {model_type!r}" in refusal(local)


def test_streaming_checkpoints_are_accepted(local: Path) -> None:
    edit_json(local / "config.json", lambda config: config.update(model_type="moonshine_streaming"))
    assert resolve(str(local)).kind == "local"


def test_quantised_checkpoint_is_refused(local: Path) -> None:
    edit_json(local / "config.json", lambda config: config.update(quantization_config={"quant_method": "bitsandbytes"}))
    assert "quantised weights cannot be trained" in refusal(local)


def test_missing_weights_are_refused(local: Path) -> None:
    (local / "model.safetensors").unlink()
    assert "no weights" in refusal(local)


def test_weights_of_another_format_are_named(local: Path) -> None:
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    assert "pytorch_model.bin: is a pickle, which can run code when it is read, and is never opened" in refusal(local)


def test_copy_that_broke_off_is_refused(local: Path) -> None:
    weights = local / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights}: not a whole safetensors file" in refusal(local)


def test_git_lfs_pointer_is_recognised(local: Path) -> None:
    (local / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "git lfs pull" in refusal(local)


def test_missing_tokenizer_is_refused(local: Path) -> None:
    (local / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal(local)


def test_missing_processor_is_refused(local: Path) -> None:
    (local / "processor_config.json").unlink()
    assert "processor_config.json or preprocessor_config.json is missing" in refusal(local)


def test_importing_needs_neither_torch_nor_the_hub_library() -> None:
    program = (
        "import sys, lora.checkpoints.checkpoint\n"
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'safetensors', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
