"""A study on disk, which several processes may work on: Optuna proposes settings, a journal keeps every trial, locks say who is at work."""

import importlib.util
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from filelock import FileLock

from lora.errors import RunFolderError, SweepError
from lora.runs.folder import changed_settings, require_same
from lora.runs.record import RunRecord
from lora.runs.trials import State, Trial
from lora.sweep.space import Choice, Dimension, Space, Values, in_order
from lora.system.destination import writing_errors
from lora.system.documents import read_json
from lora.system.files import atomic_folder, sha256_bytes, write_json
from lora.system.locking import Hold, refuse_held
from lora.system.process import signals_wait
from lora.system.process_settings import mute

if TYPE_CHECKING:
    from optuna import Study as Journalled
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Asked

SCHEMA: Final = 1
STUDY_FILE: Final = "sweep.json"
JOURNAL_FILE: Final = "study.jsonl"
WORKERS_FOLDER: Final = "workers"
_LOCK_FILE: Final = ".claim.lock"
_NAME: Final = "sweep"

RANDOM_TRIALS: Final = 8
"""Trials drawn at random before the sampler learns from them."""

UNPRUNED_TRIALS, UNPRUNED_EVALUATIONS = 5, 2
"""No trial is pruned before so many have finished, nor before its second evaluation after the base model's: an epoch, as a rule."""

LEAST_FOR_IMPORTANCE: Final = 8
DONE: Final[tuple[State, ...]] = ("finished", "pruned", "diverged")
"""States of trials that count as one of those wanted."""

Draw = Callable[[Dimension], float | str]

TOP_QUARTER: Final = 0.25
"""PED-ANOVA asks what is different in the best quarter of the trials."""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is about: all its trials share it."""

    schema: int = SCHEMA
    opened: RunRecord
    """Settings as given, base model, manifests, device."""
    space: Space


def require_optuna() -> None:
    """Raises `SweepError` if the extra is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise SweepError("a sweep needs Optuna; install it with pip install 'moonshine-lora[sweep]'")


def create(folder: Path, opening: Opening, given: Values, trials: int) -> None:
    """A new study in a new or empty folder, whole or not at all; its first trial is of the settings as given."""
    with atomic_folder(folder, replace=False) as made:
        write_json(made / STUDY_FILE, opening)
        study = _optuna().create_study(storage=_storage(made), study_name=_NAME)
        study.set_user_attr("trials", trials)
        study.enqueue_trial(given, user_attrs={"given": True})


def require_none(folder: Path) -> None:
    """Raises `SweepError` for a folder that holds a study, or anything else that a study would mix with."""
    if (folder / STUDY_FILE).is_file():
        raise SweepError(
            f"{folder}: holds a study; --resume continues it, --join works on it beside other processes, or choose another --study-dir"
        )
    with writing_errors(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise SweepError(f"{folder}: is not empty and holds no study; choose another --study-dir")


def read_opening(folder: Path) -> Opening:
    """What the study in a folder is of. Raises `SweepError` if there is none, or one of another version."""
    file = folder / STUDY_FILE
    if not file.is_file() or not (folder / JOURNAL_FILE).is_file():
        missing = STUDY_FILE if not file.is_file() else JOURNAL_FILE
        raise SweepError(f"{folder}: holds no study (no {missing}); start one without --resume and --join")
    if (schema := read_json(file, dict[str, msgspec.Raw], SweepError).get("schema")) is None or bytes(schema) != str(SCHEMA).encode():
        raise SweepError(f"{file}: was written by another version; start another study")
    opening: Opening = read_json(file, Opening, SweepError)
    return opening


def require_same_study(folder: Path, before: Opening, here: Opening) -> None:
    """Raises `SweepError` that names what is not as in the study: settings, space, speech, base model, kind of device."""
    if changed := changed_settings(before.opened.config, here.opened.config):
        raise SweepError(f"{folder}: is a study of other settings: {'; '.join(changed)}; set them back, or start another study")
    was, now = ({one.name: one for one in opening.space} for opening in (before, here))
    if other := [name.rpartition(".")[2] for name in dict.fromkeys((*was, *now)) if was.get(name) != now.get(name)]:
        raise SweepError(f"{folder}: is a study of another search space: {', '.join(other)}; give the same --space, or start another study")
    require_same(before.opened, here.opened)


class Study:
    """This process's part in a study, from `opened` to the end of the block."""

    def __init__(self, folder: Path, space: Space, seed: int) -> None:
        self.folder, self._space, self._seed = folder, in_order(space), seed
        self._journal = _opened(folder)
        self._lock = FileLock(folder / _LOCK_FILE)
        self._hold = Hold()
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Shows other processes that this one works here. Raises as `Hold.take`."""
        place = self.folder / WORKERS_FOLDER / self._worker
        with writing_errors(place):
            place.mkdir(parents=True)
        self._hold.take(place)
        try:
            yield
        finally:
            self._hold.release()
            with writing_errors(place):
                place.rmdir()

    def others_at_work(self) -> list[str]:
        """Describes each other process that works, or may work, on the study."""
        places = sorted((self.folder / WORKERS_FOLDER).glob("*"))
        return [reason for place in places if place.name != self._worker and (reason := _held(place))]

    @property
    def wanted(self) -> int:
        """How many trials are to be finished or pruned."""
        return int(self._journal.user_attrs["trials"])

    def want(self, trials: int) -> None:
        """Raises `SweepError` if more have been done already."""
        with self._alone():
            done = sum(_state(one) in DONE for one in self._journal.get_trials(deepcopy=False))
            if trials < done:
                raise SweepError(f"--trials {trials}: {done} are done already; give as many or more, or leave it out")
            self._journal.set_user_attr("trials", trials)

    def claim(self, values_of: "Callable[[Draw], Values]") -> "tuple[Asked, Values] | None":
        """A new trial of this process with its values, or None if as many as are wanted are finished or at work.

        `values_of(draw)` calls `draw(dimension)` for each dimension in turn and returns the values.
        """
        with self._alone():
            frozen = self._journal.get_trials(deepcopy=False)
            counted = sum(_state(one) in (*DONE, "running") for one in frozen)
            if counted >= self.wanted:
                return None
            self._journal.sampler = _sampler(self._seed, counted)
            asked = self._journal.ask()
            asked.set_user_attr("worker", self._worker)
            return asked, values_of(lambda one: _draw(asked, one))

    def finish(self, asked: "Asked", trial: Trial) -> None:
        """Stores the result of a trial, then marks it as finished, so that readers find it whole."""
        from optuna.trial import TrialState

        with self._alone(reap=False):
            asked.set_user_attr("found", msgspec.to_builtins(trial))
            if trial.state == "finished":
                self._journal.tell(asked, trial.cost)
            else:
                self._journal.tell(asked, state=TrialState.PRUNED)

    def may_end(self) -> bool:
        """Whether it falls to this process to end the study: nobody works on a trial, and nobody else is ending it."""
        with self._alone():
            if any(_state(one) == "running" for one in self._journal.get_trials(deepcopy=False)):
                return False
            other = self._journal.user_attrs.get("ending")
            if other not in (None, self._worker) and _held(self.folder / WORKERS_FOLDER / other):
                return False
            self._journal.set_user_attr("ending", self._worker)
            return True

    def trials(self) -> tuple[Trial, ...]:
        """All that have begun."""
        found = self._journal.get_trials(deepcopy=False)
        return tuple(trial for one in found if (trial := _trial(one)) is not None)

    def importances(self) -> dict[str, float]:
        """PED-ANOVA's shares, by the names of dimensions; empty if too few trials have finished to say anything."""
        import optuna

        finished = [one for one in self._journal.get_trials(deepcopy=False) if _state(one) == "finished"]
        if len(finished) < LEAST_FOR_IMPORTANCE or len({one.value for one in finished}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP_QUARTER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a setting that few trials have: the page says how many
            return dict(optuna.importance.get_param_importances(self._journal, evaluator=evaluator))

    @contextmanager
    def _alone(self, *, reap: bool = True) -> Iterator[None]:
        """Within the block no other process claims or ends a trial, and no signal leaves the journal's lock behind."""
        with signals_wait(), self._lock:
            if reap:
                self._reap()
            yield

    def _reap(self) -> None:
        """Trials of processes that are gone have failed; each is queued again first, so that a kill in between loses none."""
        from optuna.trial import TrialState

        for one in self._journal.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = one.user_attrs.get("worker")
            if worker == self._worker or (worker is not None and _held(self.folder / WORKERS_FOLDER / worker)):
                continue
            values = one.system_attrs.get("fixed_params") or one.params
            if values:
                self._journal.enqueue_trial(values, user_attrs={"given": bool(one.user_attrs.get("given"))})
            self._journal.tell(one.number, state=TrialState.FAIL)


def _optuna() -> Any:
    import optuna

    mute("optuna")
    return optuna


def _storage(folder: Path) -> "JournalStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    file = str(folder / JOURNAL_FILE)
    return JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file)))


def _opened(folder: Path) -> "Journalled":
    """The study of a folder. A last line that a power failure has cut off goes. Raises `SweepError` for a damaged journal."""
    optuna, file = _optuna(), folder / JOURNAL_FILE
    _drop_torn_line(file)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=UNPRUNED_EVALUATIONS, n_min_trials=UNPRUNED_TRIALS
    )
    try:
        study: Journalled = optuna.load_study(storage=_storage(folder), study_name=_NAME, pruner=pruner)
        study.get_trials(deepcopy=False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SweepError(f"{file}: is damaged ({error}); start another study") from error
    return study


def _drop_torn_line(file: Path) -> None:
    """Removes an incomplete last line. No process writes meanwhile."""
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(file))
    with writing_errors(file):
        lock.acquire()
        try:
            if not (content := file.read_bytes()).endswith(b"\n"):
                os.truncate(file, content.rfind(b"\n") + 1)
        finally:
            lock.release()


def _sampler(seed: int, number: int) -> Any:
    """A sampler for one trial. Its draws follow from seed, number and the trials before, not from what a process did until now."""
    optuna = _optuna()
    drawn = int(sha256_bytes(f"{seed} {number}".encode())[:8], 16)
    return optuna.samplers.TPESampler(seed=drawn, n_startup_trials=RANDOM_TRIALS)


def _draw(asked: "Asked", one: Dimension) -> float | str:
    drawn: float | str
    if isinstance(one, Choice):
        drawn = asked.suggest_categorical(one.name, list(one.options))
    elif one.whole:
        drawn = asked.suggest_int(one.name, int(one.low), int(one.high), log=one.log)
    else:
        drawn = asked.suggest_float(one.name, one.low, one.high, log=one.log)
    return drawn


def _held(place: Path) -> str | None:
    """Who works in a folder, in words; None if nobody does."""
    try:
        refuse_held(place)
    except RunFolderError as error:
        return str(error)
    return None


def _state(one: "FrozenTrial") -> State | None:
    """None for a trial that waits."""
    from optuna.trial import TrialState

    if one.state == TrialState.WAITING:
        return None
    if one.state in (TrialState.COMPLETE, TrialState.PRUNED):
        found: State = one.user_attrs["found"]["state"]
        return found
    return "running" if one.state == TrialState.RUNNING else "interrupted"


def _trial(one: "FrozenTrial") -> Trial | None:
    state = _state(one)
    if state in DONE:
        return msgspec.convert(one.user_attrs["found"], Trial)
    if state is None:
        return None
    settings = one.user_attrs.get("settings", {})
    return Trial(number=one.number, state=state, given=bool(one.user_attrs.get("given")), settings=settings)


def reported(asked: "Asked", costs: Sequence[float]) -> bool:
    """Reports the cost of the last evaluation; whether the trial is worse by then than half of the others were."""
    asked.report(costs[-1], len(costs) - 1)
    worse: bool = asked.should_prune()
    return worse
