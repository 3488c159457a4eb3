"""SIGINT and SIGTERM end a command wherever they arrive, whoever swallows what they raise, and once for its clean-up."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import QUICK, Manifests

from lora.model.loading import LoadedModel

HEADER = """
import ctypes, os, signal, sys, time
from lora.console import run

NUMBER = getattr(signal, sys.argv[1])

class Loud:
    def __del__(self):
        os.kill(os.getpid(), NUMBER)
        time.sleep(0)

@ctypes.CFUNCTYPE(None)
def called():
    os.kill(os.getpid(), NUMBER)
    time.sleep(0)
"""

SEND = "os.kill(os.getpid(), NUMBER)\n    time.sleep(0)"
LOST = {
    "a destructor": "Loud()",
    "a callback from C": "called()",
    "a bare except": f"try:\n    {SEND}\nexcept:\n    pass",
    "a loop that catches all": f"for _ in range(3):\n  try:\n    {SEND}\n    time.sleep(0.2)\n  except BaseException:\n    pass",
    "another error": f"try:\n    {SEND}\nexcept BaseException:\n    raise ImportError('half loaded')",
}


def ended(body: str, number: str) -> "subprocess.CompletedProcess[str]":
    code = f"{HEADER}\ndef main():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "    return 0\nsys.exit(run(main))\n"
    return subprocess.run([sys.executable, "-c", code, number], capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
@pytest.mark.parametrize("place", LOST)
def test_a_signal_that_is_swallowed_is_raised_again_and_says_nothing_else(place: str, number: str, code: int, word: str) -> None:
    done = ended(f"{LOST[place]}\ntime.sleep(20)\nprint('ran on')", number)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{word}\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_clean_up_that_takes_its_time_is_not_disturbed(number: str) -> None:
    body = """
try:
    try:
        Loud()
        time.sleep(20)
    finally:
        time.sleep(0.5)
        print('removed', flush=True)
except BaseException as error:
    time.sleep(0.5)
    kept = error
time.sleep(0.5)
print('written', flush=True)
raise kept"""
    done = ended(body, number)
    assert done.stdout == "removed\nwritten\n"
    assert done.returncode == {"SIGINT": 130, "SIGTERM": 143}[number]


def test_what_waits_for_signals_waits_for_those_that_are_raised_again_too() -> None:
    body = """
from lora.system.process import signals_wait
Loud()
with signals_wait():
    time.sleep(0.5)
    print('whole', flush=True)
time.sleep(20)"""
    done = ended(body, "SIGTERM")
    assert done.stdout in ("whole\n", "")  # the second look may come before the block
    assert done.returncode == 143


def test_handlers_are_as_before_when_a_command_has_ended() -> None:
    from lora.console import run

    before = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert run(lambda: 0) == 0
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before


def test_an_ignored_interrupt_stays_ignored() -> None:
    code = "import os, signal, sys\nfrom lora.console import run\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "sys.exit(run(lambda: os.kill(os.getpid(), signal.SIGINT) or 0))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SIGNALS = int(os.environ.get("SIGNALS", "4"))
BEFORE = {-signal.SIGINT, -signal.SIGTERM, 1}
"""How Python itself ends before there is a command."""


@pytest.mark.slow
def test_signals_at_random_moments_of_loading_all_end_the_command(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    """Real processes that import libraries and load a model; `SIGNALS` sets how many get a signal."""
    arguments = [
        "experiment",
        "--model-id",
        random_v1.checkpoint.folder,
        *sets.flags(),
        *QUICK,
        "--output-dir",
        tmp_path / "run",
        "--dry-run",
    ]
    command = [sys.executable, "-c", "import sys; from lora.main import main; sys.exit(main())", *map(str, arguments)]
    started = time.monotonic()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    length_s = time.monotonic() - started
    draw, ends = random.Random(5), []
    for number in range(SIGNALS):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(draw.uniform(0.05, 0.5) * length_s)
            if process.poll() is not None:  # the machine has become faster
                continue
            process.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
            sent = time.monotonic()
            _, err = process.communicate(timeout=60)
        if process.returncode == 0 and time.monotonic() - sent < 1:  # it was through already
            continue
        assert process.returncode in {130 if number % 2 else 143, *BEFORE}, err
        assert "Exception ignored" not in err
        if process.returncode > 1:
            assert "Traceback" not in err
            ends.append(process.returncode)
    assert ends
    assert not (tmp_path / "run").exists()
