"""A run that is killed, interrupted or broken off goes on as if nothing had happened, or says why it cannot."""

import bisect
import json
import os
import random
import shutil
import signal
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from forked import Forked, fork
from running import ANY_VERDICT, QUICK, Manifests, files_below, moonshine_lora, refusal
from safetensors.torch import load_file

from lora.model.loading import LoadedModel
from lora.runs.record import RunRecord, result_folder
from lora.runs.record import read as read_record
from lora.system.files import sha256_file
from lora.training import checkpointing

KILLS = int(os.environ.get("RESUME_KILLS", "8"))

SHORT = (
    *(*QUICK, "--max-steps", 12, "--epochs", 99, "--eval-interval", 4, "--checkpoint-interval", 2, "--patience", 9),
    *("--lora-dropout", 0.1, "--tokens-per-second", 0.5, "--learning-rate", "1e-2", "--warmup-steps", 0, *ANY_VERDICT),
)
"""Twelve updates of a random model, with dropout, replay and a guard; a checkpoint after every second."""

STEPS, EVERY = 16, 4
LONG = ("--max-steps", STEPS, "--eval-interval", EVERY, "--patience", 99, "--tokens-per-second", 3)
"""Most of the run is training and its evaluations, in which clips are decoded up to a cap that is not low."""


@pytest.fixture(scope="module")
def command(random_v1: LoadedModel, sets: Manifests) -> tuple[object, ...]:
    return ("experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *SHORT)


@pytest.fixture(scope="module")
def whole(command: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = moonshine_lora(*command, "--output-dir", folder)
    assert result.code == 0, result.err
    return folder


def timeless(record: RunRecord) -> dict[str, Any]:
    """What a run found, without its times and without what is its own."""
    assert record.training is not None
    training = msgspec.structs.replace(
        record.training, seconds=0.0, history=tuple(msgspec.structs.replace(step, seconds=0.0) for step in record.training.history)
    )
    kept = ("status", "adapter", "domain", "heldout", "heldout_drift", "verdict", "replay_left_out", "manifests", "checkpoint")
    return {name: getattr(record, name) for name in kept} | {"training": training}


def assert_same(folder: Path, whole: Path) -> None:
    """Bit for bit the same adapter or checkpoint, the same numbers, and the same files."""
    config = read_record(whole).config.adapter
    weights = Path(result_folder(config)) / ("model.safetensors" if config.method == "full" else "adapter_model.safetensors")
    assert sha256_file(folder / weights) == sha256_file(whole / weights)
    assert timeless(read_record(folder)) == timeless(read_record(whole))
    assert files_below(folder) == files_below(whole)


def require_whole(folder: Path) -> None:
    """Fails where a file that a killed run left under its final name cannot be read."""
    for name in files_below(folder):
        path = folder / name
        if any(part.endswith((".part", ".old")) for part in Path(name).parts) or path.is_dir():
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert path.read_text().endswith("\n")
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        else:
            assert path.stat().st_size > 0
    if (folder / "checkpoints").is_dir():
        found = [path for path in (folder / "checkpoints").iterdir() if not path.name.startswith(".")]
        assert len(found) <= checkpointing.KEPT + 1, "one more while the oldest is about to go"
        for path in found:
            assert checkpointing.read(path).numbers.step == checkpointing.step_of(path)


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that are whole; none where there is no log yet."""
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []


def arrivals(process: Forked, folder: Path) -> tuple[float, ...]:
    """Seconds from now to each line of the log of a run that goes on to its end, and to that end."""
    started, found = time.monotonic(), [0.0]
    while process.running():
        found += [time.monotonic() - started] * (1 + len(events(folder)) - len(found))
        time.sleep(0.001)
    return *found, time.monotonic() - started


def phase(folder: Path) -> str:
    """What a run was doing when it was killed, by the last line of its log."""
    logged = events(folder)
    last = logged[-1] if logged else {"event": "start"}
    kind, step = last["event"], last.get("step")
    if kind == "start":
        return "before training"
    if kind == "baseline":
        return "before training" if logged[-2]["event"] == "start" else "labels and first evaluation"
    if kind == "update":
        return "dev evaluation" if step % EVERY == 0 else "training"
    if kind == "dev":
        return "training" if step < STEPS else "final evaluation"
    return "final evaluation" if sum(one["event"] == "tuned" for one in logged) == 1 else "reports"


@pytest.mark.slow
def test_wherever_it_is_killed_a_resumed_run_ends_the_same_bit_for_bit(command: tuple[object, ...], tmp_path: Path) -> None:
    """Real kills of real processes, at moments drawn over the length of an undisturbed run; `RESUME_KILLS` sets their number.

    Every fifth moment is of the whole run, the others are between the start of training and the end of the last evaluation.

    A moment is the time since the last line of the log before it, so that a machine that is slower for a while does not move it.
    """
    command, whole = (*command, *LONG), tmp_path / "whole"
    assert fork(*command, "--output-dir", tmp_path / "first", output=tmp_path / "first.txt").wait() == 0  # fills the cache
    lines = arrivals(fork(*command, "--output-dir", whole, output=tmp_path / "whole.txt"), whole)
    assert read_record(whole).status == "completed"
    assert_same(tmp_path / "first", whole)
    kinds = [entry["event"] for entry in events(whole)]
    # Line n of the log came at lines[n], counted from 1. Training starts behind the baseline.
    begin, end = lines[len(kinds) - kinds[::-1].index("baseline")], lines[len(kinds) - kinds[::-1].index("tuned")]
    draw, steps, phases = random.Random(7), [], Counter[str]()
    for number in range(KILLS):
        moment = draw.uniform(begin, end) if number % 5 else draw.uniform(0, lines[-1])
        folder = tmp_path / f"run-{number}"
        before = bisect.bisect(lines, moment) - 1
        arguments = (*command, "--output-dir", folder)
        process = fork(*arguments, output=tmp_path / "killed.txt")
        while len(events(folder)) < before and process.running():
            time.sleep(0.001)
        time.sleep(moment - lines[before])
        process.send(signal.SIGKILL)
        process.wait()
        if not folder.exists():
            phases["before there was a run"] += 1
            assert "holds no run" in refusal(*arguments, "--resume")
            assert fork(*arguments, output=tmp_path / "anew.txt").wait() == 0
        elif read_record(folder).status == "completed":
            phases["after its end"] += 1
            for left in ("checkpoints", ".checkpoints.old"):  # only what was to be removed last may be left
                shutil.rmtree(folder / left, ignore_errors=True)
        else:
            phases[phase(folder)] += 1
            require_whole(folder)
            again = fork(*arguments, "--resume", output=tmp_path / "resumed.txt")
            assert again.wait() == 0, (number, again.output.read_text())
            steps.append(read_record(folder).resumed[0].step)
        assert_same(folder, whole)
        shutil.rmtree(folder)
        print(f"{number + 1} kills: {dict(phases)}", flush=True)
    print(f"{KILLS} kills of a run of {lines[-1]:.1f} s: {dict(phases)}; resumed from steps {sorted(steps)}")
    assert len(set(steps)) > 1
    inside = ("labels and first evaluation", "training", "dev evaluation", "final evaluation")
    assert sum(phases[name] for name in inside) > KILLS / 2


@pytest.mark.slow
def test_a_run_killed_twice_ends_the_same(command: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = (*command, "--output-dir", folder)
    for event, flags in (('"event":"update","step":3,', ()), ('"event":"update","step":7,', ("--resume",))):
        process = fork(*arguments, *flags, output=tmp_path / "out.txt")
        process.wait_for(event, folder / "log.jsonl")
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        require_whole(folder)
        assert read_record(folder).status == "running"
    done = moonshine_lora(*arguments, "--resume")
    assert done.code == 0, done.err
    assert_same(folder, whole)
    record = read_record(folder)
    assert [one.step for one in record.resumed] == [2, 6]
    assert f"resumed from step {record.resumed[1].step}" in done.err
    assert [entry["step"] for entry in events(folder) if entry["event"] == "resumed"] == [2, 6]
    assert {entry["step"] for entry in events(folder) if entry["event"] == "update"} == set(range(1, 13))
    assert record.stages.keys() == read_record(whole).stages.keys()


def test_full_fine_tuning_that_is_killed_ends_the_same(command: tuple[object, ...], tmp_path: Path) -> None:
    """All weights of encoder and decoder, with the optimizer's, come back from the checkpoint."""
    own = ("--method", "full", "--lora-targets", "both", "--full-learning-rate", "1e-3")
    split = command.index("--lora-dropout")
    command = (*command[:split], *command[split + 2 :], *own)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert moonshine_lora(*command, "--output-dir", whole).code == 0
    process = fork(*command, "--output-dir", folder, output=tmp_path / "out.txt")
    process.wait_for('"event":"update","step":7,', folder / "log.jsonl")
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    require_whole(folder)
    assert moonshine_lora(*command, "--output-dir", folder, "--resume").code == 0
    assert [one.step for one in read_record(folder).resumed] == [6]
    assert_same(folder, whole)


def test_a_run_killed_after_training_does_not_train_again(command: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = fork(*command, "--output-dir", folder, output=tmp_path / "out.txt")
    end = time.monotonic() + 120
    while not (folder / "lora_adapter").is_dir():
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send(signal.SIGKILL)
    process.wait()
    assert read_record(folder).status == "running"
    before = len([entry for entry in events(folder) if entry["event"] == "update"])
    assert moonshine_lora(*command, "--output-dir", folder, "--resume").code == 0
    assert len([entry for entry in events(folder) if entry["event"] == "update"]) == before == 12
    assert_same(folder, whole)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_writes_a_checkpoint_and_says_how_to_continue(
    command: tuple[object, ...], whole: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    """In the middle of the training, between two checkpoints that were due."""
    folder = tmp_path / "run"
    arguments = (*command, "--output-dir", folder, "--checkpoint-interval", 100)
    process = fork(*arguments, output=tmp_path / "out.txt")
    process.wait_for('"event":"update","step":5,', folder / "log.jsonl")
    process.send(number)
    assert process.wait() == code
    said = process.output.read_text()
    record = read_record(folder)
    assert (record.status, record.error) == ("interrupted", word)
    newest = checkpointing.newest(folder / "checkpoints")
    assert newest is not None
    step = checkpointing.step_of(newest)
    assert step >= 5
    assert said.splitlines()[-2:] == [f"  to continue, repeat the command with --resume: from step {step}", word]
    assert moonshine_lora(*arguments, "--resume").code == 0
    assert [one.step for one in read_record(folder).resumed] == [step]
    assert_same(folder, whole)


def test_a_run_stopped_before_its_first_checkpoint_starts_over(command: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = fork(*command, "--output-dir", folder, output=tmp_path / "out.txt")
    process.wait_for('"event":"start"', folder / "log.jsonl")
    process.send(signal.SIGKILL)
    process.wait()
    assert not (folder / "checkpoints").exists()
    done = moonshine_lora(*command, "--output-dir", folder, "--resume")
    assert done.code == 0
    assert "resumed from the start, for there is no checkpoint yet" in done.err
    assert_same(folder, whole)


@pytest.fixture(scope="module")
def unfinished(command: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed at its fifth update."""
    folder = tmp_path_factory.mktemp("runs") / "unfinished"
    process = fork(*command, "--output-dir", folder, output=folder.parent / "out.txt")
    process.wait_for('"event":"update","step":5,', folder / "log.jsonl")
    process.send(signal.SIGKILL)
    process.wait()
    return folder


def test_other_settings_are_refused_each_by_its_name(command: tuple[object, ...], unfinished: Path) -> None:
    before = sorted(files_below(unfinished))
    message = refusal(*command, "--output-dir", unfinished, "--resume", "--learning-rate", "2e-2", "--batch-size", 3)
    assert "was started with other settings: " in message
    assert "train.learning_rate was 0.01, is 0.02; train.batch_size was 2, is 3; set them back" in message
    assert sorted(files_below(unfinished)) == before


def test_settings_on_which_no_number_depends_may_change(command: tuple[object, ...], unfinished: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "moved")
    others = ("--checkpoint-interval", 5, "--feature-cache-gb", 11, "--overwrite", "--trackers", "tensorboard")
    assert moonshine_lora(*command, "--output-dir", tmp_path / "moved", "--resume", *others).code == 0
    shutil.rmtree(tmp_path / "moved" / "trackers")
    assert_same(tmp_path / "moved", whole)


def test_a_manifest_that_has_changed_is_refused_by_its_name(command: tuple[object, ...], unfinished: Path, sets: Manifests) -> None:
    content = sets.domain.read_text()
    try:
        sets.domain.write_text(content + "\n")
        message = refusal(*command, "--output-dir", unfinished, "--resume")
    finally:
        sets.domain.write_text(content)
    assert f"cannot be resumed: domain ({sets.domain}) has changed; undo that, or start another run" in message


def test_a_damaged_checkpoint_is_refused_with_the_way_back(
    command: tuple[object, ...], unfinished: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unfinished, folder)
    newest = checkpointing.newest(folder / "checkpoints")
    assert newest is not None
    content = bytearray((newest / checkpointing.TENSORS_FILE).read_bytes())
    content[-5] ^= 1
    (newest / checkpointing.TENSORS_FILE).write_bytes(content)
    message = refusal(*command, "--output-dir", folder, "--resume")
    assert f"is damaged; remove {newest} to continue from the checkpoint before it" in message
    shutil.rmtree(newest)
    assert moonshine_lora(*command, "--output-dir", folder, "--resume").code == 0
    assert_same(folder, whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"misses": 0', b'"misses": 1'),
        (b'"step": ', b'"step": 1'),
        (b'"dev_loss": ', b'"dev_loss": 1'),
        (b'"tokens"', b'"token"'),
        (b"}", b""),
    ],
    ids=["a number", "the step", "a loss", "a name", "cut"],
)
def test_damaged_numbers_of_a_checkpoint_are_refused_with_the_way_back(
    command: tuple[object, ...], unfinished: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unfinished, folder)
    newest = checkpointing.newest(folder / "checkpoints")
    assert newest is not None
    state = newest / checkpointing.STATE_FILE
    content = state.read_bytes()
    assert old in content, content
    state.write_bytes(content.replace(old, new, 1))
    message = refusal(*command, "--output-dir", folder, "--resume")
    assert str(state) in message
    assert f"; remove {newest} to continue from the checkpoint before it" in message


def test_a_completed_run_and_a_folder_without_one_are_refused(command: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    assert "the run is completed, there is nothing to resume" in refusal(*command, "--output-dir", whole, "--resume")
    message = refusal(*command, "--output-dir", tmp_path / "none", "--resume")
    assert message.endswith("none: holds no run that could be resumed (no record.json); start one without --resume")
    assert not (tmp_path / "none").exists()
