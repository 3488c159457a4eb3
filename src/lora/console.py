"""What every command line of the project shares: one-line errors, exit codes, and a parser that suggests the flag that was meant."""

import argparse
import difflib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from lora.errors import LoraError
from lora.terminal import say

# 128 + the signal's number, as shells report it.
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141
EXIT_TERMINATED: Final = 143

_UNRECOGNIZED = "unrecognized arguments: "


class TerminatedError(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that nothing on the way out takes it for a failure it can handle."""


def run(main: Callable[[], int]) -> int:
    """Runs a command and returns its exit code.

    A `LoraError` becomes one line `error: ...` on stderr and its own exit code. Ctrl-C, SIGTERM and a closed pipe end the
    command quietly, after every `finally` on the way has removed what was half-written. Any other exception is a bug and
    keeps its traceback.
    """
    try:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            signal.signal(signal.SIGTERM, _on_terminate)
        code = main()
        sys.stdout.flush()
        return code
    except LoraError as error:
        say(f"error: {_one_line(str(error))}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TerminatedError:
        print("terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except BrokenPipeError:
        # The reader is gone; without this the interpreter would try to flush stdout again on exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def end(code: int) -> NoReturn:
    """Ends the process at once with what `run` returned, for commands that may leave a stream of a dataset before its end.

    Arrow's threads read ahead through Python; at an orderly end they would wait for the interpreter, and it for them, for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _on_terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise TerminatedError


class HeldSignals:
    """For the block, the first SIGINT or SIGTERM is kept until the work is at a place where it can stop; a second one ends it at once.

    `patient` lets further signals be: a launcher passes on what the terminal has already sent to every process.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def received(self) -> bool:
        return self._received is not None

    def end(self) -> NoReturn:
        """Ends as the signal would have; as SIGTERM does where it was another process that got one."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise TerminatedError

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None and not self._patient:
            self._received = number
            self.end()
        self._received = self._received or number


def _one_line(message: str) -> str:
    return " ".join(message.split())


class ArgumentParser(argparse.ArgumentParser):
    """`argparse` without guessing: flags are never abbreviated, and an error is one line that suggests the closest flag."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """Prints `error: ...; see --help` on stderr and exits with 2."""
        if message.startswith(_UNRECOGNIZED):
            message = self._unknown(message.removeprefix(_UNRECOGNIZED).split())
        say(f"error: {_one_line(message)}; see --help", sys.stderr)
        raise SystemExit(2)

    def _unknown(self, arguments: Sequence[str]) -> str:
        flags = [argument.split("=")[0] for argument in arguments if argument.startswith("-")]
        if not flags:
            return f"unexpected {' '.join(arguments)!r}"
        known = sorted(set(_option_strings(self)))
        near = {flag: difflib.get_close_matches(flag.replace("_", "-"), known, n=1) for flag in flags}
        return ", ".join(f"unknown flag {flag}" + (f" (did you mean {match[0]}?)" if match else "") for flag, match in near.items())


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _option_strings(child)


def positive_int(text: str) -> int:
    """An `argparse` type: a whole number of at least 1."""
    return _whole_number(text, least=1)


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


def tokens_per_second(text: str) -> float:
    """An `argparse` type: a token cap, as the settings of a run have it."""
    if (value := positive_number(text)) > 50:
        raise argparse.ArgumentTypeError(f"must be at most 50, not {text}: speech has 3 to 13 tokens a second")
    return value
