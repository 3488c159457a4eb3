"""How long the voice app's screen is ever kept waiting while somebody speaks.

    taskset -c 0,1 python benchmarks/screen.py --data ../shared/data

The app hears real speech hands-free in a pseudo-terminal, in real time. A ticker in its event loop is late by as long as something keeps
the loop busy; how long the loop's own thread computed meanwhile depends little on what else the machine does. The history is almost full
when it starts, so that its oldest rows make room meanwhile. `--stacks` prints where the loop was when the ticker was late. Let the
machine be quiet.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pexpect
import soundfile
from lora_cli import main as command
from lora_cli.engine.events import Event, Final, Partial, Ready
from lora_cli.history import History
from lora_cli.screen.app import MoonshineApp, run_app
from lora_cli.screen.driver import PROBE
from lora_cli.screen.widgets import MOST_ROWS
from lora_cli.session import NOTHING

from lora.audio.loading import AudioSettings, load
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, read
from lora.errors import LoraError
from lora.units import SAMPLE_RATE_HZ, Seconds

ROOT = Path(__file__).parents[1]
STEP_S = 0.005
LATE_S = 0.02
"""From when the loop's place is noted."""

LIMIT_S = 0.05
ANSWER = "\x1b[?27u\x1b[0n"
"""To the probe, as a terminal gives it that reports key release."""

KEYS = ("\x1b[A", "\x1b[A", "\x1b[F")
"""Typed over and over: older utterances, and back to the newest."""

MOST_PLACES = 12
STACK = 14
"""Innermost calls that tell where the loop was."""

KEY_S = 2.0
READY_S = 300.0
"""How long the model may take to load."""


class Late(msgspec.Struct, frozen=True, order=True, array_like=True):
    """How long the ticker waited for the loop, and how long the loop's thread computed meanwhile."""

    waited_s: Seconds
    computed_s: Seconds


class Measured(msgspec.Struct):
    """What the ticker saw while the app started, and from when the model was there."""

    starting: list["Late"]
    speaking: list["Late"]
    partials: int
    finals: int
    rows: int
    places: list[tuple[Late, str]]
    """The longest of them all, and where the loop was."""


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/")
    parser.add_argument("--seconds", type=positive_int, default=60, help="of speech, once the model is there (default 60)")
    parser.add_argument("--stacks", action="store_true", help="print where the loop was when the ticker was late")
    parser.add_argument("--watch", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch is not None:
        return _watched(*options.watch, options.seconds)
    manifest = options.data / "librispeech/heldout.jsonl"
    if not manifest.exists():
        raise LoraError(f"{manifest}: is not there; name its folder with --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [load(utterance.audio, AudioSettings()) for utterance in read(manifest, Rules())]
        sound = np.concatenate(parts)[: (options.seconds + round(READY_S)) * SAMPLE_RATE_HZ]
        soundfile.write(folder / "speech.wav", sound, SAMPLE_RATE_HZ, subtype="PCM_16")
        _drive(folder, options.seconds)
        measured = msgspec.json.decode((folder / "measured.json").read_bytes(), type=Measured)
    print(f"{measured.partials} partial texts, {measured.finals} utterances, {measured.rows} rows\n")
    print("| the event loop is late, ms | longest | 99.9 % within | median | over 50 ms | computes at most |\n|---|---|---|---|---|---|")
    for name, late in (("from the first frame until the model is there", measured.starting), ("while one speaks", measured.speaking)):
        waited = np.array([each.waited_s for each in late])
        longest, most, middle = (1000 * float(value) for value in (waited.max(), np.quantile(waited, 0.999), np.median(waited)))
        computed = 1000 * max(each.computed_s for each in late)
        over = int((waited > LIMIT_S).sum())
        print(f"| {name} | {longest:.1f} | {most:.1f} | {middle:.2f} | {over} of {len(late)} | {computed:.1f} |")
    if options.stacks:
        for one, place in measured.places:
            print(f"\n{1000 * one.waited_s:.0f} ms, computing for {1000 * one.computed_s:.0f}: {place}")
    return 0


def _drive(folder: Path, seconds: int) -> None:
    """Runs the app in a pseudo-terminal, plays a terminal and somebody who types, and waits for its end."""
    child = pexpect.spawn(
        sys.executable,
        [__file__, "--seconds", str(seconds), "--watch", str(folder / "speech.wav"), str(folder / "measured.json")],
        env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "XDG_STATE_HOME": str(folder)},
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=60,
    )
    child.expect_exact(PROBE)
    child.send(ANSWER)
    due, typed, tail = time.monotonic(), 0, ""
    while child.isalive():
        try:
            tail = (tail + child.read_nonblocking(65536, 0.1))[-4000:]
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            break
        if time.monotonic() >= due:
            due += KEY_S
            child.send(KEYS[typed % len(KEYS)])
            typed += 1
    child.wait()
    if child.exitstatus != 0:
        raise LoraError(f"the app ended with exit code {child.exitstatus}: {tail.strip().splitlines()[-1:]}")


class Watched(MoonshineApp):
    """The app, with a ticker in its loop and a look at it from a second thread."""

    seconds = 60

    def on_main_screen_shown(self) -> None:
        """Textual calls the app's own afterwards: what that takes is measured too."""
        for number in range(MOST_ROWS - 3):
            self.main.history.add(_row(number))
        self.late: dict[bool, list[Late]] = {False: [], True: []}
        self.ready_at: float | None = None
        self.counts: Counter[str] = Counter()
        self.places: list[tuple[Late, str]] = []
        self._place = ""
        self.ticked = time.monotonic()
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True).start()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.ready_at = time.monotonic()
        self.counts[type(event).__name__] += self.ready_at is not None
        super()._on_event(event)

    async def _tick(self) -> None:
        while self.ready_at is None or time.monotonic() < self.ready_at + self.seconds:
            self.ticked, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(STEP_S)
            late = Late(Seconds(time.monotonic() - self.ticked - STEP_S), Seconds(time.thread_time() - computed))
            self.late[self.ready_at is not None].append(late)
            if late.waited_s > LATE_S:
                self.places = sorted([*self.places, (late, self._place)], reverse=True)[:MOST_PLACES]
            self._place = "between two things"
        self.exit()

    def _look(self, thread: int) -> None:
        noted = 0.0
        while True:
            time.sleep(STEP_S)
            if self.ticked != noted and time.monotonic() - self.ticked > STEP_S + LATE_S:
                noted = self.ticked
                stack = traceback.extract_stack(sys._current_frames()[thread])
                self._place = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in stack[-STACK:])


def _row(number: int) -> Final:
    return Final(
        recording=0,
        started_at=datetime.now().astimezone(),
        voice="tiny",
        text=f"Utterance {number}, which was said before, with as many words as one has.",
        segments=(),
        samples=NOTHING,
        length_s=Seconds(4.0),
        latency_s=Seconds(0.1),
    )


def _watched(speech: Path, output: Path, seconds: int) -> int:
    options = command._parser().parse_args(["--file", str(speech)])
    results = History()
    apps: list[Watched] = []

    def made(*arguments: object, **settings: object) -> Watched:
        apps.append(Watched(*arguments, **settings))  # type: ignore[arg-type]
        apps[0].seconds = seconds
        return apps[0]

    try:
        session = command.make_session(options, results, threading.Event())
        code = run_app(session, mode="vad", on_final=lambda _final: None, app_class=made)  # type: ignore[arg-type]
    finally:
        results.close()
    (app,) = apps
    counted = app.counts
    rows = app.main.history.option_count
    output.write_bytes(
        msgspec.json.encode(Measured(app.late[False], app.late[True], counted[Partial.__name__], counted[Final.__name__], rows, app.places))
    )
    return code


if __name__ == "__main__":
    sys.exit(run(main))
