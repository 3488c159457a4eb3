"""Runs a function in separate processes, for work that would hold the interpreter's lock, such as decoding thousands of short recordings.

The pools of the standard library import the caller's main module in each process, and so run a user's script again. These processes
import the function's module and nothing else.
"""

import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Generic, TypeVar

from lora.errors import WorkerError
from lora.system.process import exclusive_stdout

Given = TypeVar("Given")
Result = TypeVar("Result")

MOST = 16
"""Limit on processes: the libraries of each take about 50 MB."""

_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 26), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
"""For glibc, which otherwise returns memory to the system after each recording and requests it again: 5 % of the time of a check."""


def cores() -> int:
    """Cores that this process may use; its share of them where `torchrun` has started several on this machine."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(MOST, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class Workers(Generic[Given, Result]):
    """Processes that each apply a module's function to one thing after another. What goes in and comes out must be pickled."""

    def __init__(self, function: Callable[[Given], Result], count: int) -> None:
        self._all = [_Worker(f"{function.__module__}:{function.__qualname__}") for _ in range(count)]
        self._free = queue.SimpleQueue[_Worker]()
        for worker in self._all:
            self._free.put(worker)

    def __enter__(self) -> "Workers[Given, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.end()

    def map(self, things: Iterable[Given]) -> Iterator[Result]:
        """What the function gives for each, in their order. Its exceptions are raised here; `WorkerError` if a process has ended."""
        with ThreadPoolExecutor(len(self._all)) as pool:
            yield from pool.map(self._one, things)

    def _one(self, thing: Given) -> Result:
        worker = self._free.get()
        try:
            result: Result = worker.call(thing)
        finally:
            self._free.put(worker)
        return result


class _Worker:
    def __init__(self, function: str) -> None:
        # In a session of its own: Ctrl-C is for the process that the user sees, which then ends this one.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_KEPT_MEMORY | os.environ,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._given: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._results: BinaryIO = self._process.stdout  # type: ignore[assignment]

    def call(self, thing: object) -> Any:
        try:
            _write(self._given, thing)
            done, result = pickle.load(self._results)
        except (BrokenPipeError, EOFError) as error:
            raise WorkerError(_end(self._process.wait())) from error
        if not done:
            raise result
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._results.close()
        try:
            self._given.close()
        except BrokenPipeError:
            return  # not sent any more


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _write(stream: BinaryIO, thing: object) -> None:
    pickle.dump(thing, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def main(name: str) -> None:
    """Answers each thing on standard input with `(True, result)` or `(False, exception)` on standard output, until the input ends."""
    answers = exclusive_stdout()
    module, _, function = name.partition(":")
    apply: Callable[[object], object] = getattr(importlib.import_module(module), function)
    for thing in _things():
        try:
            answer: tuple[bool, object] = (True, apply(thing))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is wanted
            answer = (False, error)
        _write(answers, answer)


def _things() -> Iterator[object]:
    while True:
        try:
            yield pickle.load(sys.stdin.buffer)
        except EOFError:  # the parent is done or has ended
            return


if __name__ == "__main__":
    main(sys.argv[1])
