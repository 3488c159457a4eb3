"""Recordings of many clients heard together: cut on some threads, decoded in batches on others.

Recordings take turns, piece by piece, so that a long one delays nobody for long; what is decoded at once is of like length.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain, islice, zip_longest
from typing import Final

import torch

from lora.audio.loading import EncodedAudio
from lora.errors import RequestError
from lora.longform.recording import Heard
from lora.serving.metrics import Metrics
from lora.serving.models import Served
from lora.serving.recording import Clip, Recording
from lora.system.parallel import AT_A_TIME, threads_each
from lora.system.process import give_back_memory

BATCH_S: Final = 60.0
"""Limit on audio decoded at once: more gains little, and the next client waits for it."""

AHEAD_S: Final = 120.0
"""Audio of one recording that is cut ahead of decoding."""

GATHER_S: Final = 0.05
"""How long a worker waits for more clips while others are at work."""

TURN_S: Final = 0.1
"""How long one recording is cut before the next has its turn."""

LOOKED_AT: Final = 8
"""How many times a batch's clips are searched for those of similar length."""

SLOWEST: Final = 5.0
"""Assumed seconds of audio per second, before anything was measured."""

LONGEST_WAIT_S: Final = 60


class Engine:
    """Hears what clients send. `most` is how many requests may be there at once, `most_bytes` what their files may take."""

    def __init__(self, metrics: Metrics, *, most: int, most_bytes: int, max_s: float, device: torch.device) -> None:
        self._metrics = metrics
        self._most, self._most_bytes, self._max_s = most, most_bytes, max_s
        self._taken = self._bytes = 0
        self._changed = threading.Condition()
        self._ready: deque[Recording] = deque()
        """Recordings with clips that wait, in the order of their turns."""
        self._parked: set[Recording] = set()
        """Recordings that are not cut further until some of their clips are heard."""
        self._closed = False
        self._held_s = 0.0
        """Sound that is being decoded."""
        self._speed = SLOWEST
        workers = min(AT_A_TIME, torch.get_num_threads()) if device.type == "cpu" else 1
        self._at_end = ExitStack()
        self._at_end.enter_context(threads_each(max(1, torch.get_num_threads() // workers)))
        self._cutters = ThreadPoolExecutor(AT_A_TIME, "cut")
        self._workers = [threading.Thread(target=self._work, name=f"hear-{number}") for number in range(workers)]
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Finishes what has begun."""
        self._cutters.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
        self._at_end.close()

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A place in the queue, from a request's first byte to its answer. Raises `RequestError` if all are taken."""
        if self._taken >= self._most:
            raise self._busy(f"{self._taken} requests are being served")
        self._taken += 1
        self._metrics.places.set(self._taken)
        place = Place(self)
        try:
            yield place
        finally:
            self._taken -= 1
            self._bytes -= place.bytes
            self._metrics.places.set(self._taken)

    def hold(self, count: int) -> None:
        """Takes that many bytes of memory. Raises `RequestError` if others hold too many."""
        if self._bytes + count > self._most_bytes:
            raise self._busy("files of other requests fill the memory that is set aside")
        self._bytes += count

    def hear(self, served: Served, source: EncodedAudio, *, timed: bool) -> Future[Heard]:
        """What a recording gives, `timed` with the times of its words; cancelled, it is left alone. The future raises `AudioError`."""
        recording = Recording(served, source, self._max_s, timed=timed)
        self._cutters.submit(self._cut, recording)
        return recording.future

    def _busy(self, why: str) -> RequestError:
        with self._changed:
            waiting_s = sum(recording.waiting_s for recording in self._ready)
        wait_s = min(LONGEST_WAIT_S, 1 + math.ceil(waiting_s / self._speed))
        return RequestError(429, f"{why}; ask again in {wait_s} s", code="rate_limit_exceeded", retry_after_s=wait_s)

    def _cut(self, recording: Recording) -> None:
        """Cuts a recording until somebody else's turn, its end, or enough is cut."""
        until, piece = time.monotonic() + TURN_S, True
        try:
            while piece and time.monotonic() < until and recording.waiting_s < AHEAD_S:
                piece = self._cut_once(recording)
        except Exception as error:  # noqa: BLE001 - reported to the client whose recording it is
            _fail(recording.future, error)
            return
        with self._changed:
            if piece and recording.waiting_s >= AHEAD_S:
                self._parked.add(recording)
            elif piece:
                self._cutters.submit(self._cut, recording)
        self._finish([recording])

    def _cut_once(self, recording: Recording) -> bool:
        if recording.future.cancelled():
            return False
        piece = recording.cut()
        with self._changed:
            recording.take(piece)
            if recording.waiting and recording not in self._ready:
                self._ready.append(recording)
            self._changed.notify_all()
        return piece is not None

    def _work(self) -> None:
        while batch := self._batch():
            started = time.monotonic()
            self._hear(batch)
            give_back_memory()
            with self._changed:
                self._held_s -= _length_s(batch)
            self._measure(batch, time.monotonic() - started)

    def _batch(self) -> list[Clip]:
        """The clips to decode next; empty at the end."""
        until = math.inf
        with self._changed:
            while not self._gathered(until):
                if self._closed and not self._ready:
                    return []
                until = min(until, time.monotonic() + GATHER_S) if self._ready else math.inf
                self._changed.wait(until - time.monotonic() if self._ready else None)
            batch = self._chosen()
            for clip in batch:
                clip.recording.give(clip)
            self._held_s += _length_s(batch)
            self._ready.rotate(-1)
            self._go_on(batch)
        return batch

    def _gathered(self, until: float) -> bool:
        """Whether a batch can be made: at once if nobody is at work, else of as much as the others have, or at that time.

        Clients that have just been answered come again in a moment; a worker that did not wait for them would have small batches for ever.
        """
        self._ready = deque(one for one in self._ready if one.waiting and not one.future.done())
        self._parked = {one for one in self._parked if not one.future.done()}
        if not self._ready:
            return False
        waiting_s = sum(one.waiting_s for one in self._ready)
        return waiting_s >= min(BATCH_S, self._held_s / max(1, len(self._workers) - 1)) or time.monotonic() >= until

    def _chosen(self) -> list[Clip]:
        """The clip whose turn it is, and those of the same model that are most like it in length: a worker's share of all."""
        first = self._ready[0].waiting[0]
        size = first.recording.served.transcriber.request.batch_size
        turns = zip_longest(*(one.waiting for one in self._ready if one.served is first.recording.served))
        waiting = [clip for clip in islice(chain.from_iterable(turns), LOOKED_AT * size) if clip is not None]
        share_s = min(BATCH_S, (_length_s(waiting) + self._held_s) / len(self._workers))
        chosen, total_s = [first], float(first.length_s)
        for clip in sorted((one for one in waiting if one is not first), key=lambda one: abs(one.length_s - first.length_s)):
            if len(chosen) == size or total_s + clip.length_s / 2 > share_s:
                break
            chosen.append(clip)
            total_s += clip.length_s
        return chosen

    def _go_on(self, batch: Iterable[Clip]) -> None:
        """Continues to cut recordings of which enough has been decoded."""
        for recording in {clip.recording for clip in batch} & self._parked:
            if recording.waiting_s < AHEAD_S / 2:
                self._parked.remove(recording)
                self._cutters.submit(self._cut, recording)

    def _hear(self, batch: Sequence[Clip]) -> None:
        """Decodes a batch; if that fails, clip by clip, so that one client's sound cannot spoil another's."""
        try:
            found = batch[0].recording.served.listener.batch([clip.samples for clip in batch], [clip.timed for clip in batch])
        except Exception as error:  # noqa: BLE001 - reported to the client whose clip it is
            if len(batch) == 1:
                _fail(batch[0].recording.future, error)
            for clip in batch if len(batch) > 1 else ():
                self._hear([clip])
            return
        with self._changed:
            for clip, (transcript, said) in zip(batch, found, strict=True):
                clip.recording.hear(clip, transcript, said)
        self._finish({clip.recording for clip in batch})

    def _finish(self, recordings: Iterable[Recording]) -> None:
        for recording in recordings:
            with self._changed:
                done = recording.done and not recording.future.done()
                heard = recording.joined() if done else None
            if heard is not None:
                self._metrics.sound.labels(recording.served.name).inc(heard.length_s)
                _give(recording.future, heard)

    def _measure(self, batch: Sequence[Clip], took_s: float) -> None:
        self._metrics.batch.observe(len(batch))
        self._speed += 0.1 * (len(self._workers) * _length_s(batch) / max(took_s, 1e-3) - self._speed)


class Place:
    """A request's place in the queue, and the memory that it holds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.bytes = 0

    def hold(self, count: int) -> None:
        """Takes more memory. Raises `RequestError` if others hold too much."""
        self._engine.hold(count)
        self.bytes += count


def _length_s(clips: Iterable[Clip]) -> float:
    return sum(clip.length_s for clip in clips)


def _give(future: Future[Heard], heard: Heard) -> None:
    """The client may have gone in the same moment."""
    try:
        future.set_result(heard)
    except InvalidStateError:
        return


def _fail(future: Future[Heard], error: Exception) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:
        return
