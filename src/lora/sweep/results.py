"""The results of a study so far: the winner by the rule that chooses a step, its scores on dev, and the files for people."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from lora.config import RunConfig, flat
from lora.errors import SweepError
from lora.language import metric
from lora.report.escape import spreadsheet
from lora.report.sweep import write_page
from lora.runs.folder import write_settings
from lora.runs.outcomes import Step
from lora.runs.trials import Sweep, Trial
from lora.scoring.counts import Score
from lora.scoring.significance import compare
from lora.sweep.space import with_values
from lora.sweep.study import Study
from lora.system.artifacts import HTML_FILE
from lora.system.documents import read_json
from lora.system.files import write_json, write_text
from lora.training.loop import eligible

TABLE_FILE: Final = "trials.tsv"
BEST_FILE: Final = "best.toml"
TRIALS_FOLDER: Final = "trials"


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """A finished trial's transcripts and errors at its best step; `guard` is None without replay."""

    dev: Score
    guard: Score | None


def keep_scores(folder: Path, number: int, scores: Scores) -> None:
    write_json(_scores_file(folder, number), scores)


def _scores_file(folder: Path, number: int) -> Path:
    return folder / TRIALS_FOLDER / f"{number:04}.json"


def _scores(folder: Path, number: int) -> Scores:
    scores: Scores = read_json(_scores_file(folder, number), Scores, SweepError)
    return scores


def summary(study: Study, config: RunConfig) -> Sweep:
    """All trials so far, with the winner among the finished ones."""
    trials, rate = study.trials(), metric(config.model.language)
    finished = [trial for trial in trials if trial.state == "finished"]
    found = Sweep(trials=trials, wanted=study.wanted, metric=rate, settings=flat(config), importances=study.importances())
    if not finished:
        return found
    scores = _scores(study.folder, finished[0].number)
    guard_words = scores.guard.standard.reference_length if scores.guard is not None else 0
    winner = chosen(finished, scores.dev.standard.reference_length, guard_words)
    sentence = _sentence(study.folder, found, winner, config.train.seed)
    return msgspec.structs.replace(found, winner=winner.number, sentence=sentence)


def chosen(finished: Sequence[Trial], dev_words: int, guard_words: int) -> Trial:
    """The trial whose best step the rule of the training loop would keep, were they all steps of one training.

    Where the rule prefers the base model to all of them it is the one as given, or the cheapest.
    """
    base, steps = _step(finished[0].base), [_step(trial.best) for trial in finished]
    kept = {id(step) for step in eligible([base, *steps], dev_words, guard_words)}
    able = [trial for trial in finished if id(trial.best) in kept]
    if able:
        return min(able, key=lambda trial: _step(trial.best).dev_loss)
    return min(finished, key=lambda trial: (not trial.given, trial.cost or 0.0))


def _step(step: Step | None) -> Step:
    assert step is not None  # a finished trial has been evaluated
    return step


def _sentence(folder: Path, found: Sweep, winner: Trial, seed: int) -> str:
    rate, count, won = found.metric, found.done, _step(winner.best).dev_wer
    given = next((trial for trial in found.trials if trial.given and trial.state != "interrupted"), None)
    if winner.given:
        return f"the settings as given are the best of {count} trials: dev {rate} {100 * won:.2f} %"
    best = f"trial {winner.number} is chosen among {count} trials: dev {rate} {100 * won:.2f} %"
    if given is None or given.state != "finished":
        return f"{best}; the settings as given have no result ({given.error or given.state if given else 'not tried yet'})"
    change = compare(_scores(folder, given.number).dev, _scores(folder, winner.number).dev, seed)
    points = f"{100 * change.difference:+.2f} points ({100 * change.interval.low:+.2f} to {100 * change.interval.high:+.2f})"
    against = f"{best}, {100 * change.baseline:.2f} % with the settings as given, {points}"
    return against if change.interval.high < 0 else f"{against}: no better than those beyond chance"


def write_results(found: Sweep, config: RunConfig, folder: Path) -> None:
    """`trials.tsv`, `report.html` and, once there is a winner, `best.toml`; each whole, over what was there."""
    write_text(folder / TABLE_FILE, table(found))
    if found.winner is not None:
        write_settings(folder / BEST_FILE, winner_config(found, config))
    write_page(found, folder / HTML_FILE)


def winner_config(found: Sweep, config: RunConfig) -> RunConfig:
    """The config with the winner's settings."""
    (winner,) = (trial for trial in found.trials if trial.number == found.winner)
    return with_values(config, winner.settings, "the sweep")


def table(found: Sweep) -> str:
    """Tab-separated, a line for each trial: rates are ratios, times seconds; what a trial does not have is empty."""
    text = io.StringIO()
    names = found.names
    lines = csv.writer(text, "excel-tab", lineterminator="\n")
    measured = ("best_step", "dev_wer", "dev_loss", "guard_wer", "guard_loss", "cost", "steps", "seconds", "error")
    lines.writerow(["trial", "state", "given", *(name.rpartition(".")[2] for name in names), *measured])
    for trial in found.trials:
        settings = [found.value(trial, name) for name in names]
        lines.writerow([spreadsheet(cell) for cell in (trial.number, trial.state, trial.given, *settings, *_measured(trial))])
    return text.getvalue()


def _measured(trial: Trial) -> list[Any]:
    best = trial.best
    rates = (best.step, best.dev_wer, best.dev_loss, best.guard_wer, best.guard_loss) if best is not None else (None,) * 5
    return ["" if one is None else one for one in (*rates, trial.cost, trial.steps, round(trial.seconds, 1), trial.error)]
