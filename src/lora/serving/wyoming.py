"""The Wyoming protocol, by which Home Assistant has speech transcribed: events as JSON lines, and sound as raw samples."""

import asyncio
import io
import time
import wave
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from contextlib import suppress
from socket import socket
from typing import Any, Final, cast

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from lora import __version__
from lora.audio.loading import EncodedAudio
from lora.errors import AudioError, RequestError
from lora.language import code
from lora.serving.api import LINGER_S, not_heard, tell_fault
from lora.serving.engine import Engine, Place
from lora.serving.forms import Limits
from lora.serving.metrics import Metrics
from lora.serving.models import Served, found, require_language

MOST_EVENT_BYTES: Final = 1 << 20
"""Of an event's data or sound: half a minute at 16 kHz, where clients send a tenth of a second."""

NO_EVENT: Final = "this is no Wyoming event"

_BROKEN: Final = (EOFError, KeyError, TypeError, AttributeError, ValueError, RecursionError)
"""What the package raises for an invalid event."""


class WyomingServer:
    """Answers on one socket."""

    def __init__(self, engine: Engine, models: Mapping[str, Served], limits: Limits, metrics: Metrics) -> None:
        self._engine, self._models, self._limits, self._metrics = engine, models, limits, metrics
        self._listening: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self, listening: socket) -> None:
        """Begins to accept connections."""
        self._listening = await asyncio.start_server(self._accept, sock=listening, limit=MOST_EVENT_BYTES)

    async def stop(self) -> None:
        """Accepts no more, ends what is idle, and waits for what is being transcribed."""
        if self._listening is None:
            return
        self._listening.close()
        for task, connection in list(self._connections.items()):
            connection.last = True
            if not connection.busy:
                task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = _Connection(self._engine, self._models, self._limits, self._metrics, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            await connection.run()
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            del self._connections[task]
            writer.close()


class _Bounded:
    """A stream that gives no more at once than an event may have, whatever that says of itself, and waits no longer than is allowed."""

    def __init__(self, reader: StreamReader, timeout_s: float) -> None:
        self._reader, self._timeout_s = reader, timeout_s
        self.ended = False
        """Whether the client has left between two events."""

    async def readline(self) -> bytes:
        line = await asyncio.wait_for(self._reader.readline(), self._timeout_s)
        self.ended = not line
        return line

    async def readexactly(self, count: int) -> bytes:
        if count > MOST_EVENT_BYTES:
            raise RequestError(413, f"an event has {count} bytes; send sound in parts of up to {MOST_EVENT_BYTES}")
        return await asyncio.wait_for(self._reader.readexactly(count), self._timeout_s)


class _Connection:
    """One client, which may ask for several transcripts, one after the other."""

    def __init__(
        self,
        engine: Engine,
        models: Mapping[str, Served],
        limits: Limits,
        metrics: Metrics,
        reader: StreamReader,
        writer: StreamWriter,
    ) -> None:
        """Six parameters: four are the server's, two the connection's."""
        self._engine, self._models, self._limits, self._metrics = engine, models, limits, metrics
        self._bounded = _Bounded(reader, limits.read_timeout_s)
        self._rest, self._writer = reader, writer
        self._served = next(iter(models.values()))
        self.busy = False
        self.last = False
        """Whether what is being transcribed is the last of this connection."""

    async def run(self) -> None:
        """Answers until the client leaves, says nothing for too long, or sends what is no event."""
        try:
            while not self.last and (event := await self._event()) is not None:
                if AudioStart.is_type(event.type):
                    await self._transcribe(AudioStart.from_event(event))
                else:
                    await self._answer(event)
        except TimeoutError:
            return
        except RequestError as error:
            await self._refuse(error)
        except _BROKEN:
            await self._refuse(RequestError(400, NO_EVENT))

    async def _event(self) -> Event | None:
        """The next event; None if the client has left. Raises `RequestError` for what is none: the package takes much of it for the end."""
        event = await async_read_event(cast("StreamReader", self._bounded))
        if event is None and not self._bounded.ended:
            raise RequestError(400, NO_EVENT)
        return event

    async def _answer(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self._send(info(self._models).event())
        elif Ping.is_type(event.type):
            await self._send(Pong(text=Ping.from_event(event).text).event())
        elif Transcribe.is_type(event.type):
            wanted = Transcribe.from_event(event)
            served = next(iter(self._models.values())) if wanted.name is None else found(self._models, wanted.name)
            if wanted.language is not None:
                require_language(served, wanted.language)
            self._served = served

    async def _transcribe(self, start: AudioStart) -> None:
        """From the first sample to the transcript."""
        self.busy, started, status = True, time.monotonic(), 200
        try:
            with self._engine.place() as place:
                data = await self._recorded(start, place)
                heard = await self._heard(EncodedAudio(data, "sound"))
            await self._send(Transcript(text=heard, language=code(self._served.language)).event())
        except RequestError as error:
            status = error.status
            raise
        finally:
            self.busy = False
            self._metrics.requests.labels("wyoming", status).inc()
            self._metrics.took.observe(time.monotonic() - started)

    async def _recorded(self, start: AudioStart, place: Place) -> bytes:
        """The sound as a WAV file in memory."""
        _require_wav(start)
        sound = bytearray()
        while (event := await self._event()) is not None and not AudioStop.is_type(event.type):
            if not AudioChunk.is_type(event.type):
                continue
            chunk = AudioChunk.from_event(event)
            audio = chunk.audio
            if (chunk.rate, chunk.width, chunk.channels) != (start.rate, start.width, start.channels):
                raise RequestError(400, f"a part is {_form(chunk)}, and the recording began as {_form(start)}")
            if len(sound) + len(audio) > self._limits.body_bytes:
                raise RequestError(413, f"the sound has more than {self._limits.body_bytes / 1e6:g} MB")
            place.hold(len(audio))
            sound += audio
        if event is None:
            raise ConnectionResetError
        return _wav(start, bytes(sound))

    async def _heard(self, source: EncodedAudio) -> str:
        try:
            return (await asyncio.wrap_future(self._engine.hear(self._served, source, timed=False))).text
        except AudioError as error:
            raise not_heard(error) from error
        except Exception as error:
            tell_fault(error)
            raise RequestError(500, "the server failed on this request; its log says where") from error

    async def _refuse(self, error: RequestError) -> None:
        """Sends the reason and keeps reading for a moment: closing a connection at once may lose the answer."""
        await self._send(Error(text=str(error), code=error.code or str(error.status)).event())
        self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self._rest.read(1 << 16):
                    await asyncio.sleep(0)

    async def _send(self, event: Event) -> None:
        await asyncio.wait_for(async_write_event(event, self._writer), self._limits.read_timeout_s)


def info(models: Mapping[str, Served]) -> Info:
    """What Home Assistant shows of the server."""
    by = Attribution(name="moonshine-lora", url="https://github.com/moonshine-ai/moonshine")
    known: dict[str, Any] = {"attribution": by, "installed": True, "version": __version__}
    served = [
        AsrModel(name=one.name, description=f"Moonshine: {one.name}", languages=[code(one.language)], **known) for one in models.values()
    ]
    program = AsrProgram(name="moonshine-lora", description="Tuned Moonshine models", models=served, **known)
    return Info(asr=[program])


def _form(sound: AudioStart | AudioChunk) -> str:
    return f"sound of {sound.channels} channels, {sound.width} bytes and {sound.rate} Hz"


def _require_wav(start: AudioStart) -> None:
    """Raises `RequestError` for a form that no WAV file has; a client's JSON may hold anything."""
    given = ((start.channels, 1 << 16), (start.width, 5), (start.rate, 1 << 30))
    if not all(type(value) is int and 0 < value < limit for value, limit in given):
        raise RequestError(400, f"{_form(start)} cannot be taken")


def _wav(start: AudioStart, sound: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(start.channels)
        written.setsampwidth(start.width)
        written.setframerate(start.rate)
        written.writeframes(sound)
    return file.getvalue()
