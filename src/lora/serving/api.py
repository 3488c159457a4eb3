"""OpenAI's transcription API: routes, keys, and refusals in its form."""

import asyncio
import hashlib
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora.audio.loading import EncodedAudio
from lora.errors import AudioError, RequestError, TooLongError
from lora.longform.recording import Heard
from lora.serving.answers import answer
from lora.serving.engine import Engine
from lora.serving.forms import Limits, read_form, require_length
from lora.serving.metrics import Metrics
from lora.serving.models import Served, found
from lora.serving.options import Asked, asked
from lora.system.terminal import say

Handler = Callable[[Request], Awaitable[Response]]

GONE: Final = 499
"""The status counted for a client that left: no response is sent."""

LINGER_S: Final = 3.0
"""How long the rest of a refused body is read: a connection that is closed at once may take the answer with it."""


@dataclass(frozen=True)
class Api:
    """The application that uvicorn runs. `key` is what clients have to send; None lets everybody in."""

    engine: Engine
    models: Mapping[str, Served]
    limits: Limits
    metrics: Metrics
    key: str | None

    def app(self) -> Starlette:
        """The routes."""
        routes = [
            Route("/v1/audio/transcriptions", self._counted(self._transcribed), methods=["POST"]),
            Route("/v1/models", self._counted(self._listed)),
            Route("/v1/models/{name}", self._counted(self._shown)),
            Route("/metrics", self._counted(self._measured)),
            Route("/health", _healthy),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Lingering)], exception_handlers={HTTPException: _not_here})

    def _counted(self, handler: Handler) -> Handler:
        """Asks for the key, turns errors into answers, and counts them."""

        async def handle(request: Request) -> Response:
            started = time.monotonic()
            try:
                self._require_key(request)
                response = await handler(request)
            except RequestError as error:
                response = refused(error)
            except ClientDisconnect:
                response = Response(status_code=GONE)
            except Exception as error:  # noqa: BLE001 - a bug ends one request, not the server
                tell_fault(error)
                response = refused(RequestError(500, "the server failed on this request; its log says where"))
            self.metrics.requests.labels("http", response.status_code).inc()
            self.metrics.took.observe(time.monotonic() - started)
            return response

        return handle

    def _require_key(self, request: Request) -> None:
        if self.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.casefold() != "bearer" or not same(given.strip(), self.key):
            raise RequestError(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`", code="invalid_api_key")

    async def _transcribed(self, request: Request) -> Response:
        require_length(request, self.limits)
        with self.engine.place() as place:
            form = await read_form(request, self.limits, place)
            wanted, data = asked(form, self.models)
            del form
            source = EncodedAudio(data, "file", wanted.channel, wanted.track)
            del data
            heard = await self._heard(request, wanted, source)
            return await asyncio.to_thread(answer, wanted, heard)

    async def _heard(self, request: Request, wanted: Asked, source: EncodedAudio) -> Heard:
        """The engine's transcript; decoding stops if the client has gone."""
        future = asyncio.wrap_future(self.engine.hear(wanted.served, source, timed=wanted.timed))
        gone = asyncio.ensure_future(_gone(request))
        either: set[asyncio.Future[Any]] = {future, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise ClientDisconnect
            return future.result()
        except AudioError as error:
            raise not_heard(error) from error
        finally:
            future.cancel()
            gone.cancel()

    async def _listed(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_described(served) for served in self.models.values()]})

    async def _shown(self, request: Request) -> Response:
        return JSONResponse(_described(found(self.models, request.path_params["name"])))

    async def _measured(self, _request: Request) -> Response:
        return Response(self.metrics.text(), media_type=Metrics.content_type)


def same(given: str, key: str) -> bool:
    """Whether a key is the right one, compared in constant time."""
    return hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(key.encode()).digest())


def not_heard(error: AudioError) -> RequestError:
    """A refusal for a recording that cannot be used; where the command has a flag, the API has a field."""
    reason, choose, flags = str(error).partition("; choose with --")
    remedy = f"; send the field `{flags.split()[0].rstrip(',')}`" if choose else ""
    return RequestError(400, reason + remedy, param="file", code="audio_too_long" if isinstance(error, TooLongError) else "invalid_audio")


def refused(error: RequestError) -> JSONResponse:
    """A refusal in OpenAI's form."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status, headers)


def tell_fault(error: Exception) -> None:
    """Reports on standard error where the server failed, without the error's text, which may hold what a client sent."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    say(f"a request failed: {type(error).__name__} in {last.name}, line {last.lineno} of {last.filename}", sys.stderr)


class Lingering:
    """Reads on for a moment where a request is answered before its body has come, and closes its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = scope["type"] != "http" or not {b"content-length", b"transfer-encoding"} & dict(scope["headers"]).keys()

        async def hear() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not ended:
                await send({**message, "more_body": True})
                await _drained(hear, lambda: ended)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, hear, tell)


async def _drained(hear: Receive, ended: Callable[[], bool]) -> None:
    until = time.monotonic() + LINGER_S
    while not ended() and (left_s := until - time.monotonic()) > 0:
        try:
            await asyncio.wait_for(hear(), left_s)
        except TimeoutError:
            return
        await asyncio.sleep(0.01)  # a client that floods the server waits, not the others


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "no such page" if error.status_code == 404 else f"{request.method} is not answered here"
    return refused(
        RequestError(error.status_code, f"{what}; there are POST /v1/audio/transcriptions, GET /v1/models, /health and /metrics")
    )


def _described(served: Served) -> dict[str, object]:
    return {"id": served.name, "object": "model", "created": served.since, "owned_by": "moonshine-lora"}
