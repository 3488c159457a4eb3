"""From a list of terms to a verdict: speech of the list, training with replay, terms measured on voices that were not trained on."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from lora.config import AugmentConfig, RunConfig, add_flags, build
from lora.consistency import flag
from lora.console import positive_int
from lora.errors import ConfigError, RunFolderError
from lora.presets import config_file, presets
from lora.runners.experiment import start
from lora.synthesis.commands import add_sentences, add_voices
from lora.system.artifacts import EXPERIMENT_METRICS_FILE
from lora.system.terminal import say

MARK_FILE: Final = "speech.json"
"""Marks a folder that was written here and may be replaced."""

TEST_PER_TERM = 4
OWN = ("data.train_manifest", "data.dev_manifest", "data.domain_manifest", "eval.terms")
"""Settings that the command sets itself."""

USUAL = {"train.teach": "terms", "gate.max_false_alarms": 0.5, "gate.min_term_recall": 50.0}
"""Defaults of this command: general speech keeps its probabilities, and the limits of the gate."""

VARY = AugmentConfig(augment_copies=1, speed_min=0.85, speed_max=1.15, pitch_min=-4.0, pitch_max=4.0, gain_db=6.0)
"""How the training clips are varied: a program speaks with one voice, at one pace and one level (docs/jargon.md has what that is worth)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `moonshine-lora jargon`: those of the speech, then those of the run."""
    from lora.export.targets import TARGETS

    parser.add_argument("terms", type=Path, metavar="TERMS", help="list of terms, one per line, with optional spoken forms: a = b | c")
    parser.add_argument(
        "--config", type=config_file, metavar="FILE", help=f"a preset ({', '.join(presets())}) or TOML file of the run (default: jargon)"
    )
    add_sentences(parser)
    parser.add_argument(
        "--test-per-term", type=positive_int, default=TEST_PER_TERM, metavar="N", help="test sentences per term (default: %(default)s)"
    )
    add_voices(parser, title="voices of the training speech")
    add_voices(parser, "test", "voices of the test speech: at least one, and none of the training voices")
    export = parser.add_argument_group("export")
    export.add_argument(
        "--to", nargs="+", default=[], choices=TARGETS, metavar="TARGET", help=f"export an accepted run: {', '.join(TARGETS)}"
    )
    add_flags(parser)


def execute(options: argparse.Namespace) -> int:
    """Makes the speech, runs the experiment, exports an accepted run if asked for; the code is the experiment's."""
    config = settings(options)
    making = _checked(options, config)
    _speak(making, overwrite=config.output.overwrite)
    code = start(config, EXPERIMENT_METRICS_FILE, dry_run=False, resume=False)
    if options.to and code == 0:
        _export(config, options.to)
    elif options.to:
        say("not exported, because the run was not accepted")
    return code


def settings(options: argparse.Namespace) -> RunConfig:
    """The settings of the run. Raises `ConfigError` for those that the command makes itself, and as `build` does."""
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if "." in name}
    for name in OWN:
        if name in given:
            raise ConfigError(f"{flag(name.split('.')[1])}: moonshine-lora jargon makes it of the list; leave it out, or use experiment")
    sets = dict.fromkeys(("data.train_manifest", "data.dev_manifest", "data.domain_manifest"), "")
    fixed = {"data.synthetic_domain": True, "data.split_by": "utterance", "eval.terms": str(options.terms)}
    return _completed(build(given | sets | fixed, _file(options.config), USUAL))


def _completed(config: RunConfig) -> RunConfig:
    """The settings with the manifests that the command makes."""
    folder = speech_folder(config)
    made = {f"{name}_manifest": str(folder / f"{part}.jsonl") for name, part in (("train", "train"), ("dev", "dev"), ("domain", "test"))}
    replace = msgspec.structs.replace
    return replace(config, data=replace(config.data, **made))


def _file(given: Path | None) -> Path:
    return given if given is not None else config_file("jargon")


def speech_folder(config: RunConfig) -> Path:
    """The folder of a run's speech, beside its own."""
    output = Path(config.output.output_dir)
    return output.with_name(f"{output.name}-speech")


@dataclass(frozen=True)
class Making:
    """All that is needed to make the speech, read and checked."""

    folder: Path
    orders: Sequence[Any]
    """`lora.synthesis.speech.Order`, one for each set."""


def _checked(options: argparse.Namespace, config: RunConfig) -> Making:
    """Reads and checks all that the speech is made of, before anything is spoken. Raises a `LoraError` that says what to fix."""
    from lora.checkpoints.checkpoint import resolve
    from lora.dataset.manifest import read
    from lora.export.targets import require_export
    from lora.model.loading import choose_device, load_model
    from lora.pipeline.preparation import require_writable
    from lora.runs.folder import check
    from lora.text.terms import read_terms

    require_export(options.to, "u8")
    terms = read_terms(options.terms, "en")
    if config.model.language != "en":
        raise ConfigError(f"--language {config.model.language}: sentences and numbers are spoken in English only; use experiment")
    check(Path(config.output.output_dir), config.output.overwrite)
    folder = Path(config.data.train_manifest).parent
    if folder.exists() and not (folder / MARK_FILE).is_file():
        raise RunFolderError(f"{folder}: exists and holds no speech of a list; move it or choose another --output-dir")
    if folder.exists() and not config.output.overwrite:
        raise RunFolderError(f"{folder}: exists already; pass --overwrite to replace it, or choose another --output-dir")
    read(Path(config.data.heldout_manifest), config.heldout_rules())
    if config.data.replay_manifest is not None:
        read(Path(config.data.replay_manifest), config.replay_rules())
    orders = _orders(options, config, terms)
    require_writable(terms, load_model(resolve(config.model.model_id, config.model.revision), choose_device("cpu"), "float32"))
    return Making(folder, orders)


def _orders(options: argparse.Namespace, config: RunConfig, terms: Any) -> Sequence[Any]:
    from lora.synthesis.sentences import Plan, planned, read_sentences
    from lora.synthesis.speech import Order
    from lora.synthesis.voices import voices_of

    if not options.test_voice_command and not options.test_packaged_voice:
        raise ConfigError(
            "--test-voice-command is not set; the test needs a voice that is not trained on, such as "
            "'flite -voice slt -t {text} -o {out}' (docs/jargon.md has more)"
        )
    train = voices_of(options.voice_command, packaged=options.packaged_voice)
    test = voices_of(options.test_voice_command, packaged=options.test_packaged_voice)
    if both := {voice.name for voice in train} & {voice.name for voice in test}:
        raise ConfigError(f"the voice {min(both)!r} speaks in training and test; terms count only where another voice says them")
    own = read_sentences(options.sentences)
    plans = (
        Plan("train", options.per_term, options.negatives, config.train.seed),
        Plan("dev", 1, options.negatives, config.train.seed),
        Plan("test", options.test_per_term, options.negatives, config.train.seed),
    )
    varied = VARY if config.augment.augment_copies == 0 else None  # copies are varied by the run
    return [
        Order(
            name=plan.part,
            lines=planned(terms, own, plan),
            voices=test if plan.part == "test" else train,
            seed=plan.seed,
            vary=varied if plan.part == "train" else None,
        )
        for plan in plans
    ]


def _speak(making: Making, *, overwrite: bool) -> None:
    """Writes the three sets, whole or not at all."""
    from lora.corpora.build import describe
    from lora.display import Display
    from lora.synthesis.speech import synthesise
    from lora.system.files import atomic_folder, write_json

    display = Display()
    with atomic_folder(making.folder) as temporary:
        for order in making.orders:
            title = f"Speaking {len(order.lines)} sentences for {order.name}"
            with display.stage(f"speak {order.name}", title), display.bar(len(order.lines), "sentences") as advance:
                summary = synthesise(order, temporary / f"{order.name}.jsonl", overwrite=overwrite, advance=lambda: advance(1, ""))
            for line in describe(making.folder / f"{order.name}.jsonl", summary):
                display.line(line)
        voices = {order.name: [voice.name for voice in order.voices] for order in making.orders}
        write_json(temporary / MARK_FILE, {"voices": voices, "seconds": display.seconds_so_far()})


def _export(config: RunConfig, targets: Sequence[Any]) -> None:
    """As `moonshine-lora export --run` does."""
    from lora.display import Display
    from lora.export.run import ExportRequest, export

    request = ExportRequest(run=Path(config.output.output_dir), targets=tuple(dict.fromkeys(targets)), tags=config.data.tags)
    exported = export(request, Display())
    say(f"{exported.folder}: export.json, {', '.join(f'{name}/' for name in exported.targets)}")
