"""`moonshine-lora serve` under load: many clients at once, one request after another, and the simplest server of moonshine-voice.

    python benchmarks/serving.py --data ../shared/data --requests 1000

Clips of AN4, of speechocean762 and of LibriSpeech (1 to 35 s) are sent as WAV in an order drawn by a seed. Every contestant is a process of
its own; all are started and warmed first, and take turns in each round, so that a machine which slows down slows all of them. Of a round's
clips one request after another and the peer get the first. Clients are threads of this process and take their share of the processor. The
simplest server is Python's `http.server` with one `Transcriber`, which `moonshine-voice==0.1.5` (installed into the cache folder) computes
with; it is sent the bare file. Memory is the server's resident set after each tenth of a round.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lora.audio.loading import AudioSettings, encode_wav, load
from lora.checkpoints.wheels import MOONSHINE_VOICE, read_member
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, read
from lora.runtimes.runtime import FILES
from lora.runtimes.separate import voice_packages

ROOT = Path(__file__).parents[1]
SETS = ("an4/test.jsonl", "accent/test.jsonl", "librispeech/heldout.jsonl")
BOUNDARY = "a-form-of-a-benchmark"
SIMPLEST = """
import io, json, sys, wave
from http.server import BaseHTTPRequestHandler, HTTPServer
sys.path.append(sys.argv[1])
import numpy as np
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber

transcriber = Transcriber(sys.argv[2], ModelArch.TINY)

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        with wave.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
        lines = transcriber.transcribe_without_streaming(samples.tolist(), 16000).lines
        body = json.dumps({"text": " ".join(line.text for line in lines)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

HTTPServer.request_queue_size = 64
server = HTTPServer(("127.0.0.1", 0), Answers)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Clip:
    """A recording as WAV, and how long it lasts."""

    data: bytes
    seconds: float


@dataclass(frozen=True)
class Load:
    """What came of some requests."""

    wall_s: float
    sound_s: float
    cpu_s: float
    """Of the server."""
    latencies_s: list[float]
    texts: list[str]
    memory_mb: list[float]
    """Of the server, after each tenth of the requests."""

    @property
    def rate(self) -> float:
        """Seconds of sound a second."""
        return self.sound_s / self.wall_s

    @property
    def by_cpu(self) -> float:
        """Seconds of sound a second of the server's processor time."""
        return self.sound_s / self.cpu_s


@dataclass(frozen=True)
class Round:
    """What came of the contestants' turns."""

    alone: Load
    many: Load
    peer: Load | None


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with an4/, accent/ and librispeech/")
    parser.add_argument("--requests", type=positive_int, default=1000, metavar="N", help="requests at once, of all rounds (default 1000)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument(
        "--alone", type=positive_int, default=40, metavar="N", help="requests one after another, and of the peer, in a round (default 40)"
    )
    parser.add_argument("--clients", type=positive_int, default=16, metavar="N", help="clients at once (default 16)")
    parser.add_argument("--skip-peer", action="store_true", help="leave moonshine-voice out")
    options = parser.parse_args()
    count = max(options.alone, options.requests // options.rounds)
    clips = mixed(options.data, count * options.rounds)
    print("| | requests | sound s | wall s | sound s/s | CPU s | sound s/CPU s | median s | 95 % s | load |\n|" + "---|" * 10, flush=True)
    rounds = list[Round]()
    with ExitStack() as servers:
        own = servers.enter_context(ours())
        peer = None if options.skip_peer else servers.enter_context(voice())
        send(*own, clips[:40], options.clients, form)
        if peer is not None:
            send(*peer, clips[:5], 1, bare)
        for number in range(options.rounds):
            part = clips[number * count : (number + 1) * count]
            alone = told("one after another", send(*own, part[: options.alone], 1, form))
            many = told(f"{options.clients} clients", send(*own, part, options.clients, form))
            other = None if peer is None else told("moonshine-voice", send(*peer, part[: options.alone], options.clients, bare))
            rounds.append(Round(alone, many, other))
    differ = sum(one != other for each in rounds for one, other in zip(each.alone.texts, each.many.texts, strict=False))
    print(f"\ntexts that differ between alone and at once: {differ}")
    for number, each in enumerate(rounds, 1):
        print(f"memory in round {number}: " + ", ".join(f"{one:.0f}" for one in each.many.memory_mb) + " MB")
    print("times the rate of one after another: " + spread([each.many.rate / each.alone.rate for each in rounds]))
    print("the same by processor time: " + spread([each.many.by_cpu / each.alone.by_cpu for each in rounds]))
    if not options.skip_peer:
        ratios = [each.many.rate / each.peer.rate for each in rounds if each.peer is not None]
        print("times the rate of moonshine-voice behind the simplest server: " + spread(ratios))
    return 0


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} (rounds: {', '.join(f'{one:.2f}' for one in ratios)})"


def mixed(data: Path, count: int) -> list[Clip]:
    """Clips of all sets, as often as needed."""
    known = list[Clip]()
    for name in SETS:
        for row in list(read(data / name, Rules(max_s=40)))[:100]:
            samples = load(row.audio, AudioSettings())
            known.append(Clip(encode_wav(samples), len(samples) / 16_000))
    draw = Random(0)
    return [draw.choice(known) for _ in range(count)]


@contextmanager
def ours() -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "lora.main", "serve", "--model", "tiny=packaged:moonshine-tiny", "--port", "0", "--device", "cpu"]
    with started(command) as served:
        yield served


@contextmanager
def voice() -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES["moonshine-voice"]:  # the wheel of 0.1.5 carries no model
            (Path(folder) / file).write_bytes(read_member(MOONSHINE_VOICE, f"moonshine_voice/assets/tiny-en/{file}"))
        with started([sys.executable, "-c", SIMPLEST, str(voice_packages()), folder]) as served:
            yield served


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A server's process and its port, from its first line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().split("/")[2].rpartition(":")[2])
        process.terminate()


def form(clip: Clip) -> tuple[str, bytes, dict[str, str]]:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--{BOUNDARY}\r\n'
    file = 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    body = f"{head}{file}".encode() + clip.data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return "/v1/audio/transcriptions", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def bare(clip: Clip) -> tuple[str, bytes, dict[str, str]]:
    return "/", clip.data, {"Content-Type": "audio/wav"}


def send(pid: int, port: int, clips: Sequence[Clip], clients: int, spelled: Callable[[Clip], tuple[str, bytes, dict[str, str]]]) -> Load:
    """Each client sends its next request when it has the answer to the last. Raises for anything but an answer."""
    before_s = cpu_s(pid)
    texts, latencies, faults = [""] * len(clips), [0.0] * len(clips), list[str]()
    numbers, lock, memory = iter(range(len(clips))), threading.Lock(), list[float]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or faults:
                return connection.close()
            begun = time.monotonic()
            connection.request("POST", *spelled(clips[number]))
            response = connection.getresponse()
            content = response.read()
            latencies[number] = time.monotonic() - begun
            if response.status != 200:
                faults.append(content.decode())
                return None
            texts[number] = json.loads(content)["text"]
            if (number + 1) % max(1, len(clips) // 10) == 0:
                memory.append(resident_mb(pid))

    def watched() -> None:
        try:
            client()
        except OSError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=watched) for _ in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise SystemExit(f"refused: {faults[0]}")
    return Load(time.monotonic() - begun, sum(clip.seconds for clip in clips), cpu_s(pid) - before_s, latencies, texts, memory)


def told(name: str, load: Load) -> Load:
    ordered = sorted(load.latencies_s)
    middle, late = ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]
    numbers = f"{len(ordered)} | {load.sound_s:.0f} | {load.wall_s:.1f} | {load.rate:.1f}"
    numbers += f" | {load.cpu_s:.1f} | {load.by_cpu:.1f} | {middle:.2f} | {late:.2f} | {os.getloadavg()[0]:.1f}"
    print(f"| {name} | {numbers} |", flush=True)
    return load


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(run(main))
