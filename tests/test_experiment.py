"""Whole runs through the command: small ones of the real model, and of random models where only the flow matters."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from running import ANY_VERDICT, QUICK, ROOT, Manifests, RunFolder, files_below, moonshine_lora, refusal, rows_of, write_rows
from safetensors.torch import load_file
from transformers import AutoProcessor, MoonshineForConditionalGeneration

from lora.audio.loading import AudioSettings, load
from lora.checkpoints.checkpoint import resolve
from lora.config import build
from lora.dataset.manifest import Rules, Utterance, read
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runners import real_small
from lora.runs.record import read as read_record
from lora.system.files import sha256_file

STAGES = {"read", "load", "encode", "baseline", "replay", "train", "tuned"}
TIMES = ("runtime_seconds", "started_at", "finished_at", "train_audio_seconds_per_second", "command")

ARTIFACTS = {
    "config.toml",
    "experiment_metrics.json",
    "log.jsonl",
    "lora_adapter",
    "lora_adapter/README.md",
    "lora_adapter/adapter_config.json",
    "lora_adapter/adapter_model.safetensors",
    "lora_adapter/moonshine_lora.json",
    "processor",
    "processor/processor_config.json",
    "processor/tokenizer.json",
    "processor/tokenizer_config.json",
    "record.json",
    "report.html",
    "report.md",
}


@dataclass(frozen=True)
class Run(RunFolder):
    """With its manifests and what it printed."""

    sets: Manifests
    out: str


@pytest.fixture(scope="module")
def run(tiny: LoadedModel, sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A few updates of the packaged model at a high rate, so that the adapter changes what the model says."""
    folder = tmp_path_factory.mktemp("runs") / "real"
    training = ("--max-steps", 4, "--epochs", 9, "--eval-interval", 2, "--learning-rate", "4e-3", "--warmup-steps", 0, "--seed", 3)
    options = (*training, *ANY_VERDICT, "--split-by", "utterance", "--device", "cpu", "--output-dir", folder)
    result = moonshine_lora("experiment", "--model-id", tiny.checkpoint.model_id, *sets.flags(), *options)
    return Run(folder, result.code, sets, result.out)


def quick(model: LoadedModel, sets: Manifests, folder: Path, *options: object) -> Run:
    """Two updates of a random model."""
    arguments = ("--model-id", model.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", folder, *options)
    result = moonshine_lora("experiment", *arguments)
    return Run(folder, result.code, sets, result.out)


def test_a_run_leaves_its_artifacts_and_nothing_else(run: Run) -> None:
    assert run.code == 0
    assert files_below(run.folder) == ARTIFACTS


def test_the_metrics_hold_what_scripts_rely_on(run: Run) -> None:
    metrics, record = run.metrics, run.record
    assert record.domain is not None
    assert record.heldout is not None
    for prefix, result in (("", record.domain), ("heldout_", record.heldout)):
        for when, evaluation, interval in (
            ("baseline", result.baseline, result.baseline_interval),
            ("tuned", result.tuned, result.tuned_interval),
        ):
            name = f"{prefix}{when}"
            assert metrics[f"{name}_wer"] == evaluation.score.wer
            assert metrics[f"{name}_cer"] == evaluation.score.cer
            assert metrics[f"{name}_raw_wer"] == evaluation.score.raw_wer
            assert metrics[f"{name}_raw_cer"] == evaluation.score.raw_cer
            assert metrics[f"{name}_eval_loss"] == evaluation.loss > 0
            assert metrics[f"{name}_wer_interval"] == [interval.low, interval.high]
            assert interval.low <= evaluation.score.wer <= interval.high
        assert metrics[f"{prefix}wer_change"]["difference"] == metrics[f"{prefix}tuned_wer"] - metrics[f"{prefix}baseline_wer"]
    assert metrics["status"] == "completed"
    assert metrics["accepted"] is True
    assert metrics["verdict"].startswith("accepted: domain WER")
    assert metrics["runtime_seconds"].keys() == STAGES
    assert all(seconds > 0 for seconds in metrics["runtime_seconds"].values())
    assert metrics["device"] == "cpu"
    assert metrics["settings"] == json.loads(msgspec.json.encode(record.config))
    assert metrics["error"] is None
    assert (metrics["steps"], metrics["best_step"]) == (4, record.training and record.training.best_step)


def test_data_model_and_adapter_are_named_by_their_hashes(run: Run, tiny: LoadedModel) -> None:
    metrics = run.metrics
    for name in ("train", "dev", "domain", "heldout", "replay"):
        file = getattr(run.sets, name)
        assert metrics["manifests"][name]["path"] == str(file)
        assert metrics["manifests"][name]["sha256"] == sha256_file(file)
    assert metrics["manifests"]["replay"]["utterances"] + metrics["manifests"]["guard"]["utterances"] == len(read(run.sets.replay, Rules()))
    assert metrics["model_sha256"] == sha256_file(tiny.checkpoint.folder / "model.safetensors")
    assert metrics["adapter"]["sha256"] == sha256_file(run.folder / "lora_adapter" / "adapter_model.safetensors")


def test_the_log_tells_the_run_in_order(run: Run) -> None:
    events = [entry["event"] for entry in run.log]
    assert [event for index, event in enumerate(events) if events[index - 1 : index] != [event]] == [
        "start",
        "sentences_trained",
        "baseline",
        "dev",
        "update",
        "dev",
        "update",
        "dev",
        "tuned",
        "completed",
    ]
    assert [entry["step"] for entry in run.log if entry["event"] == "update"] == [1, 2, 3, 4]
    assert [entry["wer"] for entry in run.log if entry["event"] == "tuned"] == [run.metrics["tuned_wer"], run.metrics["heldout_tuned_wer"]]


def test_the_saved_config_gives_the_same_settings(run: Run) -> None:
    assert build({}, run.folder / "config.toml") == run.record.config
    assert tomllib.loads((run.folder / "config.toml").read_text())["train"]["max_steps"] == 4


def test_what_a_person_sees_is_the_table_the_verdict_and_where_things_are(run: Run) -> None:
    metrics = run.metrics
    assert f"{100 * metrics['baseline_wer']:.2f} %" in run.out
    assert f"{100 * metrics['heldout_tuned_wer']:.2f} %" in run.out
    *_, verdict, place = run.out.splitlines()
    assert verdict == metrics["verdict"]
    assert place == f"{run.folder}: report.html, report.md, experiment_metrics.json, lora_adapter/, processor/"
    assert metrics["verdict"] in (run.folder / "report.md").read_text()


def test_plain_peft_and_transformers_say_what_the_run_reports(run: Run, tiny: LoadedModel) -> None:
    base = MoonshineForConditionalGeneration.from_pretrained(resolve(tiny.checkpoint.model_id).folder)
    model = PeftModel.from_pretrained(base, run.folder / "lora_adapter").eval()
    processor = AutoProcessor.from_pretrained(run.folder / "processor")
    record = run.record
    assert record.domain is not None
    said = []
    for utterance in read(run.sets.domain, Rules()):
        samples = load(utterance.audio, AudioSettings())
        inputs = processor(samples, sampling_rate=16_000, return_tensors="pt")
        cap = DecodeSettings(tokens_per_second=record.config.tokens_per_second).cap(len(samples) / 16_000)
        with torch.inference_mode():
            tokens = model.generate(inputs.input_values, max_new_tokens=cap, do_sample=False)
        said.append(processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    assert said == [row.hypothesis for row in record.domain.tuned.score.utterances]
    weights = load_file(run.folder / "lora_adapter" / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name), "the run ended with an adapter that does nothing"


@pytest.mark.slow
def test_the_module_is_a_command_too(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    arguments = ["--model-id", str(random_v1.checkpoint.folder), *sets.flags(), *map(str, QUICK), "--output-dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lora.runners.experiment", *arguments, *ANY_VERDICT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "run") == ARTIFACTS
    assert read_record(tmp_path / "run").command == ("experiment.py", *command[3:])
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(random_speech: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = quick(random_speech, sets, tmp_path / name, "--seed", seed)
        metrics = {key: value for key, value in run.metrics.items() if key not in TIMES}
        del metrics["settings"]["output"]
        found.append((metrics, run.record.domain))
    assert found[0] == found[1]
    assert found[0][0]["adapter"]["sha256"] != found[2][0]["adapter"]["sha256"]


def test_a_rejected_adapter_is_kept_and_the_failed_check_named(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    run = quick(random_v1, sets, tmp_path / "run", "--learning-rate", "1e-9", "--rule", "point")
    assert run.code == 3
    assert files_below(run.folder) == ARTIFACTS
    verdict = run.record.verdict
    assert verdict is not None
    assert [(check.name, check.passed) for check in verdict.checks] == [("domain", False), ("held-out", True)]
    assert (run.metrics["accepted"], run.metrics["decision"]) == (False, "rejected")
    assert run.metrics["status"] == "completed"
    assert run.metrics["verdict"].startswith("rejected: domain WER")
    assert run.metrics["verdict"].endswith("(+0.00 points, but the gain must be at least 1)")


def test_test_sets_that_are_too_small_to_tell_are_said_to_be(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    run = quick(random_v1, sets, tmp_path / "run", "--learning-rate", "1e-9")
    assert run.code == 4
    assert files_below(run.folder) == ARTIFACTS
    assert (run.metrics["accepted"], run.metrics["decision"]) == (False, "inconclusive")
    assert "inconclusive: domain WER" in run.out
    assert "are needed, you have" in run.metrics["verdict"]


def test_general_speech_without_transcripts_guards_by_drift(tiny: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sets.heldout.read_text().splitlines()]
    untold = write_rows(sets.heldout.parent / "untold.jsonl", [{key: value for key, value in row.items() if key != "text"} for row in rows])
    heldout = ("--heldout-manifest", untold)
    message = refusal("experiment", "--model-id", tiny.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / "no", *heldout)
    assert "text: is missing; every utterance needs its transcript, unless --guardrail drift is set" in message
    drift = ("--guardrail", "drift", "--max-drift-points", "100", "--rule", "point", "--min-domain-gain-points", "-10000")
    run = quick(tiny, sets, tmp_path / "run", *heldout, *drift)
    assert run.code == 0
    found = run.record.heldout_drift
    assert run.record.heldout is not None
    assert found is not None
    assert (run.record.heldout.baseline.score.wer, run.record.heldout.tuned.score.wer) == (0, found.rate)
    assert run.metrics["heldout_drift"]["rate"] == found.rate
    assert "held-out drift" in run.metrics["verdict"]
    assert "The references of the held-out set are the base model's own transcripts" in (run.folder / "report.md").read_text()


def test_a_run_without_replay_and_dev_manifests_takes_dev_from_training(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    named = ("--train-manifest", sets.train, "--domain-manifest", sets.domain, "--heldout-manifest", sets.heldout)
    options = ("--model-id", random_v1.checkpoint.folder, *named, *QUICK, *ANY_VERDICT, "--output-dir", tmp_path / "run")
    assert moonshine_lora("experiment", *options).code == 0
    record = read_record(tmp_path / "run")
    assert {name: info.utterances for name, info in record.manifests.items()} == {"train": 4, "dev": 1, "domain": 3, "heldout": 4}
    assert record.manifests["dev"].path == str(sets.train)
    assert record.stages.keys() == STAGES - {"replay"}


@pytest.fixture
def untranscribed(clips: Sequence[Utterance], tmp_path: Path) -> Path:
    rows = [{key: row[key] for key in ("audio", "id")} for row in rows_of(list(clips)[14:], tmp_path)]
    return write_rows(tmp_path / "replay.jsonl", rows)


def test_replay_needs_no_transcripts(tiny: LoadedModel, sets: Manifests, untranscribed: Path, tmp_path: Path) -> None:
    options = ("--replay-manifest", untranscribed, "--replay-targets", "base-model", *ANY_VERDICT)
    done = quick(tiny, sets, tmp_path / "run", *options)
    assert done.code == 0
    assert done.record.replay_left_out == ()
    assert done.record.training is not None
    assert done.record.training.history[0].guard_wer == 0, "the base model agrees with its own transcripts"


def test_a_base_model_that_loops_on_all_replay_speech_is_no_teacher(
    random_v1: LoadedModel, sets: Manifests, untranscribed: Path, tmp_path: Path
) -> None:
    """Decoded for 6.5 tokens a second, a random model has not ended when it is cut off: it can label nothing."""
    options = ("--replay-manifest", untranscribed, "--replay-targets", "base-model", *ANY_VERDICT)
    done = quick(random_v1, sets, tmp_path / "run", *options)
    assert done.code == 2
    assert done.record.status == "failed"
    assert "can label too few of its clips; give --replay-targets transcript" in str(done.record.error)


def test_upper_case_transcripts_are_lower_cased_for_training_only(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sets.train.read_text().splitlines()]
    shouted = write_rows(sets.train.parent / "shouted.jsonl", [row | {"text": row["text"].upper()} for row in rows])
    run = quick(random_v1, sets, tmp_path / "run", "--train-manifest", shouted, *ANY_VERDICT)
    record = run.record
    assert record.domain is not None
    assert record.text_style == "lower"
    assert [row.reference for row in record.domain.tuned.score.utterances] == [u.text for u in read(sets.domain, Rules())]


def test_a_dry_run_lists_the_sites_and_writes_nothing(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    before = files_below(sets.train.parent)
    options = (*sets.flags(), *QUICK, "--lora-targets", "cross", "--output-dir", tmp_path / "run", "--dry-run")
    options += ("--lora-ranks", ".*v_proj=4")
    result = moonshine_lora("experiment", "--model-id", random_v1.checkpoint.folder, *options)
    assert result.code == 0
    *sites, total, ready = result.out.splitlines()
    names = [f"model.decoder.layers.{n}.encoder_attn.{p}_proj" for n in (0, 1) for p in ("q", "k", "v", "o")]
    assert sites == [f"{name}\trank {4 if 'v_proj' in name else 8}\t{(4 if 'v_proj' in name else 8) * 64} parameters" for name in names]
    assert total == f"{6 * 8 * 64 + 2 * 4 * 64} parameters train"
    assert ready == "ready: 8 layers to adapt, nothing was trained or written"
    assert list(tmp_path.iterdir()) == []
    assert files_below(sets.train.parent) == before


def test_a_finished_run_is_replaced_only_when_told(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    assert quick(random_v1, sets, tmp_path / "run", *ANY_VERDICT).code == 0
    (tmp_path / "run" / "lora_adapter" / "extra").touch()
    assert quick(random_v1, sets, tmp_path / "run", "--overwrite", *ANY_VERDICT).code == 0
    assert files_below(tmp_path / "run") == ARTIFACTS


def test_scores_of_the_base_model_that_are_known_are_said_to_be(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    first, second = (quick(random_v1, sets, tmp_path / name).record for name in ("first", "second"))
    assert (first.baseline_known, second.baseline_known) == ((), ("domain", "heldout"))
    assert first.domain is not None
    assert second.domain is not None
    assert second.domain.baseline == first.domain.baseline
    assert "those of an earlier run" in (tmp_path / "second/report.md").read_text()
    assert "those of an earlier run" not in (tmp_path / "first/report.md").read_text()


def test_labels_that_the_model_finds_unlikely_in_its_own_words_are_refused(tiny: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    """A tokenizer whose merges are lost still reads and writes every word, as letters: training on them would ruin the model."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.checkpoint.folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    run = ("experiment", "--model-id", folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / "run")
    assert "if the tokenizer is the model's own, it spells the language in short pieces" in refusal(*run)
    told = refusal(*run, "--tokens-per-second", 20)
    found = re.search(
        r"the model's loss on its own transcripts is (\d+\.\d\d) nats per token, above 1: labels and outputs do not line up", told
    )
    assert found, told
    assert float(found[1]) > 3
    record = read_record(tmp_path / "run")
    assert (record.status, record.training) == ("failed", None)


def test_the_small_preset_is_valid_up_to_its_manifests(sets: Manifests) -> None:
    named = {f"data.{name}_manifest": str(getattr(sets, name)) for name in sets.__dataclass_fields__}
    config = build(real_small.PRESET | named, None)
    assert config.model.model_id == "packaged:moonshine-tiny"
    assert config.train.max_steps == 30


@pytest.mark.slow
def test_the_small_preset_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = real_small.main(["--gradient-accumulation-steps", "2"])
    metrics = json.loads((tmp_path / "outputs" / "real_small" / "real_metrics.json").read_text())
    assert code == (0 if metrics["accepted"] else 3)
    assert metrics["status"] == "completed"
    assert metrics["tuned_wer"] < metrics["baseline_wer"]
    assert metrics["settings"]["train"]["gradient_accumulation_steps"] == 2
    assert files_below(tmp_path / "outputs" / "real_small") == ARTIFACTS - {"experiment_metrics.json"} | {"real_metrics.json"}
