"""Runs side by side: which settings differ, the results, and what is left to gain. Made from their records alone."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lora.config import flat
from lora.errors import ConfigError, RunFolderError
from lora.language import traits
from lora.report.escape import markdown_environment, spreadsheet
from lora.report.terms import alarms, recall, sets_of
from lora.runs.record import RunRecord, SetResult, read
from lora.scoring.analysis import Remaining, remaining
from lora.scoring.counts import Score
from lora.scoring.significance import Comparison, compare
from lora.scoring.terms import TermsFound
from lora.system.artifacts import RECORD_FILE
from lora.system.files import write_text

FORMATS = (".md", ".csv", ".html")

TEST_SETS = ("domain", "heldout")
"""Sets that runs must share to be compared. Those that they learnt from may differ: that is a setting like any other."""

_NOT_COMPARED = {"output.output_dir", "output.overwrite", "output.feature_cache_gb", "output.trackers", "eval.eval_batch_size"}
"""Settings that change no result."""

_MANIFEST = "_manifest"


class Run(NamedTuple):
    """A run under a name that no other has."""

    name: str
    record: RunRecord


class Completed(NamedTuple):
    """A completed run: its results are there."""

    name: str
    record: RunRecord
    domain: SetResult
    heldout: SetResult
    decision: str
    guarded: bool
    """Whether the held-out check passed."""

    @property
    def terms(self) -> TermsFound | None:
        return self.record.terms

    @property
    def runtime_s(self) -> float:
        return sum(self.record.stages.values())

    @property
    def tags_written(self) -> int:
        """By the tuned model, in both test sets."""
        return self.domain.tuned.score.tags.said + self.heldout.tuned.score.tags.said


class Headroom(msgspec.Struct, frozen=True, kw_only=True):
    """What separates the best run's baseline, the best run and an estimate of the floor; rates are ratios."""

    baseline: float
    best: float
    floor: float
    words: int
    kinds: Remaining


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables show. `settings` holds those that differ, with their value for each completed run."""

    completed: tuple[Completed, ...]
    others: tuple[Run, ...]
    skipped: tuple[str, ...]
    settings: dict[str, tuple[str, ...]]
    best: dict[str, str | None]
    """Names of the best runs by each criterion; None if no run qualifies."""
    next_best: Comparison | None
    """The lowest domain WER against the second lowest; None for a single run."""
    headroom: Headroom


def overview(paths: Sequence[Path]) -> Overview:
    """Reads run folders and compares them, the lowest domain WER first.

    Paths that hold no run are named as left out, since `outputs/*` meets them. Raises `RunFolderError` for a path that is not there, a
    record that cannot be read, where no run is completed, and where runs were not scored on the same test sets in the same way.
    """
    for path in paths:
        if not path.exists():
            raise RunFolderError(f"{path}: no such run folder")
    folders = [path for path in dict.fromkeys(paths) if (path / RECORD_FILE).is_file()]
    runs = [Run(str(folder), read(folder)) for folder in folders]
    done = sorted(filter(None, map(_completed, runs)), key=lambda run: (run.domain.tuned.score.wer, run.name))
    if not done:
        raise RunFolderError(f"no completed run in {', '.join(map(str, paths))}; give folders that moonshine-lora experiment has finished")
    _require_comparable(done)
    names = {run.name for run in done}
    return Overview(
        completed=tuple(done),
        others=tuple(run for run in runs if run.name not in names),
        skipped=tuple(str(path) for path in dict.fromkeys(paths) if path not in folders),
        settings=_differing(done),
        best=_best(done),
        next_best=compare(done[1].domain.tuned.score, done[0].domain.tuned.score, 0) if len(done) > 1 else None,
        headroom=_headroom(done),
    )


def write_overview(found: Overview, file: Path) -> None:
    """Writes the format that the file's suffix names. Raises `ConfigError` for any other."""
    write_text(file, renderer(file)(found))


def renderer(file: Path) -> Callable[[Overview], str]:
    """The function that renders the format of a file name. Raises `ConfigError` for one that is not of `FORMATS`."""
    known = dict(zip(FORMATS, (markdown, table, page), strict=True))
    if file.suffix not in known:
        raise ConfigError(f"--output {file}: name it .md, .csv or .html")
    return known[file.suffix]


def markdown(found: Overview) -> str:
    """Tables for a terminal or a repository."""
    return _rendered("compare.md.j2", found, html=False)


def page(found: Overview) -> str:
    """One HTML page that needs nothing else: no script, no request."""
    return _rendered("compare.html.j2", found, html=True)


def table(found: Overview) -> str:
    """CSV, a row for each run: rates are ratios, times seconds; fields that a run does not have are empty."""
    text = io.StringIO()
    measured = [_measured(run) for run in found.completed]
    columns = dict.fromkeys(name for values in measured for name in list(values)[2:])
    lines = csv.DictWriter(text, ["run", "status", "decision", *found.settings, *columns, "error"], lineterminator="\n")
    lines.writeheader()
    for index, (run, values) in enumerate(zip(found.completed, measured, strict=True)):
        settings = {name: column[index] for name, column in found.settings.items()}
        lines.writerow(_cells({"run": run.name, "status": run.record.status} | settings | values))
    for other in found.others:
        lines.writerow(_cells({"run": other.name, "status": other.record.status, "error": other.record.error or ""}))
    return text.getvalue()


def _cells(values: dict[str, Any]) -> dict[str, Any]:
    return {name: spreadsheet(value) for name, value in values.items()}


def _measured(run: Completed) -> dict[str, Any]:
    values: dict[str, Any] = {"status": run.record.status, "decision": run.decision}
    for name, result in (("domain", run.domain), ("heldout", run.heldout)):
        change = result.comparison
        values |= {
            f"{name}_baseline_wer": change.baseline,
            f"{name}_tuned_wer": change.tuned,
            f"{name}_baseline_reader_wer": result.baseline.score.reader_wer,
            f"{name}_tuned_reader_wer": result.tuned.score.reader_wer,
            f"{name}_tuned_tags": result.tuned.score.tags.said,
            f"{name}_tuned_wer_low": result.tuned_interval.low,
            f"{name}_tuned_wer_high": result.tuned_interval.high,
            f"{name}_change": change.difference,
            f"{name}_change_low": change.interval.low,
            f"{name}_change_high": change.interval.high,
            f"{name}_p_value": change.p_value,
        }
    if run.record.terms is not None:
        for name, terms in sets_of(run.record).items():
            for when, score in (("baseline", terms.baseline), ("tuned", terms.tuned)):
                values[f"{name}_{when}_term_recall"] = score.recall
                values[f"{name}_{when}_false_alarms"] = score.alarms
    moved = run.record.heldout_drift
    return values | {"heldout_drift": moved.rate if moved else "", "runtime_seconds": round(run.runtime_s, 1)}


def _rendered(template: str, found: Overview, *, html: bool) -> str:
    environment = markdown_environment()
    environment.filters |= {"recall": recall, "alarms": alarms}
    if html:
        environment = environment.overlay(autoescape=True, finalize=None)
    text = files("lora.report").joinpath(template).read_text(encoding="utf-8")
    spoken = traits(found.completed[0].record.config.model.language)
    rendered: str = environment.from_string(text).render(found=found, headroom=found.headroom, kinds=found.headroom.kinds, spoken=spoken)
    return rendered


def _completed(run: Run) -> Completed | None:
    record = run.record
    if record.status != "completed" or record.domain is None or record.heldout is None or record.verdict is None:
        return None
    guarded = all(check.passed for check in record.verdict.checks if check.name == "held-out")
    return Completed(run.name, record, record.domain, record.heldout, record.verdict.decision, guarded)


def _require_comparable(runs: Sequence[Completed]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for what, (mine, shown), (its, other) in zip(_BASIS, _basis(first), _basis(run), strict=True):
            if mine != its:
                raise RunFolderError(
                    f"{first.name} and {run.name}: their {what} differs ({shown} and {other}), so that their numbers cannot be compared; "
                    "give runs that were scored in the same way on the same test sets"
                )


_BASIS = ("domain manifest", "held-out manifest", "normaliser", "guardrail")


def _basis(run: Completed) -> Iterable[tuple[str, str]]:
    """What makes the numbers of two runs comparable: each as it is compared, and as it is shown."""
    for name in TEST_SETS:
        info = run.record.manifests[name]
        yield info.sha256, f"{info.path}, SHA-256 {info.sha256[:12]}"
    normaliser, guardrail = run.domain.tuned.score.normaliser, run.record.config.gate.guardrail
    yield from ((normaliser, normaliser), (guardrail, guardrail))


def _differing(runs: Sequence[Completed]) -> dict[str, tuple[str, ...]]:
    columns = [_settings(run.record) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    values = {name: tuple(column.get(name, "none") for column in columns) for name in names}
    return {name: column for name, column in values.items() if len(set(column)) > 1}


def _settings(record: RunRecord) -> dict[str, str]:
    """What decides a run's result: settings, and instead of the paths of manifests and model the hashes of what they held."""
    settings = flat(record.config).items()
    values = {name: str(value) for name, value in settings if not name.endswith(_MANIFEST) and name not in _NOT_COMPARED}
    hashes = {f"{name} set": f"{info.utterances} utterances, {info.sha256[:12]}" for name, info in record.manifests.items()}
    return values | hashes | {"model": record.checkpoint.sha256[:12], "commit": (record.environment.commit or "unknown")[:12]}


def _best(runs: Sequence[Completed]) -> dict[str, str | None]:
    """`runs` are sorted by their domain WER."""
    rate = runs[0].domain.tuned.score.metric
    guarded = [run.name for run in runs if run.guarded]
    accepted = [run.name for run in runs if run.decision == "accepted"]
    return {
        f"lowest domain {rate}": runs[0].name,
        f"lowest domain {rate} within the guardrail": next(iter(guarded), None),
        f"lowest domain {rate} that was accepted": next(iter(accepted), None),
        f"lowest held-out {rate}": min(runs, key=lambda run: run.heldout.tuned.score.wer).name,
    }


def _headroom(runs: Sequence[Completed]) -> Headroom:
    best, *rest = runs
    score = best.domain.tuned.score
    others: list[Score] = [run.domain.baseline.score for run in runs] + [run.domain.tuned.score for run in rest]
    kinds = remaining(score, others)
    words = score.standard.reference_length
    return Headroom(baseline=best.domain.baseline.score.wer, best=score.wer, floor=kinds.floor_errors / words, words=words, kinds=kinds)
