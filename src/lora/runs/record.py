"""The record of a run: settings, provenance, scores, verdict. One JSON file that says all there is to say about it."""

import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

from lora.config import AdapterConfig, RunConfig
from lora.errors import RunFolderError, ScoringError
from lora.runs.export_record import Exported
from lora.runs.outcomes import Augmentation, Evaluation, Strength, TrainOutcome
from lora.scoring.gate import Verdict
from lora.scoring.significance import Comparison, Drift, Interval
from lora.scoring.terms import TermsFound
from lora.system.artifacts import ADAPTER_FOLDER, CHECKPOINT_FOLDER, RECORD_FILE
from lora.system.documents import read_json
from lora.system.files import write_json
from lora.text.style import ResolvedStyle
from lora.units import Seconds

SCHEMA = 4
"""Raised when a field changes its meaning; a reader refuses a number it does not know."""


_CHANGED = "the record was changed by hand: run the experiment again"

Status = Literal["running", "completed", "failed", "interrupted"]

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "jiwer", "whisper-normalizer", "soundfile", "soxr", "numpy")


class ManifestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One set of speech as the run used it."""

    path: str
    sha256: str
    utterances: int
    seconds: Seconds
    speakers: int
    sentences_trained: int = 0
    """Utterances whose sentence the training set holds too, by another voice or take; 0 for training and replay themselves."""


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The base model."""

    model_id: str
    kind: str
    revision: str | None
    sha256: str


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was trained."""

    sites: tuple[str, ...]
    parameters: int
    sha256: str | None = None
    """Hash of the saved adapter weights."""
    started_from: str | None = None
    """Hash of the weights of the adapter that training went on from."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    versions: dict[str, str]
    python: str
    platform: str
    device: str
    device_name: str
    threads: int
    commit: str | None
    """Git commit of the working tree, with `+dirty` when it had changes; None outside a checkout."""
    computing: str | None = None
    """Precision, device and instructions, and the kind of products that were used; None in records of before it was noted."""


class SetResult(msgspec.Struct, frozen=True, kw_only=True):
    """A test set before and after."""

    baseline: Evaluation
    baseline_interval: Interval
    tuned: Evaluation
    tuned_interval: Interval
    comparison: Comparison


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """When a run went on, and after which update; 0 is from the start."""

    at: str
    step: int


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a run. Fields that a stage fills in are None until it has run."""

    status: Status
    command: tuple[str, ...]
    started_at: str
    config: RunConfig
    checkpoint: CheckpointInfo
    manifests: dict[str, ManifestInfo]
    environment: Environment
    text_style: ResolvedStyle
    schema: int = SCHEMA
    text_style_counts: str = ""
    """What the style was read from, in words."""
    finished_at: str | None = None
    error: str | None = None
    augmentation: Augmentation | None = None
    """What was added to the training set; `manifests` counts its own utterances only."""
    adapter: AdapterInfo | None = None
    training: TrainOutcome | None = None
    strength: float | None = None
    """Share of the trained update that was saved; None when no sweep chose it, and all of it was."""
    strengths: tuple[Strength, ...] = ()
    """What the sweep measured, strongest first."""
    replay_left_out: tuple[str, ...] = ()
    """Ids of replay clips on which the base model looped, so that it could not label them."""
    baseline_known: tuple[str, ...] = ()
    """Test sets whose baseline scores were read from the cache, where an earlier run of the same weights on the same speech left them."""
    cache_damaged: tuple[str, ...] = ()
    """Kept files that were found damaged and were made again."""
    domain: SetResult | None = None
    domain_unseen_words: tuple[str, ...] = ()
    """Normalised words of the domain's references that no training transcript holds."""
    heldout: SetResult | None = None
    """Under the guardrail `drift` its references are the base model's transcripts, so that the baseline has no errors."""
    heldout_drift: Drift | None = None
    """None if the base model says nothing on the held-out speech."""
    terms: TermsFound | None = None
    """What became of the user's terms; None without a list."""
    verdict: Verdict | None = None
    stages: dict[str, Seconds] = {}
    resumed: tuple[Resumption, ...] = ()
    exports: tuple[Exported, ...] = ()
    """Made of this run since it ended, one for each folder that they were written to."""


def result_folder(config: AdapterConfig) -> str:
    """The folder of a run that holds what was trained: an adapter, or a whole checkpoint."""
    return CHECKPOINT_FOLDER if config.method == "full" else ADAPTER_FOLDER


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: str, device_name: str, threads: int, computing: str) -> Environment:
    """Versions and machine of this process."""
    return Environment(
        versions={"moonshine-lora": version("moonshine-lora")} | {name: version(name) for name in _LIBRARIES},
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        device_name=device_name,
        threads=threads,
        computing=computing,
        commit=_commit(),
    )


def command() -> tuple[str, ...]:
    """The command that started this process, its program without the folder."""
    return (Path(sys.argv[0]).name, *sys.argv[1:])


def write(record: RunRecord, folder: Path) -> None:
    write_json(folder / RECORD_FILE, record)


def read(folder: Path) -> RunRecord:
    """The record of a run folder. Raises `RunFolderError` when there is none, or one of a version this code does not know."""
    file = folder / RECORD_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder}: holds no run (no {RECORD_FILE})")
    schema = read_json(file, dict[str, msgspec.Raw], RunFolderError).get("schema")
    if schema is None or bytes(schema) != str(SCHEMA).encode():
        found = bytes(schema).decode() if schema is not None else "none"
        raise RunFolderError(f"{file}: has schema {found}, this version reads {SCHEMA}; {_advice(found)}")
    record: RunRecord = read_json(file, RunRecord, RunFolderError)
    for name, part in (("domain", record.domain), ("heldout", record.heldout)):
        if part is not None:
            _require_whole(file, name, part)
    if record.terms is not None:
        _require_terms(file, record.terms, record)
    return record


@contextmanager
def counting_errors(folder: Path) -> Iterator[None]:
    """Turns a count that gives no rate into a refusal that names the record: no run writes such a one."""
    try:
        yield
    except ScoringError as error:
        raise RunFolderError(f"{folder / RECORD_FILE}: {error}; {_CHANGED}") from error


def _require_whole(file: Path, name: str, part: SetResult) -> None:
    """Raises `RunFolderError` if before and after are not of the same utterances, so that nothing made of them would be right."""
    before, after = (
        [(row.id, row.speaker_id, row.seconds, row.reference) for row in side.score.utterances] for side in (part.baseline, part.tuned)
    )
    if before != after:
        raise RunFolderError(f"{file}: {name}: baseline and tuned are of other utterances; {_CHANGED}")
    if not any(row.words.reference_length for row in part.tuned.score.utterances):
        raise RunFolderError(f"{file}: {name}: no reference has a word; {_CHANGED}")


def _require_terms(file: Path, terms: TermsFound, record: RunRecord) -> None:
    """Raises `RunFolderError` if terms are counted for other lists or utterances than the record's own."""
    names = [count.term for count in terms.domain.tuned.counts]
    for part, result in ((terms.domain, record.domain), (terms.heldout, record.heldout)):
        known = {row.id for row in result.tuned.score.utterances} if result is not None else set[str]()
        for score in (part.baseline, part.tuned):
            if [count.term for count in score.counts] != names or not {event.id for event in score.events} <= known:
                raise RunFolderError(f"{file}: terms: counted for another list or other utterances; {_CHANGED}")


def _advice(schema: str) -> str:
    if schema.isdecimal() and int(schema) < SCHEMA:
        return "make the run again with its config.toml and another --output-dir, or read it with the version that wrote it"
    return "read it with the version that wrote it"


def _commit() -> str | None:
    """Of the checkout that this package is imported from; an installed package has none."""
    here = Path(__file__).parent
    commit = _git(here, ["rev-parse", "HEAD"])
    if commit is None:
        return None
    return commit + ("+dirty" if _git(here, ["status", "--porcelain"]) else "")


def _git(folder: Path, arguments: Sequence[str]) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not needed to train
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
