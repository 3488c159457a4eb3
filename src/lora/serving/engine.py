"""Recordings of many clients heard together: cut on some threads, decoded on others.

Recordings take turns, piece by piece, so that a long one delays nobody for long. A piece joins what is being decoded as soon as there is
room, and its transcript is given as soon as it has ended.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

import torch
from torch import Tensor

from lora.audio.loading import EncodedAudio
from lora.errors import RequestError
from lora.longform.recording import Heard
from lora.model.joining import Joining
from lora.model.transcript import Transcript
from lora.passages import Word
from lora.serving.metrics import Metrics
from lora.serving.models import Served
from lora.serving.recording import Clip, Recording
from lora.system.parallel import AT_A_TIME, threads_each
from lora.system.process import give_back_memory

JOIN_S: Final = 20.0
"""Sound that joins at once at most: encoding it takes a third of a second, in which what is being decoded waits."""

TRIM_S: Final = 120.0
"""Sound after which a worker returns freed memory to the system."""

AHEAD_S: Final = 120.0
"""Audio of one recording that is cut ahead of decoding."""

TURN_S: Final = 0.1
"""How long one recording is cut before the next has its turn."""

SLOWEST: Final = 5.0
"""Assumed seconds of audio per second, before anything was measured."""

REMEMBERED: Final = 0.999
"""What a round leaves of the speed that was measured before: some twenty seconds count."""

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
        self._heard_s, self._busy_s = SLOWEST, 1.0
        """Sound that was heard of late, and what that took."""
        workers = min(AT_A_TIME, torch.get_num_threads()) if device.type == "cpu" else 1
        self._at_end = ExitStack()
        self._at_end.enter_context(threads_each(max(1, torch.get_num_threads() // workers)))
        self._cutters = ThreadPoolExecutor(AT_A_TIME, "cut")
        self._rows = [0] * workers
        """Clips that each worker decodes."""
        self._workers = [threading.Thread(target=self._work, args=(number,), name=f"hear-{number}") for number in range(workers)]
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
        wait_s = min(LONGEST_WAIT_S, 1 + math.ceil(waiting_s * self._busy_s / self._heard_s))
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

    def _work(self, number: int) -> None:
        running, joined_s = dict[str, Running](), 0.0
        while (clips := self._joining(number, running)) is not None:
            started = time.monotonic()
            for clip in clips:
                self._join(running, clip)
            ended_s = sum(self._round(batch) for batch in list(running.values()))
            joined_s += _length_s(clips)
            if joined_s > TRIM_S:
                joined_s = 0.0
                give_back_memory()
            self._measure(ended_s, time.monotonic() - started)

    def _joining(self, number: int, running: "dict[str, Running]") -> list[Clip] | None:
        """The clips that a worker takes now: its share of what waits, in the order of turns. None at the end."""
        with self._changed:
            self._rows[number] = sum(len(batch) for batch in running.values())
            while not (self._waiting() or self._rows[number]):
                if self._closed:
                    return None
                self._changed.wait()
            taken = list[Clip]()
            while self._has_room(number) and _length_s(taken) < JOIN_S and (clip := self._next()) is not None:
                taken.append(clip)
                self._rows[number] += 1
            self._go_on(taken)
        return taken

    def _waiting(self) -> int:
        """How many clips wait; recordings of which nobody waits for a clip are put aside."""
        self._ready = deque(one for one in self._ready if one.waiting and not one.future.done())
        self._parked = {one for one in self._parked if not one.future.done()}
        return sum(len(one.waiting) for one in self._ready)

    def _has_room(self, number: int) -> bool:
        """Whether a worker has less than its share of all clips, and than a batch may have."""
        waiting = self._waiting()
        if not waiting:
            return False
        most = self._ready[0].served.transcriber.request.batch_size
        return self._rows[number] < min(most, math.ceil((sum(self._rows) + waiting) / len(self._rows)))

    def _next(self) -> Clip | None:
        """The clip whose turn it is."""
        if not self._ready:
            return None
        recording = self._ready[0]
        clip = recording.waiting[0]
        recording.give(clip)
        self._ready.rotate(-1)
        return clip

    def _go_on(self, batch: Iterable[Clip]) -> None:
        """Continues to cut recordings of which enough has been decoded."""
        for recording in {clip.recording for clip in batch} & self._parked:
            if recording.waiting_s < AHEAD_S / 2:
                self._parked.remove(recording)
                self._cutters.submit(self._cut, recording)

    def _join(self, running: "dict[str, Running]", clip: Clip) -> None:
        """Encodes a clip, which joins those of its model."""
        served = clip.recording.served
        try:
            frames = served.listener.frames(clip.samples)
        except Exception as error:  # noqa: BLE001 - told to the client whose clip it is
            _fail(clip.recording.future, error)
            return
        running.setdefault(served.name, Running(served)).join(clip, frames)

    def _round(self, batch: "Running") -> float:
        """A token more for each clip of a batch; gives the sound of those that have ended."""
        if not len(batch):
            return 0.0
        self._metrics.batch.observe(len(batch))
        try:
            ended = batch.round()
        except Exception:  # noqa: BLE001 - clip by clip, so that one client's sound cannot spoil another's
            ended = []
            for clip in batch.emptied():
                self._hear_alone(clip)
        self._give([(clip, (transcript, said)) for clip, transcript, said in ended])
        return _length_s(clip for clip, _, _ in ended)

    def _hear_alone(self, clip: Clip) -> None:
        try:
            found = clip.recording.served.listener.batch([clip.samples], [clip.timed])
        except Exception as error:  # noqa: BLE001 - told to the client whose clip it is
            _fail(clip.recording.future, error)
            return
        self._give([(clip, found[0])])

    def _give(self, found: Sequence[tuple[Clip, tuple[Transcript, list[Word] | None]]]) -> None:
        with self._changed:
            for clip, (transcript, said) in found:
                clip.recording.hear(clip, transcript, said)
        self._finish({clip.recording for clip, _ in found})

    def _finish(self, recordings: Iterable[Recording]) -> None:
        for recording in recordings:
            with self._changed:
                done = recording.done and not recording.future.done()
                heard = recording.joined() if done else None
            if heard is not None:
                self._metrics.sound.labels(recording.served.name).inc(heard.length_s)
                _give(recording.future, heard)

    def _measure(self, ended_s: float, took_s: float) -> None:
        with self._changed:
            self._heard_s = REMEMBERED * self._heard_s + ended_s
            self._busy_s = REMEMBERED * self._busy_s + took_s / len(self._rows)


class Running:
    """Clips of one model that a worker decodes together."""

    def __init__(self, served: Served) -> None:
        self._listener = served.listener
        self._joining: Joining[Clip] = served.listener.joining()
        self._frames: dict[Clip, Tensor] = {}
        """Of clips whose words are timed."""

    def __len__(self) -> int:
        return len(self._joining)

    def join(self, clip: Clip, frames: Tensor) -> None:
        """Adds a clip with its encoder output."""
        self._joining.join(clip, frames, clip.length_s)
        if clip.timed:
            self._frames[clip] = frames

    def round(self) -> list[tuple[Clip, Transcript, list[Word] | None]]:
        """A token more for each clip for which somebody waits; gives those that have ended."""
        self._leave([clip for clip in self._joining.keys if clip.recording.future.done()])
        ended = self._joining.round() if len(self) else []
        found = [(clip, transcript, self._words(clip, transcript)) for clip, transcript in ended]
        self._leave([clip for clip, _ in ended])
        return found

    def emptied(self) -> list[Clip]:
        """The clips, which all leave."""
        clips = self._joining.keys
        self._leave(clips)
        return clips

    def _words(self, clip: Clip, transcript: Transcript) -> list[Word] | None:
        return self._listener.words(self._frames[clip], transcript, clip.samples) if clip.timed else None

    def _leave(self, clips: Sequence[Clip]) -> None:
        self._joining.leave(clips)
        for clip in clips:
            self._frames.pop(clip, None)


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
