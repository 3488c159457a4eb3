"""Time-outs and signals: how the server runs, and how it ends."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lora.serving.api import Api
from lora.serving.sockets import BACKLOG
from lora.serving.wyoming import WyomingServer

KEEP_ALIVE_S: Final = 75
"""How long a connection stays open after an answer: clients keep some for their next request."""

MOST_CONNECTIONS: Final = 512


async def serve(
    api: Api, listening: socket.socket, wyoming: WyomingServer | None, of_wyoming: socket.socket | None, ready: Callable[[], None]
) -> None:
    """Serves until SIGINT or SIGTERM, and then until what has begun is answered; `ready` is called when it can be asked and stopped."""
    _Protocol.header_timeout_s = api.limits.read_timeout_s
    config = uvicorn.Config(
        api.app(),
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=MOST_CONNECTIONS,
        backlog=BACKLOG,
    )
    if wyoming is not None and of_wyoming is not None:
        await wyoming.start(of_wyoming)
    await _Server(config, wyoming, ready).serve([listening])


class _Server(uvicorn.Server):
    """Ends well on SIGINT and SIGTERM; a second one ends what has begun, too."""

    def __init__(self, config: uvicorn.Config, wyoming: WyomingServer | None, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._wyoming, self._ready = wyoming, ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {kind: signal.signal(kind, self._end) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _end(self, *_: object) -> None:
        self.force_exit, self.should_exit = self.should_exit, True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopped = self._wyoming.stop() if self._wyoming is not None else asyncio.sleep(0)
        await asyncio.gather(super().shutdown(sockets), stopped)


class _Protocol(H11Protocol):
    """Closes connections on which no request begins: uvicorn waits for its first line for ever."""

    header_timeout_s = 30.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._waits: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits = self.loop.call_later(self.header_timeout_s, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._waits is None and (self.cycle is None or self.cycle.response_complete):
            self._waits = self.loop.call_later(self.header_timeout_s, self.transport.close)
        super().data_received(data)
        if self._waits is not None and self.cycle is not None and not self.cycle.response_complete:
            self._waits.cancel()
            self._waits = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits is not None:
            self._waits.cancel()
        super().connection_lost(exc)
