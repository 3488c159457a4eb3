"""Trackers beside a run's own files: what TensorBoard reads is what the log says, and one that is not there is refused at once."""

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from accelerate.tracking import TensorBoardTracker
from running import ANY_VERDICT, QUICK, Manifests, moonshine_lora, refusal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora.config import RunConfig, build, flat
from lora.errors import ConfigError
from lora.model.loading import LoadedModel
from lora.runs.record import read
from lora.runs.tracking import Trackers, require
from lora.system.documents import read_json

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


def arguments(model: LoadedModel, sets: Manifests, folder: Path, *options: object) -> tuple[object, ...]:
    return ("experiment", "--model-id", model.checkpoint.folder, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", folder, *options)


@pytest.fixture(scope="module")
def tracked(random_v1: LoadedModel, sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_the_learning_rate_that_is_reported_is_the_one_that_was_used(tracked: Path) -> None:
    """The loop takes an evaluation's rate from its optimizer."""
    rates = {entry["step"]: entry["learning_rate"] for entry in logged(tracked) if entry["event"] == "update"}
    history = {entry["step"]: entry["learning_rate"] for entry in logged(tracked) if entry["event"] == "dev" and entry["step"]}
    assert rates == history


def test_the_verdict_and_the_settings_are_reported(tracked: Path) -> None:
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
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, given: str, message: str, dry_run: tuple[str, ...]
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


def test_what_is_installed_is_not_refused(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    found = moonshine_lora(*arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard", "--dry-run"))
    assert found.code == 0, found.err


# --- how a run ends -----------------------------------------------------------------------------------------------------------------------

Breaks = Callable[..., None]


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Breaks:
    """Makes a method of accelerate's own TensorBoard tracker fail, as a client does whose server is away: always, or in the first only."""

    def fail(method: str, *, first_only: bool = False) -> None:
        real = getattr(TensorBoardTracker, method)
        broken: list[object] = []

        def failing(self: TensorBoardTracker, *arguments: Any, **options: Any) -> Any:
            if not broken:
                broken.append(self)
            if first_only and self is not broken[0]:
                return real(self, *arguments, **options)
            raise ConnectionError("no route")

        monkeypatch.setattr(TensorBoardTracker, method, failing)

    return fail


def started(folder: Path, count: int = 1) -> tuple[Trackers, list[str]]:
    """Real TensorBoard trackers, started, and what is told of them."""
    told: list[str] = []
    trackers = Trackers(["tensorboard"] * count, folder, told.append)
    trackers.start(CONFIG, on_cpu=True)
    return trackers, told


def test_without_trackers_nothing_is_made(tmp_path: Path) -> None:
    trackers = Trackers((), tmp_path, lambda _: None)
    trackers.start(CONFIG, on_cpu=True)
    trackers.log({"dev/wer": 1.0}, 0)
    trackers.close()
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_none_are_left_out_and_closing_twice_is_closing_once(tmp_path: Path) -> None:
    trackers, told = started(tmp_path)
    trackers.log({"dev/wer": 0.25, "guard/wer": None}, 3)
    trackers.close()
    trackers.close()
    found = events(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("dev/wer")] == [(3, 0.25)]
    assert "guard/wer" not in found.Tags()["scalars"]
    assert told == []


@pytest.mark.parametrize("method", ["log", "finish"])
def test_one_that_fails_is_reported_once_and_the_others_continue(tmp_path: Path, breaks: Breaks, method: str) -> None:
    breaks(method, first_only=True)
    trackers, told = started(tmp_path, 2)
    for step in (1, 2):
        trackers.log({"train/loss": 1.0}, step)
    trackers.close()
    assert {event.step for event in events(tmp_path).Scalars("train/loss")} == {1, 2}
    assert told == ["tracker tensorboard failed and is left out from here on: ConnectionError('no route')"]


@pytest.mark.parametrize("method", ["start", "store_init_configuration"])
def test_one_that_cannot_start_refuses_the_run(tmp_path: Path, breaks: Breaks, method: str) -> None:
    breaks(method)
    with pytest.raises(ConfigError, match="--trackers tensorboard: cannot start: no route"):
        started(tmp_path)


def test_a_run_continues_without_a_tracker_that_broke(random_v1: LoadedModel, sets: Manifests, tmp_path: Path, breaks: Breaks) -> None:
    breaks("log")
    result = moonshine_lora(*arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard"))
    assert result.code == 0
    assert result.err.count("tracker tensorboard failed and is left out from here on") == 1


def test_a_tracker_that_cannot_start_ends_the_run_in_one_line(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, breaks: Breaks
) -> None:
    breaks("start")
    message = refusal(*arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard"))
    assert message == "error: --trackers tensorboard: cannot start: no route"
    assert read(tmp_path / "run").status == "failed"


def test_trackers_are_closed_when_the_record_is_written_also_of_a_run_that_failed(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate that no number bears ends the training in earnest."""
    seen: list[str] = []
    real = TensorBoardTracker.finish

    def finish(self: TensorBoardTracker) -> None:
        seen.append(read(tmp_path / "run").status)
        real(self)

    monkeypatch.setattr(TensorBoardTracker, "finish", finish)
    command = arguments(random_v1, sets, tmp_path / "run", "--trackers", "tensorboard")
    assert moonshine_lora(*command).code == 0
    assert moonshine_lora(*command, "--overwrite", "--learning-rate", "1e38", "--warmup-steps", 0, "--max-steps", 5).code == 2
    assert seen == ["completed", "failed"]


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
