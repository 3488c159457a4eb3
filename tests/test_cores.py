"""Pieces of work side by side: the same results in the same order, and what happens when one fails or a signal comes."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from lora.errors import AudioError
from lora.system.parallel import AT_A_TIME, ahead, spread

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch's threads in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def nothing(_piece: int) -> None: ...


@pytest.mark.usefixtures("threads")
def test_results_come_in_the_order_of_the_pieces_whoever_is_first() -> None:
    told: list[int] = []

    def late(piece: int) -> int:
        time.sleep(0.02 if piece % 2 == 0 else 0.0)
        return piece * piece

    assert spread(range(9), late, CPU, told.append) == [piece * piece for piece in range(9)]
    assert told == list(range(9))


def test_pieces_divide_the_threads_and_the_threads_come_back(threads: int) -> None:
    seen: set[tuple[str, int]] = set()
    spread(range(8), lambda _: seen.add((threading.current_thread().name, torch.get_num_threads())), CPU, nothing)
    assert {count for _, count in seen} == {max(1, threads // AT_A_TIME)}
    assert torch.get_num_threads() == threads


def test_pieces_ahead_come_in_order_one_is_made_meanwhile_and_an_error_comes_in_its_place() -> None:
    made: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(3):
            made.append(piece)
            yield piece
        raise AudioError("the rest is gone")

    found = ahead(pieces())
    for piece in range(3):
        assert next(found) == piece
        assert len(made) <= piece + 2
    with pytest.raises(AudioError, match="the rest is gone"):
        next(found)


@pytest.mark.usefixtures("threads")
def test_pieces_are_made_as_there_is_room_for_them() -> None:
    made: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(40):
            made.append(piece)
            yield piece

    most_ahead = 0

    def done(piece: int) -> None:
        nonlocal most_ahead
        most_ahead = max(most_ahead, len(made) - piece)

    spread(pieces(), lambda piece: piece, CPU, done)
    assert most_ahead <= 2 * AT_A_TIME + 1


@pytest.mark.parametrize("where", ["do", "done", "pieces"])
def test_an_error_ends_the_work_and_comes_through(threads: int, where: str) -> None:
    begun: list[int] = []

    def fail(here: str, piece: int) -> None:
        if here == where and piece == 3:
            raise AudioError("clip 3 is broken")

    def pieces() -> Iterator[int]:
        for piece in range(100):
            fail("pieces", piece)
            yield piece

    def do(piece: int) -> None:
        begun.append(piece)
        fail("do", piece)

    with pytest.raises(AudioError, match="clip 3 is broken"):
        spread(pieces(), do, CPU, lambda piece: fail("done", piece))
    assert len(begun) <= 4 + 2 * AT_A_TIME
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("threads")
def test_a_signal_is_heard_while_pieces_are_computed() -> None:
    begun: list[int] = []

    def do(piece: int) -> None:
        begun.append(piece)
        if piece == 0:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        spread(range(100), do, CPU, nothing)
    assert len(begun) <= 2 * AT_A_TIME + 1


@pytest.mark.usefixtures("threads")
def test_other_devices_take_turns() -> None:
    names: set[str] = set()
    spread(range(4), lambda _: names.add(threading.current_thread().name), torch.device("meta"), nothing)
    assert names == {threading.current_thread().name}
