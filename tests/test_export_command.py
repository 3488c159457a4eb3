"""`moonshine-lora export` as a person runs it: of a run, of an adapter, of a base model; what it refuses, and what it leaves behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from running import ANY_VERDICT, ROOT, Manifests, Result, files_below, manifests, moonshine_lora, refusal, the_error, write_rows
from safetensors.torch import load_file, save_file

from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, write_sealed
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, Utterance, read
from lora.export.agreement import compare_export
from lora.export.proof import Models, Unscored, chosen, in_runtime, with_pytorch
from lora.export.targets import write_target
from lora.model.loading import LoadedModel, load_model
from lora.runs.export_record import Exported, read_exported
from lora.runs.record import RunRecord, write
from lora.runs.record import read as read_record
from lora.runtimes.runtime import PACKAGES, RUNTIMES
from lora.text.normaliser import normalise
from lora.training.adapter import read_provenance
from lora.training.sets import SpeechSet

CPU = torch.device("cpu")

SPEECH = ROOT.parent / "shared" / "data"
"""AN4 and LibriSpeech as manifests, where they are kept beside the checkout."""


@dataclass(frozen=True)
class Trained:
    """A run, and the manifests that it used."""

    folder: Path
    sets: Manifests


@pytest.fixture(scope="module")
def trained(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Some updates that teach packaged tiny to leave case and punctuation out: transcripts change as written, and few words do."""
    place = tmp_path_factory.mktemp("sets")
    sets = manifests(place, clips)
    for part in ("train", "dev"):
        file: Path = getattr(sets, part)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        write_rows(file, [row | {"text": normalise(row["text"])} for row in rows])
    folder = tmp_path_factory.mktemp("runs") / "run"
    training = ("--max-steps", 16, "--epochs", 20, "--eval-interval", 4, "--batch-size", 5, "--warmup-steps", 2, "--learning-rate", "2e-3")
    options = (*training, "--split-by", "utterance", "--replay-ratio", 0, "--text-style", "none", "--device", "cpu", *ANY_VERDICT)
    done = moonshine_lora("experiment", "--model-id", "packaged:moonshine-tiny", *sets.flags(), *options, "--output-dir", folder)
    assert done.code == 0, done.err
    return Trained(folder, sets)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """The run in a folder that a test may change."""
    return Path(shutil.copytree(trained.folder, tmp_path / "run"))


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder of its own, exported to two targets in float32."""
    folder = Path(shutil.copytree(trained.folder, tmp_path_factory.mktemp("exported") / "run"))
    done = export("--run", folder, "--to", "merged", "sherpa-onnx", "--precision", "fp32")
    assert done.code == 0, done.err
    return folder


def export(*arguments: object) -> Result:
    return moonshine_lora("export", *arguments)


# --- a run -----------------------------------------------------------------------------------------------------------------------------


def test_an_export_is_proven_and_the_run_says_so(exported: Path) -> None:
    found: Exported = read_exported(exported / "export")
    record: RunRecord = read_record(exported)
    assert record.exports == (found,)
    assert (found.run, found.gate_accepted, found.adapter_sha256) == (str(exported), True, record.adapter and record.adapter.sha256)
    assert files_below(exported / "export") > {"export.json", "merged", "sherpa-onnx", "sherpa-onnx/tokens.txt", "merged/config.json"}
    assert record.domain is not None
    assert record.heldout is not None
    for target in found.targets.values():
        assert target.proof is not None
        assert target.proof.failures == ()
        for name, result in (("domain", record.domain), ("heldout", record.heldout)):
            part = target.proof.sets[name]
            assert (part.base.wer, part.tuned.wer) == (result.baseline.score.wer, result.tuned.score.wer)
            assert part.export.wer == part.tuned.wer
            assert part.like_tuned.written == part.utterances > part.like_base.written
        assert target.proof.sides is not None
        assert target.proof.sides.base == 0 < target.proof.sides.tuned
    assert found.peak_bytes > 100e6
    assert {"merged", "sherpa-onnx", "prove merged", "prove sherpa-onnx"} <= found.seconds.keys()
    for report in ("report.md", "report.html"):
        text = (exported / report).read_text()
        assert "On device" in text
        assert "sherpa-onnx fp32" in text


def test_a_manifest_is_transcribed_and_scored_in_the_runtime(exported: Path, trained: Trained, tmp_path: Path) -> None:
    options = ("--manifest", trained.sets.domain, "--output", tmp_path / "out.json")
    done = moonshine_lora("transcribe", "--runtime", "sherpa-onnx", "--export-dir", exported / "export", *options)
    assert done.code == 0, done.err
    content: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    record = read_record(exported)
    assert record.domain is not None
    assert [row["text"] for row in content["utterances"]] == [row.hypothesis for row in record.domain.tuned.score.utterances]
    assert content["wer"] == record.domain.tuned.score.wer
    assert content["runtime"] == "sherpa-onnx"
    assert content["real_time_factor"] == pytest.approx(
        sum(row["transcribe_s"] for row in content["utterances"]) / sum(row["seconds"] for row in content["utterances"])
    )
    assert re.search(r": real-time factor \d+\.\d{3}$", done.err, re.M)


def test_the_merged_model_needs_no_adapter(exported: Path, trained: Trained, tmp_path: Path) -> None:
    merged = ("--model-id", exported / "export" / "merged", "--manifest", trained.sets.domain, "--output", tmp_path / "out.json")
    assert moonshine_lora("transcribe", *merged, "--device", "cpu").code == 0
    record = read_record(exported)
    assert record.domain is not None
    texts = [row["text"] for row in json.loads((tmp_path / "out.json").read_text())["utterances"]]
    assert texts == [row.hypothesis for row in record.domain.tuned.score.utterances]


def test_a_rejected_run_needs_a_word_more(run: Path) -> None:
    record = read_record(run)
    assert record.verdict is not None
    rejected = msgspec.structs.replace(record.verdict, decision="rejected")
    write(msgspec.structs.replace(record, verdict=rejected), run)
    arguments = ("--run", run, "--to", "merged", "--skip-proof")
    assert "pass --allow-rejected to export it anyway" in refusal("export", *arguments)
    assert not (run / "export").exists()
    done = export(*arguments, "--allow-rejected")
    assert done.code == 0, done.err
    found = read_exported(run / "export")
    assert found.gate_accepted is False
    assert found.targets["merged"].proof is None
    assert "although the gate did not accept" in (run / "report.md").read_text()


def test_a_run_whose_adapter_is_another_one_is_refused(run: Path) -> None:
    shutil.move(run / "lora_adapter", run / "first")
    scaled(run / "first", 0.3, run / "lora_adapter")
    assert "is not what the run scored; export it with --model-id and --adapter-dir" in refusal("export", "--run", run, "--to", "merged")


def test_a_run_that_is_not_complete_and_speech_that_has_changed(run: Path, trained: Trained) -> None:
    record = read_record(run)
    write(msgspec.structs.replace(record, status="failed", verdict=None), run)
    assert "not complete (failed)" in refusal("export", "--run", run, "--to", "merged")
    domain = record.manifests["domain"]
    rows = [json.loads(line) for line in trained.sets.domain.read_text().splitlines()]
    other = write_rows(trained.sets.domain.parent / "changed.jsonl", [row | {"text": "something else"} for row in rows])
    moved = msgspec.structs.replace(domain, path=str(other))
    write(msgspec.structs.replace(record, manifests=record.manifests | {"domain": moved}), run)
    assert "changed.jsonl: has changed since the run; put it back, or give --domain-manifest" in the_error(
        export("--run", run, "--to", "merged")
    )
    assert not (run / "export").exists()


# --- the wrong weights -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_weights_of_the_base_model_are_caught(trained: Trained, strength: float, tmp_path: Path) -> None:
    """The graphs of the untuned model in the place of the tuned one's: what the runtime says gives it away."""
    folder = scaled(trained.folder / "lora_adapter", strength, tmp_path / "adapter")
    models, parts = both(trained, folder)
    sets = {name: with_pytorch(models, Unscored(part, True, "none", None), lambda _count: None) for name, part in parts.items()}
    (tmp_path / "tuned").mkdir()
    (tmp_path / "base").mkdir()
    write_target(models.tuned, "sherpa-onnx", "fp32", tmp_path / "tuned")
    write_target(models.base, "sherpa-onnx", "fp32", tmp_path / "base")
    found = {}
    for name in ("tuned", "base"):
        scores, speed = in_runtime("sherpa-onnx", tmp_path / name, sets, models, lambda _count: None)
        found[name] = compare_export(scores, adapted=True, max_drift_points=1000, speed=speed)
    assert found["tuned"].failures == ()
    assert "it takes the base model's side" in found["base"].failures[0]


def scaled(adapter: Path, strength: float, folder: Path) -> Path:
    """The same adapter with a share of its update, saved as a whole."""
    shutil.copytree(adapter, folder)
    provenance = read_provenance(folder)
    file = folder / "adapter_model.safetensors"
    weights = {name: weight * strength if ".lora_B." in name else weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    write_sealed(folder, provenance, ADAPTER_WEIGHTS, ADAPTER_SETTINGS)
    return folder


def both(trained: Trained, adapter: Path) -> tuple[Models, dict[str, SpeechSet]]:
    from lora.system.files import sha256_file
    from lora.training.adapter import fold_in, load, read_provenance

    checkpoint = resolve("packaged:moonshine-tiny")
    base, tuned = (load_model(checkpoint, CPU, "float32") for _ in range(2))
    adapted = load(tuned, adapter)
    encoder = adapted.trains_encoder
    fold_in(adapted)
    provenance = read_provenance(adapter)
    models = Models(base, tuned, sha256_file(adapter / "adapter_model.safetensors"), encoder, provenance.audio, provenance.decode)
    parts = {}
    for name in ("domain", "heldout"):
        manifest = read(getattr(trained.sets, name), Rules())
        parts[name] = SpeechSet(manifest, validate(manifest, Rules(), AudioSettings()))
    return models, parts


def test_a_runs_transcripts_are_those_of_now_only_where_the_base_model_scores_the_same_again(trained: Trained) -> None:
    result = read_record(trained.folder).domain
    assert result is not None
    models, parts = both(trained, trained.folder / "lora_adapter")
    transcribed: list[int] = []
    found = with_pytorch(models, Unscored(parts["domain"], True, "none", result), transcribed.append)
    assert (found.base, found.tuned, transcribed) == (result.baseline.score, result.tuned.score, [])
    others = msgspec.structs.replace(result.tuned, score=result.baseline.score)
    elsewhere = msgspec.structs.replace(result.baseline, loss=result.baseline.loss * (1 + 1e-12))
    wrong = msgspec.structs.replace(result, baseline=elsewhere, tuned=others)
    assert with_pytorch(models, Unscored(parts["domain"], True, "none", wrong), transcribed.append).tuned == result.tuned.score


def test_an_adapter_that_changes_nothing_cannot_be_proven(trained: Trained, tmp_path: Path) -> None:
    nothing = scaled(trained.folder / "lora_adapter", 0.0, tmp_path / "adapter")
    output = tmp_path / "out" / "export"
    done = export(
        *("--model-id", "packaged:moonshine-tiny", "--adapter-dir", nothing, "--to", "merged", "--output", output),
        *("--domain-manifest", trained.sets.domain, "--heldout-manifest", trained.sets.heldout),
    )
    assert done.code == 3, done.err
    assert done.err.splitlines()[-1].startswith(f"error: {output}: not exported, merged is not proven: base and tuned model say the same")
    assert files_below(output.parent) == set()


# --- models by themselves --------------------------------------------------------------------------------------------------------------


def test_a_base_model_is_exported_and_proven_against_itself(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "export"
    model = ("--model-id", "packaged:moonshine-tiny", "--to", "onnx", "--precision", "fp32", "--output", output)
    done = export(*model, "--domain-manifest", trained.sets.domain, "--proof-clips", 2)
    assert done.code == 0, done.err
    found = read_exported(output)
    assert (found.run, found.gate, found.gate_accepted, found.adapter_sha256) == (None, None, None, None)
    proof = found.targets["onnx"].proof
    assert proof is not None
    assert proof.sides is None
    assert proof.sets["domain"].utterances == found.speech["domain"].utterances == 2


# --- mistakes --------------------------------------------------------------------------------------------------------------------------


def test_mistakes_with_export_are_refused(trained: Trained, random_v1: LoadedModel, tmp_path: Path) -> None:
    tiny, output = ("--model-id", "packaged:moonshine-tiny"), ("--output", tmp_path / "export")
    adapter = trained.folder / "lora_adapter"
    quantised = Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "quantised" / "model"))
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 8}}))
    for options, message in (
        (("--to", "merged"), "give --run, or --model-id with or without --adapter-dir"),
        ((*tiny, "--to", "merged"), "--output is not set; name the folder to export to"),
        ((*tiny, *output, "--to", "merged"), "give --domain-manifest and --heldout-manifest, or pass --skip-proof"),
        (("--run", trained.folder, *tiny, "--to", "merged"), "--run names the model and its adapter; leave --model-id out"),
        (("--run", tmp_path, "--to", "merged"), "holds no run (no record.json)"),
        ((*tiny, *output, "--to", "coreml"), "invalid choice: 'coreml'"),
        ((*tiny, *output), "the following arguments are required: --to"),
        (("--model-id", quantised, *output, "--to", "merged", "--skip-proof"), "quantised weights cannot be trained; take the float"),
        (
            ("--model-id", random_v1.checkpoint.folder, "--adapter-dir", adapter, *output, "--to", "merged", "--skip-proof"),
            "lora_adapter: was trained on packaged:moonshine-tiny",
        ),
        ((*tiny, "--adapter-dir", tmp_path, *output, "--to", "merged", "--skip-proof"), "holds no adapter (no adapter_config.json)"),
        (("--model-id", random_v1.checkpoint.folder, *output, "--to", "onnx", "--skip-proof"), "run only tiny"),
        ((*tiny, *output, "--to", "merged", "--domain-manifest", tmp_path / "none.jsonl"), "none.jsonl: no such manifest"),
    ):
        assert message in refusal("export", *options), options
        assert not (tmp_path / "export").exists()


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    model = ("--model-id", "packaged:moonshine-tiny", "--to", "merged", "--skip-proof")
    (tmp_path / "file").write_text("x")
    assert "file: is a file; choose another --output" in refusal("export", *model, "--output", tmp_path / "file")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    for more in ((), ("--overwrite",)):
        assert "is not empty and holds no export" in refusal("export", *model, "--output", tmp_path / "home", *more)
    output = tmp_path / "export"
    assert export(*model, "--output", output).code == 0
    before = {name: (output / name).stat().st_mtime_ns for name in files_below(output)}
    assert "holds an export; choose another --output or pass --overwrite" in refusal("export", *model, "--output", output)
    assert {name: (output / name).stat().st_mtime_ns for name in files_below(output)} == before
    (output / "left over").write_text("x")
    assert export(*model, "--output", output, "--overwrite").code == 0
    assert "left over" not in files_below(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "file", "home"]


@pytest.mark.parametrize("small_disk", [1024, pytest.param(51_200, marks=pytest.mark.slow)], indirect=True)
def test_a_full_disk(small_disk: Path) -> None:
    """One that takes nothing, and one that takes the first target and not the second."""
    model = ("--model-id", "packaged:moonshine-tiny", "--to", "sherpa-onnx", "merged", "--skip-proof")
    error = refusal("export", *model, "--output", small_disk / "export")
    assert "free some" in error
    assert "choose another place" in error
    assert files_below(small_disk) == set()


def test_a_runtime_that_is_missing(tmp_path: Path) -> None:
    """In a process whose path holds every installed package but this one."""
    import lora

    site = Path(torch.__file__).parents[1]
    for entry in site.iterdir():
        if entry.name.partition(".")[0] != PACKAGES["onnx"][0] and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    paths = os.pathsep.join([str(Path(lora.__file__).parents[1]), str(tmp_path)])
    arguments = ["export", "--model-id", "packaged:moonshine-tiny", "--to", "merged", "onnx", "--output", str(tmp_path / "export")]
    code = f"from lora.console import run; from lora.main import _main; raise SystemExit(run(lambda: _main({arguments!r})))"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (
        2,
        "error: onnx: the package useful-moonshine-onnx is not installed; install the extra (pip install 'moonshine-lora[export]')\n",
    )
    assert not (tmp_path / "export").exists()


def test_mistakes_with_runtimes_are_refused(tmp_path: Path) -> None:
    what = ("--audio", tmp_path / "clip.wav")
    for options, message in (
        ((), "--model-id is not set; give it, or --run, or --runtime with --export-dir"),
        (("--export-dir", tmp_path), "--export-dir needs --runtime"),
        (("--runtime", "onnx"), "--runtime onnx needs --export-dir"),
        (("--runtime", "onnx", "--export-dir", tmp_path, "--model-id", "x"), "--model-id is part of the export; leave it out"),
        (("--runtime", "onnx", "--export-dir", tmp_path, "--tokens-per-second", 13), "--tokens-per-second is part of the export"),
        (("--runtime", "onnx", "--export-dir", tmp_path, "--precision", "bfloat16"), "--device and --precision are PyTorch's"),
        (("--runtime", "onnx", "--export-dir", tmp_path), "holds no export (no export.json)"),
        (("--runtime", "whisper", "--export-dir", tmp_path), "invalid choice: 'whisper'"),
    ):
        assert message in refusal("transcribe", *options, *what), options


# --- the whole promise -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on AN4 of rank 8, all else the default."""
    if not (SPEECH / "an4" / "train.jsonl").is_file():
        pytest.skip("AN4 and LibriSpeech do not lie beside the checkout")
    folder = tmp_path_factory.mktemp("an4") / "run"
    sets = ("--train-manifest", SPEECH / "an4" / "train.jsonl", "--domain-manifest", SPEECH / "an4" / "test.jsonl")
    general = ("--heldout-manifest", SPEECH / "librispeech" / "heldout.jsonl", "--replay-manifest", SPEECH / "librispeech" / "replay.jsonl")
    command = [sys.executable, "-m", "lora.runners.experiment", "--model-id", "packaged:moonshine-tiny", "--lora-r", "8"]
    done = subprocess.run([*command, *map(str, (*sets, *general)), "--output-dir", str(folder)], capture_output=True, check=False)
    assert done.returncode in (0, 4), done.stderr
    return folder


@pytest.mark.long
@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("precision", ["u8", "fp32"])
def test_a_tuned_model_passes_in_every_runtime(spelled: Path, strength: float, precision: str, tmp_path: Path) -> None:
    adapter = scaled(spelled / "lora_adapter", strength, tmp_path / "adapter")
    speech = ("--domain-manifest", SPEECH / "an4" / "test.jsonl", "--heldout-manifest", SPEECH / "librispeech" / "heldout.jsonl")
    model = ("--model-id", "packaged:moonshine-tiny", "--adapter-dir", adapter, "--precision", precision)
    done = export(*model, *speech, "--to", *RUNTIMES, "--output", tmp_path / "export")
    assert done.code == 0, done.err
    for name, target in read_exported(tmp_path / "export").targets.items():
        assert target.proof is not None
        for part in target.proof.sets.values():
            assert abs(part.drift_points) <= (0.5 if precision == "u8" else 0), name
        said = sum(part.like_tuned.normalised for part in target.proof.sets.values())
        assert said > 0.9 * sum(part.utterances for part in target.proof.sets.values()), name


@pytest.mark.long
@pytest.mark.parametrize(("precision", "strength"), [("u8", 1.0), ("fp32", 0.3)])
def test_the_base_models_weights_fail_in_every_runtime(spelled: Path, strength: float, precision: str, tmp_path: Path) -> None:
    adapter = scaled(spelled / "lora_adapter", strength, tmp_path / "adapter")
    an4, general = SPEECH / "an4", SPEECH / "librispeech"
    sets = Manifests(an4 / "train.jsonl", an4 / "train.jsonl", an4 / "test.jsonl", general / "heldout.jsonl", general / "replay.jsonl")
    models, parts = both(Trained(spelled, sets), adapter)
    some = {name: chosen(part, 40) for name, part in parts.items()}
    scored = {name: with_pytorch(models, Unscored(part, True, "none", None), lambda _count: None) for name, part in some.items()}
    for name in RUNTIMES:
        (tmp_path / name).mkdir()
        write_target(models.base, name, precision, tmp_path / name)  # type: ignore[arg-type]  # it is one of the two
        scores, speed = in_runtime(name, tmp_path / name, scored, models, lambda _count: None)
        failures = compare_export(scores, adapted=True, max_drift_points=1000, speed=speed).failures
        assert any("takes the base model's side" in failure for failure in failures), name
