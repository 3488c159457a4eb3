"""A multipart body, read as it arrives: it is never on a disk, and refused as soon as it is too large or too slow."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from lora.errors import RequestError
from lora.serving.engine import Place

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD_BYTES: Final = 64 * 1024
"""Of all fields together, without the file."""

MOST_PARTS: Final = 64
LEAST_BYTES_S: Final = 4096
"""Least bytes per second that a client must send; the first `read_timeout_s` are exempt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may take."""

    body_bytes: int
    read_timeout_s: float


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields, each with all its values, and its file."""

    fields: dict[str, list[str]]
    file: bytes | None


async def read_form(request: Request, limits: Limits, place: Place) -> Form:
    """Reads the form of a request.

    Raises `RequestError` if it is none, is broken, too large, too slow, or finds no room; `ClientDisconnect` if nobody is there any
    more.
    """
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise RequestError(415, f"a body in {coding} is not taken; send it as it is")
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RequestError(400, "send a form (Content-Type: multipart/form-data) with the fields `file` and `model`")
    parts = _Parts()
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for chunk in _chunks(request, limits):
            place.hold(len(chunk))
            parser.write(chunk)
    except FormParserError as error:
        raise RequestError(400, f"the form is broken: {error}") from error
    if not parts.ended:
        raise RequestError(400, "the form is broken: it ends before its last boundary")
    return Form(dict(parts.fields), None if parts.file is None else bytes(parts.file))


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body, within its limits."""
    require_length(request, limits)
    received, started, body = 0, time.monotonic(), aiter(request.stream())
    while True:
        left_s = started + limits.read_timeout_s + received / LEAST_BYTES_S - time.monotonic()
        try:
            chunk = await asyncio.wait_for(anext(body, None), min(limits.read_timeout_s, left_s))
        except TimeoutError as error:
            raise RequestError(
                408, f"the body comes too slowly: less than {LEAST_BYTES_S} bytes a second, or nothing for {limits.read_timeout_s:g} s"
            ) from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limits.body_bytes:
            raise _too_large(limits)
        yield chunk


def require_length(request: Request, limits: Limits) -> None:
    """Raises `RequestError` if the header announces too large a body."""
    if int(request.headers.get("content-length", 0)) > limits.body_bytes:
        raise _too_large(limits)


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        413, f"the body has more than {limits.body_bytes / 1e6:g} MB; send a smaller file, as flac or opus, or in parts", param="file"
    )


class _Parts:
    """What the parser finds, part by part."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = defaultdict(list)
        self.file: bytearray | None = None
        self.ended = False
        self._count = self._field_bytes = 0
        self._header, self._value, self._disposition = b"", b"", ""
        self._content: bytearray = bytearray()
        self._name = ""

    def callbacks(self) -> "MultipartCallbacks":
        """As the parser wants them."""
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end", "end")
        return cast("MultipartCallbacks", {f"on_{name}": getattr(self, name) for name in names})

    def part_begin(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise RequestError(400, f"the form has more than {MOST_PARTS} fields")
        self._disposition, self._content = "", bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._header, self._value = b"", b""

    def headers_finished(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self._name = name.decode("utf-8", errors="replace")
        if self._name == "file":
            if self.file is not None:
                raise RequestError(400, "the form has two fields `file`; send one file a request", param="file")
            self.file = self._content

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name != "file":
            self._field_bytes += end - start
            if self._field_bytes > FIELD_BYTES:
                raise RequestError(400, f"the form's fields take more than {FIELD_BYTES // 1024} KB without the file", param=self._name)
        self._content += data[start:end]

    def part_end(self) -> None:
        if self._name != "file":
            self.fields[self._name].append(_text(self._name, self._content))

    def end(self) -> None:
        self.ended = True


def _text(name: str, content: bytearray) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the field {name!r} is not UTF-8", param=name) from error
