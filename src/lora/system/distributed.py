"""Several processes that share the work of one run: which part is whose, and how results come together. One process is the usual case.

`torchrun` and `accelerate launch` start the processes and name them by `RANK`, `LOCAL_RANK` and `WORLD_SIZE`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lora.errors import ConfigError, LoraError, PeerError

TIMEOUT = timedelta(minutes=30)
"""Longest that one process waits for another: parts of a large corpus take their time. One that has ended is noticed at once."""

_NAMED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


def launched() -> bool:
    """Whether this is one of several processes, joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes and talks."""
    return rank() == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the others of the launch for the block; does nothing if there are none. Raises `ConfigError` for half a launch."""
    if not launched():
        yield
        return
    if missing := [name for name in _NAMED if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {', '.join(missing)} not set; start with torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _peers():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # after an error there may be nobody left to take leave of, and the process ends anyway


def part(items: Sequence[T]) -> Sequence[T]:
    """This process's share: every n-th item, so that sorted items are shared fairly."""
    return items[rank() :: count()]


def gathered(compute: Callable[[], T]) -> list[T]:
    """What each process computes, by rank, in all of them. A `LoraError` of one is raised in all: none waits for it in vain."""
    if count() == 1:
        return [compute()]
    mine = _outcome(compute)
    found: list[Any] = [None] * count()
    with _peers():
        dist.all_gather_object(found, mine)
    return [_result(one) for one in found]


def from_main(compute: Callable[[], T]) -> T:
    """What the main process computes, in all of them; its `LoraError` too."""
    if count() == 1:
        return compute()
    found: list[Any] = [_outcome(compute) if is_main() else None]
    with _peers():
        dist.broadcast_object_list(found, src=0)
    result: T = _result(found[0])
    return result


def add(values: Tensor) -> None:
    """Replaces values by their sum over all processes."""
    if count() > 1:
        with _peers():
            dist.all_reduce(values)


def _outcome(compute: Callable[[], T]) -> T | LoraError:
    try:
        return compute()
    except PeerError:
        raise
    except LoraError as error:
        return error


def _result(outcome: Any) -> Any:
    if isinstance(outcome, LoraError):
        raise outcome
    return outcome


@contextmanager
def _peers() -> Iterator[None]:
    """Turns what a backend raises for a process that is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise PeerError(
            f"another process of this run has ended or does not answer; look for its own error, then continue with --resume ({reason})"
        ) from error
