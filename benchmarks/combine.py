"""Two domains in one adapter: mixed after training, trained one after the other, or trained together.

    python benchmarks/combine.py --an4 AN4_FOLDER --prompts QUICKSTART_FOLDER --general LIBRISPEECH_FOLDER --output outputs/combine

`--an4` and `--general` hold `train.jsonl` and `test.jsonl`, `replay.jsonl` and `heldout.jsonl`; `--prompts` is what `moonshine-lora data`
makes. An adapter is trained on each domain, the mixes are made, and every adapter is judged on both domains and on held-out speech. The
table goes to standard output. What is in `--output` already is not made again, so the work can be done in parts.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

LORA = (sys.executable, "-m", "lora.main")
MODEL = ("--model-id", "packaged:moonshine-tiny")
ANY = ("--rule", "point", "--min-domain-gain-points", "-10000", "--max-heldout-rise-points", "10000")
"""Only the numbers matter here, not the verdict."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("an4", "prompts", "general"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where runs and adapters go")
    options = parser.parse_args()
    telephone = options.prompts / "telephone"
    domains = {name: (folder / "train.jsonl", folder / "test.jsonl") for name, folder in (("an4", options.an4), ("prompts", telephone))}
    general = ("--heldout-manifest", options.general / "heldout.jsonl", "--replay-manifest", options.general / "replay.jsonl")
    work = Work(options.output, domains, tuple(map(str, general)))
    first, second = work.train("an4", "an4"), work.train("prompts", "prompts")
    adapters = {
        "an4 alone": first,
        "prompts alone": second,
        "mean of both": work.mix("mean", (first, second), (0.5, 0.5)),
        "sum of both": work.mix("sum", (first, second), (1.0, 1.0)),
        "an4, then prompts": work.train("then-prompts", "prompts", "--from-adapter", str(first)),
        "prompts, then an4": work.train("then-an4", "an4", "--from-adapter", str(second)),
    }
    print("| adapter | AN4 WER | prompts WER | held-out WER |\n|---|---|---|---|")
    for number, (name, adapter) in enumerate(adapters.items()):
        judged = {domain: work.judge(f"{adapter.parent.name}-{adapter.name}-on-{domain}", domain, adapter) for domain in domains}
        if not number:
            print("| base model | " + " | ".join(rates(judged, "baseline")) + " |")
        print(f"| {name} | " + " | ".join(rates(judged, "tuned")) + " |", flush=True)


class Work:
    """Makes runs and adapters in a folder, each once."""

    def __init__(self, folder: Path, domains: dict[str, tuple[Path, Path]], general: tuple[str, ...]) -> None:
        self._folder, self._domains, self._general = folder, domains, general

    def train(self, name: str, domain: str, *options: str) -> Path:
        """An adapter by the defaults, of both domains split by utterance, since the prompts have one speaker."""
        self._experiment(name, domain, "--split-by", "utterance", *options)
        return self._folder / name / "lora_adapter"

    def mix(self, name: str, adapters: tuple[Path, ...], weights: tuple[float, ...]) -> Path:
        output = self._folder / name
        if not output.is_dir():
            done = subprocess.run([*LORA, "combine", *adapters, "--weights", *map(str, weights), "--output", output], check=False)
            done.check_returncode()
        return output

    def judge(self, name: str, domain: str, adapter: Path) -> Path:
        self._experiment(name, domain, "--split-by", "utterance", "--from-adapter", str(adapter), "--max-steps", "0")
        return self._folder / name

    def _experiment(self, name: str, domain: str, *options: str) -> None:
        folder = self._folder / name
        metrics = folder / "experiment_metrics.json"
        if metrics.is_file() and json.loads(metrics.read_text())["status"] == "completed":
            return
        train, test = self._domains[domain]
        speech = ("--train-manifest", str(train), "--domain-manifest", str(test), *self._general)
        command = [*LORA, "experiment", *MODEL, *speech, *ANY, *options, "--output-dir", str(folder), "--overwrite"]
        subprocess.run(command, check=True, stdout=sys.stderr)


def rates(judged: dict[str, Path], side: str) -> list[str]:
    """Percent of both domains and of the held-out speech, which is the same in both runs."""
    found = {domain: json.loads((folder / "experiment_metrics.json").read_text()) for domain, folder in judged.items()}
    values = [found["an4"][f"{side}_wer"], found["prompts"][f"{side}_wer"], found["an4"][f"heldout_{side}_wer"]]
    return [f"{100 * value:.2f} %" for value in values]


if __name__ == "__main__":
    main()
