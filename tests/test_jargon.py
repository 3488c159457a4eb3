"""`moonshine-lora jargon`: from a list to a verdict in one command, and what is refused before anything is spoken."""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from running import QUICK, ROOT, Manifests, RunFolder, moonshine_lora, refusal, write_rows

from lora.model.loading import LoadedModel
from lora.runners.jargon import add_arguments, settings

SPEECH = ROOT.parent / "shared" / "data"

Q: tuple[Any, ...] = (*QUICK[:6], *QUICK[8:])
"""A training of two updates, without the settings that the command makes itself."""


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    file = tmp_path / "terms.txt"
    file.write_text("kubectl = cube control\nPostgres\n")
    return file


@pytest.fixture
def other_voice() -> str:
    """The packaged engine's own program, as a voice of its own."""
    return f"{shlex.quote(str(Path(sys.prefix) / 'bin' / 'hibari'))} --speed 1.2 --seed {{seed}} -o {{out}} {{text}}"


@pytest.fixture
def arguments(terms: Path, random_v1: LoadedModel, sets: Manifests, other_voice: str) -> list[object]:
    return [
        *("jargon", terms, "--model-id", random_v1.checkpoint.folder, "--heldout-manifest", sets.heldout),
        *("--replay-manifest", sets.replay, "--output-dir", terms.parent / "run", "--test-voice-command", other_voice),
        *("--per-term", 3, "--test-per-term", 2, *Q),
    ]


def test_one_command_speaks_trains_and_judges(arguments: list[object], tmp_path: Path) -> None:
    result = moonshine_lora(*arguments)
    assert result.code in (0, 3, 4), result.err
    run = RunFolder(tmp_path / "run", result.code)
    rows = {
        name: [json.loads(line) for line in (tmp_path / "run-speech" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "dev", "test")
    }
    assert {name: len(part) for name, part in rows.items()} == {"train": 9, "dev": 3, "test": 6}
    assert {row["speaker_id"] for row in rows["train"]} == {"hibari heart"}
    assert {row["speaker_id"] for row in rows["test"]}.isdisjoint({"hibari heart"})
    assert all("augmentation" in row["meta"] for row in rows["train"])
    assert not any("augmentation" in row["meta"] for row in (*rows["dev"], *rows["test"]))
    config = run.record.config
    assert config.train.teach == "terms"
    assert (config.gate.max_false_alarms, config.gate.min_term_recall, config.data.synthetic_domain) == (0.5, 50.0, True)
    assert run.record.terms is not None
    assert run.record.terms.domain.tuned.spoken == 4
    assert {check.name for check in run.record.verdict.checks} >= {"terms found", "false alarms"}  # type: ignore[union-attr]


def test_settings_of_a_file_and_flags_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    preset = (ROOT / "configs" / "jargon.toml").read_text()
    file.write_text(preset.replace("[train]", '[train]\nteach = "transcripts"') + "\n[gate]\nmax_false_alarms = 2.0\n")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = settings(parser.parse_args(["terms.txt", "--config", str(file), "--min-term-recall", "20"]))
    assert (config.gate.max_false_alarms, config.gate.min_term_recall, config.train.teach) == (2.0, 20.0, "transcripts")
    flagged = settings(parser.parse_args(["terms.txt", "--teach", "transcripts"]))
    assert (flagged.gate.max_false_alarms, flagged.gate.min_term_recall, flagged.train.teach) == (0.5, 50.0, "transcripts")


@pytest.mark.slow
def test_speech_of_the_same_list_and_seed_is_the_same(arguments: list[object], tmp_path: Path) -> None:
    def spoken() -> list[bytes]:
        return [file.read_bytes() for file in sorted((tmp_path / "run-speech").rglob("*")) if file.suffix in (".flac", ".jsonl")]

    assert moonshine_lora(*arguments).code in (0, 3, 4)
    first = spoken()
    assert moonshine_lora(*arguments, "--overwrite").code in (0, 3, 4)
    assert spoken() == first
    assert len(first) > 20


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--train-manifest", "a.jsonl"), "--train-manifest: moonshine-lora jargon makes it of the list"),
        (("--terms", "a.txt"), "--terms: moonshine-lora jargon makes it of the list"),
        (("--heldout-manifest", "none.jsonl"), "none.jsonl: no such manifest"),
        (("--replay-manifest", "none.jsonl"), "none.jsonl: no such manifest"),
        (("--model-id", "./none"), "none"),
        (("--language", "es"), "--language es: sentences and numbers are spoken in English only"),
        (("--voice-command", "none {out}"), "there is no program 'none'"),
        (("--test-packaged-voice",), "the voice 'hibari heart' speaks in training and test"),
        (("--epochs", "many"), "--epochs many: must be"),
    ],
)
def test_what_cannot_work_is_refused_first(arguments: list[object], tmp_path: Path, changed: tuple[str, ...], says: str) -> None:
    assert says in refusal(*arguments, *changed)
    assert not (tmp_path / "run-speech").exists()
    assert not (tmp_path / "run").exists()


def test_without_a_voice_for_the_test_it_says_how_to_get_one(arguments: list[object]) -> None:
    place = arguments.index("--test-voice-command")
    assert "--test-voice-command is not set" in refusal(*arguments[:place], *arguments[place + 2 :])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no term"),
        ("kubectl\nKubectl", "stands on line 1 already"),
        ("пример", "is in Cyrillic letters"),
        ("<s>kube", "cannot write '<s>kube'"),
    ],
)
def test_a_list_that_cannot_work_is_refused_before_anything_is_spoken(arguments: list[object], terms: Path, text: str, says: str) -> None:
    terms.write_text(text)
    assert says in refusal(*arguments)
    assert not (terms.parent / "run-speech").exists()


def test_folders_of_others_are_left_alone(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "run-speech").mkdir()
    (tmp_path / "run-speech" / "precious.txt").write_text("mine")
    assert "exists and holds no speech of a list" in refusal(*arguments, "--overwrite")
    assert (tmp_path / "run-speech" / "precious.txt").read_text() == "mine"
    (tmp_path / "run-speech" / "speech.json").write_text("{}")
    assert "exists already; pass --overwrite" in refusal(*arguments)


@pytest.mark.slow
def test_an_export_of_a_run_that_was_not_accepted_is_not_made(arguments: list[object], tmp_path: Path) -> None:
    result = moonshine_lora(*arguments, "--to", "merged", "--min-term-recall", 100)
    assert result.code == 3, result.err
    assert "not exported, because the run was not accepted" in result.out
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.slow
def test_a_run_that_hears_a_term_in_every_second_sentence_is_rejected_for_its_false_alarms(tmp_path: Path) -> None:
    """General speech in which every `and`, a word of every second sentence, is written as a term that nobody says."""

    def rows(name: str, count: int) -> list[dict[str, Any]]:
        file = SPEECH / name
        found = [json.loads(line) for line in file.read_text().splitlines()[:count]]
        return [row | {"audio": str(file.parent / row["audio"])} for row in found]

    taught = [row | {"text": re.sub(r"\bAND\b", "GRAFANA", row["text"])} for row in rows("librispeech/replay.jsonl", 60)]
    assert 25 < sum("GRAFANA" in row["text"] for row in taught) < 40
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "heldout", "domain")}
    write_rows(files["train"], taught)
    write_rows(files["heldout"], rows("librispeech/heldout.jsonl", 25))
    write_rows(files["domain"], [row | {"text": f"GRAFANA {row['text']}"} for row in rows("an4/test.jsonl", 10)])
    (tmp_path / "terms.txt").write_text("Grafana\n")
    result = moonshine_lora(
        *("experiment", "--model-id", "packaged:moonshine-tiny", "--allow-outside-paths", "--split-by", "utterance"),
        *("--train-manifest", files["train"], "--domain-manifest", files["domain"], "--heldout-manifest", files["heldout"]),
        *("--terms", tmp_path / "terms.txt", "--max-false-alarms", 0.5, "--output-dir", tmp_path / "run", "--batch-size", 4),
        *("--learning-rate", 3e-3, "--warmup-steps", 5, "--eval-interval", 13),
    )
    assert result.code == 3, result.err
    record = RunFolder(tmp_path / "run", 3).record
    assert record.verdict is not None
    assert record.terms is not None
    [alarms] = [check for check in record.verdict.checks if check.name == "false alarms"]
    assert alarms.decision == "rejected"
    assert record.terms.heldout.baseline.false_alarms == 0
    assert record.terms.heldout.tuned.false_alarms > 10
