"""Recordings of a run's test sets, embedded or linked so that a page can play them."""

import base64
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lora.audio.decoding import nameless_file
from lora.audio.loading import FileAudio, Waveform, duration, fingerprint_of, load, stored, stored_hash
from lora.config import DataConfig
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import AudioError, ManifestError
from lora.runs.record import ManifestInfo
from lora.system.cache import Kept, key
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds

DURATION_TOLERANCE_S = 0.01
"""A recording whose length is further from the recorded one is another recording."""

TOGETHER = 32
"""Recordings that are encoded at a time; some of the last block may be encoded for nothing when the page is full."""

EMBEDDED = "data:"


@dataclass(frozen=True, slots=True)
class Clip:
    """What stands where an utterance's player belongs: the player's address, or why there is none."""

    source: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An utterance of a test set, by the set's name and its own, as long as it was in the run."""

    split: str
    id: str
    length_s: Seconds


class Clips:
    """Finds, encodes and counts the recordings of one page."""

    def __init__(self, data: DataConfig, page: Path, limit_bytes: int | None) -> None:
        """`page` is the file that links are relative to, `limit_bytes` what all embedded recordings may take in it; None leaves out all."""
        self._data, self._page, self._full = data, page, False
        self._silent, self._left = limit_bytes is None, limit_bytes or 0
        self._sets: dict[str, dict[str, Utterance] | str] = {}
        self._kept = Kept()

    def add_set(self, name: str, info: ManifestInfo | None) -> str | None:
        """Reads the manifest that the record names. Returns why its recordings cannot be played, None when they can."""
        found = "sound was left out of this page" if self._silent else self._read(info)
        self._sets[name] = found
        return found if isinstance(found, str) else None

    def clips(self, wanted: Sequence[Wanted]) -> list[Clip]:
        """The players of utterances, in their order. The first are embedded, until one no longer fits; the others are linked."""
        found: list[Clip] = []
        with ThreadPoolExecutor() as pool:  # libsndfile releases the interpreter lock
            for start in range(0, len(wanted), TOGETHER):
                block = wanted[start : start + TOGETHER]
                players = map(self._linked, block) if self._full else pool.map(self._embedded, block)
                found += [self._fitting(one, player) for one, player in zip(block, players, strict=True)]
        return found

    def _fitting(self, wanted: Wanted, player: Clip) -> Clip:
        """An embedded recording while there is room, then a link to it."""
        if player.source is None or not player.source.startswith(EMBEDDED):
            return player
        self._full = self._full or len(player.source) > self._left
        if self._full:
            return self._linked(wanted)
        self._left -= len(player.source)
        return player

    def _utterance(self, wanted: Wanted) -> Utterance | Clip:
        utterances = self._sets[wanted.split]
        if isinstance(utterances, str):
            return Clip(note="no audio: see above the table")
        return utterances.get(wanted.id) or Clip(note=f"no audio: the manifest holds no {wanted.id}")

    def _embedded(self, wanted: Wanted) -> Clip:
        """The whole recording as an address, or why it has none."""
        utterance = self._utterance(wanted)
        if isinstance(utterance, Clip):
            return utterance
        try:
            sound = self._mp3(utterance, wanted.length_s)
        except AudioError as error:
            return Clip(note=f"no audio: {error}")
        return Clip(source=f"{EMBEDDED}audio/mpeg;base64,{base64.b64encode(sound).decode()}")

    def _mp3(self, utterance: Utterance, length_s: Seconds) -> bytes:
        """The recording as `encode_mp3` gives it, encoded once for all pages that play it. Raises `AudioError` if it has changed."""
        settings = self._data.audio()
        content = stored(utterance.audio)
        found = fingerprint_of(stored_hash(content), utterance.audio, settings)
        file = self._kept.file(key(__name__, found, length_s), ".mp3")
        if self._kept.has(file) and (sound := self._kept.read(file)) is not None:
            return sound
        samples = load(utterance.audio, settings, content=content)
        if abs(duration(samples) - length_s) > DURATION_TOLERANCE_S:
            raise AudioError(f"it lasts {duration(samples):.2f} s now, and lasted {length_s:.2f} s in the run")
        encoded = encode_mp3(samples)
        self._kept.write(file, encoded)
        return encoded

    def _read(self, info: ManifestInfo | None) -> dict[str, Utterance] | str:
        if info is None:
            return "the record names no manifest"
        rules = Rules(require_text=False, check_rate=False, allow_outside=self._data.allow_outside_paths)  # the run checked the texts
        try:
            manifest = read(Path(info.path), rules)
        except ManifestError as error:
            return str(error)
        if manifest.sha256 != info.sha256:
            return f"{info.path}: has changed since the run"
        return {utterance.id: utterance for utterance in manifest}

    def _linked(self, wanted: Wanted) -> Clip:
        """The address of the recording's file, unread."""
        utterance = self._utterance(wanted)
        if isinstance(utterance, Clip):
            return utterance
        if not isinstance(utterance.audio, FileAudio):
            return Clip(note="no audio: it is inline in the manifest, and over the limit of what is embedded (--audio-mb)")
        relative = os.path.relpath(utterance.audio.path.resolve(), self._page.parent.resolve())
        return Clip(source=quote(Path(relative).as_posix()) + _times(utterance.audio))


def _times(source: FileAudio) -> str:
    """Which part of a linked recording is heard, as players take it: `#t=10.4,22.5`."""
    if source.span is None:
        return ""
    return f"#t={seconds(source.span.start):.3f},{seconds(source.span.start + source.span.count):.3f}"


def encode_mp3(samples: Waveform) -> bytes:
    """The waveform as MP3: 4 kB a second, played by every browser, and the same bytes each time (Ogg has a random serial number)."""
    import soundfile

    with nameless_file() as file:
        soundfile.write(file.fileno(), samples, SAMPLE_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III", closefd=False)
        file.seek(0)
        return file.read()


def megabytes(sources: Iterable[str | None]) -> float:
    """Size in MB of the embedded ones among these addresses."""
    return sum(len(source) for source in sources if source and source.startswith(EMBEDDED)) / 1e6
