"""`moonshine record`: its flags, and what it calls."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora.console import ArgumentParser, language_code, positive_int
from lora.errors import ConfigError, PromptsError
from lora.system.terminal import say

if TYPE_CHECKING:
    from lora_cli.engine.events import Event
    from lora_cli.recorder.booth import Booth
    from lora_cli.recorder.prompts import Prompt
    from lora_cli.recorder.store import Folder, Heading
    from lora_cli.session import Engine, OnLevel, OnProblem, OnSamples, Source

BUILT_IN = "built-in sentences"


def main(arguments: list[str]) -> int:
    """Entry point of the command."""
    options = _parser().parse_args(arguments)
    if options.list_devices:
        return _list_devices()
    if options.status is not None:
        return _status(options.status)
    if options.output_dir is None:
        raise ConfigError("--output-dir: is missing; name the folder for the recordings, an existing one to continue")
    return _record(options)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="moonshine record",
        description="Record your own voice, sentence by sentence: speech to train on, and a share of it to test on.",
        epilog="A folder that holds recordings is continued. Each take is checked at once: level, cut ends, noise, and its words by the "
        "model. The built-in sentences were written for this program; read and share them as you like.",
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for the recordings; an existing one is continued")
    parser.add_argument("--status", type=Path, metavar="DIR", help="show what a folder has, what is missing, and how to train with it")
    what = parser.add_argument_group("what is read", "(default: the folder's own sentences; in a new folder the built-in ones, English)")
    one = what.add_mutually_exclusive_group()
    one.add_argument("--prompts", type=Path, metavar="FILE", help="text file with one sentence per line; # begins a comment")
    one.add_argument(
        "--terms", type=Path, metavar="FILE", help="list of terms, as for moonshine-lora synthesise; each is put into sentences"
    )
    what.add_argument(
        "--per-term",
        type=positive_int,
        metavar="N",
        help="with --terms: training sentences per term (default: 6), half as many for the test",
    )
    what.add_argument("--language", type=language_code, metavar="LANG", help="language of --prompts (default: en)")
    model = parser.add_argument_group("the model that listens")
    model.add_argument(
        "--model-id", metavar="TEXT", help="hub id, local folder, packaged:moonshine-tiny (default) or packaged:moonshine-base"
    )
    model.add_argument(
        "--no-listen", action="store_true", help="record without a model that checks the words, for languages that have none"
    )
    sound = parser.add_argument_group("sound")
    sound.add_argument("--list-devices", action="store_true", help="list the microphones and exit")
    sound.add_argument("--microphone", metavar="INDEX|NAME", help="the microphone, by its index or part of its name")
    parser.add_argument("--plain", action="store_true", help="no screen: lines of text, and keys with Enter, for screen readers")
    return parser


def _list_devices() -> int:
    from lora_cli.sound.microphone import devices

    found = devices()
    for device in found:
        say(device.label)
    if not found:
        print("no microphone; connect one", file=sys.stderr)
    return 0


def _status(path: Path) -> int:
    from lora_cli.recorder.progress import lines
    from lora_cli.recorder.store import rows, stored

    if (found := stored(path)) is None:
        raise PromptsError(f"{path}: holds no recordings of moonshine record; begin with --output-dir {path}")
    for line in lines(path, rows(path), found[1], found[0]):
        say(line)
    return 0


def _record(options: argparse.Namespace) -> int:
    from lora_cli.recorder.store import Folder, stored

    _require_consistent(options)
    before = stored(options.output_dir)
    wanted = _wanted(options, before)
    folder = Folder(options.output_dir, wanted[0].language)
    try:
        booth = _booth(options, folder, wanted, before)
        code = _run(booth, plain=options.plain)
        for line in booth.summary():
            say(line)
        return code
    finally:
        folder.close()


def _require_consistent(options: argparse.Namespace) -> None:
    if options.per_term is not None and options.terms is None:
        raise ConfigError("--per-term: is for --terms; leave it out")
    if options.language not in (None, "en") and options.prompts is None and options.terms is not None:
        raise ConfigError(f"--language {options.language}: terms are put into English sentences; give --prompts")
    if options.no_listen and options.model_id is not None:
        raise ConfigError("--no-listen: no model is loaded; leave --model-id out")


def _wanted(options: argparse.Namespace, before: "tuple[Heading, list[Prompt]] | None") -> "tuple[Heading, list[Prompt]]":
    """The sentences that were asked for, with sets of their own accord; those of the folder where none were."""
    from lora_cli.recorder import prompts
    from lora_cli.recorder.store import Heading

    language = options.language or (before[0].language if before else "en")
    if before is not None and language != before[0].language:
        raise PromptsError(f"{options.output_dir}: holds speech in {before[0].language}, not {language}; give another --output-dir")
    model_id = None if options.no_listen else _model(options, before)
    if options.prompts is not None:
        found = prompts.divided(prompts.read_prompts(options.prompts, language), language)
        return Heading(source=str(options.prompts), language=language, model_id=model_id), found
    if options.terms is not None:
        found = prompts.of_terms(options.terms, options.per_term or prompts.PER_TERM)
        return Heading(source=str(options.terms), language=language, model_id=model_id), found
    if before is not None:
        return Heading(source=before[0].source, language=language, model_id=model_id), before[1]
    if language != "en":
        raise ConfigError(f"--language {language}: the built-in sentences are English; give --prompts")
    return Heading(source=BUILT_IN, language="en", model_id=model_id), prompts.divided(prompts.built_in(), "en")


def _model(options: argparse.Namespace, before: "tuple[Heading, list[Prompt]] | None") -> str:
    from lora_cli.voices import DEFAULT_MODEL

    return options.model_id or (before[0].model_id if before else None) or DEFAULT_MODEL


def _booth(
    options: argparse.Namespace,
    folder: "Folder",
    wanted: "tuple[Heading, list[Prompt]]",
    before: "tuple[Heading, list[Prompt]] | None",
) -> "Booth":
    from lora_cli.recorder.booth import Booth
    from lora_cli.recorder.prompts import settled

    heading, asked = wanted
    prompts = settled(asked, folder.recorded, heading.language)
    for line in _changes(folder, asked, prompts, before):
        say(line, sys.stderr)
    folder.put(heading, prompts)
    name = options.microphone or "default microphone"

    def open_source(on_samples: "OnSamples", on_level: "OnLevel", on_problem: "OnProblem") -> "Source":
        from lora_cli.sound.microphone import Microphone, find, look_again

        look_again()  # for one that was connected since
        return Microphone(find(options.microphone), on_samples, on_level, on_problem)

    return Booth(folder, prompts, heading, name, _opener(heading), open_source)


def _changes(folder: "Folder", asked: "list[Prompt]", prompts: "list[Prompt]", before: "tuple[Heading, list[Prompt]] | None") -> list[str]:
    """What is worth a word before the first sentence."""
    from lora_cli.recorder.progress import FEWEST

    said = []
    if folder.swept:
        said.append(f"{folder.path}: removed {folder.swept} recordings without a row, left by a sitting that was killed")
    if left_out := len(asked) - len(prompts):
        said.append(f"left out {left_out} sentences that are nearly the same as recorded ones of both sets")
    if before is not None:
        old, new = {prompt.text for prompt in before[1]}, {prompt.text for prompt in prompts}
        if old != new:
            kept = len((old - new) & folder.recorded.keys())
            said.append(f"other sentences than before: {len(new - old)} new, {len(old - new)} gone; {kept} recordings of those stay")
    tests = {prompt.text for prompt in prompts if prompt.set == "test"} | {text for text, name in folder.recorded.items() if name == "test"}
    if len(tests) < FEWEST:
        said.append(f"test sentences: {len(tests)} of these, and a verdict takes {FEWEST} at the very least; give a longer list")
    return said


def _opener(heading: "Heading") -> "Callable[[Callable[[Event], None]], Engine] | None":
    if heading.model_id is None:
        return None
    from lora_cli.voices import choose

    voices = choose(heading.model_id, [], None, heading.language)

    def open_engine(emit: "Callable[[Event], None]") -> "Engine":
        from lora_cli.engine.process import Engine

        return Engine(voices, emit)

    return open_engine


def _run(booth: "Booth", *, plain: bool) -> int:
    if plain:
        from lora_cli.recorder.lines import run_plain

        return run_plain(booth)
    from lora_cli.recorder.screen import run_screen

    return run_screen(booth)
