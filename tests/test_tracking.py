"""Trackers beside a run's own files: what TensorBoard reads is what the log says, and one that is not there is refused at once."""

import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from running import ANY_VERDICT, QUICK, Manifests, manifests, moonshine_lora, refusal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora import experiment
from lora.config import RunConfig, build
from lora.errors import ConfigError
from lora.files import read_json
from lora.manifest import Utterance
from lora.model_utils import Speech
from lora.record import RunRecord, read
from lora.tracking import Trackers, flat, require

CONFIG = build(
    {
        "model.model_id": "packaged:moonshine-tiny",
        "data.train_manifest": "train.jsonl",
        "data.domain_manifest": "domain.jsonl",
        "data.heldout_manifest": "heldout.jsonl",
        "output.output_dir": "outputs/one",
    },
    None,
)


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return manifests(tmp_path_factory.mktemp("sets"), clips)


def arguments(model: Speech, sets: Manifests, folder: Path, *options: object) -> tuple[object, ...]:
    return ("experiment", "--model-id", model.checkpoint.folder, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", folder, *options)


@pytest.fixture(scope="module")
def tracked(random_v1: Speech, sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that TensorBoard was told of."""
    folder = tmp_path_factory.mktemp("tracked") / "one run"
    result = moonshine_lora(*arguments(random_v1, sets, folder, "--trackers", "tensorboard"))
    assert result.code == 0, result.err
    return folder


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "trackers" / "tensorboard" / folder.name))
    accumulator.Reload()
    return accumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read_back = events(folder)
    return {tag: [(event.step, event.value) for event in read_back.Scalars(tag)] for tag in read_back.Tags()["scalars"]}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (folder / "log.jsonl").read_bytes().splitlines()]


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What `log.jsonl` says, under the trackers' names; TensorBoard keeps single precision."""
    found: dict[str, list[tuple[int, float]]] = {}

    def add(name: str, step: int, value: float) -> None:
        found.setdefault(name, []).append((step, float(np.float32(value))))

    record = read(folder)
    assert record.training is not None
    assert record.verdict is not None
    for entry in logged(folder):
        match entry["event"]:
            case "update":
                for name in ("loss", "learning_rate", "audio_seconds_per_second"):
                    add(f"train/{name}", entry["step"], entry[name])
            case "dev":
                for part in ("dev", "guard"):
                    for name in ("wer", "loss"):
                        add(f"{part}/{name}", entry["step"], entry[f"{part}_{name}"])
            case "baseline" | "tuned" as when:
                for name in ("wer", "loss"):
                    add(f"{entry['set']}/{when}_{name}", 0 if when == "baseline" else record.training.steps, entry[name])
    add("verdict/accepted", record.training.steps, float(record.verdict.accepted))
    return found


def test_tensorboard_reads_what_the_log_says(tracked: Path) -> None:
    found = scalars(tracked)
    assert found == expected(tracked)
    assert [step for step, _ in found["train/loss"]] == [1, 2]
    assert [step for step, _ in found["guard/wer"]] == [0, 1, 2]
    assert {f"{part}/{when}_{name}" for part in ("domain", "heldout") for when in ("baseline", "tuned") for name in ("wer", "loss")} <= set(
        found
    )


def test_the_learning_rate_that_is_told_is_the_one_that_was_used(tracked: Path) -> None:
    """The loop takes an evaluation's rate from its optimizer."""
    rates = {entry["step"]: entry["learning_rate"] for entry in logged(tracked) if entry["event"] == "update"}
    history = {entry["step"]: entry["learning_rate"] for entry in logged(tracked) if entry["event"] == "dev" and entry["step"]}
    assert rates == history


def test_the_verdict_and_the_settings_are_told(tracked: Path) -> None:
    record = read(tracked)
    assert record.verdict is not None
    (event,) = events(tracked).Tensors("verdict/text_summary")
    assert event.tensor_proto.string_val[0].decode() == record.verdict.sentence
    (settings,) = (tracked / "trackers").rglob("hparams.yml")
    text = settings.read_text()
    assert all(f"{name}: " in text for name in flat(record.config))
    assert "train.batch_size: 2\n" in text


def test_the_runs_own_files_are_written_as_ever(tracked: Path) -> None:
    names = {path.name for path in tracked.iterdir()}
    assert names == {
        *("config.toml", "experiment_metrics.json", "log.jsonl", "lora_adapter", "processor"),
        *("record.json", "report.html", "report.md", "trackers"),
    }
    assert read_json(tracked / "record.json", dict[str, Any], ConfigError)["config"]["output"]["trackers"] == "tensorboard"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tensorbord", "no tracker is named 'tensorbord'; did you mean 'tensorboard'?; known are tensorboard, wandb, mlflow, trackio"),
        ("tensorboard,none", "no tracker is named 'none'; known are"),
        ("wandb", "--trackers wandb: the package wandb is not installed; install it (pip install wandb) or leave it out"),
        ("tensorboard,wandb", "--trackers wandb: the package wandb is not installed"),
    ],
)
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_tracker_that_is_not_there_is_refused_and_nothing_is_written(
    random_v1: Speech, sets: Manifests, tmp_path: Path, given: str, message: str, dry_run: tuple[str, ...]
) -> None:
    (tmp_path / "wandb").mkdir()  # what earlier runs leave behind in the working directory is no package
    before = sys.path.copy()
    sys.path.insert(0, str(tmp_path))
    try:
        found = moonshine_lora(*arguments(random_v1, sets, tmp_path / "run", "--trackers", given, *dry_run))
    finally:
        sys.path[:] = before
    assert (found.code, found.out) == (2, "")
    assert [line for line in found.err.splitlines() if message in line] == found.err.splitlines(), "refused before anything was read"
    assert not (tmp_path / "run").exists()


def test_what_is_installed_is_not_refused() -> None:
    require(())
    require(("tensorboard",))


# --- how a run ends -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """A tracker that notes what happens to it, and breaks where told."""

    name: str = "wandb"
    breaks: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def _note(self, what: str, value: Any = None) -> None:
        self.calls.append((what, value))
        if what == self.breaks:
            raise ConnectionError("no route")

    def start(self) -> None:
        self._note("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._note("store", values)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self._note("log", (dict(values), step))

    def finish(self) -> None:
        self._note("finish")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Trackers, list[str]]]:
    """Trackers in place of the real ones, started, and what is told of them."""

    def start(*fakes: Fake) -> tuple[Trackers, list[str]]:
        waiting: Iterator[Fake] = iter(fakes)
        monkeypatch.setattr("lora.tracking._make", lambda *_: next(waiting))
        told: list[str] = []
        trackers = Trackers(["wandb"] * len(fakes), tmp_path, told.append)
        trackers.start(CONFIG, on_cpu=True)
        return trackers, told

    return start


def test_without_trackers_nothing_is_made(tmp_path: Path) -> None:
    trackers = Trackers((), tmp_path, lambda _: None)
    trackers.start(CONFIG, on_cpu=True)
    trackers.log({"dev/wer": 1.0}, 0)
    trackers.close()
    assert list(tmp_path.iterdir()) == []


def test_each_tracker_gets_settings_values_and_an_end(started: Callable[..., tuple[Trackers, list[str]]]) -> None:
    fakes = (Fake(), Fake())
    trackers, told = started(*fakes)
    trackers.log({"dev/wer": 0.25, "guard/wer": None}, 3)
    trackers.close()
    trackers.close()
    assert fakes[0].calls == [("start", None), ("store", flat(CONFIG)), ("log", ({"dev/wer": 0.25}, 3)), ("finish", None)]
    assert fakes[0].calls == fakes[1].calls
    assert (told, trackers.failed) == ([], [])


@pytest.mark.parametrize("breaks", ["log", "finish"])
def test_one_that_fails_is_told_once_and_the_others_go_on(started: Callable[..., tuple[Trackers, list[str]]], breaks: str) -> None:
    broken, sound = Fake(breaks=breaks), Fake(name="trackio")
    trackers, told = started(broken, sound)
    for step in (1, 2):
        trackers.log({"train/loss": 1.0}, step)
    trackers.close()
    assert [what for what, _ in sound.calls] == ["start", "store", "log", "log", "finish"]
    assert told == ["tracker wandb failed and is left out from here on: ConnectionError('no route')"]
    assert trackers.failed == ["wandb"]


@pytest.mark.parametrize("breaks", ["start", "store"])
def test_one_that_cannot_start_refuses_the_run(started: Callable[..., tuple[Trackers, list[str]]], breaks: str) -> None:
    with pytest.raises(ConfigError, match="--trackers wandb: cannot start: no route"):
        started(Fake(), Fake(breaks=breaks))


class Closed(Fake):
    """Looks, when it is closed, at what the record says."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def finish(self) -> None:
        super().finish()
        self.calls.append(("status", read(self.folder).status))


def _fail(*_: object, **__: object) -> RunRecord:
    raise RuntimeError("a bug")


def _interrupt(*_: object, **__: object) -> RunRecord:
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("not interrupted")


@pytest.mark.parametrize(("ending", "status"), [(_fail, "failed"), (_interrupt, "interrupted"), (None, "completed")])
def test_trackers_are_closed_when_the_record_is_written_however_a_run_ends(
    random_v1: Speech,
    sets: Manifests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: Callable[..., RunRecord] | None,
    status: str,
) -> None:
    fake = Closed(tmp_path / "run")
    monkeypatch.setattr("lora.tracking._make", lambda *_: fake)
    if ending:
        monkeypatch.setattr(experiment, "_train", ending)
    command = arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard")
    if ending is _fail:
        with pytest.raises(RuntimeError, match="a bug"):
            moonshine_lora(*command)
    else:
        assert moonshine_lora(*command).code == (130 if ending else 0)
    assert fake.calls[-2:] == [("finish", None), ("status", status)]


def test_a_run_goes_on_without_a_tracker_that_broke(
    random_v1: Speech, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora.tracking._make", lambda *_: Fake(breaks="log"))
    result = moonshine_lora(*arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard"))
    assert result.code == 0
    assert result.err.count("tracker wandb failed and is left out from here on") == 1


def test_a_tracker_that_cannot_start_ends_the_run_in_one_line(
    random_v1: Speech, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora.tracking._make", lambda *_: Fake(breaks="start"))
    message = refusal(*arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard"))
    assert message == "error: --trackers tensorboard: cannot start: no route"
    assert read(tmp_path / "run").status == "failed"


# --- the trackers that are not installed here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_keeps_its_files_in_the_run_folder(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs where the package is installed. It is not imported to find out: Trackio takes its folder when it is."""
    try:
        require((name,))
    except ConfigError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    run.mkdir()
    trackers = Trackers([name], run, lambda line: pytest.fail(line))
    trackers.start(CONFIG, on_cpu=True)
    trackers.log({"dev/wer": 0.25}, 0)
    trackers.log({"verdict/accepted": 1, "verdict": "accepted: dev WER"}, 2)
    trackers.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert any(path.is_file() for path in (run / "trackers" / name).rglob("*"))
    if name == "mlflow":
        with sqlite3.connect(run / "trackers" / "mlflow" / "mlflow.db") as database:
            assert set(database.execute("select key, value, step from metrics")) == {("dev/wer", 0.25, 0), ("verdict/accepted", 1.0, 2)}
            assert ("verdict", "accepted: dev WER") in set(database.execute("select key, value from tags"))


def test_settings_are_flat() -> None:
    values = flat(CONFIG)
    assert values["model.model_id"] == "packaged:moonshine-tiny"
    assert len(values) == sum(len(section.__struct_fields__) for section in _sections(CONFIG))
    assert all(value is None or isinstance(value, bool | int | float | str) for value in values.values())


def _sections(config: RunConfig) -> list[Any]:
    return [getattr(config, name) for name in config.__struct_fields__]
