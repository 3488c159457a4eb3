"""Recipes against each other on four domains, several seeds each; prints a table with relative reductions of the error rate.

    python benchmarks/recipes.py recipes.toml --data ../shared/data --prompts data/quickstart --output outputs/recipes

The recipes are a TOML file with a table of settings for each; the others are compared with the first one:

    [defaults]

    [faster-copies]
    augment_copies = 1
    speed_min = 0.9
    speed_max = 1.1

Domains: `an4`; `prompts`, of one speaker over the telephone (`moonshine-lora data` makes them); `accent`; `five`, which is AN4 cut to five
minutes of eight speakers. All have the same held-out and replay speech. A run that is in `--output` already is not made again and one that
was interrupted is resumed, so the work can be done in parts, and by several processes with different `--domains`. A recipe that has changed
under its old name is refused.

An interval is 95 % of a paired bootstrap: speakers are drawn, clips if there is one speaker, with the errors of all seeds. It is narrow
where few speakers are (ten in AN4), and knows nothing of other seeds. The mean is over the domains, each drawn by itself.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lora.config import dotted
from lora.consistency import flag
from lora.console import ArgumentParser, positive_int, run
from lora.errors import ConfigError, RunFolderError
from lora.runs.record import RunRecord, SetResult, read
from lora.scoring.counts import Score
from lora.system.artifacts import RECORD_FILE

DOMAINS: Final = ("an4", "prompts", "accent", "five")
FIVE_MINUTES_S, FIVE_SPEAKERS = 300.0, 8
VERDICTS: Final = (0, 3, 4)
"""Exit codes of a run that went to its end."""

DRAWS: Final = 10_000
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """Where everything is."""

    output: Path
    data: Path
    prompts: Path
    seeds: int

    def folder(self, domain: str, recipe: str, seed: int) -> Path:
        return self.output / f"{domain}-{recipe}-{seed}"

    def manifests(self, domain: str) -> tuple[Path, Path]:
        """Training and test speech of a domain."""
        if domain == "prompts":
            return self.prompts / "telephone/train.jsonl", self.prompts / "telephone/test.jsonl"
        own = self.data / ("an4" if domain == "five" else domain)
        return self.output / "five.jsonl" if domain == "five" else own / "train.jsonl", own / "test.jsonl"

    def records(self, domain: str, recipe: str) -> list[RunRecord]:
        return [read(self.folder(domain, recipe, seed)) for seed in range(self.seeds)]


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, metavar="FILE", help="TOML file with a table of settings for each recipe")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with an4/, accent/ and librispeech/")
    parser.add_argument("--prompts", type=Path, required=True, metavar="DIR", help="what moonshine-lora data makes")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where runs go, and are looked for")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="runs of each recipe on each domain (default: 3)")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS), help="some of the domains (default: all)")
    parser.add_argument("--model-id", default="packaged:moonshine-tiny", metavar="TEXT", help="the base model (default: %(default)s)")
    options = parser.parse_args()
    bench = Bench(options.output, options.data, options.prompts, options.seeds)
    recipes = read_recipes(options.recipes)
    bench.output.mkdir(parents=True, exist_ok=True)
    if "five" in options.domains:
        cut_to_five_minutes(bench.data / "an4/train.jsonl", bench.manifests("five")[0])
    for seed in range(bench.seeds):  # whole rounds first: what there is can be compared at any time
        for domain in options.domains:
            for recipe, settings in recipes.items():
                made(bench, (domain, recipe, seed), ["--model-id", options.model_id, *settings])
    print("\n".join(table(bench, options.domains, list(recipes))))
    return 0


def read_recipes(file: Path) -> dict[str, list[str]]:
    """Flags of each recipe by its name. Raises `ConfigError` for fewer than two, and for settings that do not exist."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if len(tables) < 2 or not all(isinstance(one, dict) for one in tables.values()):
        raise ConfigError(f"{file}: holds {len(tables)} tables; write one for each of two recipes or more, the one to compare with first")
    for name, settings in tables.items():
        for setting in settings:
            if dotted(setting).split(".")[0] not in ("adapter", "train", "augment"):
                raise ConfigError(f"{file}: [{name}]: {setting} is no part of a recipe")
    return {name: [part for setting, value in settings.items() for part in _flags(setting, value)] for name, settings in tables.items()}


def _flags(setting: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag(setting) if value else flag(setting).replace("--", "--no-", 1)
    else:
        yield from (flag(setting), str(value))


def cut_to_five_minutes(source: Path, file: Path) -> None:
    """The first five minutes of eight speakers, who are drawn by a seed and take turns."""
    spoken: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        spoken[row["speaker_id"]].append(row | {"audio": str((source.parent / row["audio"]).resolve())})
    speakers = random.Random(0).sample(sorted(spoken), FIVE_SPEAKERS)
    chosen, seconds = [], 0.0
    for turn in range(max(len(spoken[speaker]) for speaker in speakers)):
        for speaker in speakers:
            if turn < len(spoken[speaker]) and seconds + spoken[speaker][turn]["duration"] <= FIVE_MINUTES_S:
                chosen.append(spoken[speaker][turn])
                seconds += chosen[-1]["duration"]
    file.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")


def made(bench: Bench, run_of: tuple[str, str, int], flags: Sequence[str]) -> None:
    """The run of a domain, recipe and seed; one that is complete is left as it is. Raises `RunFolderError` if it fails."""
    domain, _, seed = run_of
    folder, (train, test) = bench.folder(*run_of), bench.manifests(domain)
    command = [sys.executable, "-m", "lora.main", "experiment", "--output-dir", str(folder), "--seed", str(seed), *flags]
    command += ["--train-manifest", str(train), "--domain-manifest", str(test), "--allow-outside-paths"]
    for name in ("heldout", "replay"):
        command += [f"--{name}-manifest", str(bench.data / f"librispeech/{name}.jsonl")]
    if domain == "prompts":
        command += ["--dev-manifest", str(bench.prompts / "telephone/dev.jsonl"), "--split-by", "utterance"]
    known = read(folder) if (folder / RECORD_FILE).is_file() else None
    if known is not None and known.status == "completed":
        if [part for part in known.command[2:] if part != "--resume"] != command[4:]:
            raise RunFolderError(f"{folder}: was made with other settings; choose another --output, or remove it")
        return
    print(f"{folder.name} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command + (["--resume"] if known is not None else []), capture_output=True, text=True, check=False)
    if done.returncode not in VERDICTS:
        raise RunFolderError(f"{folder}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def table(bench: Bench, domains: Sequence[str], recipes: Sequence[str]) -> Iterator[str]:
    """Markdown: for each recipe the mean error rate over the seeds, and how much less than the first recipe's that is."""
    yield "| recipe | " + " | ".join(domains) + " | mean reduction | held-out change, points | training time |"
    yield "|---" * (len(domains) + 4) + "|"
    base = " | ".join(f"{100 * statistics.fmean(rates(bench, domain, recipes[0], 'baseline')):.2f} %" for domain in domains)
    yield f"| base model | {base} | | | |"
    for recipe in recipes:
        cells, drawn = [], []
        for domain in domains:
            rate = f"{100 * statistics.fmean(rates(bench, domain, recipe, 'tuned')):.2f} %"
            draws, reduction = reductions(*(errors(bench.records(domain, one)) for one in (recipes[0], recipe)))
            drawn.append((draws, reduction))
            cells.append(rate if recipe == recipes[0] else f"{rate}, {shown(draws, reduction)}")
        mean = np.mean([draws for draws, _ in drawn], axis=0), statistics.fmean(reduction for _, reduction in drawn)
        told = "" if recipe == recipes[0] else shown(*mean)
        cells += [told, heldout(bench, domains, recipe), time_of(bench, domains, (recipes[0], recipe))]
        yield f"| {recipe} | " + " | ".join(cells) + " |"


def shown(draws: Numbers, reduction: float) -> str:
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{100 * reduction:+.1f} % ({100 * low:+.1f} to {100 * high:+.1f})"


def rates(bench: Bench, domain: str, recipe: str, side: str) -> list[float]:
    return [getattr(_result(record.domain), side).score.wer for record in bench.records(domain, recipe)]


def _result(found: SetResult | None) -> SetResult:
    assert found is not None  # a completed run has both
    return found


def errors(records: Sequence[RunRecord]) -> dict[str, int]:
    """Errors of all seeds together by speaker, or by utterance if there is one speaker."""
    scores: list[Score] = [_result(record.domain).tuned.score for record in records]
    speakers = {row.speaker_id for score in scores for row in score.utterances}
    found: dict[str, int] = defaultdict(int)
    for score in scores:
        for row in score.utterances:
            found[row.id if len(speakers) < 2 or row.speaker_id is None else row.speaker_id] += row.words.errors
    return dict(found)


def reductions(before: dict[str, int], after: dict[str, int]) -> tuple[Numbers, float]:
    """Relative reductions of the errors when clusters are drawn, and the one found. A draw without errors before counts as none."""
    first, second = (np.array([errors[name] for name in sorted(before)], float) for errors in (before, after))
    drawn = np.random.default_rng(0).integers(0, len(first), (DRAWS, len(first)))
    sums, others = first[drawn].sum(axis=1), second[drawn].sum(axis=1)
    ratio = np.divide(others, sums, out=np.ones_like(sums), where=sums > 0)
    return 1 - ratio, float(1 - second.sum() / first.sum()) if first.sum() else 0.0


def heldout(bench: Bench, domains: Sequence[str], recipe: str) -> str:
    """Mean change of the held-out error rate over the seeds, and the worst domain's."""
    changes = {
        domain: statistics.fmean(100 * _result(record.heldout).comparison.difference for record in bench.records(domain, recipe))
        for domain in domains
    }
    worst = max(changes, key=lambda domain: changes[domain])
    return f"{statistics.fmean(changes.values()):+.2f}; {worst} {changes[worst]:+.2f}"


def time_of(bench: Bench, domains: Sequence[str], pair: tuple[str, str]) -> str:
    """Seconds of augmentation and training, as a ratio to the first recipe's: of runs one after the other on an idle machine."""
    first, other = (sum(_seconds(record) for domain in domains for record in bench.records(domain, recipe)) for recipe in pair)
    return f"{other / first:.2f}"


def _seconds(record: RunRecord) -> float:
    return sum(record.stages.get(stage, 0.0) for stage in ("augment", "train"))


if __name__ == "__main__":
    sys.exit(run(main))
