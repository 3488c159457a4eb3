"""A server of `moonshine-lora serve` in a process of its own, and what its answers are compared with."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
from running import ROOT

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Utterance
from lora.longform.pieces import pieces
from lora.longform.recording import Heard, Listener
from lora.serving.models import Computing
from lora.transcribe import Transcriber

KEY = "a-key-of-the-tests-0123456789"
SHARED = ROOT.parent / "shared" / "data"
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
CPU = Computing("cpu", "float32", 32, None)


@dataclass(frozen=True)
class Server:
    """A server that was started, and how to reach it."""

    process: "subprocess.Popen[str]"
    port: int
    wyoming: int | None
    errors: Path

    def client(self, key: str = KEY, timeout_s: float = 120) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=timeout_s)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()

    def metric(self, name: str) -> float:
        _, text = self.get("/metrics", {"Authorization": f"Bearer {KEY}"})
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"moonshine_lora_{name}[ {{]", line))

    def ended(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(place: Path, *flags: object) -> Iterator[Server]:
    """A server in a process of its own, whose temporary folder is `place`."""
    place.mkdir(exist_ok=True)
    errors = place.parent / f"{place.name}.err"
    command = [sys.executable, "-m", "lora.main", "serve", "--port", "0", "--device", "cpu", *map(str, flags)]
    environment = os.environ | {"TMPDIR": str(place)}
    with (
        errors.open("w") as stream,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, cwd=place, env=environment) as process,
    ):
        assert process.stdout is not None
        ports = [_port(process.stdout.readline()) for flag in ("--port", "--wyoming") if flag in command]
        try:
            yield Server(process, ports[0], ports[1] if len(ports) > 1 else None, errors)
        finally:
            process.kill()


def _port(line: str) -> int:
    found = re.match(r"\w+://127\.0\.0\.1:(\d+)", line)
    assert found, line
    return int(found[1])


def key_file(folder: Path, text: str = KEY, mode: int = 0o600) -> Path:
    file = folder / "key"
    file.write_text(f"{text}\n")
    file.chmod(mode)
    return file


def path_of(utterance: Utterance) -> Path:
    assert isinstance(utterance.audio, FileAudio)
    return utterance.audio.path


def heard(transcriber: Transcriber, path: Path, *, timed: bool = False) -> Heard:
    """What the command would give."""
    (found,) = Listener(transcriber, timed=timed)(pieces(0, FileAudio(path), 30.0, transcriber.audio))
    return found


def wait_until(true: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
