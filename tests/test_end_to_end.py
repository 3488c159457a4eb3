"""What the project promises, on real speech and the real model: minutes each. `make test-slow` runs them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from running import ROOT, RunFolder
from transformers import AutoProcessor, MoonshineForConditionalGeneration

from lora.audio.loading import AudioSettings, load
from lora.checkpoints.checkpoint import resolve
from lora.corpora import quickstart
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runs.outcomes import Evaluation
from lora.scoring.counts import score_utterance, total
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds

pytestmark = pytest.mark.slow

SPEECH = ROOT.parent / "shared" / "data"
"""AN4 and LibriSpeech as manifests, where they are kept beside the checkout."""


@dataclass(frozen=True)
class Run(RunFolder):
    """With what it printed."""

    err: str


def experiment(place: Path, *arguments: object) -> Run:
    """The command as a process of its own, which uses all cores."""
    command = [sys.executable, "-m", "lora.runners.experiment", *map(str, arguments), "--output-dir", str(place / "run")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return Run(place / "run", done.returncode, done.stderr)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickstart's speech where the config looks for it."""
    place = tmp_path_factory.mktemp("workplace")
    quickstart.prepare(place / "data" / "quickstart")
    return place


@pytest.fixture(scope="module")
def default_run(workplace: Path) -> Run:
    """What `make run` does."""
    return experiment(workplace, "--config", ROOT / "configs" / "quickstart.toml")


def test_the_default_run_is_accepted_and_better_by_a_third(default_run: Run) -> None:
    assert default_run.code == 0, default_run.err
    metrics = default_run.metrics
    assert metrics["tuned_wer"] <= 0.65 * metrics["baseline_wer"]
    allowed_points = metrics["settings"]["gate"]["max_heldout_rise_points"]
    assert 100 * (metrics["heldout_tuned_wer"] - metrics["heldout_baseline_wer"]) <= allowed_points + 1e-9
    assert metrics["wer_change"]["interval"]["high"] < 0, "the interval of the change holds zero"


def test_plain_peft_and_transformers_reach_the_reported_score(default_run: Run, workplace: Path) -> None:
    record = default_run.record
    assert record.domain is not None
    base = MoonshineForConditionalGeneration.from_pretrained(resolve(record.checkpoint.model_id).folder)
    model = PeftModel.from_pretrained(base, default_run.folder / "lora_adapter").eval()
    processor = AutoProcessor.from_pretrained(default_run.folder / "processor")
    settings, rows = DecodeSettings(tokens_per_second=record.config.tokens_per_second), []
    for utterance in read(quickstart.manifests(workplace / "data" / "quickstart").test, Rules()):
        samples = load(utterance.audio, AudioSettings())
        length_s = Seconds(seconds(len(samples)))
        inputs = processor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(inputs.input_values, max_new_tokens=settings.cap(length_s), do_sample=False)
        said = processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        rows.append(score_utterance(id=utterance.id, speaker_id=None, seconds=length_s, reference=utterance.text or "", hypothesis=said))
    assert abs(total(rows).words.errors - record.domain.tuned.score.words.errors) <= 1


@pytest.mark.long
def test_spelled_names_by_unknown_speakers(tmp_path: Path) -> None:
    """The README's command: manifests and a model, everything else the default."""
    if not (SPEECH / "an4" / "train.jsonl").is_file():
        pytest.skip("AN4 and LibriSpeech do not lie beside the checkout")
    sets = ("--train-manifest", SPEECH / "an4" / "train.jsonl", "--domain-manifest", SPEECH / "an4" / "test.jsonl")
    general = ("--heldout-manifest", SPEECH / "librispeech" / "heldout.jsonl", "--replay-manifest", SPEECH / "librispeech" / "replay.jsonl")
    run = experiment(tmp_path, "--model-id", "packaged:moonshine-tiny", *sets, *general)
    assert run.code in (0, 4), run.err  # LibriSpeech's 5 speakers may be too few for the default rule to tell
    metrics = run.metrics
    assert [check["decision"] for check in metrics["checks"] if check["name"] == "domain"] == ["accepted"]
    assert metrics["tuned_wer"] <= 0.025
    assert 100 * (metrics["heldout_tuned_wer"] - metrics["heldout_baseline_wer"]) <= 0.2
    assert run.record.manifests["dev"].speakers > 1


def test_the_score_of_the_real_model_does_not_depend_on_the_batch_size(tiny: LoadedModel, workplace: Path) -> None:
    manifest = read(quickstart.manifests(workplace / "data" / "quickstart").test, Rules())
    recordings = validate(manifest, Rules(), AudioSettings())
    examples = [
        Example(utterance, recording.length_s, tuple(tiny.labels(utterance.text or "")))
        for utterance, recording in zip(manifest, recordings, strict=True)
    ]

    def scored(batch_size: int) -> Evaluation:
        return Evaluator(tiny, LiveFeatures(tiny, AudioSettings()), DecodeSettings(tokens_per_second=6.5), batch_size).evaluate(examples)

    single, batched = scored(1), scored(16)
    assert single.score == batched.score
    assert single.loss == pytest.approx(batched.loss, rel=1e-4)
    assert 0 < single.score.wer < 1


def test_uv_runs_the_terminal_app_in_its_own_folder() -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the PATH")
    # Not synchronised: that would change the environment in which the other tests run.
    environment = os.environ | {"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")}
    environment |= {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix}
    command = [uv, "run", "moonshine", "--help"]
    done = subprocess.run(command, cwd=ROOT / "packages" / "lora-cli", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: moonshine ")
