"""`moonshine-lora transcribe` on files and manifests, with and without references and adapters."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from running import ANY_VERDICT, ROOT, Manifests, Result, manifests, moonshine_lora, refusal, rows_of, the_error, write_rows

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Utterance
from lora.model.loading import LoadedModel
from lora.runs.record import RunRecord
from lora.runs.record import read as read_record


@pytest.fixture(scope="module")
def four(clips: Sequence[Utterance]) -> Sequence[Utterance]:
    return list(clips)[:4]


@pytest.fixture(scope="module")
def rows(four: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with four recordings, and their manifest rows."""
    folder = tmp_path_factory.mktemp("four")
    return folder, rows_of(four, folder)


def transcribe(model: object, *arguments: object) -> Result:
    result = moonshine_lora("transcribe", "--model-id", model, "--device", "cpu", *arguments)
    assert result.code == 0, result.err
    return result


def transcribed(file: Path, model: object, *arguments: object) -> dict[str, Any]:
    """What the command writes as JSON."""
    transcribe(model, *arguments, "--output", file)
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_files_are_transcribed_in_the_order_given(tiny: LoadedModel, four: Sequence[Utterance], tmp_path: Path) -> None:
    files = [utterance.audio.path for utterance in reversed(four) if isinstance(utterance.audio, FileAudio)]
    result = transcribe(tiny.checkpoint.model_id, "--audio", *files, "--output", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["id"] for row in content["utterances"]] == [str(file) for file in files]
    assert [line.split("\t") for line in result.out.splitlines()] == [[row["id"], row["text"]] for row in content["utterances"]]
    assert "the worst of times" in content["utterances"][-1]["text"]
    assert [row["seconds"] for row in content["utterances"]] == [pytest.approx(soundfile.info(file).duration) for file in files]
    assert (content["wer"], content["scored"], content["adapter"]) == (None, 0, None)
    assert all(row["wer"] is None and row["reference"] is None for row in content["utterances"])
    assert result.err == ""


def test_a_manifest_with_references_is_scored(tiny: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, given = rows
    wrong = given[1] | {"text": given[1]["text"].replace("wisdom", "wisdom or of lemons")}
    manifest = write_rows(folder / "scored.jsonl", [given[0], wrong])
    result = transcribe(tiny.checkpoint.model_id, "--manifest", manifest, "--output", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    words = [len(row["text"].split()) for row in (given[0], wrong)]
    errors = [row["errors"]["substitutions"] + row["errors"]["deletions"] + row["errors"]["insertions"] for row in content["utterances"]]
    assert errors == [0, 3]
    assert [row["wer"] for row in content["utterances"]] == [0, 3 / words[1]]
    assert content["wer"] == 3 / sum(words)
    assert content["scored"] == 2
    assert content["normaliser"].startswith("whisper-english")
    wer = f"WER {300 / sum(words):.2f} %"
    assert result.err == f"{wer}, CER {100 * content['cer']:.2f} % over 2 utterances\n{wer} as a reader counts\n"
    assert result.out.splitlines()[1].endswith(f"\tWER {300 / words[1]:.1f} %")


def test_only_rows_with_a_reference_count(tiny: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, given = rows
    silent = given[2] | {"text": ""}
    bare = {key: given[3][key] for key in ("audio", "id")}
    content = transcribed(
        tmp_path / "mixed.json", tiny.checkpoint.model_id, "--manifest", write_rows(folder / "mixed.jsonl", [given[0], bare, silent])
    )
    first, second, third = content["utterances"]
    assert (first["wer"], second["wer"], third["wer"]) == (0, None, None)
    assert (second["reference"], third["reference"]) == (None, "")
    assert second["text"] != ""
    assert third["errors"]["insertions"] == content["wer"] * len(given[0]["text"].split()) > 0
    assert content["scored"] == 2
    content = transcribed(tmp_path / "bare.json", tiny.checkpoint.model_id, "--manifest", write_rows(folder / "bare.jsonl", [bare]))
    assert (content["wer"], content["cer"], content["normaliser"]) == (None, None, None)
    assert content["utterances"][0]["text"] == second["text"]


def test_jsonl_holds_the_rows_of_the_json(tiny: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, given = rows
    manifest = write_rows(folder / "all.jsonl", given)
    content = transcribed(tmp_path / "out.json", tiny.checkpoint.model_id, "--manifest", manifest)
    transcribe(tiny.checkpoint.model_id, "--manifest", manifest, "--output", tmp_path / "out.jsonl")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == content["utterances"]


def test_inline_audio_gives_what_its_file_gives(any_speech: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, given = rows
    inline = [row | {"audio": soundfile.read(folder / row["audio"], dtype="float32")[0].tolist()} for row in given]
    by_path, by_value = (
        transcribed(tmp_path / f"{name}.json", any_speech.checkpoint.model_id, "--manifest", write_rows(folder / f"{name}.jsonl", part))
        for name, part in (("path", given), ("inline", inline))
    )
    for row in (*by_path["utterances"], *by_value["utterances"]):
        del row["audio"]
    assert by_path == by_value


def test_transcripts_do_not_depend_on_the_batch(any_speech: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "all.jsonl", rows_of(list(clips)[:12], tmp_path))
    single, batched = (
        transcribed(tmp_path / f"{size}.json", any_speech.checkpoint.model_id, "--manifest", manifest, "--eval-batch-size", size)
        for size in (1, 16)
    )
    assert single == batched


@pytest.fixture(scope="module")
def loud(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifests, Path, RunRecord]:
    """A run whose audio and decode settings are not the defaults."""
    sets = manifests(tmp_path_factory.mktemp("sets"), clips)
    folder = tmp_path_factory.mktemp("runs") / "loud"
    settings = (
        "--rms-dbfs",
        -12,
        "--tokens-per-second",
        4,
        "--lora-targets",
        "all",
        "--split-by",
        "utterance",
        "--replay-targets",
        "transcript",
    )
    training = ("--max-steps", 3, "--batch-size", 2, "--learning-rate", "1e-2", "--warmup-steps", 0, "--device", "cpu")
    model = ("--model-id", random_v1.checkpoint.folder)
    result = moonshine_lora("experiment", *model, *sets.flags(), *settings, *training, *ANY_VERDICT, "--output-dir", folder)
    assert result.code == 0, result.err
    return sets, folder, read_record(folder)


def the_run(run: Path, manifest: Path, output: Path) -> dict[str, Any]:
    done = moonshine_lora("transcribe", "--run", run, "--manifest", manifest, "--device", "cpu", "--output", output)
    assert done.code == 0, done.err
    content: dict[str, Any] = json.loads(output.read_text())
    return content


def test_a_run_is_not_given_with_what_it_names(tmp_path: Path) -> None:
    what = ("transcribe", "--run", tmp_path, "--audio", tmp_path / "clip.wav")
    assert f"{tmp_path}: holds no lora_adapter/; give the --output-dir of a finished run" in refusal(*what)
    for other in (("--model-id", "x"), ("--revision", "main"), ("--adapter-dir", tmp_path), ("--language", "de")):
        assert f"--run names model, adapter and language; leave out {other[0]}" in refusal(*what, *other)
    assert "with --runtime give --export-dir, such as RUN/export" in refusal(*what, "--runtime", "onnx")


def test_an_adapter_says_what_its_run_reported(random_v1: LoadedModel, loud: tuple[Manifests, Path, RunRecord], tmp_path: Path) -> None:
    sets, run, record = loud
    assert record.domain is not None
    model, manifest = random_v1.checkpoint.folder, ("--manifest", sets.domain)
    with_adapter = (*manifest, "--adapter-dir", run / "lora_adapter", "--processor-dir", run / "processor")
    content = transcribed(tmp_path / "adapter.json", model, *with_adapter)
    assert [row["text"] for row in content["utterances"]] == [row.hypothesis for row in record.domain.tuned.score.utterances]
    assert content["wer"] == record.domain.tuned.score.wer
    assert (content["audio"]["rms_dbfs"], content["decode"]["tokens_per_second"]) == (-12, 4)
    assert the_run(run, sets.domain, tmp_path / "run.json")["utterances"] == content["utterances"]
    base = transcribed(tmp_path / "base.json", model, *manifest, "--tokens-per-second", 4)
    assert base["audio"]["rms_dbfs"] is None
    assert [row["text"] for row in base["utterances"]] != [row["text"] for row in content["utterances"]]


def test_the_token_cap_is_the_adapters_own(random_v1: LoadedModel, loud: tuple[Manifests, Path, RunRecord], tmp_path: Path) -> None:
    sets, run, _ = loud
    arguments = ("--manifest", sets.domain, "--adapter-dir", run / "lora_adapter")
    same = transcribed(tmp_path / "same.json", random_v1.checkpoint.folder, *arguments, "--tokens-per-second", 4)
    assert same == transcribed(tmp_path / "own.json", random_v1.checkpoint.folder, *arguments)
    other = ("--model-id", random_v1.checkpoint.folder, *arguments, "--tokens-per-second", 6.5)
    assert "was scored with --tokens-per-second 4; leave the flag out" in the_error(moonshine_lora("transcribe", *other))


def test_without_an_adapter_the_token_cap_can_be_set(
    random_v1: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, given = rows
    manifest = write_rows(folder / "capped.jsonl", given[:1])
    short, long = (
        transcribed(tmp_path / f"{cap}.json", random_v1.checkpoint.folder, "--manifest", manifest, "--tokens-per-second", cap)["utterances"]
        for cap in (1, 13)
    )
    assert short[0]["capped"] is True
    assert long[0]["text"].startswith(short[0]["text"])
    assert len(long[0]["text"]) > len(short[0]["text"])


def test_the_just_recipe_passes_its_options_on(random_v1: LoadedModel, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    just = shutil.which("just", path=Path(sys.prefix) / "bin") or shutil.which("just")
    if just is None:
        pytest.skip("just is not installed")
    shutil.copy(ROOT / "justfile", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    folder, given = rows
    manifest = write_rows(folder / "just.jsonl", given[:2])
    options = f"--model-id {random_v1.checkpoint.folder} --manifest {manifest} --output {tmp_path / 'out.jsonl'}"
    done = subprocess.run([just, "transcribe", options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    done = subprocess.run([just, "transcribe", "--tokens 3"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
