"""`moonshine-lora serve`: the real clients of OpenAI and of Wyoming talk to the real server, and nobody disturbs anybody else."""

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import openai
import pytest
from running import refusal
from servers import CPU, FILE, FORM, KEY, SHARED, Server, heard, key_file, path_of, serving, wait_until
from sounds import muxed, written
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from lora.audio.loading import AudioSettings, Waveform, encode_flac, encode_wav, load
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import CheckpointError, ServeError
from lora.model.loading import LoadedModel
from lora.serving.command import read_key
from lora.serving.models import request_of
from lora.transcribe import Transcriber, open_transcriber
from lora.units import SAMPLE_RATE_HZ

# --- OpenAI's client ---------------------------------------------------------------------------------------------------------------------


def test_the_models_are_listed_by_name(server: Server) -> None:
    assert [model.id for model in server.client().models.list()] == ["tiny", "tuned"]
    assert server.client().models.retrieve("tuned").owned_by == "moonshine-lora"
    with pytest.raises(openai.NotFoundError, match="known are tiny, tuned"):
        server.client().models.retrieve("whisper-1")


def test_every_format_says_what_the_command_says(server: Server, hearing: Transcriber, clips: Sequence[Utterance]) -> None:
    path, create = path_of(clips[0]), server.client().audio.transcriptions.create
    expected = heard(hearing, path, timed=True)
    assert create(file=path, model="tiny").text == expected.text
    assert create(file=path, model="tiny", response_format="text") == f"{expected.text}\n"
    words = [word.text for passage in expected.passages for word in passage.words or ()]
    for kind, head in (("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")):
        subtitles = create(file=path, model="tiny", response_format=kind)
        assert subtitles.startswith(head)
        assert re.sub(r"^(WEBVTT|\d+|.* --> .*)$", "", subtitles, flags=re.M).split() == words


def test_verbose_json_has_the_times_that_are_asked_for(server: Server, hearing: Transcriber, clips: Sequence[Utterance]) -> None:
    path, create = path_of(clips[0]), server.client().audio.transcriptions.create
    expected = heard(hearing, path, timed=True)
    both = create(file=path, model="tiny", response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (both.language, both.text) == ("english", expected.text)
    assert both.duration == pytest.approx(expected.length_s, abs=0.001)
    spoken = [word for passage in expected.passages for word in passage.words or ()]
    assert [(word.word, word.start, word.end) for word in both.words] == [
        (word.text, pytest.approx(word.start_s, abs=0.05), pytest.approx(word.end_s, abs=0.05)) for word in spoken
    ]
    assert " ".join(segment.text for segment in both.segments) == expected.text
    assert all(segment.start < segment.end <= both.duration for segment in both.segments)
    assert all(segment.avg_logprob < 0 < segment.compression_ratio for segment in both.segments)
    only = create(file=path, model="tiny", response_format="verbose_json", timestamp_granularities=["word"])
    assert (only.segments, len(only.words)) == (None, len(spoken))
    plain = create(file=path, model="tiny", response_format="verbose_json")
    assert (plain.words, len(plain.segments)) == (None, len(both.segments))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("wav", encode_wav),
        ("flac", encode_flac),
        ("mp3", lambda samples: written(samples, SAMPLE_RATE_HZ, "MP3", "MPEG_LAYER_III")),
        ("ogg", lambda samples: written(samples, SAMPLE_RATE_HZ, "OGG", "VORBIS")),
        ("m4a", lambda samples: muxed([samples[:, None]], SAMPLE_RATE_HZ, "ipod", "aac")),
        ("webm", lambda samples: muxed([samples[:, None]], SAMPLE_RATE_HZ, "webm", "libopus")),
    ],
)
def test_files_of_every_kind_are_heard(server: Server, waveforms: Sequence[Waveform], name: str, make: Callable[[Waveform], bytes]) -> None:
    text = server.client().audio.transcriptions.create(file=(f"speech.{name}", make(waveforms[0])), model="tiny").text
    assert "worst of time" in text.lower()


def test_fields_that_ask_for_what_is_done_anyway_are_taken(server: Server, clips: Sequence[Utterance]) -> None:
    text = server.client().audio.transcriptions.create(
        file=path_of(clips[0]), model="tiny", language="en", temperature=0, prompt="", stream=False, chunking_strategy="auto"
    )
    assert "worst of time" in text.text.lower()


def test_a_tuned_model_answers_under_its_own_name(server: Server, tuned: Path, clips: Sequence[Utterance]) -> None:
    own = open_transcriber(request_of(str(tuned), CPU))
    create = server.client().audio.transcriptions.create
    texts = [create(file=path_of(clip), model="tuned").text for clip in clips[:4]]
    assert texts == [heard(own, path_of(clip)).text for clip in clips[:4]]
    assert texts != [create(file=path_of(clip), model="tiny").text for clip in clips[:4]]


@pytest.mark.slow
def test_many_clients_at_once_each_get_their_own_text(server: Server, hearing: Transcriber, clips: Sequence[Utterance]) -> None:
    before = server.metric("batch_clips_sum") - server.metric("batch_clips_count")
    create = server.client().audio.transcriptions.create
    paths = [path_of(clip) for clip in clips]
    with ThreadPoolExecutor(len(paths)) as pool:
        texts = list(pool.map(lambda path: create(file=path, model="tiny").text, paths))
    assert texts == [heard(hearing, path).text for path in paths]
    assert server.metric("batch_clips_sum") - server.metric("batch_clips_count") > before  # some were decoded together
    assert server.metric("requests_in_progress") == 0


def test_the_sides_of_a_call_are_chosen_by_a_field(server: Server, waveforms: Sequence[Waveform]) -> None:
    length = min(len(waveforms[0]), len(waveforms[5]))
    call = written(np.stack([waveforms[0][:length], waveforms[5][:length]], axis=1), SAMPLE_RATE_HZ, "WAV", "PCM_16")
    create = server.client().audio.transcriptions.create
    with pytest.raises(openai.BadRequestError, match="two sides of a call; send the field `channel`"):
        create(file=("call.wav", call), model="tiny")
    one, other = (create(file=("call.wav", call), model="tiny", extra_body={"channel": number}).text for number in (1, 2))
    assert "worst of time" in one.lower()
    assert other != one


def test_a_language_without_an_entry_is_recognised_by_its_code(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    model = ("--model", f"welsh={random_v1.checkpoint.folder}", "--language", "other:cy", "--wyoming", "127.0.0.1:0")
    with serving(tmp_path / "tmp", *model) as server:
        create = server.client().audio.transcriptions.create
        found = create(file=path_of(clips[0]), model="welsh", response_format="verbose_json", language="cy")
        assert found.language == "cy"
        with pytest.raises(openai.BadRequestError, match=r"transcribes the language 'cy' \(cy\), not 'de'"):
            create(file=path_of(clips[0]), model="welsh", language="de")
        (described,) = said(server, Describe().event())
        assert Info.from_event(described).asr[0].models[0].languages == ["cy"]


def test_where_nobody_speaks_nothing_is_written(server: Server) -> None:
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    create = server.client().audio.transcriptions.create
    assert create(file=("hum.wav", encode_wav(hum)), model="tiny").text == ""
    whole = create(file=("hum.wav", encode_wav(hum)), model="tiny", response_format="verbose_json", timestamp_granularities=["word"])
    assert (whole.text, whole.words, whole.duration) == ("", [], 3.0)


# --- Wyoming's client --------------------------------------------------------------------------------------------------------------------


def said(server: Server, *events: Event) -> list[Event]:
    """What Wyoming's own client gets for some events: an answer to each but sound, until the server leaves."""

    async def talk() -> list[Event]:
        found = list[Event]()
        async with AsyncTcpClient("127.0.0.1", server.wyoming or 0, read_timeout=60) as client:
            for event in events:
                await client.write_event(event)
            while (answer := await client.read_event()) is not None:
                found.append(answer)
                if len(found) == sum(event.type in ("describe", "ping", "audio-stop", "broken") for event in events):
                    break
        return found

    return asyncio.run(talk())


def sound(samples: Waveform, rate: int = SAMPLE_RATE_HZ) -> list[Event]:
    pcm = (32767 * samples).astype("<i2").tobytes()
    form = {"rate": rate, "width": 2, "channels": 1}
    chunks = [AudioChunk(audio=pcm[start : start + 3200], **form).event() for start in range(0, len(pcm), 3200)]
    return [AudioStart(**form).event(), *chunks, AudioStop().event()]


def test_wyomings_client_learns_what_is_served(server: Server) -> None:
    described, pong = said(server, Describe().event(), Ping(text="a").event())
    (program,) = Info.from_event(described).asr
    assert [(model.name, model.languages) for model in program.models] == [("tiny", ["en"]), ("tuned", ["en"])]
    assert program.installed
    assert Pong.from_event(pong).text == "a"


def test_wyomings_client_gets_a_transcript(server: Server, hearing: Transcriber, clips: Sequence[Utterance]) -> None:
    samples = load(clips[0].audio, AudioSettings())
    (answer,) = said(server, Transcribe(name="tiny", language="en-GB").event(), *sound(samples))
    assert Transcript.from_event(answer).text == heard(hearing, path_of(clips[0])).text
    first, second = said(server, *sound(samples), *sound(load(clips[1].audio, AudioSettings())))
    assert first.data["text"] == answer.data["text"]
    assert second.data["text"] == heard(hearing, path_of(clips[1])).text


def test_wyomings_clients_are_heard_at_once(server: Server, hearing: Transcriber, clips: Sequence[Utterance]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda clip: said(server, *sound(load(clip.audio, AudioSettings()))), clips[:8]))
    assert [answer.data["text"] for (answer,) in answers] == [heard(hearing, path_of(clip)).text for clip in clips[:8]]


START = AudioStart(rate=16000, width=2, channels=1).event()


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([Transcribe(name="large").event(), Event("broken")], "no model is named 'large'; known are tiny, tuned"),
        ([Transcribe(language="de").event(), Event("broken")], "transcribes English (en), not 'de'"),
        (sound(np.zeros(10, dtype=np.float32)), "lasts 0.00 s"),
        (sound(np.zeros(61 * SAMPLE_RATE_HZ, dtype=np.float32)), "lasts more than 60 s"),
        ([AudioStart(rate=16000, width=9, channels=1).event(), AudioStop().event()], "9 bytes and 16000 Hz cannot be taken"),
        (
            [AudioStart(rate=16000, width=2, channels=1).event(), Event("audio-chunk", payload=b"a"), AudioStop().event()],
            "no Wyoming event",
        ),
        ([Event("broken", payload=bytes(2 << 20)), Describe().event()], "an event has 2097152 bytes"),
        ([AudioStart(rate=16000, width=2.5, channels=1).event(), AudioStop().event()], "2.5 bytes and 16000 Hz cannot be taken"),
        ([AudioStart(rate=1 << 40, width=2, channels=1).event(), AudioStop().event()], "1099511627776 Hz cannot be taken"),
        (
            [START, AudioChunk(rate=8000, width=2, channels=1, audio=b"ab").event()],
            "a part is sound of 1 channels, 2 bytes and 8000 Hz, and the recording began as",
        ),
    ],
    ids=["model", "language", "short", "long", "form", "chunk", "large", "half a byte", "rate", "other rate"],
)
def test_wyomings_client_is_told_why(server: Server, events: list[Event], says: str) -> None:
    error = said(server, *events)[-1]
    assert Error.is_type(error.type)
    assert says in Error.from_event(error).text


def test_what_is_no_event_ends_its_own_connection_only(server: Server) -> None:
    for line in (b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n", b'{"data": {}}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"):
        with socket.create_connection(("127.0.0.1", server.wyoming or 0), timeout=60) as connection:
            connection.sendall(line)
            answer = b""
            while part := connection.recv(4096):
                answer += part
            assert b'"this is no Wyoming event"' in answer, line
    assert said(server, Describe().event())
    assert "Traceback" not in server.errors.read_text()


# --- start, stop, and what is left -------------------------------------------------------------------------------------------------------


def test_nothing_of_what_clients_send_is_left(server: Server, clips: Sequence[Utterance]) -> None:
    """Runs behind the tests above: what all of them sent, and errors that they caused."""
    text = server.client().audio.transcriptions.create(file=("secret-name.wav", path_of(clips[0]).read_bytes()), model="tiny").text
    assert text
    assert server.errors.read_text() == ""
    temporary = server.errors.parent / "tmp"
    assert {path.name for path in temporary.rglob("*") if path.is_file()} <= {".ses"}  # a number by which onnxruntime counts its sessions
    links = (link.readlink() for link in Path(f"/proc/{server.process.pid}/fd").iterdir())
    assert not [link for link in links if temporary in link.parents and link.name != ".ses"]


def test_what_has_begun_is_finished_before_the_server_ends(clips: Sequence[Utterance], tmp_path: Path) -> None:
    with serving(tmp_path / "tmp", "--model", "tiny=packaged:moonshine-tiny", "--queue", 2) as server:
        boundary, content = b"--b\r\n", path_of(clips[0]).read_bytes()
        body = FILE + content + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--b--\r\n'
        assert boundary in body
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as begun,
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as other,
        ):
            for connection in (begun, other):
                head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body[:1000])
            wait_until(lambda: server.metric("requests_in_progress") == 2)
            busy = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            busy.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": "multipart/form-data; boundary=b"})
            refused = busy.getresponse()
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert json.loads(refused.read())["error"]["code"] == "rate_limit_exceeded"
            other.close()
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not connectable(server.port))
            begun.sendall(body[1000:])
            answer = begun.recv(65536)
            while not re.search(rb"\r\n\r\n.*\}\}", answer, re.S):
                answer += begun.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"worst of time" in answer.lower()
        assert server.process.wait(60) == 0
        assert server.errors.read_text() == ""
        with pytest.raises(openai.APIConnectionError):
            server.client().models.list()


def connectable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_what_has_begun_by_wyoming_is_finished_too(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    with serving(tmp_path / "tmp", "--model", f"a={tiny.checkpoint.model_id}", "--wyoming", "127.0.0.1:0") as server:

        async def talk() -> Event | None:
            start, *chunks, stop = sound(waveforms[0])
            async with AsyncTcpClient("127.0.0.1", server.wyoming or 0, read_timeout=60) as client:
                for event in (start, *chunks):
                    await client.write_event(event)
                await asyncio.to_thread(wait_until, lambda: server.metric("requests_in_progress") == 1)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(wait_until, lambda: not connectable(server.port))
                await client.write_event(stop)
                return await client.read_event()

        answer = asyncio.run(talk())
        assert answer is not None
        assert "worst of time" in answer.data["text"].lower()
        assert server.process.wait(20) == 0  # though the client has not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_ends_at_once_and_well(random_v1: LoadedModel, tmp_path: Path, number: int) -> None:
    with serving(tmp_path / "tmp", "--model", f"a={random_v1.checkpoint.folder}", "--wyoming", "127.0.0.1:0") as server:
        with socket.create_connection(("127.0.0.1", server.wyoming or 0)):
            server.process.send_signal(number)
            assert server.process.wait(30) == 0
        assert server.errors.read_text() == ""


@pytest.mark.slow
def test_clients_of_a_server_that_is_killed_see_an_error_and_come_back(random_v1: LoadedModel, tmp_path: Path) -> None:
    with serving(tmp_path / "tmp", "--model", f"a={random_v1.checkpoint.folder}") as first:
        client = first.client()
        assert len(client.models.list().data) == 1
        first.process.kill()
        first.process.wait()
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    with serving(tmp_path / "tmp", "--model", f"a={random_v1.checkpoint.folder}", "--port", first.port) as second:
        assert second.port == first.port
        assert len(client.models.list().data) == 1


def test_a_port_in_use_is_reported_at_once(server: Server) -> None:
    told = refusal("serve", "--model", "a=packaged:moonshine-tiny", "--port", server.port)
    assert told == f"error: 127.0.0.1:{server.port}: another program listens there; choose another with --port"
    told = refusal("serve", "--model", "a=packaged:moonshine-tiny", "--port", 0, "--wyoming", server.wyoming)
    assert told == f"error: 127.0.0.1:{server.wyoming}: another program listens there; choose another with --wyoming"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--model", "packaged:moonshine-tiny"), "--model packaged:moonshine-tiny: write NAME=SOURCE"),
        (("--model", "a b=packaged:moonshine-tiny"), "write NAME=SOURCE"),
        (("--model", "a="), "write NAME=SOURCE"),
        (("--model", "a=packaged:moonshine-tiny", "--model", "a=packaged:moonshine-tiny"), "--model a=...: the name is given twice"),
        ((), "nothing is served; give --run RUN, or --model NAME=SOURCE"),
        (("--run", "/no/such/run"), "argument --run: /no/such/run: no such run folder"),
        (("--run", "/"), "clients cannot send ''; choose a name with --model NAME=/"),
        (
            ("--run", ".", "--model", f"{Path.cwd().name}=packaged:moonshine-tiny"),
            f"--model {Path.cwd().name}=...: the name is given twice",
        ),
        (("--model", "a=/no/such/folder"), "/no/such/folder"),
        (("--model", "a=packaged:moonshine-tiny", "--wyoming", "here"), "--wyoming here: write PORT or HOST:PORT"),
        (("--model", "a=packaged:moonshine-tiny", "--host", "256.1.1.1"), "256.1.1.1:0: cannot listen there"),
        (("--model", "a=packaged:moonshine-tiny", "--api-key-file", "/no/such/file"), "cannot be read"),
    ],
)
def test_a_server_that_cannot_start_says_why(flags: tuple[str, ...], says: str) -> None:
    assert says in refusal("serve", "--port", 0, *flags)


def test_a_key_is_not_gone_around(tmp_path: Path) -> None:
    key = ("--api-key-file", key_file(tmp_path))
    told = refusal("serve", "--model", "a=packaged:moonshine-tiny", "--port", 0, "--wyoming", "0.0.0.0:0", *key)
    assert "Wyoming knows no keys, so --api-key-file would not keep others out" in told


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (KEY, 0o644, "other users can read or change it; chmod 600"),
        (KEY, 0o602, "other users can read or change it"),
        ("short", 0o600, "one key of at least 16 characters"),
        ("", 0o600, "one key of at least 16 characters"),
        (f"{KEY} {KEY}", 0o600, "put one key"),
    ],
)
def test_a_key_file_that_keeps_nobody_out_is_refused(tmp_path: Path, text: str, mode: int, says: str) -> None:
    with pytest.raises(ServeError, match=says):
        read_key(key_file(tmp_path, text, mode))


def test_a_key_file_that_the_group_may_read_is_taken(tmp_path: Path) -> None:
    assert read_key(key_file(tmp_path, KEY, 0o440)) == KEY


@pytest.mark.parametrize("package", ["starlette", "wyoming"])
def test_an_absent_extra_is_named(package: str) -> None:
    """In a process in which nothing finds the package."""
    code = f"""
import sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *others: None if name == {package!r} else found(name, *others)
from lora.main import main
sys.argv = ["moonshine-lora", "serve", "--model", "a=packaged:moonshine-tiny"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: serve needs {package}, which is not installed: pip install 'moonshine-lora[serve]'\n"


def test_the_help_answers_without_torch() -> None:
    code = "import sys\nfrom lora.main import main\nsys.argv[1:] = ['serve', '--help']\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--api-key-file FILE" in done.stdout
    assert done.stdout.endswith("False\n")


# --- sources and forms -------------------------------------------------------------------------------------------------------------------


def test_a_run_an_adapter_and_a_checkpoint_are_sources(tuned: Path, random_v1: LoadedModel, tmp_path: Path) -> None:
    plain = request_of("packaged:moonshine-tiny", CPU)
    assert (plain.model_id, plain.adapter_folder) == ("packaged:moonshine-tiny", None)
    assert request_of(str(tuned), CPU) == replace(plain, adapter_folder=tuned)
    run = tmp_path / "run"
    run.mkdir()
    (run / "record.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no lora_adapter/"):
        request_of(str(run), CPU)
    (run / "lora_adapter").symlink_to(tuned)
    assert request_of(str(run), CPU) == replace(plain, adapter_folder=run / "lora_adapter", processor_folder=run / "processor")
    (run / "checkpoint").symlink_to(random_v1.checkpoint.folder)
    assert request_of(str(run), CPU).model_id == str(run / "checkpoint")
    export = tmp_path / "export"
    export.mkdir()
    (export / "export.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is an export; serve its merged/ folder"):
        request_of(str(export), CPU)


# --- long recordings ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_half_an_hour_is_subtitled_while_others_are_answered(tmp_path: Path, clips: Sequence[Utterance]) -> None:
    speech = [load(row.audio, AudioSettings()) for row in list(read(SHARED / "librispeech/heldout.jsonl", Rules(max_s=40)))]
    reading = np.concatenate(speech)
    half_an_hour = np.tile(reading, 2)[: 30 * 60 * SAMPLE_RATE_HZ]
    with serving(tmp_path / "tmp", "--model", "tiny=packaged:moonshine-tiny") as server, ThreadPoolExecutor(1) as pool:
        create = server.client(timeout_s=580).audio.transcriptions.create
        long = pool.submit(create, file=("long.flac", encode_flac(half_an_hour)), model="tiny", response_format="verbose_json")
        wait_until(lambda: server.metric("batch_clips_count") > 0, 60)
        assert "worst of time" in create(file=path_of(clips[0]), model="tiny").text.lower()
        assert not long.done()
        whole = long.result(580)
        assert whole.duration == 1800
        assert whole.segments[-1].end > 1780
        assert all(before.end <= after.start + 0.05 for before, after in pairwise(whole.segments))
        assert len(whole.text.split()) > 1800 * 2
