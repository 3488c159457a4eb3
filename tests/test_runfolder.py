"""The folder of a run: one process works in it, wherever it lies, and what becomes of it meanwhile is noticed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import fork
from running import ANY_VERDICT, QUICK, Manifests, files_below, moonshine_lora, refusal

from lora.model.loading import LoadedModel
from lora.runs.record import read as read_record

SHORT = ("--tokens-per-second", 0.5, "--learning-rate", "1e-2", "--warmup-steps", 0, *ANY_VERDICT)
ENDLESS = ("--max-steps", 100_000, "--epochs", 100_000, "--patience", 100_000)


@pytest.fixture(scope="module")
def command(random_v1: LoadedModel, sets: Manifests) -> tuple[object, ...]:
    return ("experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, *SHORT)


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_continues_is_refused_to_others_and_free_when_it_was_killed(command: tuple[object, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = fork(*command, *ENDLESS, "--output-dir", folder, output=tmp_path / "out.txt")
    try:
        until(lambda: any((folder / "checkpoints").glob("step-*")))
        for flag in ("--resume", "--overwrite"):
            message = refusal(*command, *ENDLESS, "--output-dir", folder, flag)
            assert f"{folder}: is in use, process " in message
            assert "since" in message
        assert "is in use" in refusal("experiment", *command[1:], *ENDLESS, "--output-dir", folder, "--overwrite", "--dry-run")
        assert read_record(folder).status == "running"
    finally:
        process.send(signal.SIGKILL)
        process.wait()
    assert (folder / "run.lock").is_file()
    assert moonshine_lora(*command, "--output-dir", folder, "--overwrite").code == 0
    assert read_record(folder).status == "completed"
    assert not [name for name in files_below(tmp_path) if "run.lock" in name or ".part" in name or ".old" in name]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_folder_that_is_removed_meanwhile_is_an_error_and_is_not_made_again(
    command: tuple[object, ...], tmp_path: Path, replaced: bool
) -> None:
    folder = tmp_path / "run"
    process = fork(*command, *ENDLESS, "--output-dir", folder, output=tmp_path / "out.txt")
    until(lambda: any((folder / "checkpoints").glob("step-*")))
    folder.rename(tmp_path / "away")
    if replaced:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    assert process.wait() == 2
    assert "run: was removed or replaced while this process worked in it" in (tmp_path / "out.txt").read_text()
    assert files_below(folder) == ({"mine.txt"} if replaced else set())


@pytest.mark.parametrize("kind", ["here", "link", "mount", "new"])
def test_a_run_goes_into_any_empty_folder_and_is_replaced_there(
    command: tuple[object, ...], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    output = place
    if kind == "here":
        place.mkdir()
        monkeypatch.chdir(place)
        output = Path()
    elif kind == "link":
        place = tmp_path / "far"
        place.mkdir()
        output = tmp_path / "place"
        output.symlink_to(place)
    elif kind == "mount":
        place.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode != 0:
            pytest.skip("only root may mount")
    try:
        assert moonshine_lora(*command, "--output-dir", output).code == 0
        first = files_below(place)
        (place / "export").mkdir()
        assert "holds a run (completed)" in refusal(*command, "--output-dir", output)
        result = moonshine_lora(*command, "--seed", 1, "--output-dir", output, "--overwrite")
        assert result.code == 0, result.err
        assert files_below(place) == first
        assert read_record(place).config.train.seed == 1
        assert output.is_symlink() == (kind == "link")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    finally:
        if kind == "mount":
            subprocess.run(["umount", place], check=True)
