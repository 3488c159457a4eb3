"""The five graphs of a streaming model compute what the model computes, in chunks as at once, in the runtime too."""

import json
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import soundfile
import torch
from transformers import MoonshineStreamingForConditionalGeneration

from lora.audio.loading import Waveform, duration
from lora.checkpoints.checkpoint import resolve
from lora.errors import ExportError
from lora.export.partial import Published, changed, write_partly
from lora.export.quantise import quantised
from lora.export.streaming import QUANTISED, streaming_config, streaming_graphs
from lora.export.targets import architecture, write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings
from lora.runtimes.separate import voice_packages
from lora.system.files import sha256_file

ROUNDING = 1e-4
CHUNK = 1280
"""Samples that moonshine-voice hears at a time; it leaves out what is behind the last whole chunk."""

STATE = ("sample_buffer", "sample_len", "conv1_buffer", "conv2_buffer", "frame_count")
Array = npt.NDArray[Any]


class Runtime:
    """Drives the graphs as moonshine-voice does."""

    def __init__(self, speech: LoadedModel, *, small: bool = False) -> None:
        graphs = {name: graph() for name, graph in streaming_graphs(speech).items()}
        models = {name: quantised(model) if small and name in QUANTISED else model for name, model in graphs.items()}
        self.graphs = {name: onnxruntime.InferenceSession(model.SerializeToString()) for name, model in models.items()}
        self.config = streaming_config(speech)

    def features(self, chunks: Sequence[Array]) -> Array:
        shapes = self.config["frontend_state_shapes"]
        state = {name: np.zeros(shapes[name], np.int64 if name in ("sample_len", "frame_count") else np.float32) for name in STATE}
        found = []
        for chunk in chunks:
            features, *after = self.graphs["frontend"].run(None, {"audio_chunk": chunk[None], **state})
            state = dict(zip(STATE, after, strict=True))
            assert all(list(state[name].shape) == shapes[name] for name in STATE)
            found.append(features)
        assert state["frame_count"][0] == sum(map(len, chunks)) // 80
        assert state["sample_len"][0] == sum(map(len, chunks)) % 80
        return np.concatenate(found, axis=1)

    def encode(self, features: Array) -> Array:
        found: Array = self.graphs["encoder"].run(None, {"features": features})[0]
        return found

    def memory(self, encoded: Array, offset: int) -> Array:
        found: Array = self.graphs["adapter"].run(None, {"encoded": encoded, "pos_offset": np.array([offset])})[0]
        return found

    def say(self, memory: Array, count: int) -> list[int]:
        keys, values = self.graphs["cross_kv"].run(None, {"memory": memory})
        shape = (self.config["depth"], 1, self.config["nheads"], 0, self.config["head_dim"])
        own, said = [np.zeros(shape, np.float32)] * 2, [self.config["bos_id"]]
        for _ in range(count):
            logits, *own = self.step(said[-1:], own, keys, values)
            said.append(int(logits[0, -1].argmax()))
        return said[1:]

    def step(self, tokens: list[int], own: list[Array], keys: Array, values: Array) -> list[Array]:
        given = {"token": np.array([tokens]), "k_self": own[0], "v_self": own[1], "out_k_cross": keys, "out_v_cross": values}
        logits, own_keys, own_values, *heard = self.graphs["decoder_kv"].run(None, given)
        assert np.array_equal(heard[0], keys)
        assert np.array_equal(heard[1], values)
        return [logits, own_keys, own_values]


@pytest.fixture(scope="module")
def model(random_v2: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The random model with four decoder layers: the runtime keeps 16 frames for each, and the encoder looks 45 back."""
    folder = tmp_path_factory.mktemp("streaming")
    config = deepcopy(random_v2.model.config)
    config.num_hidden_layers = 4
    torch.manual_seed(2)
    MoonshineStreamingForConditionalGeneration(config).save_pretrained(folder)
    random_v2.processor.save_pretrained(folder)
    return load_model(resolve(str(folder)), torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def runtime(model: LoadedModel) -> Runtime:
    return Runtime(model)


@pytest.fixture
def clip(waveforms: Sequence[Waveform]) -> Waveform:
    return waveforms[2]


def chunked(clip: Waveform, size: int) -> list[Array]:
    return [clip[at : at + size] for at in range(0, len(clip), size)]


@torch.inference_mode()
def encoded(speech: LoadedModel, clip: Waveform) -> Array:
    found: Array = Encoder(speech)([clip]).hidden.numpy()
    return found


@torch.inference_mode()
def spoken(speech: LoadedModel, clip: Waveform) -> tuple[str, tuple[int, ...]]:
    settings = DecodeSettings(tokens_per_second=6.5)
    found = transcribe(Decoder(speech), Encoder(speech)([clip]), [duration(clip)], settings)[0]
    return found.text, found.tokens


@pytest.mark.parametrize("size", [CHUNK, 10 * CHUNK])
def test_features_do_not_depend_on_the_chunks(runtime: Runtime, clip: Waveform, size: int) -> None:
    assert np.abs(runtime.features(chunked(clip, size)) - runtime.features([clip])).max() < ROUNDING


def test_the_encoder_hears_through_its_windows_as_the_model_does(model: LoadedModel, runtime: Runtime, clip: Waveform) -> None:
    found, expected = runtime.encode(runtime.features([clip])), encoded(model, clip)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < ROUNDING


def test_what_is_behind_the_lookahead_does_not_change_what_was_given(runtime: Runtime, clip: Waveform) -> None:
    features = runtime.features([clip])
    ahead = runtime.config["total_lookahead"]
    early = runtime.encode(features[:, :60])[:, : 60 - ahead]
    assert np.abs(early - runtime.encode(features)[:, : 60 - ahead]).max() < ROUNDING


def test_memory_does_not_depend_on_where_the_parts_begin(runtime: Runtime, clip: Waveform) -> None:
    found = runtime.encode(runtime.features([clip]))
    parts = np.concatenate([runtime.memory(found[:, :21], 0), runtime.memory(found[:, 21:], 21)], axis=1)
    assert np.abs(parts - runtime.memory(found, 0)).max() < ROUNDING


def test_the_graphs_say_what_the_model_says(model: LoadedModel, runtime: Runtime, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms[:3]:
        expected = spoken(model, samples)[1]
        memory = runtime.memory(runtime.encode(runtime.features(chunked(samples, CHUNK))), 0)
        assert tuple(runtime.say(memory, len(expected))) == expected


def test_several_tokens_at_once_give_the_logits_of_one_after_another(runtime: Runtime, clip: Waveform) -> None:
    memory = runtime.memory(runtime.encode(runtime.features([clip])), 0)
    keys, values = runtime.graphs["cross_kv"].run(None, {"memory": memory})
    config = runtime.config
    nothing = [np.zeros((config["depth"], 1, config["nheads"], 0, config["head_dim"]), np.float32)] * 2
    together = runtime.step([1, 50, 60, 70], nothing, keys, values)[0]
    own, single = nothing, []
    for token in (1, 50, 60, 70):
        logits, *own = runtime.step([token], own, keys, values)
        single.append(logits)
    assert np.abs(together - np.concatenate(single, axis=1)).max() < ROUNDING


def test_eight_bits_stay_close(model: LoadedModel, runtime: Runtime, clip: Waveform) -> None:
    small = Runtime(model, small=True)
    exact, found = (one.encode(one.features([clip])) for one in (runtime, small))
    assert 0 < np.abs(found - exact).mean() < 0.1 * np.abs(exact).mean()


# --- the folder ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["u8", "fp32"])
def test_the_folder_holds_six_graphs_and_is_always_the_same(model: LoadedModel, precision: Any, tmp_path: Path) -> None:
    hashes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        hashes.append({file.name: sha256_file(file) for file in write_target(model, "moonshine-voice", precision, tmp_path / name)})
    graphs = [f"{name}.ort" for name in ("adapter", "cross_kv", "decoder_kv", "decoder_kv_with_attention", "encoder", "frontend")]
    assert list(hashes[0]) == [*graphs, "streaming_config.json", "tokenizer.bin"]
    assert hashes[0] == hashes[1]
    assert architecture(model) == "streaming"


@pytest.fixture(scope="module")
def tuned(model: LoadedModel) -> LoadedModel:
    """The model with other weights in the decoder's self-attention."""
    speech = load_model(model.checkpoint, torch.device("cpu"), "float32")
    with torch.no_grad():
        speech.decoder.layers[1].self_attn.q_proj.weight.mul_(1.5)
    return speech


def test_one_graph_is_made_anew_and_the_others_are_the_published_ones(model: LoadedModel, tuned: LoadedModel, tmp_path: Path) -> None:
    for name in ("published", "whole", "partly"):
        (tmp_path / name).mkdir()
    write_target(model, "moonshine-voice", "fp32", tmp_path / "published")
    whole = {file.name: sha256_file(file) for file in write_target(tuned, "moonshine-voice", "fp32", tmp_path / "whole")}
    published = Published(tmp_path / "published", ("decoder_kv",))
    partly = {file.name: sha256_file(file) for file in write_partly(tuned, model, published, "fp32", tmp_path / "partly")}
    assert partly == whole
    theirs = {name for name, found in partly.items() if sha256_file(published.folder / name) != found}
    assert theirs == {"decoder_kv.ort", "decoder_kv_with_attention.ort"}


@pytest.mark.parametrize(
    ("part", "graph"),
    [
        ("encoder.embedder.conv1", "frontend"),
        ("encoder.layers.0.self_attn.q_proj", "encoder"),
        ("decoder.proj", "adapter"),
        ("decoder.layers.0.encoder_attn.v_proj", "cross_kv"),
        ("decoder.layers.0.encoder_attn.q_proj", "decoder_kv"),
        ("decoder.layers.0.mlp.fc1", "decoder_kv"),
        ("decoder.norm", "decoder_kv"),
    ],
)
def test_each_weight_is_found_in_its_graph(model: LoadedModel, part: str, graph: str) -> None:
    speech = load_model(model.checkpoint, torch.device("cpu"), "float32")
    with torch.no_grad():
        speech.model.model.get_submodule(part).weight.add_(1)
    assert changed(speech, model) == [graph]


def test_a_graph_that_was_tuned_and_is_not_made_is_named(model: LoadedModel, tuned: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    with pytest.raises(ExportError, match=r"holds no frontend\.ort, encoder\.ort, .*, streaming_config\.json, tokenizer\.bin"):
        write_partly(tuned, model, Published(folder, ("cross_kv",)), "u8", tmp_path)
    for name in ("frontend.ort", "encoder.ort", "adapter.ort", "decoder_kv.ort", "tokenizer.bin"):
        (folder / name).touch()
    config = folder / "streaming_config.json"
    config.write_text(json.dumps(streaming_config(model)))
    with pytest.raises(ExportError, match="--graphs cross_kv: the tuned model has other weights in decoder_kv; add it"):
        write_partly(tuned, model, Published(folder, ("cross_kv",)), "u8", tmp_path)
    config.write_text(json.dumps(streaming_config(model) | {"depth": 9}))
    with pytest.raises(ExportError, match=r"depth is 9, not 4: it is of another model"):
        write_partly(tuned, model, Published(folder, ("cross_kv",)), "u8", tmp_path)


def test_the_runtime_says_what_the_model_says(model: LoadedModel, clip: Waveform, tmp_path: Path) -> None:
    """In a process of its own, for its onnxruntime is another one. It stops at 6.5 tokens a second and has no head room."""
    whole = clip[: len(clip) // CHUNK * CHUNK]
    (tmp_path / "export").mkdir()
    write_target(model, "moonshine-voice", "fp32", tmp_path / "export")
    soundfile.write(tmp_path / "clip.wav", whole, 16_000, subtype="FLOAT")
    program = (
        "import json, sys, soundfile; sys.path.append(sys.argv[3]); from moonshine_voice import ModelArch, Transcriber\n"
        "options = {'vad_threshold': 0.0, 'vad_max_segment_duration': 1000, 'return_audio_data': 'false'}\n"
        "runtime = Transcriber(sys.argv[1], ModelArch.TINY_STREAMING, options=options)\n"
        "lines = runtime.transcribe_without_streaming(soundfile.read(sys.argv[2])[0].tolist(), 16000).lines\n"
        "print(json.dumps([line.text for line in lines]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "export"), str(tmp_path / "clip.wav"), str(voice_packages())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    expected = spoken(model, whole)[0]
    # Random weights choose between close tokens, so rounding decides after a while; another clip or model differs from the first on.
    agreed = next((at for at, (own, theirs) in enumerate(zip(expected, found, strict=False)) if own != theirs), len(found))
    assert agreed > len(found) / 3 > 20


# --- refusals --------------------------------------------------------------------------------------------------------------------------


def test_an_encoder_that_looks_further_back_than_the_runtime_keeps_is_refused(random_v2: LoadedModel) -> None:
    speech = load_model(random_v2.checkpoint, torch.device("cpu"), "float32")
    speech.encoder.config.sliding_windows = [[60, 4]] * 3
    with pytest.raises(ExportError, match="the encoder looks 177 frames back, the runtime keeps 32"):
        streaming_graphs(speech)
