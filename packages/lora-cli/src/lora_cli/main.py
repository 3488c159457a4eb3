"""`moonshine`: talk to a Moonshine model, with or without an adapter, in the terminal; and the commands around it."""

import argparse
import difflib
import importlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lora.console import ArgumentParser, add_computing, language_code, one_channel, positive_int, run
from lora.errors import ConfigError, LoraError
from lora.system.terminal import say
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from lora_cli.engine.events import Event, Voice
    from lora_cli.history import History
    from lora_cli.replacements import Replacement
    from lora_cli.session import Engine, OnLevel, OnProblem, OnSamples, Session, Source

# Everything that takes time to import is imported by what needs it, so that --help answers at once.


class Command(NamedTuple):
    """A subcommand. Its function takes the arguments after it and returns the exit code; it is imported when needed."""

    module: str
    help: str
    asyncio: bool = False
    """Whether it runs asyncio, which handles Ctrl-C itself."""
    function: str = "main"


COMMANDS: Final[dict[str, Command]] = {
    "dictate": Command("lora_cli.dictation.command", "run the dictation service: speech into other programs"),
    "toggle": Command("lora_cli.dictation.client", "dictation: start a recording, or end it", function="toggle"),
    "start": Command("lora_cli.dictation.client", "dictation: start a recording", function="start"),
    "stop": Command("lora_cli.dictation.client", "dictation: end the recording; its text is written", function="stop"),
    "cancel": Command("lora_cli.dictation.client", "dictation: discard the recording", function="cancel"),
    "status": Command("lora_cli.dictation.client", "dictation: what the service does", function="status"),
    "service": Command("lora_cli.dictation.units", "dictation: start the service with the desktop session"),
    "config": Command("lora_cli.config_command", "the settings that the app starts with: model, language, microphone, mode, theme"),
    "models": Command("lora_cli.models_command", "list the models, choose one, write an export that starts without PyTorch"),
    "history": Command("lora_cli.history_command", "what was said in earlier sessions: list, show, search, export, clear"),
    "replacements": Command("lora_cli.replacements_command", "words and replacements: what to write for what is spoken"),
    "record": Command("lora_cli.recorder.command", "record your own voice, to train on", asyncio=True),
}


def main() -> int:
    """Entry point of the console script."""
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    return run(_main, leave_interrupt=command is None or command.asyncio)


def _main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("-"):
        return _app(arguments)
    command = _command(arguments[0])
    code: int = getattr(importlib.import_module(command.module), command.function)(arguments[1:])
    return code


def _command(name: str) -> Command:
    """Raises `ConfigError` with the nearest name when there is no such command."""
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{name}: moonshine has no such command{hint} (without one it opens the app; moonshine --help says what it takes)")


def _app(arguments: list[str]) -> int:
    """The app, with a screen or without."""
    options = _parser().parse_args(arguments)
    if options.list_devices:
        return _list_devices()
    lines = options.plain or options.json or options.non_interactive
    pressed = options.mode == "toggle" and (options.plain or options.json)
    if lines and not pressed and options.mode not in (None, "auto", "vad"):
        raise ConfigError(f"--mode {options.mode}: takes keys; without a screen there is --plain --mode toggle, with Enter")
    if pressed and options.file is not None:
        raise ConfigError("--mode toggle: takes the microphone; leave out --file")
    from lora_cli.settings import fill, read_user_settings

    fill(options, read_user_settings(), screen=not lines)
    if options.compare and options.run is None and not options.adapter_dir and len(options.export_dir) < 2:
        raise ConfigError("--compare: takes two voices; give --run or --adapter-dir, or --export-dir twice")
    from lora_cli.history import History
    from lora_cli.sessions import tidy

    if options.file is None and (options.channel or options.track) is not None:
        raise ConfigError("--channel and --track are for --file; leave them out")
    through = threading.Event()
    results = History(options.corrections, options.save_dir, keep=options.keep)
    try:
        tidy(options.keep_days, options.keep_mb)
        session = make_session(options, results, through)
        from lora_cli.lines import JsonWriter, PlainWriter, run_lines

        if not lines:
            from lora_cli.screen.app import run_app

            mode = "vad" if options.file is not None and options.mode == "auto" else options.mode
            return run_app(session, mode=mode, on_final=None if sys.stdout.isatty() else JsonWriter(sys.stdout).event)

        writer = JsonWriter(sys.stdout) if options.json else PlainWriter(sys.stdout, sys.stderr)
        hands_free = options.file is None or options.mode == "vad"
        run_lines(session, writer, hands_free=hands_free, until=through, keys=sys.stdin if pressed else None)
        return 0
    finally:
        results.close()


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="moonshine",
        usage="moonshine [COMMAND] [flags]" if COMMANDS else None,
        description="Talk to a Moonshine speech model in the terminal, with or without a LoRA adapter.",
        epilog=_list_of_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    model = add_voice_flags(parser)
    model.add_argument("--compare", action="store_true", help="start in A/B mode: two voices transcribe the same speech")
    sound = parser.add_argument_group("sound")
    sound.add_argument("--list-devices", action="store_true", help="list the microphones and exit")
    sound.add_argument("--microphone", metavar="INDEX|NAME", help="the microphone, by its index or part of its name")
    sound.add_argument("--file", type=Path, metavar="CLIP", help="a recording instead of the microphone, played in real time")
    sound.add_argument(
        "--channel",
        type=one_channel,
        metavar="1|2|mix",
        help="with --file: one channel, or the mean of all (default: the mean, if all channels hold the same sound)",
    )
    sound.add_argument("--track", type=positive_int, metavar="N", help="with --file: number of the audio track, from 1")
    talking = parser.add_argument_group("talking")
    talking.add_argument(
        "--mode",
        choices=("auto", "hold", "toggle", "vad"),
        help="how to talk: hold the space bar, toggle with it, or hands-free (vad); auto takes what the terminal supports, vad with --file "
        "(default: auto, or the config file's)",
    )
    add_post_roll_flag(talking)
    talking.add_argument(
        "--in-background",
        choices=("listen", "pause"),
        help="what hands-free does while another window has the focus (default: listen, or the config file's)",
    )
    talking.add_argument(
        "--non-interactive", action="store_true", help="no screen and no keys: transcribe --file to its end, or the microphone hands-free"
    )
    talking.add_argument(
        "--plain",
        action="store_true",
        help="no screen, finished lines only, for screen readers and logs; with --mode toggle, Enter starts and ends a recording",
    )
    talking.add_argument("--json", action="store_true", help="the same, with every event as a line of JSON on stdout")
    kept = parser.add_argument_group("what is kept")
    kept.add_argument("--corrections", type=Path, metavar="FILE", help="the manifest for corrections (default: next to the saved sessions)")
    kept.add_argument("--save-dir", type=Path, metavar="DIR", help="folder for saved histories (default: the current folder)")
    add_keep_flag(kept)
    return parser


def add_voice_flags(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Which model hears; the dictation service takes them too."""
    model = parser.add_argument_group("voice", "the model to talk to (default: the packaged Moonshine tiny, or the config file's)")
    model.add_argument("--run", type=Path, metavar="DIR", help="a run's folder: its adapter, and its base model to compare")
    model.add_argument("--model-id", metavar="TEXT", help="hub id, local folder, packaged:moonshine-tiny or packaged:moonshine-base")
    model.add_argument("--language", type=language_code, metavar="LANG", help="language of --model-id (default: en)")
    model.add_argument(
        "--adapter-dir", type=Path, action="append", default=[], metavar="DIR", help="a lora_adapter/ folder; repeat for more voices"
    )
    model.add_argument(
        "--export-dir",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="an export with onnx files: starts without PyTorch; repeat for more voices",
    )
    add_computing(model)
    return model


def add_keep_flag(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """What is kept on disk."""
    parser.add_argument(
        "--keep",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep audio and text of each session on this machine (default: keep, or the config file's)",
    )


def add_post_roll_flag(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Until when sound belongs to a recording."""
    parser.add_argument(
        "--post-roll",
        type=_post_roll,
        metavar="MS",
        help="how long to listen after the release, unless you were silent before; in milliseconds (default: 250, or the config file's)",
    )


def _post_roll(text: str) -> int:
    from lora_cli.settings import LONGEST_POST_ROLL_MS

    if not (text.isascii() and text.isdecimal() and int(text) <= LONGEST_POST_ROLL_MS):
        raise argparse.ArgumentTypeError(f"{text}: give whole milliseconds, up to {LONGEST_POST_ROLL_MS}")
    return int(text)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for, because that takes longer than many commands do."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"moonshine {version('lora-cli')}")
        parser.exit()


def _list_of_commands() -> str | None:
    if not COMMANDS:
        return None
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["commands (moonshine COMMAND --help says more):", *lines])


def _list_devices() -> int:
    from lora_cli.sound.microphone import devices

    found = devices()
    for device in found:
        say(device.label)
    if not found:
        print("no microphone; connect one, or give --file", file=sys.stderr)
    return 0


def _voices(options: argparse.Namespace) -> "tuple[Voice, ...]":
    """Raises `LoraError` for what is no voice, with the config file's name where the model is that one's."""
    from lora_cli.voices import choose

    try:
        return choose(options.model_id, options.adapter_dir, options.run, options.language, options.export_dir)
    except LoraError as error:
        if options.settled_in is None:
            raise
        raise ConfigError(f"{options.settled_in}: model: {error}; or choose another: moonshine config set model NAME") from error


def make_session(options: argparse.Namespace, results: "History", through: threading.Event) -> "Session":
    """What the flags ask for: model, microphone or file, replacements. Raises `LoraError` for what cannot be."""
    if options.export_dir and (options.device not in ("auto", "cpu") or options.precision != "float32"):
        raise ConfigError("an export: ONNX Runtime computes it on the CPU, as it was written; leave out --device and --precision")
    from lora_cli.replacements import read_user_table
    from lora_cli.session import InputDevice, Session
    from lora_cli.talking import Background
    from lora_cli.written import as_written

    tables = [read_user_table()]
    voices = _voices(options)

    def open_engine(emit: "Callable[[Event], None]") -> "Engine":
        from lora_cli.engine.process import Engine

        engine = Engine(voices, as_written(emit, lambda: tables[-1]), device=options.device, precision=options.precision)
        if options.compare:
            engine.compare(voices[1].name)
        return engine

    def open_source(on_samples: "OnSamples", on_level: "OnLevel", on_problem: "OnProblem") -> "Source":
        if options.file is not None:
            from lora.audio.loading import AudioSettings, read_file
            from lora_cli.sound.file_source import FileSource

            samples = read_file(options.file, AudioSettings(), options.channel, options.track)
            return FileSource(samples, on_samples, on_level, through.set)
        from lora_cli.sound.microphone import Microphone, find

        return Microphone(find(options.microphone), on_samples, on_level, on_problem)

    def list_devices() -> "tuple[InputDevice, ...]":
        from lora_cli.sound.microphone import Microphone, devices, look_again

        look_again()
        return tuple(InputDevice(device.name, device.label, partial(Microphone, device)) for device in devices())

    def open_again(wanted: str | None, on_samples: "OnSamples", on_level: "OnLevel", on_problem: "OnProblem") -> "Source":
        from lora_cli.sound.microphone import Microphone, find, look_again

        look_again()
        return Microphone(find(wanted or options.microphone), on_samples, on_level, on_problem)

    def add_replacement(entry: "Replacement") -> None:
        from lora_cli.replacements import user_file
        from lora_cli.replacements_command import add

        add(user_file(), entry)
        tables.append(read_user_table())

    live = options.file is None
    return Session(
        voices=voices,
        open_engine=open_engine,
        open_source=open_source,
        source_name=(options.microphone or "default microphone") if live else options.file.name,
        results=results,
        devices=list_devices if live else None,
        open_again=open_again if live else None,
        add_replacement=add_replacement,
        theme=options.theme,
        background=Background(options.in_background),
        kept=options.keep,
        postroll=options.post_roll * SAMPLE_RATE_HZ // 1000 if live else 0,  # a file has nothing behind its end
    )


if __name__ == "__main__":
    sys.exit(main())
