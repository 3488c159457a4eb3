"""`moonshine-lora`: one command for the whole flow."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lora import __version__
from lora.console import (
    TAGS_FLAG,
    ArgumentParser,
    add_run,
    end,
    given_run,
    language_code,
    number_from_zero,
    positive_int,
    positive_number,
    tokens_per_second,
)
from lora.console import run as run_command
from lora.errors import ConfigError
from lora.system.terminal import say, shown_lines

# Modules that need torch are imported by the command that needs them, so that --help answers at once.

_ENDS_AT_ONCE = ("manifest", "transcribe", "align", "export", "adapter", "combine")
"""Commands that skip Python's shutdown, which takes 0.4 s after PyTorch. Trackers of `experiment` end there."""


def script() -> NoReturn:
    """Entry point of the console script."""
    code = main()
    if sys.argv[1:2] and sys.argv[1] in _ENDS_AT_ONCE:
        end(code)
    sys.exit(code)


def main() -> int:
    """What the command line says, with errors as one line; returns the exit code."""
    return run_command(_main)


def _main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="moonshine-lora", description="Fine-tune Moonshine speech recognition with LoRA and prove that it got better."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show versions and how this machine computes")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    given = sys.argv[1:] if arguments is None else arguments
    for name, (help_text, add_arguments, execute) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        command.set_defaults(execute=execute)
        if name in given:  # the flags of all commands would load what each of them needs
            add_arguments(command)
    options = parser.parse_args(given)
    code: int = options.execute(options)
    return code


class _Version(argparse.Action):
    """Prints what a bug report needs. It loads PyTorch, so the text is made only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import platform
        from importlib.metadata import version

        import torch

        from lora.model.products import PRODUCT_DTYPES, choice, instruction_set

        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        products = ", ".join(f"{name} {choice(torch.device('cpu'), dtype)}" for name, dtype in PRODUCT_DTYPES.items())
        print(f"moonshine-lora {__version__}\nPython {platform.python_version()}, {versions}")
        print(f"processor: {instruction_set()}\nproducts: {products}")
        parser.exit()


def _experiment_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.runners.experiment import add_arguments

    add_arguments(parser)


def _experiment(options: argparse.Namespace) -> int:
    from lora.runners.experiment import execute

    return execute(options)


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.sweep.command import add_arguments

    add_arguments(parser)


def _sweep(options: argparse.Namespace) -> int:
    from lora.sweep.command import execute

    return execute(options)


def _transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.longform.command import add_arguments

    add_arguments(parser)


def _transcribe(options: argparse.Namespace) -> int:
    from lora.longform.command import execute

    return execute(options)


def _align_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.longform.aligning import add_arguments

    add_arguments(parser)


def _align(options: argparse.Namespace) -> int:
    from lora.longform.aligning import execute

    return execute(options)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--audio-mb",
        type=number_from_zero,
        default=20.0,
        metavar="X",
        help="embed up to this many MB of recordings in the page, and link the others (default: 20)",
    )


def _report(options: argparse.Namespace) -> int:
    from lora.report.rebuild import rebuild

    for path in rebuild(given_run(options), options.audio_mb):
        say(path)
    return 0


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folders, such as outputs/*")
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="RUN", help="the same as RUN without a flag")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write .md, .csv or .html (default: Markdown on standard output)")


def _compare(options: argparse.Namespace) -> int:
    from lora.report.compare import markdown, overview, renderer, write_overview

    if options.output is not None:
        renderer(options.output)  # a wrong name is refused before the work
    runs = [*options.runs, *options.run]
    if not runs:
        raise ConfigError("no run is given; give run folders, such as outputs/*")
    found = overview(runs)
    if options.output is None:
        print(shown_lines(markdown(found)), end="")
    else:
        write_overview(found, options.output)
        say(options.output)
    return 0


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="repository on the model hub; created if it does not exist")
    parser.add_argument("--public", action="store_true", help="make the repository public, when it is made (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, without contacting the hub")
    parser.add_argument("--allow-rejected", action="store_true", help="publish a run that the gate did not accept")


def _push(options: argparse.Namespace) -> int:
    from lora.publish import gathered, push

    with gathered(given_run(options), allow_rejected=options.allow_rejected) as uploads:
        for upload in uploads:
            say(f"{upload.size / 1e6:10.3f} MB  {upload.name}")
        if not options.dry_run:
            say(push(uploads, options.repo_id, private=not options.public))
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.export.targets import GRAPHS, PRECISIONS, TARGETS

    model = parser.add_argument_group("what to export")
    model.add_argument(
        "--run", type=Path, metavar="RUN", help="a run's folder: exports its tuned model and checks it on the run's test sets"
    )
    model.add_argument("--model-id", metavar="TEXT", help="instead of a run: hub id, local folder or packaged:moonshine-tiny")
    model.add_argument("--revision", metavar="TEXT", help="commit, tag or branch of a hub checkpoint")
    model.add_argument("--adapter-dir", type=Path, metavar="DIR", help="an adapter of --model-id (default: export the base model)")
    model.add_argument("--language", type=language_code, metavar="LANG", help="language of the speech (default: the adapter's, or en)")
    model.add_argument("--allow-rejected", action="store_true", help="export a run that the gate did not accept")
    to = parser.add_argument_group("to what")
    to.add_argument("--to", nargs="+", required=True, choices=TARGETS, metavar="TARGET", help=f"one or more of {', '.join(TARGETS)}")
    to.add_argument("--precision", choices=PRECISIONS, default="u8", help="precision of the weights; merged is always fp32 (default: u8)")
    to.add_argument("--license", metavar="TEXT", help="licence that gguf files name (default: as in the model card)")
    to.add_argument(
        "--graphs",
        nargs="+",
        default=[],
        choices=GRAPHS,
        metavar="GRAPH",
        help=f"of a streaming model for moonshine-voice make only these of {', '.join(GRAPHS)}, and take the others from --published",
    )
    to.add_argument("--published", type=Path, metavar="DIR", help="moonshine-voice's folder of the untuned model, for --graphs")
    to.add_argument("--output", type=Path, metavar="DIR", help="output folder, with a subfolder per target (default: RUN/export)")
    to.add_argument("--overwrite", action="store_true", help="replace the export in the folder")
    proof = parser.add_argument_group("proof", "The export must give the tuned model's transcripts in the runtime.")
    proof.add_argument("--domain-manifest", type=Path, metavar="FILE", help="domain speech for the proof (default: the run's)")
    proof.add_argument("--heldout-manifest", type=Path, metavar="FILE", help="general speech for the proof (default: the run's)")
    proof.add_argument("--proof-clips", type=positive_int, metavar="N", help="use N clips of each set, evenly spaced (default: all)")
    proof.add_argument(
        "--max-wer-drift-points",
        type=number_from_zero,
        metavar="X",
        help="largest difference between the WER in the runtime and in PyTorch (default: 0 for fp32, 0.5 for others)",
    )
    proof.add_argument("--allow-outside-paths", action="store_true", help="allow audio paths outside a given manifest's folder")
    proof.add_argument("--tags", **TAGS_FLAG)
    proof.add_argument("--skip-proof", action="store_true", help="export without the proof")


def _export(options: argparse.Namespace) -> int:
    from lora.display import Display
    from lora.export.run import ExportRequest, export

    exported = export(
        ExportRequest(
            run=options.run,
            model_id=options.model_id,
            revision=options.revision,
            language=options.language,
            adapter_folder=options.adapter_dir,
            targets=tuple(dict.fromkeys(options.to)),
            precision=options.precision,
            output=options.output,
            overwrite=options.overwrite,
            allow_rejected=options.allow_rejected,
            skip_proof=options.skip_proof,
            domain_manifest=options.domain_manifest,
            heldout_manifest=options.heldout_manifest,
            proof_clips=options.proof_clips,
            max_drift_points=options.max_wer_drift_points,
            allow_outside_paths=options.allow_outside_paths,
            tags=options.tags,
            license=options.license,
            graphs=tuple(options.graphs),
            published=options.published,
        ),
        Display(),
    )
    say(f"{exported.folder}: export.json, {', '.join(f'{name}/' for name in exported.targets)}")
    print(f"{sum(exported.seconds.values()):.0f} s; peak memory {exported.peak_bytes / 1e6:.0f} MB while exporting")
    return 0


def _adapter_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("convert",), help="convert an adapter of another tool to one for --adapter-dir, or back")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="moonshine-voice's adapter.safetensors, or a PEFT adapter's folder")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a name ending in .safetensors (the official form), or a folder (PEFT)")
    parser.add_argument("--model-id", required=True, metavar="TEXT", help="the adapter's base model")
    parser.add_argument("--revision", metavar="TEXT", help="commit, tag or branch of a hub checkpoint")
    parser.add_argument(
        "--alpha",
        type=positive_number,
        metavar="X",
        help="the alpha that an official adapter was trained with (default: its rank, as in that trainer)",
    )
    parser.add_argument(
        "--tokens-per-second",
        type=tokens_per_second,
        default=6.5,
        metavar="X",
        help="with a PEFT folder: limit on tokens per second of audio to record (default: 6.5)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUTPUT")


def _adapter(options: argparse.Namespace) -> int:
    import torch

    from lora.checkpoints.checkpoint import resolve
    from lora.export.official import convert, opened
    from lora.model.loading import load_model

    speech = load_model(resolve(options.model_id, options.revision), torch.device("cpu"), "float32")
    adapted = opened(speech, options.source, options.alpha)
    say(convert(adapted, options.output, tokens_per_second=options.tokens_per_second, overwrite=options.overwrite))
    return 0


def _combine_arguments(parser: argparse.ArgumentParser) -> None:
    adapters = parser.add_argument(
        "adapters",
        type=Path,
        nargs="*",
        action="extend",
        default=[],
        metavar="ADAPTER",
        help="lora_adapter/ folders, or runs, of one model",
    )
    # One list, in the order of the command line, which is that of --weights.
    parser.add_argument("--run", dest=adapters.dest, type=Path, action="append", metavar="RUN", help="the same as ADAPTER; may be repeated")
    parser.add_argument(
        "--weights",
        type=positive_number,
        nargs="+",
        metavar="X",
        help="share of each update, in the same order (default: the mean)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the new adapter")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --output")


def _combine(options: argparse.Namespace) -> int:
    from lora.training.combine import combine

    shares = combine(options.adapters, options.weights, options.output, overwrite=options.overwrite)
    for adapter, share in zip(options.adapters, shares, strict=True):
        say(f"{share:6.3f}  {adapter}")
    say(f"{options.output}: judge it with `moonshine-lora experiment --from-adapter {options.output} --max-steps 0`")
    return 0


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("data/quickstart"), metavar="DIR", help="output folder (default: data/quickstart)"
    )


def _data(options: argparse.Namespace) -> int:
    from lora.corpora.quickstart import prepare

    for path in prepare(options.output).paths():
        say(path)
    return 0


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("dataset", "domain", "import", "merge"),
        help="dataset: from a split of a speech dataset; domain: from a dataset, a folder or a table; import: from recordings with times "
        "(subtitles, Praat, NeMo, Kaldi and others); merge: several manifests into one",
    )
    parser.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="flags of the action; `moonshine-lora manifest merge --help` lists those of merge",
    )


def _manifest(options: argparse.Namespace) -> int:
    from lora.corpora.commands import build_domain_manifest, build_manifest, merge_manifests
    from lora.corpora.importing import import_recordings

    commands = {"dataset": build_manifest, "domain": build_domain_manifest, "import": import_recordings, "merge": merge_manifests}
    command = commands[options.action]
    return command(options.rest, prog=f"moonshine-lora manifest {options.action}")


def _jargon_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.runners.jargon import add_arguments

    add_arguments(parser)


def _jargon(options: argparse.Namespace) -> int:
    from lora.runners.jargon import execute

    return execute(options)


def _synthesise_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.synthesis.commands import add_arguments

    add_arguments(parser)


def _synthesise(options: argparse.Namespace) -> int:
    from lora.synthesis.commands import execute

    return execute(options)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    from lora.serving.command import add_arguments

    add_arguments(parser)


def _serve(options: argparse.Namespace) -> int:
    from lora.serving.command import execute

    return execute(options)


def _cache_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("show", "clear"),
        help="show the size of the cache, or delete its files and nothing else",
    )


def _cache(options: argparse.Namespace) -> int:
    from lora.system.clearing import OWN, clear, left_alone
    from lora.system.files import cache_dir, folder_bytes

    folder = cache_dir()
    if options.action == "show":
        for part in (folder / name for name in OWN):
            if part.is_dir():
                say(f"{folder_bytes(part) / 1e6:10.1f} MB  {part}")
        return 0
    say(f"removed {clear(folder) / 1e6:.1f} MB from {folder}")
    for part in left_alone(folder):
        say(f"left alone: {part} is a link or holds a mount point, remove what is there yourself")
    return 0


Arguments = Callable[[argparse.ArgumentParser], None]
Execute = Callable[[argparse.Namespace], int]

COMMANDS: dict[str, tuple[str, Arguments, Execute]] = {
    "experiment": ("measure a model, train an adapter, measure again, accept or reject it", _experiment_arguments, _experiment),
    "sweep": ("search for better settings on dev and guard, then run the best ones as an experiment", _sweep_arguments, _sweep),
    "transcribe": ("transcribe audio files or a manifest, with or without an adapter", _transcribe_arguments, _transcribe),
    "align": ("cut a long recording into clips, with their text from its script", _align_arguments, _align),
    "report": ("write report.md and report.html of a finished run again", _report_arguments, _report),
    "compare": ("compare finished runs side by side", _compare_arguments, _compare),
    "push": ("publish a finished run's adapter, processor, card and reports on the model hub", _push_arguments, _push),
    "export": ("export the tuned model to on-device runtimes, and check its transcripts in each of them", _export_arguments, _export),
    "serve": ("serve models to dictation apps, OpenAI's clients and Home Assistant", _serve_arguments, _serve),
    "adapter": ("convert adapters to and from the formats of other tools", _adapter_arguments, _adapter),
    "combine": ("combine several adapters into one: the weighted sum of their updates", _combine_arguments, _combine),
    "data": ("download the quickstart's speech", _data_arguments, _data),
    "manifest": ("make and merge manifests (in a clone: scripts/)", _manifest_arguments, _manifest),
    "jargon": ("teach a list of terms: synthesise speech, train, test with other voices, accept or reject", _jargon_arguments, _jargon),
    "synthesise": ("synthesise speech for a list of terms: sentences, voices, a manifest", _synthesise_arguments, _synthesise),
    "cache": ("show or clear the cache: checkpoints, downloads, encoder outputs", _cache_arguments, _cache),
}

if __name__ == "__main__":
    script()
