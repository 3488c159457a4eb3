"""The bench of recipes: its table is made from records of runs, and what it is given is checked before any run."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from records import HELDOUT, Row, completed
from running import ROOT

from lora.errors import ConfigError
from lora.runs import record as records
from lora.units import Seconds


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes", ROOT / "benchmarks" / "recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipes"] = module
    spec.loader.exec_module(module)
    return module


def run(folder: Path, said: str, train_s: float) -> None:
    """A completed run whose tuned model says this for `press the pound key` in each of twenty clips."""
    rows: list[Row] = [("press the pound key", "press a town key", said)] * 20
    folder.mkdir()
    records.write(msgspec.structs.replace(completed(rows, HELDOUT), stages={"train": Seconds(train_s)}), folder)


def test_the_table_compares_the_others_with_the_first_recipe(bench: ModuleType, tmp_path: Path) -> None:
    place = bench.Bench(tmp_path, tmp_path, tmp_path, 2)
    for seed in (0, 1):
        for domain in ("an4", "accent"):
            run(place.folder(domain, "defaults", seed), "press the town keys", 10.0)
            run(place.folder(domain, "better", seed), "press the town key", 15.0)
    lines = list(bench.table(place, ["an4", "accent"], ["defaults", "better"]))
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| base model | 50.00 % | 50.00 % |")
    assert lines[3].startswith("| defaults | 50.00 % | 50.00 % |")
    assert lines[4].startswith("| better | 25.00 %, +50.0 % (+50.0 to +50.0) | 25.00 %, +50.0 % (+50.0 to +50.0) | +50.0 %")
    assert lines[4].endswith("| 1.50 |")


def test_reductions_are_drawn_by_speaker(bench: ModuleType) -> None:
    before, after = {"a": 10, "b": 0, "c": 30}, {"a": 10, "b": 0, "c": 10}
    draws, found = bench.reductions(before, after)
    assert found == 0.5
    assert draws.min() == 0.0
    assert draws.max() == pytest.approx(2 / 3)
    assert np.isfinite(draws).all()
    assert bench.reductions({"a": 0}, {"a": 0})[1] == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[defaults]", "holds 1 tables; write one for each of two recipes or more"),
        ("[a]\n[b]\nlearning_rat = 1", "unknown setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("[a]\n[b]\ndev_fraction = 0.2", "[b]: dev_fraction is no part of a recipe"),
        ("[a", "recipes.toml: "),
    ],
)
def test_recipes_that_make_no_sense_are_refused(bench: ModuleType, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipes.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        bench.read_recipes(tmp_path / "recipes.toml")
    assert said in str(refused.value)


def test_recipes_become_flags(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "recipes.toml").write_text("[a]\n[b]\nuse_dora = true\nuse_rslora = false\nlora_r = 4\n")
    assert bench.read_recipes(tmp_path / "recipes.toml") == {"a": [], "b": ["--use-dora", "--no-use-rslora", "--lora-r", "4"]}


def test_five_minutes_are_of_eight_speakers_in_turns(bench: ModuleType, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio": f"{speaker}-{clip}.flac", "text": "x", "speaker_id": str(speaker), "duration": 7.0}
        for speaker in range(20)
        for clip in range(9)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.cut_to_five_minutes(tmp_path / "train.jsonl", tmp_path / "five.jsonl")
    chosen = [json.loads(line) for line in (tmp_path / "five.jsonl").read_text().splitlines()]
    assert len({row["speaker_id"] for row in chosen}) == 8
    assert 293 < sum(row["duration"] for row in chosen) <= 300
    assert all(Path(row["audio"]).is_absolute() for row in chosen)
