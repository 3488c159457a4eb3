"""A seeded campaign of damaged inputs: each is used or refused by the project's own errors, soon, in little memory, and in few lines."""

import io
import resource
import signal
import time
from collections import Counter
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from campaign import Case, Maker

from lora import console
from lora.errors import LoraError
from lora.model.loading import LoadedModel
from lora.system.terminal import shown

FEW, MANY, PART = 1_000, 20_000, 2_500
MOST_SECONDS, MOST_BYTES, MOST_LINES = 20, 2 * 2**30, 20


class HungError(BaseException):
    """Not an `Exception`, so that nothing on the way takes it for a failure that it can handle."""


@pytest.fixture
def maker(random_v1: LoadedModel, tmp_path: Path) -> Maker:
    return Maker(tmp_path, random_v1)


PARTS = [range(start, start + PART) for start in range(0, MANY, PART)]


@pytest.mark.parametrize("seeds", [range(FEW), *(pytest.param(part, marks=pytest.mark.long) for part in PARTS)], ids=str)
def test_no_input_ends_otherwise_than_used_or_refused(maker: Maker, seeds: range) -> None:
    problems, ends = run(maker, seeds)
    assert not problems, f"{len(problems)} of {len(seeds)}:\n" + "\n".join(problems[:40])
    assert all(ends[kind, "refused"] for kind in maker.kinds if kind != "cache"), ends
    assert sum(count for (_, end), count in ends.items() if end == "used") > len(seeds) // 20, "most cases are near misses, not noise"


def run(maker: Maker, seeds: range) -> tuple[list[str], Counter[tuple[str, str]]]:
    """What is wrong, one line each, and how many cases of each kind ended how."""
    problems: list[str] = []
    ends: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        case = maker.case(seed)
        end, wrong = judge(case)
        ends[case.kind, end] += 1
        if wrong is not None:
            problems.append(f"seed {seed} ({case.kind}): {wrong}")
    return problems, ends


def judge(case: Case) -> tuple[str, str | None]:
    """How a case ended, and what is wrong with that."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    before = signal.signal(signal.SIGALRM, _hung)
    signal.alarm(MOST_SECONDS)
    refused: LoraError | None = None
    try:
        case.run()
    except LoraError as error:
        refused = error
    except HungError:
        return "hung", f"took over {MOST_SECONDS} s"
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it is, it is a problem
        return "broke", f"{type(error).__name__}: {str(error)[:300]!r}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    if grown > MOST_BYTES:
        return "grew", f"took {grown / 2**30:.1f} GB more in {time.perf_counter() - started:.1f} s"
    if refused is None:
        return "used", None
    return "refused", _fault(case, refused)


def _printed(error: LoraError) -> str:
    """What the user reads of it."""

    def refuse() -> NoReturn:
        raise error

    stderr = io.StringIO()
    with redirect_stderr(stderr):
        assert console.run(refuse) == error.exit_code
    return stderr.getvalue()


def _fault(case: Case, error: LoraError) -> str | None:
    """What is wrong with a refusal."""
    message = _printed(error)
    (line,) = message.splitlines()
    if len(line) > 120 * MOST_LINES or line != shown(line):
        return f"is {len(line)} characters long, or steers the terminal: {line[:200]!r}"
    if not line.endswith(shown(" ".join(str(error).split()))[-30:]):
        return f"loses what to do: {line[-60:]!r}"
    if not any(place in message for place in (str(case.place), "--", *(["[", "."] if case.kind in ("toml", "flags") else []))):
        return f"names no place: {message[:200]!r}"
    if case.output is not None and case.output.exists():
        return f"left {case.output.name} behind: {message[:200]!r}"
    if left := [path.name for path in case.place.rglob(".*") if path.suffix in (".part", ".old")]:
        return f"left {left} behind"
    return None


def _hung(_number: int, _frame: FrameType | None) -> NoReturn:
    raise HungError
