"""A runtime in a process of its own: `python -m lora.runtimes.engines RUNTIME FOLDER ARCHITECTURE`, clips in, transcripts out.

Runtimes are C++ libraries: some end the process at a file that they do not like, and their threads get into PyTorch's way. Here only
this process ends, and their peak memory can be told.
"""

import base64
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
import numpy as np

from lora.audio.loading import Waveform
from lora.runtimes.separate import javascript_packages, voice_packages
from lora.system.process import exclusive_stdout, peak_bytes
from lora.text.byte_tokens import joined, whole
from lora.units import SAMPLE_RATE_HZ, Seconds

END_ID: Final = 2

VOICE_STEP = 64
"""Samples that moonshine-voice takes at a time where no voice activity is looked for. It drops what is left over at a clip's end: up to
31 ms with its own step of 512. One frame of the encoder's first layer lies behind another by 64 samples, so that nothing is lost."""

VOICE_OPTIONS: Final = {"vad_threshold": 0.0, "vad_hop_size": VOICE_STEP, "vad_max_segment_duration": 1000, "return_audio_data": "false"}
"""A clip is transcribed as it is: not cut by voice activity. `vad_max_segment_duration` is in seconds."""

ROUNDING = 1e-5
"""Share by which a rate stays inside its limits, for moonshine-voice computes in float32."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """A clip as float32 samples, and the most tokens that it may give."""

    samples: bytes
    cap: int


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """A runtime's transcript of a clip, and how long it took."""

    text: str
    seconds: Seconds
    capped: bool | None
    """Whether decoding stopped at the cap; None if the runtime does not tell."""


class Ready(msgspec.Struct, frozen=True, array_like=True):
    """The runtime has loaded its files."""

    seconds: Seconds


class Done(msgspec.Struct, frozen=True, array_like=True):
    """The last clip is through. Memory of this process at its highest."""

    peak_bytes: int


Listen = Callable[[], tuple[str, bool | None]]
"""Transcribes the clip: its text, and whether it stopped at the cap, None if the runtime does not tell."""


class Engine(Protocol):
    """A loaded runtime."""

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        """Prepares a clip: the part that is not timed."""
        ...


class VoiceEngine:
    """moonshine-voice. It allows `ceil(seconds * max_tokens_per_second)` tokens, and takes that rate when it loads."""

    def __init__(self, folder: Path, architecture: str) -> None:
        sys.path.append(str(voice_packages()))
        from moonshine_voice import ModelArch

        # All streaming models are one to it: their sizes are in the folder.
        known = {"tiny": ModelArch.TINY, "base": ModelArch.BASE, "streaming": ModelArch.TINY_STREAMING}
        self._folder, self._architecture = folder, known[architecture]
        self._rate = 0.0
        self._transcriber: Any = None
        self._load(6.5)

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        if len(samples) % VOICE_STEP == VOICE_STEP - 1:  # this sample fills a frame of the first layer, and would be left over
            samples = np.append(samples, np.float32(0))
        length_s = self._heard_samples(samples) / SAMPLE_RATE_HZ
        if not (cap - 1) / length_s < self._rate * (1 - ROUNDING) < self._rate * (1 + ROUNDING) < cap / length_s:
            self._load(cap / length_s * (1 - 2 * ROUNDING))
        return lambda: self._hear(samples)

    def _hear(self, samples: Waveform) -> tuple[str, bool | None]:
        lines = self._transcriber.transcribe_without_streaming(samples.tolist(), SAMPLE_RATE_HZ).lines
        heard, wanted = round(sum(line.duration for line in lines) * SAMPLE_RATE_HZ), self._heard_samples(samples)
        if abs(heard - wanted) >= VOICE_STEP:
            raise RuntimeError(f"moonshine-voice took {heard} of {wanted} samples")
        return " ".join(line.text.strip() for line in lines), None

    def _load(self, rate: float) -> None:
        from moonshine_voice import Transcriber

        if self._transcriber is not None:
            self._transcriber.close()
        self._rate = rate
        options = VOICE_OPTIONS | {"max_tokens_per_second": f"{rate:.9f}"}
        self._transcriber = Transcriber(str(self._folder), self._architecture, options=options)

    @staticmethod
    def _heard_samples(samples: Waveform) -> int:
        return len(samples) // VOICE_STEP * VOICE_STEP


class OnnxEngine:
    """useful-moonshine-onnx, with the tokenizer that lies beside the graphs: its own knows no added tokens."""

    def __init__(self, folder: Path, architecture: str) -> None:
        from moonshine_onnx import MoonshineOnnxModel
        from tokenizers import Tokenizer

        self._model = MoonshineOnnxModel(models_dir=folder, model_name=architecture)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        return lambda: self._hear(samples, cap)

    def _hear(self, samples: Waveform, cap: int) -> tuple[str, bool | None]:
        tokens = self._model.generate(samples[None], cap)[0]
        spelled = whole(tokens, self._tokenizer.id_to_token, self._tokenizer.token_to_id)
        return self._tokenizer.decode(spelled).strip(), tokens[-1] != END_ID


class _SherpaResult(msgspec.Struct, frozen=True):
    """What is read of a result's JSON: a byte of a character stands there as `<0xE2>`."""

    tokens: list[str]


def sherpa_cap(samples: int) -> int:
    """Most tokens that sherpa-onnx gives: 15 a second, counted in the encoder's frames of 24 ms (its greedy search for Moonshine)."""
    frames = samples
    for kernel, step in ((127, 64), (7, 3), (3, 2)):  # the convolutions of the encoder
        frames = (frames - kernel) // step + 1
    return int(frames * 384 / SAMPLE_RATE_HZ * 15)


class SherpaEngine:
    """sherpa-onnx. It always allows `sherpa_cap` tokens, so that those beyond the cap are cut off here.

    It answers a clip of zeros with nothing, without running the model.
    """

    def __init__(self, folder: Path) -> None:
        import sherpa_onnx

        files = [str(folder / name) for name in ("encoder_model.onnx", "decoder_model_merged.onnx", "tokens.txt")]
        self._recognizer = sherpa_onnx.OfflineRecognizer.from_moonshine_v2(*files)

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        return lambda: self._hear(samples, cap)

    def _hear(self, samples: Waveform, cap: int) -> tuple[str, bool | None]:
        said_before = os.fstat(2).st_size
        stream = self._recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE_HZ, samples)
        self._recognizer.decode_stream(stream)
        complaint = os.pread(2, os.fstat(2).st_size - said_before, said_before).decode(errors="replace")
        if "Caught exception" in complaint:  # it answers with nothing then, as if it had heard silence
            raise RuntimeError(" ".join(complaint.split()))
        # Its `tokens` cannot be read where one is a byte of a character, as in the notes that it hears in a hum.
        pieces = msgspec.json.decode(str(stream.result), type=_SherpaResult).tokens
        return joined(pieces[:cap]).strip(), len(pieces) >= min(cap, sherpa_cap(len(samples)))


class _Cpp:
    """transcribe.cpp, on one core. Where it stops before a clip's end, it leaves out what it has said several times in a row."""

    def __init__(self, file: Path, *, mapped: bool) -> None:
        from transcribe_cpp import Model

        self._model = Model(file, backend="cpu", no_mmap=not mapped)
        self._session: Any = self._model.session(n_threads=1)

    def hear(self, samples: Waveform) -> tuple[Any, bool]:
        """What it says of a clip, and whether it stopped before the end."""
        from transcribe_cpp import OutputTruncated

        try:
            return self._session.run(samples), False
        except OutputTruncated as stopped:
            return stopped.partial_result, True

    def close(self) -> None:
        self._session.close()
        self._model.close()


class GgufEngine:
    """v1 in transcribe.cpp. It allows `max_position_embeddings` tokens, which it reads from the file's header when it loads.

    So it is given a copy whose header says the cap.
    """

    _KEY = b"decoder.max_position_embeddings"

    def __init__(self, folder: Path) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="moonshine-lora-gguf-")
        self._file = Path(self._place.name, "model.gguf")
        shutil.copyfile(folder / "model.gguf", self._file)
        content = self._file.read_bytes()
        self._at = content.find(self._KEY) + len(self._KEY) + 4  # behind the kind of the value
        (self._cap,) = struct.unpack_from("<I", content, self._at)
        self._cpp = _Cpp(self._file, mapped=False)

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        if cap != self._cap:
            self._cpp.close()
            with self._file.open("r+b") as stream:
                stream.seek(self._at)
                stream.write(struct.pack("<I", cap))
            self._cpp, self._cap = _Cpp(self._file, mapped=False), cap
        return lambda: self._hear(samples)

    def _hear(self, samples: Waveform) -> tuple[str, bool | None]:
        found, stopped = self._cpp.hear(samples)
        return found.text.removesuffix("\ufffd").strip(), stopped  # a character that the last tokens begin and do not finish


class GgufStreamingEngine:
    """Streaming models in transcribe.cpp. It has its own limit on tokens and reports them, so that those beyond the cap are cut off."""

    def __init__(self, folder: Path) -> None:
        from gguf import GGUFReader

        self._tokens = GGUFReader(folder / "model.gguf").fields["tokenizer.ggml.tokens"].contents()
        self._cpp = _Cpp(folder / "model.gguf", mapped=True)

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        return lambda: self._hear(samples, cap)

    def _hear(self, samples: Waveform, cap: int) -> tuple[str, bool | None]:
        found, stopped = self._cpp.hear(samples)
        pieces = [self._tokens[token.id].replace("\u2581", " ") for token in found.tokens]
        return joined(pieces[:cap]).strip(), stopped or len(pieces) >= cap


def gguf_engine(folder: Path, _architecture: str) -> Engine:
    """The engine for what the file's header says it holds."""
    with (folder / "model.gguf").open("rb") as stream:
        return GgufStreamingEngine(folder) if b"moonshine_streaming" in stream.read(256) else GgufEngine(folder)


class JavaScriptEngine:
    """transformers.js in Node, a process of its own below this one."""

    def __init__(self, folder: Path) -> None:
        program = files("lora.runtimes") / "javascript" / "transcribe.mjs"
        command = ["node", str(program), str(javascript_packages()), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.peak_bytes = 0
        self._answer()

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        self._ask({"samples": base64.b64encode(samples.tobytes()).decode()})
        self._answer()
        return lambda: self._hear(cap)

    def _hear(self, cap: int) -> tuple[str, bool | None]:
        self._ask({"cap": cap})
        answer = self._answer()
        self.peak_bytes = answer["peak_bytes"]
        return answer["text"].removesuffix("\ufffd").strip(), None

    def _ask(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(content) + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:  # it has said why on standard error, where this process's words go too
            self._process.wait()
            sys.exit(1)
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer


ENGINES: Final[dict[str, Callable[[Path, str], Engine]]] = {
    "moonshine-voice": VoiceEngine,
    "onnx": OnnxEngine,
    "sherpa-onnx": lambda folder, _architecture: SherpaEngine(folder),
    "gguf": gguf_engine,
    "transformers-js": lambda folder, _architecture: JavaScriptEngine(folder),
}


def write_message(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Writes a message, preceded by its length in bytes."""
    content = msgspec.msgpack.encode(message)
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def read_message(stream: BinaryIO) -> bytes | None:
    """The next message as it was encoded; None if the other side has ended."""
    length = stream.read(8)
    if len(length) < 8:
        return None
    content = stream.read(int.from_bytes(length, "little"))
    return content if len(content) == int.from_bytes(length, "little") else None


def main(runtime: str, folder: str, architecture: str) -> None:
    """Answers each `Ask` on standard input with `Heard` on standard output. What goes wrong ends the process with a traceback."""
    answers = exclusive_stdout()
    started = time.perf_counter()
    engine = ENGINES[runtime](Path(folder), architecture)
    write_message(answers, Ready(Seconds(time.perf_counter() - started)))
    while (message := read_message(sys.stdin.buffer)) is not None:
        ask = msgspec.msgpack.decode(message, type=Ask)
        listen = engine.prepare(np.frombuffer(ask.samples, dtype=np.float32), ask.cap)
        started = time.perf_counter()
        text, capped = listen()
        write_message(answers, Heard(text, Seconds(time.perf_counter() - started), capped))
    write_message(answers, Done(engine.peak_bytes if isinstance(engine, JavaScriptEngine) else peak_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
