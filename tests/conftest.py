"""Shared speech and models. The models are never modified here: a test that adapts or trains one loads its checkpoint afresh."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from running import Manifests, manifests
from transformers import (
    AutoProcessor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingEncoderConfig,
    MoonshineStreamingForConditionalGeneration,
    MoonshineStreamingProcessor,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from lora.audio.loading import AudioSettings, Waveform, load
from lora.checkpoints.checkpoint import resolve
from lora.corpora import general
from lora.dataset.manifest import Rules, Utterance, read
from lora.model.loading import LoadedModel, load_model
from lora.runtimes.separate import voice_packages

# A background job inherits an ignored SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# One clip at a time: a second thread on a busy machine costs more than it brings. `make test-processors` asks for two.
torch.set_num_threads(int(os.environ.get("MOONSHINE_LORA_TEST_THREADS", "1")))
if os.environ.get("MOONSHINE_LORA_TEST_POISON"):  # new memory holds NaN until somebody sets it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
transformers_logging.disable_progress_bar()

SPECIAL = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPREAD = 0.2
"""Standard deviation of random weights: at the default 0.02 a model of this width ignores its input and any two runs look alike."""


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The packaged tiny model."""
    return load_model(resolve("packaged:moonshine-tiny"), torch.device("cpu"), "float32")


@pytest.fixture(scope="session")
def random_v1(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A v1 model of random weights, two layers each side, with the real tokenizer; pad and EOS are one id."""
    config = MoonshineConfig(
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        initializer_range=SPREAD,
        **SPECIAL,
    )
    torch.manual_seed(1)
    return _saved(MoonshineForConditionalGeneration(config), tiny.processor, tmp_path_factory.mktemp("random-v1"))


@pytest.fixture(scope="session")
def random_v2(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A v2 (streaming) model of random weights whose encoder is wider than its decoder; pad, EOS and BOS are three ids."""
    encoder = MoonshineStreamingEncoderConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        sliding_windows=[[16, 4], [16, 0], [16, 4]],
        initializer_range=SPREAD,
    )
    config = MoonshineStreamingConfig(
        encoder_config=encoder,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=SPREAD,
        **SPECIAL | {"pad_token_id": 0},
    )
    torch.manual_seed(2)
    processor = MoonshineStreamingProcessor(tiny.processor.feature_extractor, tiny.processor.tokenizer)
    return _saved(MoonshineStreamingForConditionalGeneration(config), processor, tmp_path_factory.mktemp("random-v2"))


def _saved(model: PreTrainedModel, processor: AutoProcessor, folder: Path) -> LoadedModel:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return load_model(resolve(str(folder)), torch.device("cpu"), "float32")


@pytest.fixture(params=["v1", "v2"])
def random_speech(request: pytest.FixtureRequest) -> LoadedModel:
    """Either generation's random model."""
    speech: LoadedModel = request.getfixturevalue(f"random_{request.param}")
    return speech


@pytest.fixture(params=["tiny", "random_v1", "random_v2"])
def any_speech(request: pytest.FixtureRequest) -> LoadedModel:
    """The real model, then each generation's random one."""
    speech: LoadedModel = request.getfixturevalue(request.param)
    return speech


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Utterance]:
    """Twenty utterances of 1.8 to 6 s by several voices, with their transcripts: recordings of the moonshine-voice wheel, cut at pauses."""
    manifests = general.prepare(tmp_path_factory.mktemp("speech"))
    return [*read(manifests.heldout, Rules()), *read(manifests.replay, Rules())]


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """`clips` as the five sets of a run."""
    return manifests(tmp_path_factory.mktemp("sets"), clips)


@pytest.fixture(scope="session")
def waveforms(clips: Sequence[Utterance]) -> Sequence[Waveform]:
    """What is heard in `clips`, in their order."""
    return [load(utterance.audio, AudioSettings()) for utterance in clips]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of that many kibibytes."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", place], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def moonshine_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test import the runtime, which lives outside of the environment."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(voice_packages())])
