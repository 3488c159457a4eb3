"""The model at work in a process of its own, seen from the app: nothing here waits for it."""

import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from lora.audio.loading import Waveform, duration
from lora.errors import ConfigError
from lora.system.device import Device, Precision
from lora.system.process import age_s
from lora.system.process_settings import process_settings
from lora.units import Seconds
from lora_cli.engine.commands import Begin, Cancel, Command, Compare, End, Feed, Inbox, Sent, Use
from lora_cli.engine.events import Event, Failed, Final, Loading, Ready, Voice

CLOSING_S = 2.0
"""How long to wait for the model's process to end before it is killed."""


class Engine:
    """Transcribes recordings in a separate process.

    `emit` is called from a thread of the engine's own. The methods may be called from any thread and return at once; only `close`
    waits for the process to end. A process that breaks, or an app that ends, takes nothing else with it.
    """

    def __init__(
        self, voices: Sequence[Voice], emit: Callable[[Event], None], *, device: Device = "auto", precision: Precision = "float32"
    ) -> None:
        self._voices = tuple(voices)
        self._emit = emit
        self._device: Device = device
        self._precision: Precision = precision
        self._outbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._recordings = 0
        self._recording = False
        self._following = False
        """Whether sound may come that belongs to a recording that was ended."""
        self._over = False
        """Whether the process has ended, so that nothing is queued for it."""
        self._closing = threading.Event()
        self._process: BaseProcess | None = None
        self._thread = threading.Thread(target=self._supervise, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the process. `Loading` events come, then `Ready` or `Failed`."""
        self._thread.start()

    def begin(self, *, hands_free: bool, preroll: Waveform, repeated: int = 0) -> int:
        """A recording starts, with the sound just before it; returns its number. One that is still on ends first.

        The first `repeated` samples were fed already, after the end of the recording before.

        Before `Ready` the sound is kept, and heard when the model is there.
        """
        self.end()
        with self._lock:
            self._recordings += 1
            if self._over:
                return self._recordings
            self._recording, self._following = True, False
            started_at = datetime.now().astimezone() - timedelta(seconds=duration(preroll))
            self._outbox.put(Begin(self._recordings, hands_free, started_at, repeated))
            if len(preroll):
                self._outbox.put(Feed(preroll, time.monotonic()))
            return self._recordings

    def feed(self, samples: Waveform) -> None:
        """More sound of the recording: 16 kHz mono `[samples]`. Ignored while no recording is on, but for what `end` waits for."""
        with self._lock:
            if (self._recording or self._following) and len(samples):
                self._outbox.put(Feed(samples, time.monotonic()))

    def end(self, postroll: int = 0) -> None:
        """The recording is over; its `Final` comes. Does nothing while no recording is on.

        Up to `postroll` samples that are fed from now on still belong to it: fewer where the speaker was silent before, or none comes.
        """
        with self._lock:
            if self._recording:
                self._recording, self._following = False, postroll > 0
                self._outbox.put(End(time.monotonic(), postroll))

    def cancel(self) -> None:
        """The recording is over, and what is not final yet is forgotten."""
        with self._lock:
            if self._recording or self._following:
                self._recording = self._following = False
                self._outbox.put(Cancel())

    def use(self, name: str) -> None:
        """Switches to another voice, from the next utterance on. Raises `ConfigError` when there is none of that name."""
        self._check(name)
        self._outbox.put(Use(name))

    def compare(self, name: str | None) -> None:
        """Lets another voice hear the same speech too, or none. Raises `ConfigError` when there is none of that name."""
        if name is not None:
            self._check(name)
        self._outbox.put(Compare(name))

    def close(self) -> None:
        """Ends the process, and waits until it has ended; no event comes after that."""
        self._closing.set()
        with self._lock:
            self._recording = self._following = False
        self._outbox.put(None)
        if self._thread.ident is None:
            return
        self._thread.join(CLOSING_S)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
        self._thread.join()

    @property
    def pid(self) -> int | None:
        """Id of the model's process, once it runs."""
        return self._process.pid if self._process else None

    def _check(self, name: str) -> None:
        if name not in {voice.name for voice in self._voices}:
            raise ConfigError(f"{name}: no such voice; there are {', '.join(voice.name for voice in self._voices)}")

    def _supervise(self) -> None:
        """Runs the process and passes its events on, until it ends."""
        with ExitStack() as stack:
            try:
                errors = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moonshine-")), "stderr")
                process, ours = self._started(errors)
            except OSError as error:
                with self._lock:
                    self._recording, self._following, self._over = False, False, True
                self._emit(Failed(f"the speech engine cannot be started: {error}; fix that and start moonshine again"))
                return
            writer = threading.Thread(target=self._write, args=(ours,), name="engine-writer", daemon=True)
            writer.start()
            failed = self._read(ours)
            with self._lock:
                self._recording, self._following, self._over = False, False, True
            self._outbox.put(None)
            process.join()
            writer.join()
            ours.close()
            if not failed and not self._closing.is_set():
                self._emit(Failed(_epitaph(process.exitcode, errors)))

    def _started(self, errors: Path) -> tuple[BaseProcess, Connection]:
        """The process, and our end of the pipe to it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._voices, self._device, self._precision, errors)
        self._process = process = context.Process(target=_work, args=arguments, name="moonshine engine", daemon=True)
        process.start()
        theirs.close()  # or the end of the process would not show in ours
        return process, ours

    def _write(self, pipe: Connection) -> None:
        """Passes commands on. A full pipe blocks here, and nobody else."""
        while (command := self._outbox.get()) is not None:
            try:
                pipe.send(command)
            except OSError:  # the process has ended; the reader says why
                return
        if self._closing.is_set():
            try:
                pipe.send(None)
            except OSError:
                return

    def _read(self, pipe: Connection) -> bool:
        """Emits events until the process ends; returns whether it said itself that it failed."""
        failed = False
        while True:
            try:
                sent: Sent = pipe.recv()
            except (EOFError, OSError):
                return failed
            event = sent.event
            if isinstance(event, Final) and sent.since is not None:
                event = replace(event, latency_s=Seconds(time.monotonic() - sent.since))
            if isinstance(event, Ready):  # what the user has waited: the import of PyTorch is most of it
                event = replace(event, seconds=age_s())
            failed = failed or isinstance(event, Failed)
            if not self._closing.is_set():
                self._emit(event)


@process_settings()
def _work(pipe: Connection, voices: tuple[Voice, ...], device: Device, precision: Precision, errors: Path) -> None:
    """The main function of the process. PyTorch takes seconds to import, so the app is informed first and can end the process meanwhile.

    Where all voices are exports, neither PyTorch nor transformers is imported.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the app decides what it means
    with errors.open("wb") as stream:  # what libraries print would end up on the app's screen
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    inbox = Inbox(pipe)
    computing = "ONNX Runtime" if all(voice.export_folder for voice in voices) else "PyTorch"
    pipe.send(Sent(Loading(f"loading {computing}", 1, len(voices) + 2)))
    if computing == "PyTorch":
        _share_no_lock()
    from lora_cli.engine.recognition import work

    work(pipe, inbox, voices, device, precision)


def _share_no_lock() -> None:
    """Keeps progress bars from making a lock for several processes: this one ends at once and would leave its semaphore behind."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _epitaph(exit_code: int | None, errors: Path) -> str:
    lines = [line.strip() for line in errors.read_text(errors="replace").splitlines() if line.strip()] if errors.exists() else []
    why = f" ({lines[-1]})" if lines else ""
    return f"the speech engine ended with exit code {exit_code}{why}; start moonshine again"
