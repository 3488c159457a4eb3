"""Several processes do what one does, over gloo: the same numbers, every utterance once, one set of files, and no waiting for the dead."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Forked, fork
from running import ANY_VERDICT, QUICK, Manifests, files_below, moonshine_lora, the_error
from safetensors.torch import load_file
from test_resume import assert_same

from lora.model.loading import LoadedModel
from lora.runs.record import read as read_record

SHORT = (
    *(*QUICK, "--max-steps", 8, "--epochs", 99, "--eval-interval", 4, "--checkpoint-interval", 2, "--patience", 9),
    *("--batch-size", 3, "--tokens-per-second", 0.5, "--eval-batch-size", 2, "--warmup-steps", 0, *ANY_VERDICT),
)
"""Five clips to train on in batches of 3 and 2, and replay by single clips: processes get different numbers, and some none."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def launch(count: int, *arguments: object, folder: Path) -> list[Forked]:
    """What `torchrun --nproc-per-node count` starts."""
    port = free_port()
    names = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "MOONSHINE_LORA_CACHE": str(folder / "cache")}
    return [
        fork(*arguments, output=folder / f"{rank}.txt", environment=names | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]


def together(count: int, *arguments: object, folder: Path) -> list[str]:
    """What each process printed; all must end well."""
    processes = launch(count, *arguments, folder=folder)
    assert [process.wait() for process in processes] == [0] * count, [process.output.read_text() for process in processes]
    return [process.output.read_text() for process in processes]


@pytest.fixture(scope="module")
def command(random_v1: LoadedModel, sets: Manifests) -> tuple[object, ...]:
    return ("experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *SHORT)


@pytest.fixture(scope="module")
def alone(command: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    together(1, *command, "--output-dir", folder / "run", folder=folder)
    return folder / "run"


def assert_alike(folder: Path, alone: Path) -> None:
    """The same transcripts and error rates; losses and weights within what adding in another order changes."""
    here, there = read_record(folder), read_record(alone)
    assert here.training is not None
    assert there.training is not None
    assert len(here.training.history) == len(there.training.history) == 3
    for step, expected in zip(here.training.history, there.training.history, strict=True):
        assert (step.step, step.dev_wer, step.guard_wer) == (expected.step, expected.dev_wer, expected.guard_wer)
        assert step.dev_loss == pytest.approx(expected.dev_loss, rel=1e-4)
        assert step.train_loss == (pytest.approx(expected.train_loss, rel=1e-4) if expected.train_loss is not None else None)
    for name in ("domain", "heldout"):
        one, other = getattr(here, name), getattr(there, name)
        assert one.baseline == other.baseline, "no weight differs, so no digit does"
        assert one.tuned.score == other.tuned.score
        assert one.tuned.loss == pytest.approx(other.tuned.loss, rel=1e-4)
    assert here.training.audio_seconds == pytest.approx(there.training.audio_seconds)
    weights, expected_weights = (load_file(place / "lora_adapter" / "adapter_model.safetensors") for place in (folder, alone))
    assert (
        max((weights[name] - expected_weights[name]).abs().max() for name in weights) < 1e-4 < max(w.abs().max() for w in weights.values())
    )
    assert files_below(folder) == files_below(alone)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_are_one(command: tuple[object, ...], alone: Path, sets: Manifests, tmp_path: Path, count: int) -> None:
    said = together(count, *command, "--output-dir", tmp_path / "run", folder=tmp_path)
    assert_alike(tmp_path / "run", alone)
    record = read_record(tmp_path / "run")
    assert record.baseline_known == ()
    for name in ("domain", "heldout"):
        wanted = [json.loads(line)["id"] for line in getattr(sets, name).read_text().splitlines()]
        for evaluation in (getattr(record, name).baseline, getattr(record, name).tuned):
            assert [row.id for row in evaluation.score.utterances] == wanted
    steps = [entry["step"] for line in (tmp_path / "run" / "log.jsonl").open() if (entry := json.loads(line))["event"] == "update"]
    assert steps == list(range(1, 9)), "only one process writes"
    assert "accepted" in said[0]
    assert said[1:] == [""] * (count - 1), "only one process talks"


@pytest.mark.slow
def test_several_processes_teach_terms_as_one_does(command: tuple[object, ...], sets: Manifests, tmp_path: Path) -> None:
    rows = [json.loads(line)["text"] for line in sets.train.read_text().splitlines()[:2]]
    (tmp_path / "terms.txt").write_text("".join(f"{word}\n" for word in {text.split()[1] for text in rows}))
    arguments = (*command, "--teach", "terms", "--terms", tmp_path / "terms.txt", "--output-dir")
    for count, name in ((1, "one"), (2, "two")):
        together(count, *arguments, tmp_path / name, folder=tmp_path)
    assert_alike(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_when_one_process_is_killed_the_others_end_and_the_run_continues(command: tuple[object, ...], alone: Path, tmp_path: Path) -> None:
    """Whatever number of processes goes on."""
    arguments = (*command, "--output-dir", tmp_path / "run")
    processes = launch(3, *arguments, folder=tmp_path)
    processes[0].wait_for('"event":"update","step":3,', tmp_path / "run" / "log.jsonl")
    processes[1].send(signal.SIGKILL)
    started = time.monotonic()
    codes = [process.wait(60) for process in processes]
    assert time.monotonic() - started < 30
    assert codes == [2, -signal.SIGKILL, 2]
    for process in (processes[0], processes[2]):
        error = process.output.read_text().splitlines()[-1]
        assert error.startswith(
            "error: another process of this run has ended or does not answer; look for its own error, then continue with"
        )
    assert read_record(tmp_path / "run").status == "failed"
    together(2, *arguments, "--resume", folder=tmp_path)
    assert read_record(tmp_path / "run").resumed[0].step >= 2
    assert_alike(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_update(command: tuple[object, ...], tmp_path: Path) -> None:
    """With dropout, of which every process draws its own."""
    command = (*command, "--lora-dropout", 0.1)
    together(2, *command, "--output-dir", tmp_path / "whole", folder=tmp_path)
    arguments = (*command, "--output-dir", tmp_path / "run", "--checkpoint-interval", 100)
    processes = launch(2, *arguments, folder=tmp_path)
    processes[0].wait_for('"event":"update","step":3,', tmp_path / "run" / "log.jsonl")
    processes[1].send(signal.SIGTERM)
    assert [process.wait() for process in processes] == [143, 143]
    assert read_record(tmp_path / "run").error == "terminated"
    together(2, *arguments, "--resume", folder=tmp_path)
    assert read_record(tmp_path / "run").resumed[0].step >= 3
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_mistake_ends_all_processes_with_its_line(command: tuple[object, ...], tmp_path: Path) -> None:
    """Only the main process looks at the run folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("dear")
    processes = launch(2, *command, "--output-dir", tmp_path / "run", folder=tmp_path)
    assert [process.wait(60) for process in processes] == [2, 2]
    assert all("is not empty and holds no run" in process.output.read_text() for process in processes)


def test_two_processes_transcribe_what_one_does(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    arguments = ("transcribe", "--model-id", random_v1.checkpoint.folder, "--manifest", sets.domain, "--tokens-per-second", 0.5)
    arguments = (*arguments, "--eval-batch-size", 1, "--device", "cpu", "--output")
    one = moonshine_lora(*arguments, tmp_path / "one.json")
    assert one.code == 0
    said = together(2, *arguments, tmp_path / "two.json", folder=tmp_path)
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert said == [one.out + one.err, ""], "only one process talks"


ENCODING = """
import sys
from pathlib import Path
import torch
from lora.system import distributed
from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import resolve
from lora.model.encoder_outputs import StoredFeatures
from lora.system.cache import Kept
from lora.dataset.manifest import Rules, read
from lora.model.loading import load_model
torch.set_num_threads(1)
checkpoint, manifest, folder = sys.argv[1:]
speech = load_model(resolve(checkpoint), torch.device("cpu"), "float32")
with distributed.joined(speech.device):
    StoredFeatures(speech, AudioSettings(), Kept(Path(folder))).prepare(read(Path(manifest), Rules()))
"""


@pytest.mark.slow
def test_each_process_encodes_its_own_part_and_a_shared_cache_holds_the_whole(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path
) -> None:
    """Two processes that share a cache, then two with one each, which shows who encoded what; all bytes are those of one process."""

    def encoded(*folders: str) -> list[dict[str, bytes]]:
        names = {"WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        command = [sys.executable, "-c", ENCODING, str(random_v1.checkpoint.folder), str(sets.replay)]
        processes = [
            subprocess.Popen([*command, str(tmp_path / folder)], env=os.environ | names | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, folder in enumerate(folders)
        ]
        assert [process.wait(120) for process in processes] == [0] * len(folders)
        return [{file.name: file.read_bytes() for file in (tmp_path / folder).rglob("*.safetensors")} for folder in folders]

    whole = encoded("alone")[0]
    assert len(whole) == 6
    assert encoded("shared", "shared") == [whole, whole]
    first, second = encoded("first", "second")
    assert (len(first), len(second)) == (3, 3)
    assert first | second == whole


def test_half_a_launch_is_refused(command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = the_error(moonshine_lora(*command, "--output-dir", tmp_path / "run"))
    assert message == "error: WORLD_SIZE is 2 but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set; start with torchrun"
