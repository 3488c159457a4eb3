"""The real command in a process of its own that shares this one's imports: it can be killed at any moment, and costs no start of torch."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from running import moonshine_lora


@dataclass(frozen=True)
class Forked:
    """A running command; what it prints goes into a file."""

    pid: int
    output: Path

    def wait(self, timeout_s: float = 300.0) -> int:
        """Its exit code, or minus the signal that ended it."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(self.output.read_text())

    def running(self) -> bool:
        """Whether it has not ended; it can still be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

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
        self._folder, self._last, self._count = str(folder), last, multiprocessing.Value("i")

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
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid, output)
    code = 99
    try:
        os.environ.update(environment or {})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()
        result = moonshine_lora(*arguments)
        output.write_text(result.out + result.err)
        code = result.code
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        output.write_text(traceback.format_exc())
    finally:
        os._exit(code)  # nothing of pytest may run here
