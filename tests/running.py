"""Helpers of the command-level tests: manifests on disk, and the real command run in this process."""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Utterance
from lora.main import main
from lora.runs.record import RunRecord
from lora.runs.record import read as read_record

ROOT = Path(__file__).parents[1]

ANY_VERDICT = ("--rule", "point", "--min-domain-gain-points", "-10000", "--max-heldout-rise-points", "10000")
"""Accepts whatever an adapter does: for tests of everything but the gate."""

QUICK = (
    *("--max-steps", 2, "--eval-interval", 1, "--batch-size", 2),
    *("--split-by", "utterance", "--device", "cpu", "--replay-targets", "transcript"),
)
"""A training of two updates. Random models loop on every clip, so they cannot label replay speech themselves."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class RunFolder:
    """How a command that made a run ended, and what it left."""

    folder: Path
    code: int

    @property
    def metrics(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "experiment_metrics.json").read_text())
        return values

    @property
    def record(self) -> RunRecord:
        return read_record(self.folder)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def moonshine_lora(*arguments: object) -> Result:
    """Runs `moonshine-lora` in this process, which has torch imported already, through the console script's entry point."""
    out, err = io.StringIO(), io.StringIO()
    with _arguments("moonshine-lora", *map(str, arguments)), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main()
        except SystemExit as stop:  # how argparse ends
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def refusal(*arguments: object) -> str:
    """The one line with which a command refuses; stages that it went through before may stand above it."""
    return the_error(moonshine_lora(*arguments))


def the_error(result: Result) -> str:
    assert result.code == 2, result
    assert result.out == "", result
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], result.err
    assert "Traceback" not in result.err, result.err
    return lines[-1]


@contextmanager
def _arguments(*argv: str) -> Iterator[None]:
    before, sys.argv = sys.argv, list(argv)
    try:
        yield
    finally:
        sys.argv = before


def rows_of(utterances: Iterable[Utterance], folder: Path) -> list[dict[str, Any]]:
    """Manifest rows of recordings, which are copied into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for utterance in utterances:
        assert isinstance(utterance.audio, FileAudio)
        name = utterance.audio.path.name
        shutil.copy(utterance.audio.path, folder / name)
        rows.append({"audio": name, "text": utterance.text, "speaker_id": utterance.speaker_id, "id": utterance.id})
    return rows


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A manifest of these rows, in a folder that is made when it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass(frozen=True)
class Manifests:
    """The sets of a run."""

    train: Path
    dev: Path
    domain: Path
    heldout: Path
    replay: Path

    def flags(self, **others: Path) -> list[str]:
        """The flags that name them; `others` replaces some."""
        return [part for name in self.__dataclass_fields__ for part in (f"--{name}-manifest", str(others.get(name, getattr(self, name))))]


def manifests(folder: Path, clips: Iterable[Utterance]) -> Manifests:
    """Twenty clips in five sets."""
    rows = rows_of(clips, folder)
    parts = {"train": rows[:5], "dev": rows[5:7], "domain": rows[7:10], "heldout": rows[10:14], "replay": rows[14:]}
    return Manifests(**{name: write_rows(folder / f"{name}.jsonl", part) for name, part in parts.items()})


def files_below(folder: Path) -> set[str]:
    """Everything below a folder, as paths relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
