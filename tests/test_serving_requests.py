"""What `moonshine-lora serve` takes and what it refuses: fields, files, keys, bodies, slow clients."""

import json
import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser
from servers import FILE, FORM, KEY, Server, path_of, wait_until

from lora.audio.loading import encode_flac, encode_wav
from lora.dataset.manifest import Utterance
from lora.errors import RequestError
from lora.serving.forms import _Parts
from lora.units import SAMPLE_RATE_HZ


@pytest.mark.parametrize(
    ("fields", "status", "param", "says"),
    [
        ({"model": "whisper-1"}, 404, "model", "no model is named 'whisper-1'; known are tiny, tuned"),
        ({"language": "de"}, 400, "language", "transcribes English (en), not 'de'"),
        ({"temperature": 0.4}, 400, "temperature", "`temperature` is 0 here"),
        ({"prompt": "Kubernetes"}, 400, "prompt", "`prompt` cannot be taken"),
        ({"stream": True}, 400, "stream", "`stream` is false here"),
        ({"response_format": "diarized_json"}, 400, "response_format", "json, text, srt, vtt or verbose_json"),
        ({"timestamp_granularities": ["word"]}, 400, "timestamp_granularities", "needs `response_format` verbose_json"),
        (
            {"response_format": "verbose_json", "timestamp_granularities": ["letter"]},
            400,
            "timestamp_granularities",
            "segment or word, not 'letter'",
        ),
        ({"chunking_strategy": {"type": "server_vad"}}, 400, None, "chunking_strategy"),
        ({"include": ["logprobs"]}, 400, "include", "'include' is not known here"),
        ({"extra_body": {"hotwords": "a"}}, 400, "hotwords", "'hotwords' is not known here"),
        ({"extra_body": {"channel": "left"}}, 400, "channel", "counted from 1, or mix"),
        ({"extra_body": {"track": 0}}, 400, "track", "counted from 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_field_is_honoured_or_refused(
    server: Server, clips: Sequence[Utterance], fields: dict[str, Any], status: int, param: str | None, says: str
) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        server.client().audio.transcriptions.create(**{"file": path_of(clips[0]), "model": "tiny", **fields})
    assert error.value.status_code == status
    assert says in error.value.message
    body = error.value.body
    assert isinstance(body, dict)
    assert body["type"] == "invalid_request_error"
    assert param is None or body["param"] == param


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"These are words, and no sound at all. " * 40, "not readable as wav"),
        (b"", "the file is empty"),
        (encode_wav(np.zeros(400, dtype=np.float32)), "lasts 0.0"),
        (encode_wav(np.full(SAMPLE_RATE_HZ, 0.1, dtype=np.float32))[:9000], "broke off|truncated|holds"),
        (encode_flac(np.zeros(61 * SAMPLE_RATE_HZ, dtype=np.float32)), "lasts more than 60 s"),
    ],
    ids=["no sound", "empty", "too short", "broken off", "too long"],
)
def test_a_file_that_is_no_speech_is_refused(server: Server, content: bytes, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as error:
        server.client().audio.transcriptions.create(file=("speech.wav", content), model="tiny")
    assert isinstance(error.value.body, dict)
    assert error.value.body["param"] == "file"


def test_a_key_is_asked_for_before_anything_is_read(server: Server, clips: Sequence[Utterance]) -> None:
    for key in ("another-key-0123456789", KEY[:-1], f"{KEY}x"):
        with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
            server.client(key).audio.transcriptions.create(file=path_of(clips[0]), model="tiny")
    assert server.get("/v1/models")[0] == 401
    assert server.get("/metrics")[0] == 401
    assert server.get("/v1/models", {"Authorization": f"Basic {KEY}"})[0] == 401
    assert server.get("/health") == (200, '{"status":"ok"}')


def test_what_is_not_there_names_what_is(server: Server) -> None:
    status, text = server.get("/v1/chat/completions")
    assert status == 404
    assert "POST /v1/audio/transcriptions" in json.loads(text)["error"]["message"]
    assert server.get("/v1/audio/transcriptions")[0] == 405


def answered(server: Server, head: str, body: Iterator[bytes]) -> tuple[int, str]:
    """What a client gets that sends a body piece by piece, whatever is answered meanwhile, until it cannot."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{head}\r\n".encode())
        try:
            for piece in body:
                connection.sendall(piece)
        except ConnectionError:
            pass
        content = b""
        while part := connection.recv(65536):
            content += part
            if re.search(rb"\r\n\r\n.*\}\}", content, re.S):
                break
    top, _, text = content.decode().partition("\r\n\r\n")
    return int(top.split()[1]), json.loads(text)["error"]["message"]


def test_two_gigabytes_are_refused_at_once_by_their_header(server: Server) -> None:
    status, says = answered(server, f"{FORM}Content-Length: {2 << 30}\r\n", iter([FILE]))
    assert (status, says) == (413, "the body has more than 5 MB; send a smaller file, as flac or opus, or in parts")


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(server: Server, clips: Sequence[Utterance]) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"%x\r\n%b\r\n" % (len(FILE), FILE)
        while sent < 2 << 30:
            sent += 1 << 16
            yield b"10000\r\n" + b"\0" * (1 << 16) + b"\r\n"

    status, _ = answered(server, f"{FORM}Transfer-Encoding: chunked\r\n", endless())
    assert status == 413
    assert sent < 100_000_000
    assert "worst of time" in server.client().audio.transcriptions.create(file=path_of(clips[0]), model="tiny").text.lower()


def test_the_real_client_learns_that_its_file_is_too_large(server: Server) -> None:
    with pytest.raises(openai.APIStatusError, match="more than 5 MB") as error:
        server.client().audio.transcriptions.create(file=("a.wav", b"\0" * 40_000_000), model="tiny")
    assert error.value.status_code == 413


@pytest.mark.parametrize(
    ("head", "body", "says"),
    [
        ("Content-Type: application/json\r\nContent-Length: 2\r\n", b"{}", "send a form"),
        ("Content-Type: multipart/form-data\r\nContent-Length: 2\r\n", b"{}", "send a form"),
        (f"{FORM}Content-Length: 7\r\n", b"nothing", "the form is broken"),
        (f"{FORM}Content-Length: {len(FILE)}\r\n", FILE, "it ends before its last boundary"),
        (f"{FORM}Content-Length: 5\r\n", b"--b--", "the form is broken|`model` is missing"),
    ],
)
def test_a_body_that_is_no_form_is_refused(server: Server, head: str, body: bytes, says: str) -> None:
    status, told = answered(server, head, iter([body]))
    assert status == 400
    assert re.search(says, told), told


def test_a_body_in_a_coding_is_refused(server: Server) -> None:
    status, told = answered(server, f"{FORM}Content-Encoding: gzip\r\nContent-Length: 2\r\n", iter([b"{}"]))
    assert status == 415
    assert "a body in gzip is not taken" in told


def test_a_form_needs_a_model_and_a_file_and_each_once(server: Server) -> None:
    def sent(*names: str) -> str:
        parts = "".join(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\ntiny\r\n' for name in names)
        body = f"{parts}--b--\r\n".encode()
        status, says = answered(server, f"{FORM}Content-Length: {len(body)}\r\n", iter([body]))
        assert status == 400
        return says

    assert sent("file") == "the field `model` is missing; give the name of a model: tiny, tuned"
    assert sent("model") == "the field `file` is missing: the recording to transcribe"
    assert sent("file", "model", "model") == "the field `model` is given 2 times; give the name of a model: tiny, tuned"
    assert sent("file", "file", "model") == "the form has two fields `file`; send one file a request"


def test_slow_clients_are_let_go_and_delay_nobody(server: Server, clips: Sequence[Utterance]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
        silent.sendall(b"POST /v1/audio")  # and no more: there is no request to answer
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(answered, server, f"{FORM}Content-Length: 100000\r\n", iter([FILE]))
            assert "worst of time" in server.client().audio.transcriptions.create(file=path_of(clips[0]), model="tiny").text.lower()
            status, says = slow.result()
        assert status == 408
        assert says.startswith("the body comes too slowly")
        assert silent.recv(100) == b""


def test_a_client_that_leaves_gives_its_place_back(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{FORM}Content-Length: 9999\r\n\r\n"
        connection.sendall(head.encode() + FILE)
        wait_until(lambda: server.metric("requests_in_progress") == 1)
    wait_until(lambda: server.metric("requests_in_progress") == 0)


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
    b'--b\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword\r\n'
    b'--b\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nsegment\r\n'
    b'--b\r\nContent-Type: audio/wav\r\ncontent-disposition: form-data; name="file"; filename="\xc3.wav"\r\n\r\n\r\n--c\r\n\0\r\n--b--\r\n'
)


@given(st.lists(st.integers(0, len(BODY)), max_size=12))
@settings(deadline=None)
def test_a_form_is_the_same_in_whatever_pieces_it_comes(places: list[int]) -> None:
    parts, cuts = _Parts(), [0, *sorted(places), len(BODY)]
    parser = MultipartParser(b"b", parts.callbacks())
    for start, stop in pairwise(cuts):
        parser.write(BODY[start:stop])
    assert parts.ended
    assert dict(parts.fields) == {"model": ["tiny"], "timestamp_granularities[]": ["word", "segment"]}
    assert parts.file == b"\r\n--c\r\n\0"


def test_a_form_with_too_many_or_too_large_fields_is_refused() -> None:
    field = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n%b\r\n'
    for body, says in ((field % b"" * 65, "more than 64 fields"), (field % (b"a" * 70_000), "more than 64 KB"), (field % b"\xff", "UTF-8")):
        with pytest.raises(RequestError, match=says):
            MultipartParser(b"b", _Parts().callbacks()).write(body + b"--b--\r\n")
