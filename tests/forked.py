"""The real command in a process of its own that shares this one's imports: it can be killed at any moment, and costs no start of torch."""

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

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


def fork(*arguments: object, output: Path, environment: dict[str, str] | None = None) -> Forked:
    """Starts `moonshine-lora` with these arguments."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid, output)
    code = 99
    try:
        os.environ.update(environment or {})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = moonshine_lora(*arguments)
        output.write_text(result.out + result.err)
        code = result.code
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        output.write_text(traceback.format_exc())
    finally:
        os._exit(code)  # nothing of pytest may run here
