"""Adapters are added up exactly, judged as they are, and gone on from."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from running import ANY_VERDICT, QUICK, Manifests, manifests, moonshine_lora, refusal, the_error
from safetensors.torch import load_file
from test_adapter import fresh, provenance, trained
from torch import Tensor

from lora.audio.loading import AudioSettings, Waveform
from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, PROVENANCE_FILE
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.errors import CheckpointError, ConfigError
from lora.model.loading import LoadedModel
from lora.runs.record import read
from lora.training.adapter import Adapted, fold_in, load, read_provenance, save
from lora.training.combine import combine

PLAIN = AdapterConfig()
STABILISED = AdapterConfig(use_rslora=True, lora_r=16, lora_targets="both", lora_ranks="encoder=4,mlp=2")
SPLIT = AdapterConfig(init_lora_weights="pissa", lora_r=4)


def saved(adapted: Adapted, folder: Path, speech: LoadedModel, **changed: Any) -> Path:
    folder.mkdir(parents=True)
    save(adapted, folder, msgspec.structs.replace(provenance(speech), **changed))
    return folder


@pytest.fixture(scope="module")
def folders(random_v1: LoadedModel, waveforms: Sequence[Waveform], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of different kinds, ranks and layers, each trained on another clip."""
    place = tmp_path_factory.mktemp("adapters")
    return [
        saved(trained(random_v1, config, waveforms[number], steps=number + 1), place / str(number), random_v1)
        for number, config in enumerate((PLAIN, STABILISED, SPLIT))
    ]


def weights(speech: LoadedModel, folder: Path) -> dict[str, Tensor]:
    """The model's weights with an adapter folded in, by PEFT."""
    adapted = load(fresh(speech), folder)
    fold_in(adapted)
    return {name: weight.detach() for name, weight in adapted.speech.model.named_parameters()}


@pytest.mark.parametrize("shares", [None, (0.5, 0.25, 1.5)], ids=["mean", "weighted"])
def test_the_update_is_the_weighted_sum_of_the_updates_at_every_layer(
    random_v1: LoadedModel, folders: list[Path], tmp_path: Path, shares: tuple[float, ...] | None
) -> None:
    used = combine(folders, shares, tmp_path / "mix")
    assert used == (shares or (1 / 3,) * 3)
    base = dict(random_v1.model.named_parameters())
    single = [weights(random_v1, folder) for folder in folders]
    mixed = weights(random_v1, tmp_path / "mix")
    changed = 0
    for name, weight in base.items():
        expected = sum(share * (own[name] - weight).double() for share, own in zip(used, single, strict=True))
        assert torch.allclose((mixed[name] - weight).double(), torch.as_tensor(expected), atol=1e-5)
        changed += bool((mixed[name] != weight).any())
    assert changed > 20


def test_an_adapter_averaged_with_itself_is_itself(random_v1: LoadedModel, folders: list[Path], tmp_path: Path) -> None:
    combine([folders[1], folders[1]], None, tmp_path / "same")
    once, twice = weights(random_v1, folders[1]), weights(random_v1, tmp_path / "same")
    assert all(torch.allclose(once[name], twice[name], atol=1e-6) for name in once)


def test_the_same_input_gives_the_same_bytes_and_the_provenance_of_all(folders: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        combine(folders[:2], None, tmp_path / name)
    for file in (ADAPTER_SETTINGS, ADAPTER_WEIGHTS, PROVENANCE_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    own, first = read_provenance(tmp_path / "one"), read_provenance(folders[0])
    assert msgspec.structs.replace(own, sealed=None) == msgspec.structs.replace(first, sealed=None)
    ranks = {weight.shape[0] for name, weight in load_file(tmp_path / "one" / ADAPTER_WEIGHTS).items() if ".lora_A." in name}
    assert ranks == {8 + 16, 8 + 2, 4}


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_added_up_is_refused(
    random_v1: LoadedModel, random_v2: LoadedModel, waveforms: Sequence[Waveform], folders: list[Path], tmp_path: Path
) -> None:
    first = folders[0]
    with pytest.raises(ConfigError, match=r"0 is the only adapter; name two or more"):
        combine([first], None, tmp_path / "mix")
    with pytest.raises(ConfigError, match="--weights: 1 for 2 adapters; give one for each"):
        combine(folders[:2], (1.0,), tmp_path / "mix")
    dora = saved(trained(random_v1, AdapterConfig(use_dora=True), waveforms[0]), tmp_path / "dora", random_v1)
    with pytest.raises(CheckpointError, match=r"dora: uses DoRA or trains biases, .* combine plain LoRA"):
        combine([first, dora], None, tmp_path / "mix")
    other = saved(trained(random_v2, PLAIN, waveforms[0]), tmp_path / "other", random_v2)
    with pytest.raises(CheckpointError, match=r"other: has base_sha256 .* only adapters of one base model"):
        combine([first, other], None, tmp_path / "mix")
    loud = saved(trained(random_v1, PLAIN, waveforms[0]), tmp_path / "loud", random_v1, audio=AudioSettings(rms_dbfs=-12.0))
    with pytest.raises(CheckpointError, match=r"loud: has audio .*-12.*, and .* has .*-26"):
        combine([first, loud], None, tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def test_adapters_that_were_taught_other_styles_are_added_up(
    random_v1: LoadedModel, waveforms: Sequence[Waveform], folders: list[Path], tmp_path: Path
) -> None:
    other = saved(trained(random_v1, PLAIN, waveforms[0]), tmp_path / "style", random_v1, text_style="long capitals")
    combine([folders[0], other], None, tmp_path / "mix")
    assert read_provenance(tmp_path / "mix").text_style == "none"


def test_the_command_says_what_is_wrong_in_one_line_and_writes_nothing(folders: list[Path], tmp_path: Path) -> None:
    mix = ("--output", tmp_path / "mix")
    assert "holds no lora_adapter/" in refusal("combine", folders[0], tmp_path / "nothing", *mix)
    assert "--weights" in refusal("combine", *folders[:2], "--weights", 0, 1, *mix)
    (tmp_path / "mix").mkdir()
    assert "is there already; choose another place or pass --overwrite" in refusal("combine", *folders[:2], *mix)
    assert list((tmp_path / "mix").iterdir()) == []
    done = moonshine_lora("combine", *folders[:2], "--weights", 0.25, 0.75, *mix, "--overwrite")
    assert done.code == 0, done.err
    assert "--from-adapter" in done.out


def test_a_run_is_named_with_its_flag_or_without_and_weights_keep_the_order_of_the_command(folders: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folders[0], run / "lora_adapter")
    shares = ("--weights", 0.25, 0.75)
    for name, named in (("flag", ("--run", run, folders[1])), ("both", ("--run", run, "--run", folders[1])), ("bare", (run, folders[1]))):
        done = moonshine_lora("combine", *named, *shares, "--output", tmp_path / name)
        assert done.code == 0, done.err
        assert done.out.splitlines()[0] == f" 0.250  {run}"
        assert (tmp_path / name / ADAPTER_WEIGHTS).read_bytes() == (tmp_path / "flag" / ADAPTER_WEIGHTS).read_bytes()
    assert "no adapter is given; name two or more" in refusal("combine", "--output", tmp_path / "mix")


# --- going on -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech_sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return manifests(tmp_path_factory.mktemp("sets"), clips)


def experiment(speech: LoadedModel, sets: Manifests, run: Path, *options: object) -> Any:
    """A run on random weights, whose transcripts are short for the sake of time."""
    common = ("--model-id", speech.checkpoint.folder, *sets.flags(), *ANY_VERDICT, "--tokens-per-second", 3, "--output-dir", run)
    return moonshine_lora("experiment", *common, *QUICK, *options)


@pytest.mark.slow
def test_an_adapter_is_judged_as_it_is_and_gone_on_from(
    random_v1: LoadedModel, speech_sets: Manifests, folders: list[Path], tmp_path: Path
) -> None:
    start = folders[1]
    judged = experiment(random_v1, speech_sets, tmp_path / "judged", "--from-adapter", start, "--max-steps", 0)
    assert judged.code == 0, judged.err
    record = read(tmp_path / "judged")
    assert record.training is not None
    assert record.domain is not None
    assert record.adapter is not None
    assert (record.training.steps, record.training.best_step, record.training.speed) == (0, 0, None)
    assert record.adapter.started_from == record.adapter.sha256
    before, after = (load_file(folder / ADAPTER_WEIGHTS) for folder in (start, tmp_path / "judged" / "lora_adapter"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "judged as it was, without training" in (tmp_path / "judged" / "report.md").read_text()
    assert json.loads((tmp_path / "judged" / "experiment_metrics.json").read_text())["train_audio_seconds_per_second"] is None
    differ = [
        one.hypothesis != other.hypothesis
        for one, other in zip(record.domain.baseline.score.utterances, record.domain.tuned.score.utterances, strict=True)
    ]
    assert any(differ), "the baseline is the base model's, not the adapter's"

    trained_on = experiment(random_v1, speech_sets, tmp_path / "on", "--from-adapter", start)
    assert trained_on.code == 0, trained_on.err
    history = read(tmp_path / "on").training
    assert history is not None
    assert record.training.history[0].dev_loss == pytest.approx(history.history[0].dev_loss, rel=1e-5), "it starts where the other ended"
    moved = load_file(tmp_path / "on" / "lora_adapter" / ADAPTER_WEIGHTS)
    assert {name: weight.shape for name, weight in moved.items()} == {name: weight.shape for name, weight in before.items()}
    assert history.best_step == 0 or any(not torch.equal(moved[name], before[name]) for name in before)
    assert np.isfinite([step.dev_loss for step in history.history]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-steps", 0), "--max-steps 0 judges an adapter as it is; give --from-adapter too"),
        (("--from-adapter", "{start}", "--lora-r", 4), "--lora-r is decided by --from-adapter"),
        (("--from-adapter", "{start}", "--lora-targets", "encoder"), "is in one of the two only); leave --lora-targets out"),
        (("--from-adapter", "{start}", "--use-dora"), "--use-dora is decided by --from-adapter"),
        (("--from-adapter", "{start}", "--method", "full"), "--from-adapter is for --method lora"),
        (("--from-adapter", "{start}", "--strength-sweep"), "--strength-sweep scales an update of the base model down"),
        (("--from-adapter", "{run}/lora_adapter"), "is inside --output-dir, which the run replaces"),
        (("--from-adapter", "{start}/nothing"), "holds no adapter"),
    ],
)
def test_settings_that_the_adapter_decides_are_refused(
    random_v1: LoadedModel, speech_sets: Manifests, folders: list[Path], tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    given = [str(option).format(start=folders[0], run=tmp_path / "run") for option in options]
    assert message in the_error(experiment(random_v1, speech_sets, tmp_path / "run", *given))
    assert not (tmp_path / "run").exists()


def test_an_adapter_of_another_model_is_refused(
    random_v2: LoadedModel, speech_sets: Manifests, folders: list[Path], tmp_path: Path
) -> None:
    said = the_error(experiment(random_v2, speech_sets, tmp_path / "run", "--from-adapter", folders[0]))
    assert "was trained on" in said
    assert "give that --model-id" in said
