"""`moonshine-lora synthesise`: its flags, and what it calls."""

import argparse
import typing
from pathlib import Path

from lora.config import AugmentConfig, add_section, section_of
from lora.consistency import require_consistent_augmentation
from lora.console import int_from_zero, number_from_zero, positive_int
from lora.synthesis.sentences import Part
from lora.system.terminal import say

PER_TERM = 10
NEGATIVES = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `synthesise`."""
    parser.add_argument("terms", type=Path, metavar="TERMS", help="list of terms, one per line, with optional spoken forms: a = b | c")
    add_sentences(parser)
    parser.add_argument("--seed", type=int_from_zero, default=0, metavar="S", help="seed of sentences, forms and audio (default: 0)")
    parser.add_argument(
        "--part",
        choices=typing.get_args(Part),
        default="train",
        help="which set this is; no sentence is in two sets (default: train)",
    )
    add_voices(parser)
    add_section(parser, "augment", leave_out=("augment_copies", "concat_probability", "concat_clips"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the manifest to write; its audio goes to <its stem>_audio/"
    )
    output.add_argument("--overwrite", action="store_true", help="replace existing files")


def add_sentences(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is spoken."""
    group = parser.add_argument_group("sentences")
    group.add_argument(
        "--sentences", type=Path, nargs="+", default=[], metavar="FILE", help="plain text files whose sentences are used first"
    )
    group.add_argument("--per-term", type=positive_int, default=PER_TERM, metavar="N", help="sentences per term (default: %(default)s)")
    group.add_argument(
        "--negatives",
        type=number_from_zero,
        default=NEGATIVES,
        metavar="X",
        help="sentences without terms per sentence with one; half of them hold a common word that resembles a term (default: %(default)s)",
    )


def add_voices(parser: argparse.ArgumentParser, of: str = "", title: str = "voices") -> None:
    """Flags that say who speaks, with a prefix where there are voices for several sets."""
    group, prefix = parser.add_argument_group(title), f"{of}-" if of else ""
    default = "" if of else " (the default without --voice-command)"
    group.add_argument(f"--{prefix}packaged-voice", action="store_true", help=f"use the voice of the extra `synthesis`{default}")
    group.add_argument(
        f"--{prefix}voice-command",
        action="append",
        default=[],
        metavar="COMMAND",
        help="a program that speaks: 'flite -voice slt -t {text} -o {out}'; without {text} it reads standard input; repeat for more",
    )


def execute(options: argparse.Namespace) -> int:
    """Synthesises, and reports what was written."""
    from lora.corpora.build import describe, refuse_existing
    from lora.display import Display
    from lora.synthesis.sentences import Plan, planned, read_sentences
    from lora.synthesis.speech import Order, synthesise
    from lora.synthesis.voices import voices_of
    from lora.text.terms import read_terms

    vary = varied(options)
    refuse_existing(options.output, "path", overwrite=options.overwrite)
    terms = read_terms(options.terms, "en")
    plan = Plan(options.part, options.per_term, options.negatives, options.seed)
    lines = planned(terms, read_sentences(options.sentences), plan)
    order = Order(options.part, lines, voices_of(options.voice_command, packaged=options.packaged_voice), options.seed, vary)
    display = Display()
    with display.stage("speak", f"Speaking {len(lines)} sentences"), display.bar(len(lines), "sentences") as advance:
        summary = synthesise(order, options.output, overwrite=options.overwrite, advance=lambda: advance(1, ""))
    for line in describe(options.output, summary):
        say(line)
    return 0


def varied(options: argparse.Namespace) -> AugmentConfig | None:
    """How each clip is varied; None if nothing is asked for. Raises `ConfigError` for settings that contradict each other."""
    given = section_of(options, "augment")
    if not given:
        return None
    vary = AugmentConfig(augment_copies=1, **given)
    require_consistent_augmentation(vary, None, "the command line")
    return vary
