"""A small run of the same pipeline on the quickstart speech. Writes `real_metrics.json`, `lora_adapter/`, `processor/`."""

import sys
from pathlib import Path

from lora.config import add_flags, build
from lora.console import ArgumentParser, run
from lora.runners.experiment import start
from lora.system.artifacts import REAL_METRICS_FILE

DATA_FOLDER = Path("data/quickstart")
PRESET = {
    "model.model_id": "packaged:moonshine-tiny",
    "data.split_by": "utterance",
    "output.output_dir": "outputs/real_small",
    "train.epochs": 1.0,
    "train.max_steps": 30,
    "train.eval_interval": 15,
    "gate.rule": "point",
    "gate.max_heldout_rise_points": 1.0,
}
"""Enough to see the pipeline work on real speech in about two minutes; configs/quickstart.toml trains to the end."""


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m lora.runners.real_small", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="check everything, without training")
    parser.add_argument("--resume", action="store_true", help="continue the unfinished run")
    add_flags(parser)
    options = parser.parse_args(arguments)
    flags = {name: value for name, value in vars(options).items() if "." in name}
    return start(build(PRESET | _manifests() | flags, None), REAL_METRICS_FILE, dry_run=options.dry_run, resume=options.resume)


def _manifests() -> dict[str, str]:
    """The quickstart's manifests; fetched when they are not there yet."""
    from lora.corpora.quickstart import prepare

    paths = prepare(DATA_FOLDER)
    return {
        "data.train_manifest": str(paths.train),
        "data.dev_manifest": str(paths.dev),
        "data.domain_manifest": str(paths.test),
        "data.heldout_manifest": str(paths.heldout),
        "data.replay_manifest": str(paths.replay),
    }


if __name__ == "__main__":
    sys.exit(run(main))
