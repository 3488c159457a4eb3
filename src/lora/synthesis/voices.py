"""Voices: one that its package carries, and any program that writes a sound file."""

import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from lora.audio.loading import AudioSettings, EncodedAudio, Waveform, is_silent, load, resample
from lora.errors import AudioError, SynthesisError
from lora.synthesis.spoken import without_phonemes
from lora.units import SAMPLE_RATE_HZ

PACKAGED_VOICE = "heart"
PACKAGED_ENGINE = "hibari-tts"

TIMEOUT_S = 120
"""Longest that a program may take for a sentence."""

_STDERR_CHARACTERS = 200
_PLACEHOLDER = re.compile(r"\{(text|out|seed)\}")


class Voice(Protocol):
    """Says sentences."""

    @property
    def name(self) -> str:
        """Who speaks, as a manifest's `speaker_id`."""

    @property
    def engine(self) -> str:
        """What speaks, with its version where that is known."""

    def speak(self, spoken: str, seed: int) -> Waveform:
        """Samples `[samples]` at 16 kHz; the same text and seed give the same. Raises `SynthesisError` if the voice fails."""


@dataclass
class PackagedVoice:
    """The voice that `hibari-tts` carries: American English, no download."""

    name: str = f"hibari {PACKAGED_VOICE}"
    engine: str = field(init=False)
    _speaker: Any = field(init=False, repr=False)
    _reading: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        try:
            from hibari import Hibari

            self.engine = f"{PACKAGED_ENGINE} {version(PACKAGED_ENGINE)}"
        except (ImportError, PackageNotFoundError) as error:
            raise SynthesisError(
                "the packaged voice is not installed; install it with `uv pip install 'moonshine-lora[synthesis]'`, or give --voice-command"
            ) from error
        self._speaker = Hibari(voice=PACKAGED_VOICE)

    def speak(self, spoken: str, seed: int) -> Waveform:
        with self._reading:
            phonemes = self._speaker.phonemize(spoken)
        chance = np.random.default_rng(seed)
        parts = [self._speaker.from_ids(self._speaker.ids(one), 1.0, chance) for one in phonemes]
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if is_silent(samples):
            raise SynthesisError(f"{self.name}: says nothing for {spoken[:60]!r}; give the term a spoken form")
        return resample(samples.astype(np.float32), self._speaker.sample_rate, SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class CommandVoice:
    """A program that writes what is said into a file: `flite -voice slt -t {text} -o {out}`.

    Without `{text}` it reads the sentence from its standard input. No shell is involved.
    """

    command: str

    def __post_init__(self) -> None:
        words = self._words()
        if "{out}" not in self.command:
            raise SynthesisError(f"--voice-command {self.command!r}: lacks {{out}}, the file that it writes; see docs/jargon.md")
        if shutil.which(words[0]) is None:
            raise SynthesisError(f"--voice-command {self.command!r}: there is no program {words[0]!r}; install it, or give its whole path")

    @property
    def name(self) -> str:
        """The command without the places of text and file, and the flags before them."""
        words = self._words()
        places = {place for place, word in enumerate(words) if _PLACEHOLDER.search(word)}
        flags = {place - 1 for place in places if place > 1 and words[place - 1].startswith("-")}
        return " ".join([Path(words[0]).name, *(word for place, word in enumerate(words) if place and place not in places | flags)])

    @property
    def engine(self) -> str:
        return Path(self._words()[0]).name

    def speak(self, spoken: str, seed: int) -> Waveform:
        text = without_phonemes(spoken)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "speech.wav"
            given = {"text": text, "out": str(out), "seed": str(seed)}
            words = [_PLACEHOLDER.sub(lambda found: given[found[1]], word) for word in self._words()]
            said = self._run(words, None if "{text}" in self.command else text)
            return self._read(out, text, said)

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise SynthesisError(f"--voice-command {self.command!r}: {str(error).lower()}; check its quotes") from error
        if not words:
            raise SynthesisError("--voice-command is empty; give one such as: flite -voice slt -t {text} -o {out}")
        return words

    def _run(self, words: list[str], given: str | None) -> str:
        """Runs the program and returns what it wrote on stderr."""
        try:
            done = subprocess.run(words, input=(given or "").encode(), capture_output=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise SynthesisError(f"--voice-command {self.command!r}: took over {TIMEOUT_S} s for a sentence; try it by hand") from error
        except OSError as error:
            raise SynthesisError(f"--voice-command {self.command!r}: cannot be run ({error.strerror})") from error
        said = done.stderr.decode(errors="replace").strip()[-_STDERR_CHARACTERS:]
        if done.returncode != 0:
            raise SynthesisError(f"--voice-command {self.command!r}: ended with {done.returncode}, and said: {said or 'nothing'}")
        return said

    def _read(self, out: Path, text: str, said: str) -> Waveform:
        place = f"--voice-command {self.command!r}"
        if not out.is_file():
            raise SynthesisError(f"{place}: wrote no file, and said: {said or 'nothing'}")
        try:
            samples = load(EncodedAudio(out.read_bytes(), out.name), AudioSettings())
        except AudioError as error:
            raise SynthesisError(f"{place}: wrote what is no sound ({error}), and said: {said or 'nothing'}") from error
        if is_silent(samples):
            raise SynthesisError(f"{place}: wrote silence for {text[:60]!r}, and said: {said or 'nothing'}")
        return samples


def voices_of(commands: list[str], *, packaged: bool) -> list[Voice]:
    """The voices that are asked for; the packaged one if no command is given. Raises `SynthesisError` for one given twice."""
    found: list[Voice] = [PackagedVoice()] if packaged or not commands else []
    found += [CommandVoice(command) for command in commands]
    names = [voice.name for voice in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise SynthesisError(f"--voice-command: the voice {doubled[0]!r} is given twice; leave one out")
    return found
