"""The full run: baseline, LoRA training, tuned scores, verdict. Writes `experiment_metrics.json`, `lora_adapter/`, `processor/`."""

import argparse
import sys

from lora.config import RunConfig, add_flags, from_flags
from lora.console import ArgumentParser, positive_int, run
from lora.corpora import fetched
from lora.presets import config_file, presets
from lora.scoring.gate import Decision
from lora.system.artifacts import EXPERIMENT_METRICS_FILE
from lora.system.terminal import say, shown

EXIT_CODES: dict[Decision, int] = {"accepted": 0, "rejected": 3, "inconclusive": 4}
"""How a completed run ends; 2 is a refusal."""


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m lora.runners.experiment", description=__doc__)
    add_arguments(parser)
    return execute(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=config_file,
        metavar="FILE",
        help=f"a preset ({', '.join(presets())}), or a TOML file with any of the settings below; flags override it",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check settings, manifests, audio, checkpoint and target modules, without training"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the unfinished run in --output-dir; requires the settings it was started with"
    )
    parser.add_argument(
        "--write-augmented",
        type=positive_int,
        metavar="N",
        help="write N augmented clips next to the run folder, to listen to, without training",
    )
    fetched.add_flags(parser)
    add_flags(parser)


def execute(arguments: argparse.Namespace) -> int:
    fetched.fetch(arguments)
    if arguments.write_augmented is not None:
        return write_examples(from_flags(arguments, arguments.config), arguments.write_augmented)
    return start(from_flags(arguments, arguments.config), EXPERIMENT_METRICS_FILE, dry_run=arguments.dry_run, resume=arguments.resume)


def write_examples(config: RunConfig, count: int) -> int:
    """Writes augmented clips for listening and says where."""
    from lora.display import Display
    from lora.pipeline.preparation import write_augmented

    folder, written = write_augmented(config, count, Display())
    say(f"{folder}: {written} augmented clips in audio/, what was done to each in manifest.jsonl; nothing was trained")
    return 0


def start(config: RunConfig, metrics_file: str, *, dry_run: bool, resume: bool) -> int:
    """Runs, shows the result, and returns the verdict's code of `EXIT_CODES`; 0 for a dry run."""
    from lora.display import Display, result_table
    from lora.model.loading import choose_device
    from lora.pipeline.preparation import prepare
    from lora.pipeline.stages import experiment
    from lora.runs.record import result_folder
    from lora.system import distributed

    with distributed.joined(choose_device(config.model.device)):
        display = Display(quiet=not distributed.is_main())
        if dry_run:
            prepared = prepare(config, display, resume=resume)
            if distributed.is_main():
                for site in prepared.sites:
                    rank = f"rank {site.rank}" if site.rank is not None else "all weights"
                    print("\t".join((shown(site.name), rank, f"{site.parameters} parameters")))
                say(f"{sum(site.parameters for site in prepared.sites)} parameters train")
                say(f"ready: {len(prepared.sites)} layers to adapt, nothing was trained or written")
            return 0
        record = experiment(config, metrics_file, display, resume=resume)
        assert record.verdict is not None  # a completed run has one
        if distributed.is_main():
            display.result(result_table(record))
            say(record.verdict.sentence)
            say(f"{config.output.output_dir}: report.html, report.md, {metrics_file}, {result_folder(config.adapter)}/, processor/")
    return EXIT_CODES[record.verdict.decision]


if __name__ == "__main__":
    sys.exit(run(main))
