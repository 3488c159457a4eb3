"""Commands killed at random moments: nothing false is ever under a final name, and the next run ends in the same bytes, with nothing left.

`KILLS` sets how many kills a command gets of each kind: at moments drawn by a seed over the length of an undisturbed run, and right before
changes of files, drawn too; with more than there are, before each.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from forked import Changes, fork
from running import ANY_VERDICT, QUICK, Manifests, files_below, moonshine_lora

from lora.model.loading import LoadedModel
from lora.runs.record import read as read_record
from lora.system.files import sha256_file

KILLS = int(os.environ.get("KILLS", "2"))
LEFT = (".part", ".old", "run.lock")
SPEECH = ("speech/telephone/train.jsonl", "speech/general/heldout.jsonl", "speech/quickstart.json")


@dataclass(frozen=True)
class Killed:
    """A command, what it starts from, and its files that are the same in every run."""

    start: Path | None
    arguments: Callable[[Path], tuple[object, ...]]
    same: tuple[str, ...]
    whole: Callable[[Path], bool]
    """Whether a folder, as a kill left it, says that it is finished."""

    def digests(self, place: Path) -> dict[str, str]:
        return {name: sha256_file(place / name) for name in self.same if (place / name).is_file()}


@pytest.fixture(scope="module")
def run(random_v1: LoadedModel, sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in it."""
    place = tmp_path_factory.mktemp("finished")
    done = moonshine_lora(*training(random_v1, sets), "--output-dir", place / "run")
    assert done.code == 0, done.err
    return place


def training(speech: LoadedModel, sets: Manifests) -> tuple[object, ...]:
    short = ("--tokens-per-second", 0.5, "--learning-rate", "1e-2", "--warmup-steps", 0, "--checkpoint-interval", 1)
    return ("experiment", "--model-id", speech.checkpoint.folder, *sets.flags(), *QUICK, *short, *ANY_VERDICT)


KILLED = ("data", "import", "domain", "merge", "synthesise", "experiment", "report", "combine", "export")


@pytest.fixture(params=KILLED)
def command(request: pytest.FixtureRequest, random_v1: LoadedModel, sets: Manifests, run: Path) -> Killed:
    sources = sets.train.parent
    table(sets)
    subtitles(sets)
    (sources / "terms.txt").write_text("kubectl = cube control\n")
    adapter = "run/lora_adapter/adapter_model.safetensors"
    makers = {
        "import": ("import", "subtitles", sources / "talk.srt"),
        "domain": ("domain", "--audio", "path", "--csv", sources / "table.tsv"),
        "merge": ("merge", sets.train, sets.dev),
    }
    if request.param in makers:
        return _maker("manifest", *makers[request.param])
    if request.param == "synthesise":
        return _maker("synthesise", sources / "terms.txt", "--per-term", 2, "--voice-command", "espeak-ng -w {out} {text}")
    others = {
        "data": Killed(None, lambda place: ("data", "--output", place / "speech"), SPEECH, lambda place: (place / "speech").exists()),
        "report": Killed(run, lambda place: ("report", place / "run"), ("run/report.md", adapter), lambda _place: False),
        "combine": Killed(
            run,
            lambda place: ("combine", place / "run", place / "run", "--output", place / "sum", "--overwrite"),
            ("sum/adapter_model.safetensors", adapter),
            lambda place: (place / "sum").exists(),
        ),
        "export": Killed(
            run,
            lambda place: (
                *("export", "--run", place / "run", "--to", "merged", "--skip-proof", "--allow-rejected"),
                *("--output", place / "out", "--overwrite"),
            ),
            ("out/merged/model.safetensors", "out/merged/config.json", adapter),
            lambda place: (place / "out").exists(),
        ),
        "experiment": Killed(
            None,
            lambda place: (*training(random_v1, sets), "--output-dir", place / "run"),
            (adapter,),
            lambda place: (place / "run").exists() and read_record(place / "run").status == "completed",
        ),
    }
    return others[request.param]


def _maker(*arguments: object) -> Killed:
    """A command that makes a manifest."""
    return Killed(
        None,
        lambda place: (*arguments, "--output", place / "own.jsonl", "--overwrite"),
        ("own.jsonl",),
        lambda place: (place / "own.jsonl").exists(),
    )


def begun(command: Killed, place: Path) -> Path:
    """A folder as the command finds it."""
    place.mkdir()
    if command.start is not None:
        shutil.copytree(command.start, place, dirs_exist_ok=True)
    return place


def again(command: Killed, place: Path) -> tuple[object, ...]:
    """The command that goes on from what a kill left, or starts over."""
    arguments = command.arguments(place)
    return (*arguments, "--resume") if arguments[0] == "experiment" and (place / "run").exists() else arguments


@dataclass(frozen=True)
class Whole:
    """What an undisturbed command leaves, how long it takes and how often it changes files."""

    digests: dict[str, str]
    files: set[str]
    length_s: float
    changes: int


def undisturbed(command: Killed, place: Path) -> Whole:
    """Of the second time: the first fills the cache."""
    for _ in range(2):
        if place.exists():
            shutil.rmtree(place)
        begun(command, place)
        changes, output = Changes(place), place.parent / "out.txt"
        started = time.monotonic()
        assert fork(*command.arguments(place), output=output, before=changes.watch).wait() == 0, output.read_text()
        length_s = time.monotonic() - started
    whole = Whole(command.digests(place), files_below(place), length_s, changes.count)
    assert set(whole.digests) == set(command.same)
    return whole


def require_going_on(command: Killed, place: Path, whole: Whole) -> None:
    """What a kill left is nothing false, and the next run ends as if there had been none."""
    left = sorted(files_below(place))
    if command.whole(place):
        assert command.digests(place) == whole.digests, f"what is there is whole: {left}"
        if (place / "run").exists() and command.start is None:
            return  # the run had ended; there is nothing to go on with
    done = moonshine_lora(*again(command, place))
    assert done.code == 0, f"{done.err}{left}"
    assert command.digests(place) == whole.digests, left
    assert files_below(place) == whole.files, left
    assert not [name for name in files_below(place.parent) if name.startswith(place.name) and name.endswith(LEFT)], left


@pytest.mark.slow
def test_whenever_a_command_is_killed_the_next_run_ends_the_same(command: Killed, tmp_path: Path) -> None:
    whole = undisturbed(command, tmp_path / "whole")
    draw, killed, latest_s = random.Random(11), 0, whole.length_s
    while killed < KILLS:
        place = begun(command, tmp_path / "killed")
        process = fork(*command.arguments(place), output=tmp_path / "out.txt")
        moment_s = draw.uniform(0, latest_s)
        time.sleep(moment_s)
        process.send(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:
            latest_s = moment_s  # it had ended; what is drawn next is sooner
        require_going_on(command, place, whole)
        shutil.rmtree(place)


@pytest.mark.slow
def test_before_whichever_change_of_files_a_command_is_killed_the_next_run_ends_the_same(command: Killed, tmp_path: Path) -> None:
    """The moments at which something may be half there, however fast the machine is."""
    whole = undisturbed(command, tmp_path / "whole")
    for number in random.Random(11).sample(range(1, whole.changes + 1), min(KILLS, whole.changes)):
        place = begun(command, tmp_path / "killed")
        process = fork(*command.arguments(place), output=tmp_path / "out.txt", before=Changes(place, number).watch)
        assert process.wait() == -signal.SIGKILL, (number, (tmp_path / "out.txt").read_text())
        require_going_on(command, place, whole)
        shutil.rmtree(place)


def table(sets: Manifests) -> Path:
    """The training speech as a table, for a command that copies audio."""
    rows = [json.loads(line) for line in sets.train.read_text().splitlines()]
    lines = ["file\ttext\tspeaker", *(f"{row['audio']}\t{row['text']}\t{row['speaker_id']}" for row in rows)]
    file = sets.train.parent / "table.tsv"
    file.write_text("\n".join(lines) + "\n")
    return file


def subtitles(sets: Manifests) -> Path:
    """The training speech as one recording with a cue for each clip, for a command that cuts."""
    rows = [json.loads(line) for line in sets.train.read_text().splitlines()]
    parts = [soundfile.read(sets.train.parent / row["audio"], dtype="int16") for row in rows]
    times = np.cumsum([0, *(len(samples) / rate for samples, rate in parts)])
    cues = [
        f"{number}\n{_stamp(start)} --> {_stamp(end)}\n{row['text']}\n"
        for number, (row, start, end) in enumerate(zip(rows, times[:-1], times[1:], strict=True), 1)
    ]
    file = sets.train.parent / "talk.srt"
    file.write_text("\n".join(cues))
    soundfile.write(file.with_suffix(".wav"), np.concatenate([samples for samples, _ in parts]), parts[0][1])
    return file


def _stamp(time_s: float) -> str:
    whole_ms = round(1000 * time_s)
    return f"00:{whole_ms // 60_000:02}:{whole_ms // 1000 % 60:02},{whole_ms % 1000:03}"
