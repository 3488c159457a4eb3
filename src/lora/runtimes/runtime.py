"""Transcribes clips with an exported folder in the runtime that it is made for."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from lora.audio.loading import Waveform, duration
from lora.dataset.manifest import MIN_S
from lora.errors import OnDeviceError
from lora.runtimes.engines import Ask, Done, Heard, Ready, read_message, write_message
from lora.runtimes.separate import javascript_packages, voice_packages
from lora.units import Seconds

RuntimeName = Literal["moonshine-voice", "onnx", "sherpa-onnx", "gguf", "transformers-js"]
RUNTIMES: Final[tuple[RuntimeName, ...]] = get_args(RuntimeName)

FILES: Final[dict[RuntimeName, tuple[str, ...]]] = {
    "moonshine-voice": ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"),
    "onnx": ("encoder_model.onnx", "decoder_model_merged.onnx", "tokenizer.json"),
    "sherpa-onnx": ("encoder_model.onnx", "decoder_model_merged.onnx", "tokens.txt"),
    "gguf": ("model.gguf",),
    "transformers-js": ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
}
"""Files that a runtime's folder must hold."""

STREAMING_FILES: Final = (
    *("frontend.ort", "encoder.ort", "adapter.ort", "cross_kv.ort", "decoder_kv.ort"),
    *("streaming_config.json", "tokenizer.bin"),
)
"""The same of a streaming model for moonshine-voice."""

PACKAGES: Final[dict[RuntimeName, tuple[str, str]]] = {
    "moonshine-voice": ("moonshine_voice", "moonshine-voice"),
    "onnx": ("moonshine_onnx", "useful-moonshine-onnx"),
    "sherpa-onnx": ("sherpa_onnx", "sherpa-onnx"),
    "gguf": ("transcribe_cpp", "transcribe-cpp"),
}
"""The module and the distribution of a runtime that is a Python package."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording to transcribe: its name in messages, samples, and the most tokens that it may give."""

    name: str
    samples: Waveform
    cap: int


@dataclass(frozen=True, slots=True)
class Transcribed:
    """Transcripts in the order of the clips, the time to load the files, and the runtime's peak memory."""

    heard: tuple[Heard, ...]
    load_s: Seconds
    peak_bytes: int


def require_runtimes(names: Iterable[RuntimeName]) -> None:
    """Raises `OnDeviceError` when a runtime is not installed, `FetchError` when one with a folder of its own cannot be. Loads nothing."""
    for name in names:
        if name == "transformers-js":
            javascript_packages()
            continue
        module, distribution = PACKAGES[name]
        if name == "moonshine-voice":
            voice_packages()
            continue
        if importlib.util.find_spec(module) is None:
            raise OnDeviceError(
                f"{name}: the package {distribution} is not installed; install the extra (pip install 'moonshine-lora[export]')"
            )


def transcribe(
    name: RuntimeName,
    folder: Path,
    architecture: str,
    clips: Sequence[Clip],
    advance: Callable[[int], None] = lambda _count: None,
) -> Transcribed:
    """Transcribes the clips one by one. `architecture` is `tiny`, `base` or `streaming`; only moonshine-voice and onnx look at it.

    Times are those of a runtime that has been warmed up by one clip, and do not hold its loading.

    Raises:
        OnDeviceError: the runtime is not installed, does not load the folder, or fails on a clip, which the message names.
    """
    require_runtimes([name])
    needed = STREAMING_FILES if (name, architecture) == ("moonshine-voice", "streaming") else FILES[name]
    if missing := [file for file in needed if not (folder / file).is_file()]:
        raise OnDeviceError(f"{folder}: holds no {missing[0]}, which {name} needs; export it again with --to {name}")
    for clip in clips:
        if duration(clip.samples) < MIN_S:
            raise OnDeviceError(f"{clip.name}: lasts {duration(clip.samples):.3f} s; Moonshine takes {MIN_S:g} s and more")
    with (
        tempfile.TemporaryDirectory(prefix="moonshine-lora-") as place,
        _Process(name, folder, architecture, Path(place)) as process,
    ):
        ready = process.answer(Ready, f"{folder}: {name} does not load it", "export it again")
        # So that moonshine-voice, which takes the cap as a rate when it loads, seldom has to load again.
        order = sorted(range(len(clips)), key=lambda index: clips[index].cap / len(clips[index].samples))
        heard: dict[int, Heard] = {}
        for number, index in enumerate([*order[:1], *order]):
            clip = clips[index]
            process.ask(Ask(clip.samples.astype("float32").tobytes(), clip.cap))
            heard[index] = process.answer(Heard, f"{clip.name}: {name} fails on this clip", "leave it out or cut it at pauses")
            if number:  # the first was to warm up
                advance(1)
        done = process.finish()
    return Transcribed(tuple(heard[index] for index in range(len(clips))), ready.seconds, done.peak_bytes)


class _Process:
    """The runtime's process while clips are transcribed. It is killed in the end; what it has not removed lies in `place`."""

    def __init__(self, name: RuntimeName, folder: Path, architecture: str, place: Path) -> None:
        self._name, self._complaints = name, place / "stderr"
        command = [sys.executable, "-m", "lora.runtimes.engines", name, str(folder), architecture]
        environment = {**os.environ, "TMPDIR": str(place)}
        with self._complaints.open("w+b") as stderr:  # sherpa-onnx's engine reads the library's complaints there
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        try:
            self._asks.close()
        except BrokenPipeError:
            return  # what was not sent any more

    def ask(self, ask: Ask) -> None:
        try:
            write_message(self._asks, ask)  # type: ignore[arg-type]  # a pipe is one
        except BrokenPipeError:
            return  # it has ended: answer() says why

    def answer(self, kind: type[Any], what: str, advice: str) -> Any:
        message = read_message(self._answers)  # type: ignore[arg-type]  # a pipe is one
        if message is None:
            raise OnDeviceError(f"{what} ({self._reason()}); {advice}")
        return msgspec.msgpack.decode(message, type=kind)

    def finish(self) -> Done:
        self._asks.close()
        done: Done = self.answer(Done, f"{self._name}: ended before it was done", "run it again")
        return done

    def _reason(self) -> str:
        """How the process ended: its last words, or the signal that ended it."""
        code = self._process.wait()
        if code < 0:
            return signal.Signals(-code).name
        text = re.sub(r"\x1b\[[\d;]*m", "", self._complaints.read_bytes().decode(errors="replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            return f"exit code {code}"
        return lines[0] if lines[-1].endswith("Unknown error") else lines[-1]  # moonshine-voice prints its reason and raises without it
