"""Shared speech and models. The models are never modified here: a test that adapts or trains one loads its checkpoint afresh."""

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from running import Manifests, manifests
from timed import Clip, joined
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

from lora.audio.loading import AudioSettings, Waveform, encode_flac, load
from lora.checkpoints.checkpoint import Checkpoint, resolve
from lora.config import AdapterConfig
from lora.corpora import general
from lora.corpora.general import HELDOUT, waveform
from lora.dataset.manifest import Rules, Utterance, read
from lora.model.greedy import DecodeSettings
from lora.model.loading import LoadedModel, load_model
from lora.runtimes.separate import voice_packages
from lora.system.process_settings import GC_OBJECTS
from lora.training.adapter import Provenance, attach, save
from lora.transcribe import Request, Transcriber, open_transcriber
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from servers import Server

# A background job inherits an ignored SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# One clip at a time: a second thread on a busy machine costs more than it brings. `make test-processors` asks for two.
gc.set_threshold(GC_OBJECTS)  # as in commands: a round through all that tests import takes long
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


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip]]:
    """Real speech that comes with a wheel, as one recording in a file."""
    found = []
    for number, recording in enumerate(HELDOUT):
        sound = waveform(recording)
        for count, cut in enumerate(recording.cuts[:3]):
            samples = sound[int(cut.start_s * SAMPLE_RATE_HZ) : int(cut.end_s * SAMPLE_RATE_HZ)]
            found.append((f"u{number}-{count}", cut.text, samples, f"s{number}"))
    long, clips = joined(found)
    file = tmp_path_factory.mktemp("long") / "long.flac"
    file.write_bytes(encode_flac(long))
    return file, clips


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    """The packaged tiny model, converted once into the cache of this machine."""
    return resolve("packaged:moonshine-tiny")


@pytest.fixture(scope="session")
def random_checkpoint(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of some 100 kB with random weights, written by transformers itself."""
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, AutoProcessor

    folder = tmp_path_factory.mktemp("random")
    config = AutoConfig.for_model(
        "moonshine",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_token_id=2,
    )
    AutoModelForSpeechSeq2Seq.from_config(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_checkpoint.folder).save_pretrained(folder)
    return folder


@pytest.fixture
def local(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def tuned(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of tiny that changes what it says."""
    speech = load_model(resolve(tiny.checkpoint.model_id), torch.device("cpu"), "float32")
    adapted = attach(speech, AdapterConfig(lora_targets="self", lora_r=4))
    torch.manual_seed(0)
    for name, parameter in adapted.peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("tuned") / "lora_adapter"
    folder.mkdir()
    checkpoint = speech.checkpoint
    save(
        adapted,
        folder,
        Provenance(
            base_model_id=checkpoint.model_id,
            base_revision=None,
            base_sha256=checkpoint.sha256,
            audio=AudioSettings(),
            decode=DecodeSettings(tokens_per_second=6.5),
            text_style="none",
            normaliser="whisper-english",
        ),
    )
    return folder


@pytest.fixture(scope="module")
def server(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """Two models, a key, and limits that tests reach."""
    from servers import key_file, serving

    folder = tmp_path_factory.mktemp("server")
    with serving(
        folder / "tmp",
        *("--model", "tiny=packaged:moonshine-tiny", "--model", f"tuned={tuned}", "--wyoming", "127.0.0.1:0"),
        *("--api-key-file", key_file(folder), "--max-upload-mb", 5, "--max-minutes", 1, "--read-timeout", 4),
    ) as found:
        yield found


@pytest.fixture(scope="module")
def hearing(tiny: LoadedModel) -> Transcriber:
    return open_transcriber(Request(tiny.checkpoint.model_id, None, None, None, "cpu", "float32", 32, None))


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
