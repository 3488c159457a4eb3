"""`moonshine-lora sweep`: trials on dev and guard, then one run of the winner, which alone is judged on the test sets."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lora.config import RunConfig, add_flags, changed, from_flags
from lora.console import positive_int
from lora.errors import ConfigError, SweepError
from lora.presets import config_file, presets
from lora.runs.trials import Sweep
from lora.sweep.space import Choice, Dimension, Space, read_space, usual_space
from lora.system.artifacts import EXPERIMENT_METRICS_FILE, HTML_FILE, RECORD_FILE
from lora.system.signals import TerminatedError
from lora.system.terminal import say

if TYPE_CHECKING:
    from lora.display import Display
    from lora.sweep.search import Shared
    from lora.sweep.study import Study

TRIALS: Final = 20
WINNER_FOLDER: Final = "winner"

Mode = Literal["start", "resume", "join"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `trials` is None if the study's own number stands."""

    config: RunConfig
    space: Space
    folder: Path
    trials: int | None
    mode: Mode

    @property
    def winner(self) -> Path:
        return self.folder / WINNER_FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=config_file, metavar="CONFIG", help=f"a preset ({', '.join(presets())}), or a TOML file; flags override it"
    )
    parser.add_argument(
        "--trials", type=positive_int, metavar="N", help=f"trials to finish, the settings as given among them (default: {TRIALS})"
    )
    parser.add_argument("--space", type=Path, metavar="FILE", help="TOML file with the ranges and choices to try (default: the usual ones)")
    parser.add_argument("--study-dir", type=Path, metavar="DIR", help="folder of the study (default: --output-dir with -sweep behind it)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="continue the study; a trial that was interrupted is run again, a finished one is not"
    )
    how.add_argument("--dry-run", action="store_true", help="check everything and list what would be tried, without training")
    how.add_argument("--join", action="store_true", help="work on the study beside other processes, of this machine or of others")
    add_flags(parser)


def execute(options: argparse.Namespace) -> int:
    """Runs trials and, if no other process is at work on one, the winner; the code is that of its run."""
    request = requested(options)
    from lora.sweep.study import require_optuna

    require_optuna()
    _require_possible(request)
    from lora.display import Display
    from lora.pipeline.preparation import require_outlets
    from lora.sweep.search import read_shared
    from lora.system import distributed

    if distributed.launched():
        raise ConfigError("a sweep is no launch of several processes; start one, then others with --join")
    require_outlets(request.config)
    display = Display()
    shared = read_shared(request.config, request.space, display)
    if options.dry_run:
        _list(request.space)
        return 0
    with _at_work(request, shared) as study:
        return _carried_out(request, study, shared, display)


def requested(options: argparse.Namespace) -> Request:
    """The request. Raises `ConfigError` as `from_flags` and `read_space` do."""
    config = from_flags(options, options.config)
    output = Path(config.output.output_dir)
    folder = options.study_dir or output.with_name(f"{output.name}-sweep")
    space = read_space(options.space, config) if options.space is not None else usual_space(config)
    mode: Mode = "resume" if options.resume else "join" if options.join else "start"
    return Request(config, space, folder, options.trials, mode)


def _list(space: Space) -> None:
    names = [one.name.rpartition(".")[2] for one in space]
    for name, one in zip(names, space, strict=True):
        say(f"{name:{max(map(len, names))}}  {_told(one)}")
    say(f"ready: {len(space)} settings to try, nothing was trained or written")


def _told(one: Dimension) -> str:
    if isinstance(one, Choice):
        return "; ".join(one.options)
    return f"{one.low:g} to {one.high:g}{', by its logarithm' if one.log else ''}"


def _require_possible(request: Request) -> None:
    """Raises `SweepError` for a folder that does not suit, before anything is read."""
    from lora.sweep.study import read_opening, require_none

    if request.mode == "start":
        require_none(request.folder)
        return
    read_opening(request.folder)
    if (request.winner / RECORD_FILE).is_file():
        _require_unjudged(request)


def _require_unjudged(request: Request) -> None:
    from lora.runs.record import read

    if read(request.winner).status == "completed":
        raise SweepError(f"{request.folder}: the study is finished, the run of its winner is in {WINNER_FOLDER}/; start another study")
    if request.trials is not None:
        raise SweepError(f"--trials {request.trials}: the run of the winner has begun, so its test scores may be known; leave --trials out")


@contextmanager
def _at_work(request: Request, shared: "Shared") -> "Iterator[Study]":
    """This process's part in the study: a new one, or the existing one if it is the same."""
    from lora.sweep.study import Study, create, read_opening, require_same_study

    opening = shared.opening(request.folder)
    if request.mode == "start":
        create(request.folder, opening, shared.given, request.trials or TRIALS)
    else:
        require_same_study(request.folder, read_opening(request.folder), opening)
    study = Study(request.folder, request.space, request.config.train.seed)
    if request.mode == "resume" and (others := study.others_at_work()):
        raise SweepError(f"{request.folder}: another process works on this study; --join works beside it ({others[0]})")
    with study.at_work():
        if request.mode != "start" and request.trials is not None:
            study.want(request.trials)
        yield study


def _carried_out(request: Request, study: "Study", shared: "Shared", display: "Display") -> int:
    from lora.sweep.results import BEST_FILE, TABLE_FILE, summary, write_results
    from lora.sweep.search import search

    try:
        search(study, shared, display)
    except (KeyboardInterrupt, TerminatedError):
        display.line("to continue, repeat the command with --resume; finished trials are kept")
        raise
    if not study.may_end():
        say(f"{request.folder}: other processes are at work on the last trials; the one that ends last runs the winner")
        return 0
    found = summary(study, request.config)
    write_results(found, request.config, request.folder)
    if found.winner is None:
        raise SweepError(f"{request.folder}: no trial has come to its end; {TABLE_FILE} says why")
    say(found.sentence)
    say(f"{request.folder}: {HTML_FILE}, {TABLE_FILE}, {BEST_FILE}")
    return _judged(request, found)


def _judged(request: Request, found: Sweep) -> int:
    """The run of the winner, whose test sets have not been used before."""
    from lora.runners.experiment import start
    from lora.sweep.results import winner_config

    config = changed(winner_config(found, request.config), {"output.output_dir": str(request.winner)}, str(request.folder))
    return start(config, EXPERIMENT_METRICS_FILE, dry_run=False, resume=(request.winner / RECORD_FILE).is_file())
