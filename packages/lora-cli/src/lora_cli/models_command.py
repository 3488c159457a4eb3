"""`moonshine models`: lists models, chooses the one that the app starts with, and makes the export that starts without PyTorch."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lora.checkpoints.provenance import ADAPTER_SETTINGS
from lora.console import ArgumentParser, language_code
from lora.errors import ConfigError
from lora.runs.export_record import EXPORT_FILE
from lora.system.artifacts import ADAPTER_FOLDER, CHECKPOINT_FOLDER
from lora.system.terminal import say
from lora_cli.config_command import set_value
from lora_cli.settings import as_flags, as_folder, read_user_settings
from lora_cli.voices import DEFAULT_MODEL, choose

OUTPUTS: Final = Path("outputs")
"""Where runs are searched for by default."""


def main(arguments: list[str]) -> int:
    """Runs `moonshine models`; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.action == "list":
        _list(options.folder)
    elif options.action == "use":
        require(options.model)
        set_value("model", options.model)
        say(f"{options.model}: moonshine starts with it from now on")
    else:
        _export(options)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="moonshine models", description="List the models to talk to, choose the one that moonshine starts with, and export one."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show packaged models, and the runs and exports in a folder")
    listing.add_argument("folder", nargs="?", type=Path, default=OUTPUTS, metavar="DIR", help=f"default: {OUTPUTS}")
    using = actions.add_parser("use", help="start with this one from now on")
    using.add_argument("model", metavar="MODEL", help="hub id, packaged:NAME, or the folder of a run, an export, an adapter or a model")
    exporting = actions.add_parser("export", help="write an export that starts without PyTorch, proven against it")
    exporting.add_argument("model", metavar="MODEL", help="hub id, packaged:NAME, or the folder of a run, an adapter or a model")
    exporting.add_argument("--output", type=Path, metavar="DIR", help="folder of the export (default: RUN/export for a run)")
    exporting.add_argument("--language", type=language_code, metavar="LANG", help="language of a hub id (default: en)")
    exporting.add_argument(
        "--domain-manifest", type=Path, metavar="FILE", help="speech for the proof (default: the run's; without a run packaged speech)"
    )
    return parser


def require(model: str) -> None:
    """Raises `LoraError` for a folder that holds no voice; a hub id is looked up when it is loaded."""
    flags = {"model_id": None, "adapter_dir": [], "run": None, "export_dir": []} | as_flags(model)
    if (model.startswith((".", "~")) or as_folder(model).is_absolute()) and not as_folder(model).is_dir():
        raise ConfigError(f"{model}: no such folder; moonshine models list shows what there is")
    choose(flags["model_id"], flags["adapter_dir"], flags["run"], None, flags["export_dir"])


def _list(folder: Path) -> None:
    from lora.checkpoints.packaged import PACKAGED

    if folder != OUTPUTS and not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name one that holds runs")
    chosen = read_user_settings().model or DEFAULT_MODEL
    found = {f"packaged:{name}": "packaged" for name in PACKAGED} | dict(_below(folder))
    same = next((model for model in found if model == chosen or Path(model).resolve() == as_folder(chosen)), None)
    if same is None:
        found[chosen] = "chosen"
    for model, kind in found.items():
        say(f"{'*' if model == (same or chosen) else ' '} {model}  ({kind})")


def _below(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs and exports in a folder, and the exports of its runs, with what they are."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (place / ADAPTER_FOLDER / ADAPTER_SETTINGS).is_file() or (place / CHECKPOINT_FOLDER).is_dir():
            yield str(place), "run"
        for export in (place, place / "export"):
            if (export / EXPORT_FILE).is_file() and (export / "onnx").is_dir():
                yield str(export), "export, starts without PyTorch"


def _export(options: Namespace) -> None:
    """Writes the export and proves it, in `fp32`: its texts are PyTorch's."""

    flags = as_flags(options.model)
    if "export_dir" in flags:
        raise ConfigError(f"{options.model}: is an export already; moonshine models use {options.model} starts with it")
    if "run" not in flags and options.output is None:
        raise ConfigError("--output is not set; name the folder to export to")
    require(options.model)
    from lora.corpora import general

    with tempfile.TemporaryDirectory() as folder:
        speech = options.domain_manifest
        if speech is None and "run" not in flags:
            speech = general.prepare(Path(folder)).heldout
        made = _written(flags, speech, options)
    say(f"{made}: moonshine models use {made} starts with it")


def _written(flags: dict[str, Any], speech: Path | None, options: Namespace) -> str:
    """The folder of the export, once it is proven."""
    from lora.display import Display
    from lora.export.run import ExportRequest, export

    (adapter,) = flags.get("adapter_dir", [None])
    tuned = None if adapter is None else choose(None, [adapter], None)[0]
    request = ExportRequest(
        run=flags.get("run"),
        model_id=tuned.model_id if tuned else flags.get("model_id"),
        revision=tuned.revision if tuned else None,
        language=options.language,
        adapter_folder=adapter,
        targets=("onnx",),
        precision="fp32",
        output=options.output,
        domain_manifest=speech,
    )
    return export(request, Display()).folder
