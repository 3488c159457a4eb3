"""Messages between the app and the model's process, and the queue of those that are not handled yet."""

import os
import queue
import threading
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection

from lora.audio.loading import Waveform
from lora_cli.engine.events import Event


@dataclass(frozen=True, slots=True)
class Begin:
    recording: int
    hands_free: bool
    started_at: datetime
    repeated: int = 0
    """Samples at its start that were sent after the release of the recording before: what that one has heard is not heard again."""


@dataclass(frozen=True, slots=True)
class Feed:
    samples: Waveform
    at: float
    """`time.monotonic` when the last sample arrived; it is the same clock in all processes."""


@dataclass(frozen=True, slots=True)
class End:
    """The release. `postroll` samples that come behind it still belong to the recording."""

    at: float
    postroll: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    pass


@dataclass(frozen=True, slots=True)
class Use:
    name: str


@dataclass(frozen=True, slots=True)
class Compare:
    name: str | None


Command = Begin | Feed | End | Cancel | Use | Compare


@dataclass(frozen=True, slots=True)
class Sent:
    """An event on its way to the app. Latency counts from `since`, up to when the app has it."""

    event: Event
    since: float | None = None


class Inbox:
    """Commands as they come through the pipe, taken off it also while the model computes. The app's end is the process's end."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.released = threading.Event()
        """Set from the end of a recording until it is handled: decoding for live text can be cancelled."""
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    def next(self, wait_s: float | None) -> Command | None:
        """The next command; None when none comes within the time, if one is given."""
        try:
            return self._commands.get(timeout=wait_s) if wait_s != 0 else self._commands.get_nowait()
        except queue.Empty:
            return None

    def _receive(self) -> None:
        while True:
            try:
                command = self._pipe.recv()
            except (EOFError, OSError):  # the app has ended, however it did
                os._exit(0)
            if command is None:
                os._exit(0)
            if isinstance(command, End | Cancel):
                self.released.set()
            self._commands.put(command)
