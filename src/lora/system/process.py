"""Settles how this process computes and talks, before PyTorch is imported, and when signals may interrupt it."""

import ctypes
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from lora.units import Seconds

_SPIN_COUNT = "1000"
"""How long OpenMP threads spin for work before they sleep. With the default (about 300,000 turns) a second busy program on two
cores makes decoding 17 times slower, for each thread spins in the other's time; with 1000 it is 1.2 times, and as fast alone."""

_PRODUCT_PROGRAMS = "128"
"""Programs for products of one size that oneDNN keeps; each takes half a megabyte or more. With its default of 1024 a run takes 0.2 GB
more, with 256 it takes 50 MB more and no less time, and the voice engine grows for as long as an hour until it has them all; with 64
live looks take 6 to 9 % longer."""

_GC_OBJECTS = 50_000
"""New objects between two rounds of garbage collection. With Python's 700 to 2000 they take a tenth of the time that importing PyTorch
and transformers takes: half a million objects that stay."""


def prepare_process() -> None:
    """Sets defaults that the user's environment wins over. Errors of libraries still come through, as exceptions."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRODUCT_PROGRAMS)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars too; it reads both where it is imported
    gc.set_threshold(_GC_OBJECTS)
    # accelerate asks transformers for a property that transformers has renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def age_s() -> Seconds:
    """How long ago this process was started."""
    if sys.platform == "linux":  # in clock ticks since the machine was started; the command's name, in brackets, may hold spaces
        started = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return Seconds(time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    import psutil  # type: ignore[import-untyped]  # has no types

    return Seconds(time.time() - psutil.Process().create_time())


def give_back_memory() -> None:
    """Returns freed memory to the system where the C library is glibc, which keeps it for blocks of like size."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def peak_bytes() -> int:
    """Memory of this process at its highest, each system in its own way."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # `ru_maxrss` begins there with the memory of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


@contextmanager
def signals_wait() -> Iterator[None]:
    """For the block, SIGINT and SIGTERM wait: what their handlers raise comes after it.

    A C++ binding that is being imported runs Python code of its own; an exception in the midst of that gets lost or aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run only there
        yield
        return
    received: list[int] = []

    def keep(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    with ExitStack() as handlers:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):  # the last raises again what the others have raised in vain
            before = signal.getsignal(kind)
            if before is not None and (kind != signal.SIGALRM or callable(before)):  # None: one that is not Python's, and raises nothing
                handlers.callback(signal.signal, kind, before)
                signal.signal(kind, keep)
        yield
    for kept in received:
        signal.raise_signal(kept)
