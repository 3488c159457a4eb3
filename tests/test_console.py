"""The shared command-line wrapper, as a real process where its behaviour is that of a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from lora.console import (
    EXIT_BROKEN_PIPE,
    TAGS_FLAG,
    ArgumentParser,
    add_run,
    given_run,
    number_from_zero,
    positive_int,
    positive_number,
    run,
)
from lora.errors import ConfigError, ManifestError
from lora.system.signals import EXIT_INTERRUPTED, EXIT_TERMINATED
from lora.text.tags import TagRule

HEADER = "import sys, time\nfrom lora.console import run\nfrom lora.errors import ConfigError\n"


def process(body: str, **options: object) -> "subprocess.Popen[str]":
    code = f"{HEADER}def main():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "sys.exit(run(main))\n"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_exit_code_of_the_command_is_kept() -> None:
    assert run(lambda: 0) == 0
    assert run(lambda: 3) == 3


def test_lora_error_is_one_line_and_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ManifestError("a.jsonl: broken\n  in two lines")

    assert run(main) == ManifestError.exit_code
    output = capsys.readouterr()
    assert output.err == "error: a.jsonl: broken in two lines\n"
    assert output.out == ""


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_lora_error_ends_the_process_without_traceback() -> None:
    child = process("raise ConfigError('no')")
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (ConfigError.exit_code, "error: no\n")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, EXIT_INTERRUPTED, "interrupted"), (signal.SIGTERM, EXIT_TERMINATED, "terminated")]
)
def test_signals_run_the_clean_up_and_end_quietly(number: signal.Signals, code: int, word: str) -> None:
    child = process("try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned', flush=True)")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (code, "cleaned\n", f"{word}\n")


def test_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    code = f"{HEADER}sys.exit(run(lambda: [print('x' * 100) for _ in range(100000)] and 0))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (EXIT_BROKEN_PIPE, "")


def parser() -> ArgumentParser:
    result = ArgumentParser(prog="x")
    result.add_argument("--max-seconds", type=positive_int)
    result.add_argument("--alpha", type=positive_number)
    result.add_argument("--audio-mb", type=number_from_zero)
    commands = result.add_subparsers(dest="command")
    commands.add_parser("train").add_argument("--learning-rate", type=float)
    return result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-second=3"], "error: unknown flag --max-second (did you mean --max-seconds?); see --help"),
        (["--max_seconds=3"], "error: unknown flag --max_seconds (did you mean --max-seconds?); see --help"),
        (["train", "--learnin-rate", "3"], "error: unknown flag --learnin-rate (did you mean --learning-rate?); see --help"),
        (["train", "--max-seconds", "3"], "error: unknown flag --max-seconds; see --help"),
        (["--quux"], "error: unknown flag --quux; see --help"),
        (["train", "surplus"], "error: unexpected 'surplus'; see --help"),
        (["--max-seconds", "0"], "error: argument --max-seconds: must be at least 1, not 0; see --help"),
        (["--max-seconds", "many"], "error: argument --max-seconds: must be a whole number, not 'many'; see --help"),
        (["--alpha", "half"], "error: argument --alpha: must be a number, not 'half'; see --help"),
        (["--audio-mb", "some"], "error: argument --audio-mb: must be a number, not 'some'; see --help"),
    ],
)
def test_parser_errors_are_one_line_with_a_suggestion(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run is given; give the run's folder"),
        (["a", "--run", "b"], "give one run, not a and b"),
    ],
)
def test_a_run_is_given_once_with_a_flag_or_without(arguments: list[str], message: str) -> None:
    of_a_run = ArgumentParser()
    add_run(of_a_run)
    assert given_run(of_a_run.parse_args(["a"])) == given_run(of_a_run.parse_args(["--run", "a"])) == Path("a")
    with pytest.raises(ConfigError, match=message):
        given_run(of_a_run.parse_args(arguments))


def test_every_rule_for_tags_is_a_choice() -> None:
    assert TAGS_FLAG["choices"] == get_args(TagRule)


def test_flags_are_not_abbreviated() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--max", "3"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("MemoryError()", "error: there is too little memory; "),
        (
            'RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can\'t allocate memory")',
            "error: there is too little memory; ",
        ),
        ('RuntimeError("can\'t start new thread")', "error: the system allows no more threads; "),
        ("OSError(28, 'No space left on device', 'a/b')", "error: a/b: no space left on the disk; "),
        ("OSError(5, 'Input/output error')", "error: the disk reports an error"),
        ("OSError(24, 'Too many open files', 'x')", "error: x: this process may not open more files; "),
        ("LoraError('\\n'.join(f'line {n} ' * 200 for n in range(50)))", "error: line 0"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error: str, message: str) -> None:
    child = process(f"from lora.errors import LoraError\nraise {error}")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 2
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert len(err) <= 20 * 121


def test_memory_that_is_limited_ends_in_one_line() -> None:
    body = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\nx = bytearray(1 << 31)"
    child = process(body)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err[:32]) == (2, "error: there is too little memor")
