"""Each target's folder holds what its runtime loads, made from the tuned weights; what cannot run is refused before."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from lora.audio.loading import Waveform, duration
from lora.checkpoints.checkpoint import resolve
from lora.config import AdapterConfig
from lora.errors import ExportError, RunFolderError
from lora.export.targets import TARGETS, Target, architecture, require_export, write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings
from lora.system.files import sha256_file
from lora.training.adapter import attach, fold_in

FILES: dict[Target, list[str]] = {
    "moonshine-voice": ["decoder_model_merged.ort", "decoder_with_attention.ort", "encoder_model.ort", "tokenizer.bin"],
    "onnx": ["decoder_model_merged.onnx", "encoder_model.onnx", "tokenizer.json"],
    "sherpa-onnx": ["decoder_model_merged.onnx", "encoder_model.onnx", "tokens.txt"],
    "gguf": ["model.gguf"],
}


def fresh(speech: LoadedModel) -> LoadedModel:
    return load_model(speech.checkpoint, torch.device("cpu"), "float32")


def tuned(speech: LoadedModel) -> LoadedModel:
    """The model with an adapter of random weights folded in."""
    own = fresh(speech)
    adapted = attach(own, AdapterConfig(lora_targets="all"))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    fold_in(adapted)
    return own


def said(speech: LoadedModel, samples: Waveform) -> str:
    with torch.inference_mode():
        encoded = Encoder(speech)([samples])
        return transcribe(Decoder(speech), encoded, [duration(samples)], DecodeSettings(tokens_per_second=6.5))[0].text


def test_merged_is_a_checkpoint_that_transformers_loads_without_peft(
    tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path
) -> None:
    """In a process of its own, where neither peft nor this project is loaded."""
    write_target(tiny, "merged", "fp32", tmp_path)
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, waveforms[0], 16_000)
    program = (
        "import json, sys, soundfile; from transformers import pipeline\n"
        "samples, rate = soundfile.read(sys.argv[2], dtype='float32')\n"
        "heard = pipeline('automatic-speech-recognition', sys.argv[1])({'raw': samples, 'sampling_rate': rate})['text']\n"
        "print(json.dumps([heard, sorted({'peft', 'lora'} & sys.modules.keys())]))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path, clip], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [said(tiny, waveforms[0]), []]


def test_merged_holds_the_tuned_weights_and_nothing_of_the_adapter(random_speech: LoadedModel, tmp_path: Path) -> None:
    own = tuned(random_speech)
    write_target(own, "merged", "u8", tmp_path)
    saved, expected = load_file(tmp_path / "model.safetensors"), own.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in saved.items())
    assert not [name for name in saved if "lora" in name]
    again = load_model(resolve(str(tmp_path)), torch.device("cpu"), "float32")
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, expected[name])
    base = load_file(random_speech.checkpoint.folder / "model.safetensors")
    assert any(not torch.equal(saved[name], base[name]) for name in base)
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize("model_id", ["packaged:moonshine-tiny", "packaged:moonshine-base"])
def test_merged_says_what_older_readers_look_for_and_reads_the_same_without_the_new_names(model_id: str, tmp_path: Path) -> None:
    """As transformers 4 wrote it: rotary positions in the configuration itself, the processor's settings in a file of their own."""
    speech = load_model(resolve(model_id), torch.device("cpu"), "float32")
    write_target(speech, "merged", "fp32", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rotary = config.pop("rope_parameters")
    assert config["partial_rotary_factor"] == rotary["partial_rotary_factor"] == {288: 0.9, 416: 0.62}[config["hidden_size"]]
    assert config["rope_theta"] == rotary["rope_theta"] == 10_000
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "processor_config.json").unlink()
    again = load_model(resolve(str(tmp_path)), torch.device("cpu"), "float32")
    assert again.model.config.rope_parameters == rotary
    assert torch.equal(again.decoder.rotary_emb.inv_freq, speech.decoder.rotary_emb.inv_freq)
    assert again.processor.feature_extractor.to_dict() == speech.processor.feature_extractor.to_dict()


def test_a_merged_checkpoint_merges_to_itself(random_speech: LoadedModel, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    speech = fresh(random_speech)
    for folder in folders:
        folder.mkdir()
        write_target(speech, "merged", "fp32", folder)
        speech = load_model(resolve(str(folder)), torch.device("cpu"), "float32")
    first, second = ({file.name: sha256_file(file) for file in folder.iterdir()} for folder in folders)
    assert first == second


@pytest.mark.parametrize("target", ["moonshine-voice", "onnx", "sherpa-onnx", "gguf"])
def test_a_folder_holds_what_the_runtime_loads(tiny: LoadedModel, target: Target, tmp_path: Path) -> None:
    written = write_target(tiny, target, "fp32", tmp_path)
    assert [file.name for file in written] == FILES[target]
    assert sorted(tmp_path.iterdir()) == list(written)


@pytest.mark.parametrize("target", ["merged", "sherpa-onnx"])
def test_the_same_model_gives_the_same_folder(random_v1: LoadedModel, target: Target, tmp_path: Path) -> None:
    hashes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        hashes.append({file.name: sha256_file(file) for file in write_target(fresh(random_v1), target, "u8", tmp_path / name)})
    assert hashes[0] == hashes[1]


def test_weights_are_the_tuned_ones(random_v1: LoadedModel, tmp_path: Path) -> None:
    own = tuned(random_v1)
    for name, speech in (("base", random_v1), ("tuned", own)):
        (tmp_path / name).mkdir()
        write_target(speech, "sherpa-onnx", "fp32", tmp_path / name)
    heads = {}
    for name in ("base", "tuned"):
        graph = onnx.load(tmp_path / name / "decoder_model_merged.onnx").graph
        heads[name] = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    up = own.decoder.layers[0].mlp.fc1.weight.detach().T.numpy()
    assert (heads["tuned"]["layers.0.up.weight"] == up).all()
    assert (heads["base"]["layers.0.up.weight"] != up).any()
    assert (heads["base"]["head.weight"] == heads["tuned"]["head.weight"]).all()  # no adapter touches the head


def test_base_and_tiny_are_known_by_name(tiny: LoadedModel) -> None:
    assert architecture(tiny) == "tiny"
    assert architecture(load_model(resolve("packaged:moonshine-base"), torch.device("cpu"), "float32")) == "base"


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["moonshine-voice", "onnx"])
def test_sizes_that_a_runtime_does_not_know_are_refused(random_v1: LoadedModel, target: Target, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has 2 decoder layers of 2 heads 16 wide; .*export it to `sherpa-onnx` or `merged`"):
        write_target(random_v1, target, "u8", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["onnx", "sherpa-onnx", "transformers-js"])
def test_a_streaming_model_is_refused_where_it_cannot_run(random_v2: LoadedModel, target: Target, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="streaming checkpoints can only be exported to `moonshine-voice`, `gguf` and `merged`"):
        write_target(random_v2, target, "u8", tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_start_and_end_tokens_than_the_runtimes_are_refused(random_v1: LoadedModel, tmp_path: Path) -> None:
    speech = fresh(random_v1)
    speech.model.config.eos_token_id = 3
    with pytest.raises(ExportError, match="starts with token 1 and ends with 3; runtimes take 1 and 2"):
        write_target(speech, "sherpa-onnx", "u8", tmp_path)


@pytest.mark.parametrize("target", ["sherpa-onnx", "gguf", "transformers-js"])
def test_a_processor_that_normalises_is_refused(random_v1: LoadedModel, target: Target, tmp_path: Path) -> None:
    speech = fresh(random_v1)
    speech.processor.feature_extractor.do_normalize = True
    with pytest.raises(ExportError, match="normalises the loudness of each clip and runtimes do not"):
        write_target(speech, target, "u8", tmp_path)


def test_a_tokenizer_that_grew_without_the_model_is_refused_and_one_with_it_exports(random_v1: LoadedModel, tmp_path: Path) -> None:
    speech = fresh(random_v1)
    speech.processor.tokenizer.add_tokens(["Ærøskøbing"])
    with pytest.raises(ExportError, match="has 32769 tokens with ids up to 32768, the model 32768"):
        write_target(speech, "sherpa-onnx", "u8", tmp_path)
    assert not list(tmp_path.iterdir())
    speech.model.resize_token_embeddings(32769)
    write_target(speech, "sherpa-onnx", "u8", tmp_path)
    assert (tmp_path / "tokens.txt").read_text().splitlines()[-1].endswith(" 32768")


def test_a_missing_package_is_named_with_its_extra_and_merged_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    require_export(TARGETS, "u8")
    monkeypatch.setattr(importlib.util, "find_spec", {"onnx": None}.get)
    require_export(["merged"], "fp16")
    with pytest.raises(ExportError, match=r"--to onnx: .*onnx is not installed; install it \(pip install 'moonshine-lora\[export\]'\)"):
        require_export(["merged", "onnx"], "u8")


@pytest.mark.parametrize(
    ("target", "small_disk"),
    [
        *(("merged", size) for size in (8, 2_000, 4_600)),
        *(("gguf", size) for size in (8, 500, 20_000)),
        *((target, 8) for target in ("moonshine-voice", "sherpa-onnx", "transformers-js")),
        *(pytest.param("moonshine-voice", size, marks=pytest.mark.slow) for size in (20_000, 28_000)),
        *(pytest.param("sherpa-onnx", size, marks=pytest.mark.slow) for size in (20_000, 27_700)),
        *(pytest.param("transformers-js", size, marks=pytest.mark.slow) for size in (27_700, 30_000)),
    ],
    indirect=["small_disk"],
)
def test_a_full_disk(tiny: LoadedModel, random_v1: LoadedModel, target: Target, small_disk: Path) -> None:
    """From one that does not take the first file to one that is full at the vocabulary."""
    with pytest.raises((ExportError, RunFolderError), match=r"free some( space on the disk)? or choose another place") as refused:
        write_target(random_v1 if target == "merged" else tiny, target, "u8", small_disk)
    assert "\n" not in str(refused.value)
