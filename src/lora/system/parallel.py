"""Independent pieces of one process's work, side by side on its cores.

A model this small has too little in a product for two cores to share: one core for each piece takes less time than both for one
piece after the other.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

import torch

AT_A_TIME = 2
"""Pieces at a time: each holds a batch in memory, and between two products they wait for each other's Python. More was not measured."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def spread(pieces: Iterable[Piece], do: Callable[[Piece], Result], device: torch.device, done: Callable[[Piece], None]) -> list[Result]:
    """What `do` gives for each piece, in their order. `done` is called for each as its result comes, in this thread and in order.

    On a CPU, PyTorch's threads are divided among `AT_A_TIME` pieces at a time. On another device, or with a single thread, the pieces take
    turns. They are asked for in this thread, as there is room for them. An exception, wherever it is raised, ends the work: what has
    begun is finished, and nothing else begins.
    """
    workers = min(AT_A_TIME, torch.get_num_threads()) if device.type == "cpu" else 1
    results: list[Result] = []
    if workers == 1:
        for piece in pieces:
            results.append(do(piece))
            done(piece)
        return results
    waiting: deque[tuple[Piece, Future[Result]]] = deque()

    def take() -> None:
        piece, future = waiting[0]
        results.append(future.result())
        waiting.popleft()
        done(piece)

    with threads_each(torch.get_num_threads() // workers), ThreadPoolExecutor(workers, "spread") as pool:
        try:
            for piece in pieces:
                waiting.append((piece, pool.submit(do, piece)))
                if len(waiting) > 2 * workers:
                    take()
            while waiting:
                take()
        finally:
            for _, future in waiting:
                future.cancel()
    return results


def ahead(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, each made in a thread of its own while the one before is worked on. What making one raises is raised in its place."""
    source = iter(pieces)
    with ThreadPoolExecutor(1, "ahead") as pool:
        future = pool.submit(next, source, _END)
        while not isinstance(piece := future.result(), _End):
            future = pool.submit(next, source, _END)
            yield piece


class _End:
    """Marks the end of the pieces."""


_END: Final = _End()


@contextmanager
def threads_each(count: int) -> Iterator[None]:
    """Gives this thread and those that start in the block so many of PyTorch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
