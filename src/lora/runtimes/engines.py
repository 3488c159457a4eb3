"""A runtime in a process of its own: `python -m lora.runtimes.engines RUNTIME FOLDER ARCHITECTURE`, clips in, transcripts out.

Runtimes are C++ libraries: some end the process at a file that they do not like, and their threads get into PyTorch's way. Here only
this process ends, and their peak memory can be told.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
import numpy as np

from lora.audio.loading import Waveform
from lora.runtimes.separate import voice_packages
from lora.system.process import peak_bytes
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
    """What a runtime says of a clip, and how long it took."""

    text: str
    seconds: Seconds
    capped: bool | None
    """Whether decoding stopped at the cap; None where the runtime does not tell."""


class Ready(msgspec.Struct, frozen=True, array_like=True):
    """The runtime has loaded its files."""

    seconds: Seconds


class Done(msgspec.Struct, frozen=True, array_like=True):
    """The last clip is through. Memory of this process at its highest."""

    peak_bytes: int


Listen = Callable[[], tuple[str, bool | None]]
"""Transcribes the clip: its text, and whether it stopped at the cap, None where the runtime does not tell."""


class Engine(Protocol):
    """A loaded runtime."""

    def prepare(self, samples: Waveform, cap: int) -> Listen:
        """Gets ready for a clip: what comes before the clock runs."""
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
    """sherpa-onnx. It allows `sherpa_cap` tokens whatever it is told, so that what is beyond the cap is cut off here.

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


ENGINES: Final[dict[str, Callable[[Path, str], Engine]]] = {
    "moonshine-voice": VoiceEngine,
    "onnx": OnnxEngine,
    "sherpa-onnx": lambda folder, _architecture: SherpaEngine(folder),
}


def write_message(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Writes a message behind its length in bytes."""
    content = msgspec.msgpack.encode(message)
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def read_message(stream: BinaryIO) -> bytes | None:
    """The next message as it was encoded; None where the other side has ended."""
    length = stream.read(8)
    if len(length) < 8:
        return None
    content = stream.read(int.from_bytes(length, "little"))
    return content if len(content) == int.from_bytes(length, "little") else None


def main(runtime: str, folder: str, architecture: str) -> None:
    """Answers each `Ask` on standard input with `Heard` on standard output. What goes wrong ends the process with a traceback."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    started = time.perf_counter()
    engine = ENGINES[runtime](Path(folder), architecture)
    write_message(answers, Ready(Seconds(time.perf_counter() - started)))
    while (message := read_message(sys.stdin.buffer)) is not None:
        ask = msgspec.msgpack.decode(message, type=Ask)
        listen = engine.prepare(np.frombuffer(ask.samples, dtype=np.float32), ask.cap)
        started = time.perf_counter()
        text, capped = listen()
        write_message(answers, Heard(text, Seconds(time.perf_counter() - started), capped))
    write_message(answers, Done(peak_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
