"""A run's numbers in TensorBoard, Weights & Biases, MLflow or Trackio, beside its own files. No torch until one is started."""

import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from lora.config import RunConfig, Tracker, flat
from lora.errors import ConfigError
from lora.system.destination import writing_errors
from lora.system.process_settings import set_default

PROJECT = "moonshine-lora"
TRACKERS_FOLDER = "trackers"
ID_FILE = "run_id"
"""By what Weights & Biases and MLflow know the run, so that a resumed one goes on there too."""

Value = float | int | str
"""What a tracker takes; text is for what is no number, such as the verdict."""


def require(names: Sequence[Tracker]) -> None:
    """Raises `ConfigError` when a tracker's package is not installed: accelerate would leave it out and go on."""
    for name in names:
        if not _installed(name):
            raise ConfigError(f"--trackers {name}: the package {name} is not installed; install it (pip install {name}) or leave it out")


def _installed(name: Tracker) -> bool:
    """By what is installed, not by what can be imported: a folder `wandb/` of earlier runs could be imported too."""
    packages = ("mlflow", "mlflow-skinny") if name == "mlflow" else (name,)
    return any(True for package in packages for _ in distributions(name=package))


class Trackers:
    """The trackers of one run. With none chosen nothing is imported and nothing happens.

    One that fails to start refuses the run; one that fails later is told once and left out, for no training is lost to a server that
    is away.
    """

    def __init__(self, names: Sequence[Tracker], run_folder: Path, tell: Callable[[str], None]) -> None:
        self._names, self._folder, self._run, self._tell = names, run_folder / TRACKERS_FOLDER, run_folder.resolve().name, tell
        self._open: list[Any] = []

    def start(self, config: RunConfig, *, on_cpu: bool) -> None:
        """Opens each with the settings of the run, or again where a resumed run has its tracks already.

        Raises `ConfigError` if one refuses, for want of a login for example.
        """
        if not self._names:
            return
        from accelerate import PartialState

        PartialState(cpu=on_cpu)  # the first state of a process decides its device, and a tracker's own would take the GPU
        with writing_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
        settings = flat(config)
        for name in self._names:
            try:
                with redirect_stdout(sys.stderr):  # trackio greets; standard output is for the result
                    again = (self._folder / name).is_dir()
                    tracker = _make(name, self._folder / name, self._run)
                    tracker.start()
                    self._open.append(tracker)
                    if name == "mlflow":
                        (self._folder / name / ID_FILE).write_text(tracker.active_run.info.run_id)
                    if not again:
                        tracker.store_init_configuration(settings)
            except Exception as error:
                raise ConfigError(f"--trackers {name}: cannot start: {error}") from error

    def log(self, values: Mapping[str, Value | None], step: int) -> None:
        """Sends values of a step to all; those that are None are left out. Steps must not fall."""
        given = {name: value for name, value in values.items() if value is not None}
        for tracker in list(self._open):
            try:
                _log(tracker, given, step)
            except Exception as error:  # noqa: BLE001 - whatever a server or its client comes up with
                self._open.remove(tracker)
                self._lost(tracker, error)

    def close(self) -> None:
        """Ends the run in each, however it went."""
        while self._open:
            tracker = self._open.pop()
            try:
                with redirect_stdout(sys.stderr):
                    tracker.finish()
            except Exception as error:  # noqa: BLE001 - the others are still to be closed
                self._lost(tracker, error)

    def _lost(self, tracker: Any, error: Exception) -> None:
        self._tell(f"tracker {tracker.name} failed and is left out from here on: {error!r}")


def _make(name: Tracker, folder: Path, run: str) -> Any:
    from accelerate import tracking

    if name == "tensorboard":
        return tracking.TensorBoardTracker(run, folder)
    folder.mkdir(exist_ok=True)
    file = folder / ID_FILE
    known = file.read_text() if file.is_file() else None
    if name == "wandb":
        chosen = known or uuid.uuid4().hex
        file.write_text(chosen)
        return tracking.WandBTracker(PROJECT, name=run, dir=str(folder), id=chosen, resume="allow")
    if name == "mlflow":
        if "MLFLOW_TRACKING_URI" in os.environ:  # a server, which has a place of its own for artifacts
            return tracking.MLflowTracker(PROJECT, run_id=known, run_name=run)
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        return tracking.MLflowTracker(PROJECT, (folder / "artifacts").resolve().as_uri(), run_id=known, run_name=run)
    set_default("TRACKIO_DIR", str(folder.resolve()))  # it is read when trackio is imported
    return tracking.TrackioTracker(PROJECT, name=run, resume="allow")


def _log(tracker: Any, values: Mapping[str, Value], step: int) -> None:
    if tracker.name == "mlflow":  # its metrics are numbers; accelerate would drop the text
        import mlflow

        mlflow.set_tags({name: value for name, value in values.items() if isinstance(value, str)})
        values = {name: value for name, value in values.items() if not isinstance(value, str)}
    tracker.log(dict(values), step=step)
