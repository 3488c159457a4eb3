"""The real command in a process of its own, with imports done in advance: it can be killed at any moment, and costs no start of torch."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import torch
from running import moonshine_lora

CONTEXT: Final = multiprocessing.get_context("forkserver")
"""Processes are forks of one that only imports. This one has threads, and a fork of it may wait for ever for what they held."""
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a command sets it, but in a fork transformers has been imported before
CONTEXT.set_forkserver_preload(["lora.main", "lora.pipeline.preparation", "lora.pipeline.stages", "lora.training.adapter"])


@dataclass(frozen=True)
class Forked:
    """A running command; what it prints goes into a file when it ends."""

    process: ForkServerProcess
    output: Path
    before: Callable[[], None] | None
    """Kept, for the process writes into memory that goes with it."""

    def wait(self, timeout_s: float = 300.0) -> int:
        """Its exit code, or minus the signal that ended it."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"process {self.process.pid} did not end within {timeout_s:g} s")
        return self.process.exitcode

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        """Nothing, when it has ended already: its exit code tells."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait_for(self, text: str, file: Path, timeout_s: float = 120.0) -> None:
        """Until a file holds a text."""
        end = time.monotonic() + timeout_s
        while not (file.is_file() and text in file.read_text()):
            assert time.monotonic() < end, f"{file} does not say {text!r}"
            time.sleep(0.005)


CHANGES: Final = frozenset(
    {"fcntl.flock", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree"}
)
"""Audit events of Python that tell of a change of files, beside `open` to write. Libraries in C tell of none."""


class Changes:
    """Counts the changes of files below a folder in the process that calls `watch`, and kills it right before the one numbered `last`."""

    def __init__(self, folder: Path, last: int = 0) -> None:
        self._folder, self._last, self._count = str(folder), last, CONTEXT.RawValue("i")

    @property
    def count(self) -> int:
        """In whichever process."""
        return self._count.value

    def watch(self) -> None:
        """For the rest of the process."""
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or self._folder not in str(path):
                return
        elif event not in CHANGES or (event != "fcntl.flock" and self._folder not in repr(arguments)):
            return
        self._count.value += 1
        if self._count.value == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def fork(*arguments: object, output: Path, environment: dict[str, str] | None = None, before: Callable[[], None] | None = None) -> Forked:
    """Starts `moonshine-lora` with these arguments, after `before` was called in its process."""
    settings = _Settings(dict(os.environ) | (environment or {}), torch.get_num_threads(), output)
    process = CONTEXT.Process(target=_run, args=(settings, arguments, before))
    process.start()
    return Forked(process, output, before)


@dataclass(frozen=True)
class _Settings:
    """What a process takes over from the one that asked for it."""

    environment: dict[str, str]
    threads: int
    output: Path


def _run(settings: _Settings, arguments: tuple[object, ...], before: Callable[[], None] | None) -> None:
    code = 99
    try:
        os.environ.clear()
        os.environ.update(settings.environment)
        torch.set_num_threads(settings.threads)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()
        result = moonshine_lora(*arguments)
        settings.output.write_text(result.out + result.err)
        code = result.code
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        settings.output.write_text(traceback.format_exc())
    finally:
        os._exit(code)  # what is left of a killed run, a thread say, must not hold the process
