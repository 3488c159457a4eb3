"""The trials of a study, one after another: training with proposed settings, and what dev and guard say of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lora.config import RunConfig, flat
from lora.display import Display
from lora.errors import DivergedError
from lora.language import metric
from lora.pipeline.fitting import Fitted, fit
from lora.pipeline.preparation import Prepared, opening_record, planned_sites, ready, with_settings
from lora.pipeline.reporting import Reporter
from lora.runs.folder import RunLog
from lora.runs.outcomes import Step
from lora.runs.tracking import Trackers
from lora.runs.trials import State, Trial
from lora.sweep.results import Scores, keep_scores, summary, write_results
from lora.sweep.space import Space, Values, corners, given_values, in_order, settings_of, varied, with_values
from lora.sweep.study import Draw, Opening, Study, reported
from lora.system.locking import Hold
from lora.training import strength as strengths
from lora.training.loop import Progress
from lora.units import Seconds

if TYPE_CHECKING:
    from optuna.trial import Trial as Asked

ORIGIN = "the sweep"
"""Names the origin of contradicting settings in a message."""


class PrunedError(Exception):
    """A trial is worse than half of the others were at this point, and ends."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all trials share: the speech and the base model, read and checked, and where the settings as given lie in the space."""

    prepared: Prepared
    space: Space
    given: Values

    @property
    def config(self) -> RunConfig:
        return self.prepared.config

    def opening(self, folder: Path) -> Opening:
        """What a study in that folder is of."""
        output = msgspec.structs.replace(self.config.output, output_dir=str(folder))
        here = replace(self.prepared, config=msgspec.structs.replace(self.config, output=output))
        return Opening(opened=opening_record(here), space=self.space)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial is stored and shown; `given` marks the trial of the settings that the sweep was given."""

    folder: Path
    display: Display
    given: bool


def read_shared(config: RunConfig, space: Space, display: Display) -> Shared:
    """Reads and checks all that the trials need, and every end of the space. Raises a `LoraError` that says what to fix."""
    prepared = ready(config, display)
    for one in corners(space, config, ORIGIN):
        planned_sites(prepared.speech, one)
        if one.train.strength_sweep:
            _require_scalable(one)
    return Shared(prepared, space, given_values(space, config, ORIGIN))


def _require_scalable(config: RunConfig) -> None:
    strengths.check(
        method=config.adapter.method,
        use_dora=config.adapter.use_dora,
        init_lora_weights=config.adapter.init_lora_weights,
        has_guard=config.data.replay_manifest is not None,
    )


def search(study: Study, shared: Shared, display: Display) -> None:
    """Runs trials until as many as are wanted are finished or at work elsewhere; after each the results are written."""
    space = shared.space
    while (claimed := study.claim(lambda draw: _values(shared, draw))) is not None:
        asked, values = claimed
        settings = settings_of(space, values)
        if given := bool(asked.user_attrs.get("given")):  # in all their digits
            settings = {name: flat(shared.config)[name] for name in settings}
        asked.set_user_attr("settings", settings)
        display.console.print(_heading(asked.number, settings), style="bold", markup=False, soft_wrap=True)
        trial = _tried(asked, shared, settings, Place(study.folder, display, given))
        study.finish(asked, trial)
        found = summary(study, shared.config)
        write_results(found, shared.config, study.folder)
        display.line(f"trial {trial.number}: {_outcome(trial, found.metric)}; {found.done} of {found.wanted} done")


def _values(shared: Shared, draw: Draw) -> Values:
    """Draws the dimensions in turn: those drawn before decide whether one after them changes anything."""
    values = Values()
    for one in in_order(shared.space):
        here = with_values(shared.config, settings_of(shared.space, values), ORIGIN)
        if one in varied((one,), here):
            values[one.name] = draw(one)
    return values


def _heading(number: int, settings: dict[str, object]) -> str:
    told = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items())
    return f"Trial {number}: {told}"


def _outcome(trial: Trial, rate: str) -> str:
    if trial.best is None:
        return f"{trial.state}, {trial.error}"
    guard = f", guard {100 * trial.best.guard_wer:.2f} %" if trial.best.guard_wer is not None else ""
    why = f" ({trial.error})" if trial.error else ""
    return f"{trial.state}{why}, step {trial.best.step}, dev {rate} {100 * trial.best.dev_wer:.2f} %{guard}"


class _Watch:
    """Follows a training: its evaluations, what they cost, and whether it is given up."""

    def __init__(self, asked: "Asked", reporter: Reporter, *, prune: bool) -> None:
        self._asked, self.reporter, self._prune = asked, reporter, prune
        self.history: list[Step] = []
        self.costs: list[float] = []
        self.best: Step | None = None
        self.updates = 0

    def progress(self, advance: Callable[[int, str], None]) -> Progress:
        def update(step: int, _steps: int, loss: float, speed: float) -> None:
            self.updates = step
            advance(1, f"loss {loss:.3f}, {speed:.0f} s of audio per second")

        return Progress(update=update, evaluated=self._evaluated, priced=self._priced)

    def _evaluated(self, step: Step, best: bool) -> None:
        self.reporter.evaluated(step, best)
        self.history.append(step)
        self.best = step if best else self.best

    def _priced(self, cost: float) -> None:
        self.costs.append(cost)
        if reported(self._asked, self.costs) and self._prune:
            raise PrunedError

    def trial(self, trial: Trial) -> Trial:
        """The trial with its results so far."""
        if not self.history:
            return trial
        best = self.best or self.history[0]
        cost = self.costs[self.history.index(best)] if len(self.costs) == len(self.history) else None
        return msgspec.structs.replace(trial, base=self.history[0], best=best, cost=cost, steps=self.updates)


def _tried(asked: "Asked", shared: Shared, settings: dict[str, object], place: Place) -> Trial:
    """Runs one trial until it ends or is pruned. Raises errors that its settings did not cause."""
    config = with_values(shared.config, settings, ORIGIN)
    reporter = Reporter(RunLog(None, Hold()), Trackers((), place.folder, place.display.line), place.display, metric(config.model.language))
    watch = _Watch(asked, reporter, prune=not place.given)
    started = time.perf_counter()
    state, error = _fitted(with_settings(shared.prepared, config), watch, asked.number, place)
    seconds = Seconds(time.perf_counter() - started)
    return watch.trial(Trial(number=asked.number, state=state, given=place.given, settings=dict(settings), seconds=seconds, error=error))


def _fitted(prepared: Prepared, watch: _Watch, number: int, place: Place) -> tuple[State, str | None]:
    """How a training ended, and by which error; what it said on dev and guard is kept where it came to its end."""
    try:
        fitted = fit(prepared, watch.reporter, watch.progress)
    except PrunedError:
        return "pruned", None
    except DivergedError as error:
        return "diverged", str(error)
    _keep(fitted, number, place.folder)
    return "finished", None


def _keep(fitted: Fitted, number: int, folder: Path) -> None:
    keep_scores(folder, number, Scores(dev=fitted.dev.score, guard=fitted.guard.score if fitted.guard is not None else None))
