"""What this process is and does, as the system sees it: its age, its memory, its standard output, and when signals may interrupt it."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from lora.units import Seconds


def age_s() -> Seconds:
    """How long ago this process was started."""
    if sys.platform == "linux":  # in clock ticks since the machine was started; the command's name, in brackets, may hold spaces
        started = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return Seconds(time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    import psutil  # type: ignore[import-untyped]  # has no types

    return Seconds(time.time() - psutil.Process().create_time())


def give_back_memory() -> None:
    """Returns freed memory to the system. Only glibc needs this: it keeps freed blocks for later requests of similar size."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def peak_bytes() -> int:
    """Peak memory of this process in bytes, measured as each system allows."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # `ru_maxrss` begins there with the memory of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def exclusive_stdout() -> BinaryIO:
    """Standard output for the caller's messages alone: what libraries print goes to standard error from now on."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return stream


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delays SIGINT and SIGTERM until the end of the block.

    A C++ binding that is being imported runs Python code of its own; an exception in the middle of it is lost or aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run only there
        yield
        return
    received: list[int] = []

    def keep(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    with ExitStack() as handlers:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):  # the alarm raises again an exception of the others that was lost
            before = signal.getsignal(kind)
            if before is not None and (kind != signal.SIGALRM or callable(before)):  # None: one that is not Python's, and raises nothing
                handlers.callback(signal.signal, kind, before)
                signal.signal(kind, keep)
        yield
    for kept in received:
        signal.raise_signal(kept)
