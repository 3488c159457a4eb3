"""Ours and the usual notebook recipe on the same checkpoint, manifests and machine, interleaved; prints a table of medians and ratios.

    python benchmarks/run.py --peer ../shared/peers/hf_recipe.py --data ../shared/data --rounds 3

Each run is a process of its own: its wall time and peak memory are the operating system's figures. Ours is run from a cold cache
(no encoder output and no baseline kept), then from a warm one, then with replay. What differs between the recipes is in `--ours`.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.checkpoints.checkpoint import resolve
from lora.console import ArgumentParser, positive_int, run
from lora.errors import LoraError
from lora.system.cache import kept_dir

ROOT = Path(__file__).parents[1]
HOUR_S = 3600.0


VERDICTS = (0, 3, 4)
"""Exit codes of a run that went to its end."""

OURS = "--precision bfloat16 --batch-size 16 --learning-rate 1.5e-3 --encoder-learning-rate 1.5e-3 --epochs 1.5"


@dataclass(frozen=True)
class Measured:
    """One run. Rates are audio seconds per second; word error rates are ratios. None if the run does not show it."""

    wall_s: float
    peak_mb: float
    train_rate: float
    train_3_epochs_rate: float | None
    """Over three epochs, with the encoding of the training speech."""
    eval_cold_rate: float | None
    eval_warm_rate: float | None
    first_step_s: float | None
    wer: float
    heldout_wer: float


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, default=ROOT.parent / "shared/peers/hf_recipe.py", help="the recipe to measure against")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with an4/ and librispeech/")
    parser.add_argument("--rounds", type=positive_int, default=3, help="times that each is run (default 3)")
    parser.add_argument("--epochs", type=float, default=3.0, help="of the peer (default 3)")
    parser.add_argument("--ours", default=OURS, help=f"our settings (default {OURS})")
    parser.add_argument("--targets", default=r".*decoder.*self_attn\.(q|k|v)_proj", help="sites of the peer, as it takes them")
    parser.add_argument("--sites", default="decoder", help="the same sites, as we name them")
    options = parser.parse_args()
    for needed in (options.peer, options.data / "an4/train.jsonl", options.data / "librispeech/heldout.jsonl"):
        if not needed.is_file():
            raise LoraError(f"{needed}: is not there; name the recipe with --peer and the speech with --data")
    contestants: dict[str, Callable[[], Measured]] = {
        "peer": lambda: _peer(options),
        "ours, cold": lambda: measure_ours(options.data, options.ours, options.sites, cold=True, replay=False),
        "ours, warm": lambda: measure_ours(options.data, options.ours, options.sites, cold=False, replay=False),
        "ours, warm, with replay": lambda: measure_ours(options.data, options.ours, options.sites, cold=False, replay=True),
    }
    results: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, measure in contestants.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(measure())
    _print(results)
    return 0


def _peer(options: argparse.Namespace) -> Measured:
    model = resolve("packaged:moonshine-tiny").folder
    command = [sys.executable, str(options.peer), "--model", str(model), "--lower", "--epochs", str(options.epochs)]
    command += ["--targets", options.targets, *_flags(options.data, "--train", "--test", "--heldout")]
    wall_s, peak_mb, output = timed(command)
    said: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    evaluated_s = said["baseline_eval_s"] + said["heldout_eval_s"]
    return Measured(
        wall_s=wall_s,
        peak_mb=peak_mb,
        train_rate=said["train_audio_s_per_s"],
        train_3_epochs_rate=said["train_audio_s_per_s"],
        eval_cold_rate=_seconds_in(options.data, TEST) / evaluated_s,
        eval_warm_rate=_seconds_in(options.data, TEST) / evaluated_s,
        first_step_s=None,
        wer=said["tuned_wer"],
        heldout_wer=said["heldout_tuned_wer"],
    )


def measure_ours(data: Path, settings: str, sites: str, *, cold: bool, replay: bool) -> Measured:
    """One run of ours on AN4 and LibriSpeech below `data`; `cold` empties what earlier ones kept."""
    if cold:
        shutil.rmtree(kept_dir(), ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lora.runners.experiment", "--model-id", "packaged:moonshine-tiny"]
        command += ["--output-dir", f"{folder}/run"]
        command += ["--lora-targets", sites, "--dev-fraction", "0.05", *settings.split()]
        command += _flags(data, "--train-manifest", "--domain-manifest", "--heldout-manifest")
        if replay:
            command += ["--replay-manifest", str(data / "librispeech/replay.jsonl")]
        started = time.time()
        wall_s, peak_mb, _ = timed(command, accepted=VERDICTS)
        said = json.loads(Path(folder, "run/experiment_metrics.json").read_text(encoding="utf-8"))
        stages: dict[str, float] = said["runtime_seconds"]
        train_s, test_s = _seconds_in(data, TRAIN), _seconds_in(data, TEST)
        rate = said["train_audio_seconds_per_second"]
        encode_rate = (train_s + test_s) / stages["encode"]
        evaluated_s = stages["baseline"]
        return Measured(
            wall_s=wall_s,
            peak_mb=peak_mb,
            train_rate=rate,
            train_3_epochs_rate=3 / (3 / rate + 1 / encode_rate) if cold else None,
            eval_cold_rate=1 / (evaluated_s / test_s + 1 / encode_rate) if cold else None,
            eval_warm_rate=test_s / evaluated_s if cold else None,  # later runs know the baseline
            first_step_s=_first_step(Path(folder, "run/log.jsonl"), started),
            wer=said["tuned_wer"],
            heldout_wer=said["heldout_tuned_wer"],
        )


def _flags(data: Path, *names: str) -> list[str]:
    files = (data / "an4/train.jsonl", data / "an4/test.jsonl", data / "librispeech/heldout.jsonl")
    return [part for name, file in zip(names, files, strict=True) for part in (name, str(file))]


def timed(command: Sequence[str], accepted: Sequence[int] = (0,)) -> tuple[float, float, str]:
    """Wall seconds, peak resident megabytes and standard output of a process. Raises `LoraError` when it fails."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if os.waitstatus_to_exitcode(status) not in accepted:
            raise LoraError(f"{command[1]} failed: {errors.read().decode()[-500:]}")
        scale = 1 << 20 if platform.system() == "Darwin" else 1 << 10  # macOS counts bytes, Linux kilobytes
        return wall_s, usage.ru_maxrss / scale, output.read().decode()


TRAIN = ("an4/train.jsonl",)
TEST = ("an4/test.jsonl", "librispeech/heldout.jsonl")


def _seconds_in(data: Path, files: Sequence[str]) -> float:
    return sum(seconds_of(data / file) for file in files)


def seconds_of(manifest: Path) -> float:
    """Seconds of speech that the rows of a manifest say they have."""
    return float(sum(json.loads(line)["duration"] for line in manifest.read_text(encoding="utf-8").splitlines()))


def _first_step(log: Path, started: float) -> float:
    """Seconds from the command to the first finished update."""
    from datetime import datetime

    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "update":
            return datetime.fromisoformat(event["time"]).timestamp() - started
    raise LoraError(f"{log}: holds no update")


def _print(results: dict[str, list[Measured]]) -> None:
    medians = {name: {field: _median(rows, field) for field in Measured.__dataclass_fields__} for name, rows in results.items()}
    peer = medians["peer"]
    rounds = len(results["peer"])
    print(f"{machine()}; {rounds} rounds, interleaved; medians, and in brackets the ratio to the peer (above 1 is better)\n")
    rows: list[tuple[str, str, bool, str]] = [
        ("whole run, s", "wall_s", False, "{:.0f}"),
        ("training, audio s/s", "train_rate", True, "{:.0f}"),
        ("training for 3 epochs with encoding, audio s/s", "train_3_epochs_rate", True, "{:.0f}"),
        ("evaluation, nothing known, audio s/s", "eval_cold_rate", True, "{:.0f}"),
        ("evaluation, encoder outputs known, audio s/s", "eval_warm_rate", True, "{:.0f}"),
        ("command to first update, s", "first_step_s", False, "{:.1f}"),
        ("peak memory, MB", "peak_mb", False, "{:.0f}"),
        ("AN4 WER, %", "wer", False, "{:.2f}"),
        ("LibriSpeech WER, %", "heldout_wer", False, "{:.2f}"),
    ]
    print("| | " + " | ".join(medians) + " |")
    print("|---|" + "---|" * len(medians))
    for title, field, more_is_better, form in rows:
        cells = [_cell(values[field], peer[field], more_is_better, form, plain="wer" in field) for values in medians.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")


def _cell(value: float, peer: float, more_is_better: bool, form: str, *, plain: bool) -> str:
    if math.isnan(value):
        return ""
    if plain:
        return form.format(100 * value)
    if math.isnan(peer):
        return form.format(value)
    return f"{form.format(value)} ({value / peer if more_is_better else peer / value:.1f}x)"


def _median(rows: Sequence[Measured], field: str) -> float:
    values = [getattr(row, field) for row in rows]
    return statistics.median(values) if None not in values else float("nan")


def machine() -> str:
    import torch

    return f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, {platform.system()}, PyTorch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(run(main))
