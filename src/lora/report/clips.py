"""The recordings of a run's test sets, as a page can play them."""

import base64
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lora.audio import FileAudio, Waveform, duration, load
from lora.config import DataConfig
from lora.errors import AudioError, ManifestError
from lora.manifest import Rules, Utterance, read
from lora.record import ManifestInfo
from lora.units import SAMPLE_RATE_HZ, Seconds

DURATION_TOLERANCE_S = 0.01
"""A recording whose length is further from the recorded one is another recording."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What stands where an utterance's player belongs: the player's address, or why there is none."""

    source: str | None = None
    note: str | None = None


class Clips:
    """Finds, encodes and counts the recordings of one page."""

    def __init__(self, data: DataConfig, page: Path, limit_bytes: int | None) -> None:
        """`page` is the file that links are relative to, `limit_bytes` what all embedded recordings may take in it; None leaves out all."""
        self._data, self._page, self._full = data, page, False
        self._silent, self._left = limit_bytes is None, limit_bytes or 0
        self._sets: dict[str, dict[str, Utterance] | str] = {}

    def add_set(self, name: str, info: ManifestInfo | None) -> str | None:
        """Reads the manifest that the record names. Returns why its recordings cannot be played, None when they can."""
        found = "sound was left out of this page" if self._silent else self._read(info)
        self._sets[name] = found
        return found if isinstance(found, str) else None

    def clip(self, name: str, utterance_id: str, length_s: Seconds) -> Clip:
        """The player of one utterance. Those asked for first are embedded, until one no longer fits; the others are linked."""
        utterances = self._sets[name]
        if isinstance(utterances, str):
            return Clip(note="no audio: see above the table")
        utterance = utterances.get(utterance_id)
        if utterance is None:
            return Clip(note=f"no audio: the manifest holds no {utterance_id}")
        if self._full:
            return self._linked(utterance)
        try:
            samples = load(utterance.audio, self._data.audio())
        except AudioError as error:
            return Clip(note=f"no audio: {error}")
        if abs(duration(samples) - length_s) > DURATION_TOLERANCE_S:
            return Clip(note=f"no audio: it lasts {duration(samples):.2f} s now, and lasted {length_s:.2f} s in the run")
        source = f"data:audio/mpeg;base64,{base64.b64encode(encode_mp3(samples)).decode()}"
        if len(source) > self._left:
            self._full = True
            return self._linked(utterance)
        self._left -= len(source)
        return Clip(source=source)

    def _read(self, info: ManifestInfo | None) -> dict[str, Utterance] | str:
        if info is None:
            return "the record names no manifest"
        rules = Rules(require_text=False, allow_outside=self._data.allow_outside_paths)
        try:
            manifest = read(Path(info.path), rules)
        except ManifestError as error:
            return str(error)
        if manifest.sha256 != info.sha256:
            return f"{info.path}: has changed since the run"
        return {utterance.id: utterance for utterance in manifest}

    def _linked(self, utterance: Utterance) -> Clip:
        if not isinstance(utterance.audio, FileAudio):
            return Clip(note="no audio: it is inline in the manifest, and over the limit of what is embedded (--audio-mb)")
        relative = os.path.relpath(utterance.audio.path.resolve(), self._page.parent.resolve())
        return Clip(source=quote(Path(relative).as_posix()))


def encode_mp3(samples: Waveform) -> bytes:
    """The waveform as MP3: 4 kB a second, played by every browser, and the same bytes each time (Ogg has a random serial number)."""
    import soundfile

    with tempfile.TemporaryFile() as file:
        soundfile.write(file.fileno(), samples, SAMPLE_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III", closefd=False)
        file.seek(0)
        return file.read()


def megabytes(sources: Iterable[str | None]) -> float:
    """What the embedded ones among these addresses take in the page."""
    return sum(len(source) for source in sources if source and source.startswith("data:")) / 1e6
