"""What starting takes: short commands from start to end, and the voice app to ready, beside an earlier build.

    python benchmarks/start.py --clip clip.wav --run outputs/quickstart [--export-dir outputs/tiny/export] [--before FOLDER]

All take turns, so that the disk is warm for all but the first round, which does not count. FOLDER is a checkout of an earlier state, which
runs with this environment's libraries. Of a command: seconds of the clock, of the processors, and memory at its highest. The app, with
PyTorch and with an export, starts in a pseudo-terminal of its own; times count from before the process is started up to the bytes on the
terminal; memory is the resident memory of app, engine and what they started, one second after "ready after".
"""

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.console import ArgumentParser, positive_int, run
from lora.errors import LoraError

MODEL = "packaged:moonshine-tiny"
ROOT = Path(__file__).parents[1]
SCREEN, READY = b"mode: ", b"ready after"
LONGEST_S = 120.0
SETTLED_S = 1.0


@dataclass(frozen=True)
class Start:
    """One start: seconds to the first frame and to ready, and resident memory in bytes."""

    screen_s: float
    ready_s: float
    bytes: int


@dataclass(frozen=True)
class Whole:
    """One command from start to end: seconds of the clock and of all processors, and its highest memory in bytes."""

    wall_s: float
    cpu_s: float
    bytes: int


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a recording to transcribe, and for the app in place of the microphone")
    parser.add_argument("--run", type=Path, required=True, help="a finished run, whose reports are written again")
    parser.add_argument("--export-dir", type=Path, help=f"an export of {MODEL} to onnx, fp32: the app starts with it too")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier state")
    parser.add_argument("--rounds", type=positive_int, default=5, help="that count (default 5)")
    options = parser.parse_args()
    builds = {"now": ROOT} if options.before is None else {"before": options.before, "now": ROOT}
    for arguments in _commands(options.clip, options.run):
        _compare(arguments, builds, options.rounds)
    _compare_apps(options, builds)
    return 0


def _commands(clip: Path, run: Path) -> list[list[str]]:
    heard = ["--audio", str(clip)]
    return [
        ["--help"],
        ["transcribe", "--model-id", MODEL, *heard],
        ["transcribe", "--model-id", MODEL, "--adapter-dir", str(run / "lora_adapter"), *heard],
        ["compare", str(run)],
        ["report", str(run)],
    ]


def _compare(arguments: list[str], builds: dict[str, Path], rounds: int) -> None:
    """Runs a command of each build in turns, and prints medians."""
    found: dict[str, list[Whole]] = {name: [] for name in builds}
    for number in range(rounds + 1):
        for name, checkout in builds.items():
            once = _whole(checkout, arguments)
            if number:
                found[name].append(once)
    print("moonshine-lora", " ".join(arguments))
    for name, runs in found.items():
        wall, cpu, size = (statistics.median(getattr(run, field) for run in runs) for field in ("wall_s", "cpu_s", "bytes"))
        pairs = list(zip(runs, next(iter(found.values())), strict=True))
        shares = [statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs) for field in ("wall_s", "cpu_s", "bytes")]
        print(f"  {name:8} {wall:.2f} s, processors {cpu:.2f} s, {size / 1e6:.0f} MB; of the first {', '.join(f'{s:.2f}' for s in shares)}")


def _whole(checkout: Path, arguments: list[str]) -> Whole:
    """Runs a command to its end. Raises `LoraError` if it fails."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": f"{checkout}/src"}
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    command = [sys.executable, "-m", "lora.main", *arguments]
    _, status, used = os.wait4(os.posix_spawn(sys.executable, command, environment, file_actions=quiet), 0)
    if status:
        raise LoraError(f"{checkout}: moonshine-lora {' '.join(arguments)} fails; run it to see why")
    return Whole(time.monotonic() - started, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)


def _compare_apps(options: argparse.Namespace, builds: dict[str, Path]) -> None:
    contestants: dict[str, tuple[Path, list[str]]] = {name: (checkout, []) for name, checkout in builds.items()}
    if options.export_dir is not None:
        contestants["export"] = (ROOT, ["--export-dir", str(options.export_dir)])
    found: dict[str, list[Start]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, (checkout, flags) in contestants.items():
            start = _start(checkout, ["--file", str(options.clip), *flags])
            if number:
                found[name].append(start)
    print("moonshine --file")
    for name, starts in found.items():
        _say(name, starts, next(iter(found.values())))


def _say(name: str, starts: list[Start], reference: list[Start]) -> None:
    def median(these: list[Start], field: str) -> float:
        return statistics.median(getattr(one, field) for one in these)

    screen, ready, size = (median(starts, field) for field in ("screen_s", "ready_s", "bytes"))
    time_share, memory_share = (median(starts, field) / median(reference, field) for field in ("ready_s", "bytes"))
    print(f"  {name:8} screen {screen:.2f} s, ready {ready:.2f} s, {size / 1e6:.0f} MB")
    print(f"           of the first: time {time_share:.2f}, memory {memory_share:.2f}")


def _start(checkout: Path, arguments: list[str]) -> Start:
    """Starts the app, waits until it is ready, and ends it."""
    with tempfile.TemporaryDirectory() as state:
        sources = f"{checkout}/packages/lora-cli/src:{checkout}/src"
        environment = os.environ | {"PYTHONPATH": sources, "XDG_STATE_HOME": state, "XDG_CONFIG_HOME": state, "TERM": "xterm-256color"}
        started = time.monotonic()
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "lora_cli.main", *arguments], environment)
        try:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            screen_s, ready_s = _seen(terminal, started)
            list(_output(terminal, time.monotonic() + SETTLED_S))
            return Start(screen_s, ready_s, sum(map(_resident, _family(pid))))
        finally:
            os.kill(pid, signal.SIGTERM)
            list(_output(terminal, time.monotonic() + LONGEST_S))
            os.waitpid(pid, 0)
            os.close(terminal)


def _seen(terminal: int, started: float) -> tuple[float, float]:
    """Seconds up to the first frame, and up to ready."""
    shown, at = b"", {}
    for data in _output(terminal, started + LONGEST_S):
        shown += data
        for what in (SCREEN, READY):
            if what in shown:
                at.setdefault(what, time.monotonic() - started)
        if READY in at:
            return at[SCREEN], at[READY]
    raise LoraError(f"the app was not ready within {LONGEST_S:.0f} s; it showed {shown[-300:]!r}")


def _output(terminal: int, until: float) -> Iterator[bytes]:
    """What comes until a moment, or the program's end."""
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            return
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the program has ended
            return
        yield data


def _family(pid: int) -> Iterator[int]:
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            yield from _family(int(child))


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(run(main))
