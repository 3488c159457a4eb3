"""What every command line of the project shares: one-line errors, exit codes, and a parser that suggests the flag that was meant."""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args

from lora.errors import ConfigError, LoraError
from lora.system.destination import MACHINE, refusal
from lora.system.device import Device, Precision
from lora.system.process_settings import process_settings
from lora.system.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Ending, TerminatedError
from lora.system.terminal import say

if TYPE_CHECKING:
    from lora.audio.channels import Channel

# Commands that a hotkey starts import this module: it loads in tens of milliseconds, without numpy.

# 128 + the signal's number, as shells report it.
EXIT_BROKEN_PIPE: Final = 141


def run(main: Callable[[], int], *, leave_interrupt: bool = False) -> int:
    """Runs a command and returns its exit code.

    A `LoraError` becomes one line `error: ...` on stderr and its own exit code, and so does what the machine refuses: memory, or a file or
    disk. Ctrl-C, SIGTERM and a closed pipe end the command quietly, after every `finally` on the way has removed what was half-written;
    what fails only because of a signal is no error. Any other exception is a bug and keeps its traceback. `leave_interrupt` is for
    commands that run asyncio, which handles SIGINT itself. The command runs under `process_settings`.
    """
    ending = Ending(leave_interrupt=leave_interrupt)
    try:
        with ending, process_settings():
            code = main()
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone; without this the interpreter would try to flush stdout again on exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, TerminatedError) as error:
        return _ended(EXIT_TERMINATED if isinstance(error, TerminatedError) else EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a bug is raised again
        return _ended(ending.exit_code()) if ending.received is not None else _refused(error)
    return code if ending.received is None else _ended(ending.exit_code())


def _ended(code: int) -> int:
    print("terminated" if code == EXIT_TERMINATED else "interrupted", file=sys.stderr)
    return code


def _refused(error: Exception) -> int:
    if not isinstance(error, LoraError):
        if (reason := machine_refusal(error)) is None:
            raise error
        error = LoraError(reason)
    say(f"error: {_one_line(str(error))}", sys.stderr)
    return error.exit_code


_NO_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "Cannot allocate memory",
    "failed to map segment",
)


def machine_refusal(error: Exception) -> str | None:
    """What the machine lacks, and what to do about it; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in _NO_MEMORY)):
        return "there is too little memory; end other programs, or give smaller batches (--batch-size, --eval-batch-size)"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system allows no more threads; raise `ulimit -u` or end other programs"
    if isinstance(error, OSError) and error.errno in MACHINE and (reason := refusal(error)) is not None:
        return f"{error.filename}: {reason}" if error.filename is not None else reason
    return None


def end(code: int) -> NoReturn:
    """Ends the process at once with what `run` returned, for commands that have loaded much, or may leave a stream of a dataset early.

    An orderly end takes apart all that is loaded, 0.4 s with PyTorch. And Arrow's threads read ahead through Python; they would wait for
    the interpreter, and it for them, for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


MOST_CHARACTERS: Final = 2350
"""Longest message: 20 lines of a terminal with 120 columns, less room for the word that stands before it."""

_REMEDY_CHARACTERS: Final = 350
"""Characters kept at the end of a message, which says what to do."""


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    more = len(line) - MOST_CHARACTERS
    head = MOST_CHARACTERS - _REMEDY_CHARACTERS
    return line if more <= 0 else f"{line[:head]} ... {more} characters more ... {line[-_REMEDY_CHARACTERS:]}"


TAGS_FLAG: dict[str, Any] = {
    "choices": ("drop", "keep", "refuse"),  # lora.text.tags.TagRule
    "default": "refuse",
    "help": "tags in a manifest's texts, such as <COMMA> or [noise]: drop removes, keep scores, refuse is an error (default: refuse)",
}


class ArgumentParser(argparse.ArgumentParser):
    """`argparse` without guessing: flags are never abbreviated, and an error is one line that suggests the closest flag."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse`, but what a command does not know is compared with its own flags, not with those of other commands."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._asked(options)
            parser.error(parser._unknown(unknown))
        return options

    def _asked(self, options: argparse.Namespace) -> "ArgumentParser":
        """The parser of the command that was given, or this one if there are no commands."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and (chosen := getattr(options, action.dest)) is not None:
                parser: ArgumentParser = action.choices[chosen]
                return parser._asked(options)
        return self

    def error(self, message: str) -> NoReturn:
        """Prints `error: ...; see --help` on stderr and exits with 2."""
        say(f"error: {_one_line(message)}; see --help", sys.stderr)
        raise SystemExit(2)

    def _unknown(self, arguments: Sequence[str]) -> str:
        flags = [argument.split("=")[0] for argument in arguments if argument.startswith("-")]
        if not flags:
            return f"unexpected {' '.join(arguments)!r}"
        known = sorted(self._option_string_actions)
        near = {flag: difflib.get_close_matches(flag.replace("_", "-"), known, n=1) for flag in flags}
        return ", ".join(f"unknown flag {flag}" + (f" (did you mean {match[0]}?)" if match else "") for flag, match in near.items())


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about: its argument, or after `--run`, as in commands that take a run among other models."""
    parser.add_argument("folder", type=Path, nargs="?", metavar="RUN", help="a run's folder: the --output-dir of an experiment")
    parser.add_argument("--run", type=Path, metavar="RUN", help="the same as RUN without a flag")


def given_run(options: argparse.Namespace) -> Path:
    """What `add_run` has read. Raises `ConfigError` if that is no run, or more than one."""
    given = [folder for folder in (options.folder, options.run) if folder is not None]
    if len(given) != 1:
        raise ConfigError(f"give one run, not {' and '.join(map(str, given))}" if given else "no run is given; give the run's folder")
    folder: Path = given[0]
    return folder


def add_device(parser: argparse._ActionsContainer) -> None:
    """`--device`: what a model is computed on."""
    parser.add_argument(
        "--device", choices=get_args(Device), default="auto", help="device to compute on; auto takes the first available (default: auto)"
    )


def add_computing(parser: argparse._ActionsContainer) -> None:
    """`--device` and `--precision`."""
    add_device(parser)
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="float32", help="precision of matrix products (default: float32)"
    )


def positive_int(text: str) -> int:
    """An `argparse` type: a whole number of at least 1."""
    return _whole_number(text, least=1)


def one_channel(text: str) -> "Channel":
    """An `argparse` type: a channel, counted from 1, or `mix`."""
    if text == "mix":
        return "mix"
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a channel, counted from 1 (the left one), or mix, not {text}")


def channel_or_split(text: str) -> "Channel | Literal['split']":
    """An `argparse` type: a channel, `mix`, or `split` for every channel by itself."""
    return "split" if text == "split" else one_channel(text)


def int_from_zero(text: str) -> int:
    """An `argparse` type: a whole number of at least 0."""
    return _whole_number(text, least=0)


def _whole_number(text: str, *, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from error
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from error


def positive_number(text: str) -> float:
    """An `argparse` type: a finite number above 0."""
    value = _number(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def number_from_zero(text: str) -> float:
    """An `argparse` type: a finite number of at least 0."""
    value = _number(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


def language_code(text: str) -> str:
    """An `argparse` type: a language, as the settings of a run have it."""
    from lora.language import is_language, known_languages

    if not is_language(text):
        raise argparse.ArgumentTypeError(f"must be {known_languages()}, not {text[:40]!r}")
    return text


def tokens_per_second(text: str) -> float:
    """An `argparse` type: a token cap, as the settings of a run have it."""
    if (value := positive_number(text)) > 50:
        raise argparse.ArgumentTypeError(f"must be at most 50, not {text}: speech has 3 to 13 tokens per second")
    return value
