"""Audio in: decode, one channel, resample to 16 kHz, optional loudness. The one path for training, evaluation and live use."""

import json
import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from lora.audio.channels import Channel, mono
from lora.audio.decoding import LONGEST_S, RATES_HZ, decode, nameless_file, stored_format, stored_length
from lora.errors import AudioError, TooLongError
from lora.system.files import sha256_bytes
from lora.system.process import signals_wait
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds

Waveform = npt.NDArray[np.float32]
"""Mono samples at `SAMPLE_RATE_HZ`, shape `[samples]`, nominally within [-1, 1]."""

SILENCE_DBFS = -70.0
"""Peak below this is silence: 10 bits under 16-bit full scale would still be -60; recordings of speech peak above -40."""

FILE_PEAK = 2.0
"""Highest sample of a file that is accepted: lossy codecs and resampling go beyond full scale, by less than these 6 dB."""

INLINE_PEAK = 1.1
"""Highest inline sample: full scale, and what resampling adds to a hot recording."""

KEPT_BYTES = 512 * 1024 * 1024
"""Bytes of decoded long recordings that are kept for further parts: two hours."""

_PEAK_LIMIT = 0.999
_PAST_END = 160
"""Samples (10 ms) that a part may end after its recording: times are rounded, and resampling rounds too."""

RESAMPLER_QUALITY = "HQ"
_DECODING = 2
"""Raised when the same bytes decode to other samples: MP3 has been decoded by FFmpeg since 2."""


class AudioSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to every waveform. Recorded with the adapter and applied wherever that adapter is used."""

    rms_dbfs: Annotated[float, msgspec.Meta(ge=-100, le=0)] | None = None
    """Target RMS level in dB relative to full scale; None leaves the level as recorded."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a recording, in samples at `SAMPLE_RATE_HZ`: from `start`, `count` of them."""

    start: int
    count: int

    @classmethod
    def between(cls, start_s: float, end_s: float) -> "Span":
        """The samples from one time to another, in seconds."""
        start = round(start_s * SAMPLE_RATE_HZ)
        return cls(start, round(end_s * SAMPLE_RATE_HZ) - start)


@dataclass(frozen=True, slots=True, init=False)
class FileAudio:
    """Encoded audio in a file of its own."""

    name: str
    """The path as text: a `Path` takes three times the memory, and a corpus names millions of files."""
    channel: Channel | None = None
    """Counted from 1, or their mean; None takes the mean of channels that hold the same sound, and refuses others."""
    track: int | None = None
    """Which of a container's audio tracks, counted from 1; None takes the only one."""
    span: Span | None = None
    """Which part of a long recording; None is all of it."""
    stored_sha256: str | None = field(default=None, compare=False)
    """`stored_hash` of what was read when it was checked; None before that."""

    def __init__(self, path: Path, channel: Channel | None = None, track: int | None = None, span: Span | None = None) -> None:
        object.__setattr__(self, "name", str(path))
        object.__setattr__(self, "channel", channel)
        object.__setattr__(self, "track", track)
        object.__setattr__(self, "span", span)
        object.__setattr__(self, "stored_sha256", None)

    @property
    def path(self) -> Path:
        return Path(self.name)

    def part(self, channel: Channel | None, track: int | None) -> "FileAudio":
        """Another channel or track of the same file, at the same times."""
        return FileAudio(self.path, channel, track, self.span)

    def checked(self, stored_sha256: str) -> "FileAudio":
        """The same audio with the hash that its check found."""
        known = FileAudio(self.path, self.channel, self.track, self.span)
        object.__setattr__(known, "stored_sha256", stored_sha256)
        return known

    def __str__(self) -> str:
        return self.name

    def content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be read ({error.strerror}); check the path in the manifest") from error

    def waveform(self, max_s: float | None = None, content: bytes | None = None) -> Waveform:
        """Decoded mono samples at 16 kHz, level untouched. Raises `AudioError`; `TooLongError` beyond `max_s`.

        `content` is what `stored` returned, if it has been read already.
        """
        if self.span is None:
            return _decode(self, max_s, content)
        return _part_of(self, self.span, max_s) if content is None else np.frombuffer(content, dtype=np.float32).copy()

    def rate_hz(self) -> int:
        """The file's own sampling rate, from its header."""
        return stored_format(self.path, self.track or 1).rate_hz


@dataclass(frozen=True, slots=True)
class InlineAudio:
    """A JSON array of float samples inside a manifest, left on disk until it is needed."""

    manifest: Path
    offset: int
    length: int
    rate: int = SAMPLE_RATE_HZ
    stored_sha256: str | None = field(default=None, compare=False)
    """As that of a file."""

    def checked(self, stored_sha256: str) -> "InlineAudio":
        """The same audio with the hash that its check found."""
        return replace(self, stored_sha256=stored_sha256)

    def __str__(self) -> str:
        return f"{self.manifest} (inline audio)"

    def content(self) -> bytes:
        with self.manifest.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)

    channel: None = None
    track: None = None

    def waveform(self, max_s: float | None = None, content: bytes | None = None) -> Waveform:
        """Samples at 16 kHz, resampled when the row declares another rate. Raises `AudioError`; `TooLongError` beyond `max_s`."""
        content, limit_s = self.content() if content is None else content, LONGEST_S if max_s is None else max_s
        _require_rate(self.rate, str(self))
        if (count := content.count(b",") + 1) > limit_s * self.rate:
            raise TooLongError(str(self), count / self.rate, limit_s)
        try:
            samples = np.asarray(_FLOATS.decode(content), dtype=np.float32)
        except msgspec.MsgspecError as error:
            raise AudioError(f"{self}: `audio` must hold numbers only ({error})") from error
        require_scale(samples, INLINE_PEAK, str(self), "divide them")
        return _at_model_rate(samples, self.rate)

    def rate_hz(self) -> int:
        return self.rate


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """Encoded bytes in memory, as a hub dataset delivers them; `name` is used in messages and for the format's suffix."""

    data: bytes
    name: str
    channel: Channel | None = None
    track: int | None = None
    stored_sha256: None = None

    def __str__(self) -> str:
        return self.name

    def part(self, channel: Channel | None, track: int | None) -> "EncodedAudio":
        """Another channel or track of the same bytes."""
        return EncodedAudio(self.data, self.name, channel, track)

    def content(self) -> bytes:
        return self.data

    def waveform(self, max_s: float | None = None, content: bytes | None = None) -> Waveform:
        """As that of a file."""
        return _decode(self, max_s, content)


AudioSource = FileAudio | InlineAudio
"""What a manifest row points to."""

_FLOATS = msgspec.json.Decoder(list[float])


def load(source: AudioSource | EncodedAudio, settings: AudioSettings, max_s: float | None = None, content: bytes | None = None) -> Waveform:
    """The waveform of `source` as every stage sees it. `content` is what `stored` returned, if it has been read already.

    Raises `AudioError` when it cannot be read or decoded, has changed since it was checked, is truncated, contradicts its header, is empty,
    holds values that are not finite or beyond full scale, or several channels or tracks of which one has to be chosen; `TooLongError` when
    it lasts longer than `max_s`, or than `LONGEST_S` without one: before anything is decoded if the header gives the length.
    """
    if content is None and source.stored_sha256 is not None:
        content = stored(source, max_s)
    return prepare(source.waveform(max_s, content), settings, str(source))


def stored(source: AudioSource | EncodedAudio, max_s: float | None = None) -> bytes:
    """What one read of a recording gives, for its hash and its samples: the stored bytes, or the samples of a part of a long recording.

    Raises `AudioError` when it cannot be read or has changed since it was checked, and for a part what `load` raises.
    """
    content = source.waveform(max_s).tobytes() if isinstance(source, FileAudio) and source.span is not None else source.content()
    if source.stored_sha256 is not None and stored_hash(content) != source.stored_sha256:
        raise AudioError(f"{source}: has changed since it was checked; leave recordings alone while a run reads them, and start again")
    return content


def stored_hash(content: bytes) -> str:
    """Hex SHA-256 of what `stored` returned: the one hash of a recording that every later stage goes by."""
    return sha256_bytes(content)


def prepare(samples: Waveform, settings: AudioSettings, name: str) -> Waveform:
    """Checks mono 16 kHz `samples` and brings them to the level that `settings` ask for."""
    if samples.size == 0:
        raise AudioError(f"{name}: holds no samples; remove it or record it again")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds NaN or infinite samples; write the file again")
    if settings.rms_dbfs is None:
        return samples
    return _at_rms(samples, settings.rms_dbfs)


def stored_seconds(source: FileAudio | EncodedAudio) -> Seconds:
    """How long a recording lasts, from its header if that is certain. Raises `AudioError` as `load` does for its file."""
    if isinstance(source, FileAudio) and source.span is not None:
        return seconds(source.span.count)
    length_s = stored_length(source.content(), str(source))
    return duration(source.waveform()) if length_s is None else length_s


def is_silent(samples: Waveform) -> bool:
    """Whether the loudest sample stays below `SILENCE_DBFS`."""
    return bool(max(samples.max(initial=0.0), -samples.min(initial=0.0)) < 10 ** (SILENCE_DBFS / 20))


def duration(samples: Waveform) -> Seconds:
    return seconds(samples.shape[-1])


def fingerprint(source: AudioSource, settings: AudioSettings) -> str:
    """Hex SHA-256 of all that decides a waveform: the stored bytes and how they are decoded. Equal content, equal value.

    Reads nothing if the recording has been checked.
    """
    return fingerprint_of(source.stored_sha256 or stored_hash(stored(source)), source, settings)


def fingerprint_of(stored_sha256: str, source: AudioSource, settings: AudioSettings) -> str:
    """The `fingerprint` of a recording whose `stored_hash` is known."""
    rate = source.rate if isinstance(source, InlineAudio) else 0
    options = {"rms_dbfs": settings.rms_dbfs, "rate": rate, "resampler": RESAMPLER_QUALITY, "decoding": _DECODING}
    part = isinstance(source, FileAudio) and source.span is not None  # its hash is that of samples: channel and track are chosen already
    chosen = {"part": True} if part else {"channel": source.channel, "track": source.track}
    return sha256_bytes(stored_sha256.encode(), json.dumps({**options, **chosen}, sort_keys=True).encode())


def waveform_hash(samples: Waveform) -> str:
    """Hex SHA-256 of 16-bit samples: the same speech has the same value in a wav, in a flac and inline."""
    return sha256_bytes(_pcm16(samples).astype("<i2").tobytes())


def resample(samples: npt.NDArray[np.float32], from_hz: float, to_hz: float) -> Waveform:
    """`samples` of shape `[samples]` at another sampling rate."""
    with signals_wait():
        import soxr

    return np.ascontiguousarray(soxr.resample(samples, from_hz, to_hz, quality=RESAMPLER_QUALITY), dtype=np.float32)


def encode_flac(samples: Waveform) -> bytes:
    """16-bit mono FLAC of a waveform. Decoding it gives the same `waveform_hash`."""
    return _encoded(samples, "FLAC")


def encode_wav(samples: Waveform) -> bytes:
    """16-bit mono WAV of a waveform. Decoding it gives the same `waveform_hash`."""
    return _encoded(samples, "WAV")


def through_codec(samples: Waveform, rate_hz: int, subtype: str, container: str = "WAV", level: float | None = None) -> Waveform:
    """`samples` within [-1, 1] after a lossy codec of libsndfile, such as `ULAW`, at the same rate and of the same length.

    `level` is libsndfile's for codecs that have one: from 0, the highest bitrate, to 1, the lowest.

    Raises `AudioError` when the system's libsndfile lacks the codec.
    """
    import soundfile

    if not soundfile.check_format(container, subtype):
        raise AudioError(f"libsndfile {soundfile.__libsndfile_version__} cannot write {subtype}; leave this codec out")
    with nameless_file() as file:
        soundfile.write(file.fileno(), samples, rate_hz, format=container, subtype=subtype, compression_level=level, closefd=False)
        file.seek(0)
        with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            decoded: Waveform = sound.read(len(samples), dtype="float32")  # codecs that work in blocks fill the last one
    return decoded


def _encoded(samples: Waveform, container: str) -> bytes:
    import soundfile

    with nameless_file() as file:
        soundfile.write(file.fileno(), _pcm16(samples), SAMPLE_RATE_HZ, format=container, subtype="PCM_16", closefd=False)
        file.seek(0)
        return file.read()


def _pcm16(samples: Waveform) -> npt.NDArray[np.int16]:
    """16-bit samples by the scale that libsndfile decodes with (32768, although it encodes floats with 32767)."""
    quantised: npt.NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return quantised


def require_file(path: Path) -> None:
    """Raises `AudioError` for a path that names no file."""
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; name an audio file in it")
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file")


def read_file(
    path: Path, settings: AudioSettings, channel: Channel | None = None, track: int | None = None, max_s: float | None = None
) -> Waveform:
    """The waveform of a file named by a person; a missing one raises `AudioError`."""
    require_file(path)
    return load(FileAudio(path, channel, track), settings, max_s)


def _part_of(source: FileAudio, span: Span, max_s: float | None) -> Waveform:
    if max_s is not None and span.count > max_s * SAMPLE_RATE_HZ:
        raise TooLongError(str(source), seconds(span.count), max_s)
    whole, end = _recordings.get(FileAudio(source.path, source.channel, source.track)), span.start + span.count
    if end > len(whole) + _PAST_END:
        raise AudioError(f"{source}: lasts {duration(whole):.2f} s, and the part ends at {seconds(end):.2f} s; correct the times")
    return whole[span.start : end].copy()


class _Recordings:
    """Cache of decoded long recordings, because many parts come from one."""

    def __init__(self) -> None:
        self._kept = dict[tuple[FileAudio, int, int], Waveform]()
        self._lock = threading.Lock()

    def get(self, source: FileAudio) -> Waveform:
        """The whole recording. Raises `AudioError`."""
        try:
            state = source.path.stat()
        except OSError as error:
            raise AudioError(f"{source}: cannot be read ({error.strerror}); check the path in the manifest") from error
        name = (source, state.st_mtime_ns, state.st_size)
        with self._lock:  # threads that want the same recording wait for one decoding
            self._kept[name] = samples = self._kept.pop(name) if name in self._kept else _decode(source, None)
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
        return samples


_recordings = _Recordings()


def _decode(source: FileAudio | EncodedAudio, max_s: float | None, content: bytes | None = None) -> Waveform:
    name = str(source)
    sound = decode(source.content() if content is None else content, name, source.track, max_s)
    require_scale(sound.samples, FILE_PEAK, name, "write them again, divided")
    return _at_model_rate(mono(sound.samples, sound.rate_hz, source.channel, name), sound.rate_hz)


def require_scale(samples: npt.NDArray[np.float32], most: float, name: str, remedy: str) -> None:
    """Raises `AudioError` if samples lie beyond full scale. NaN and infinity have a message of their own."""
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if most < peak < math.inf:
        scale = next((1 << bits for bits in (7, 15, 23, 31) if peak <= 1 << bits), None)
        by = f"by {scale}, for they look like {scale.bit_length()}-bit integers" if scale and peak > 2 * most else "by their peak"
        raise AudioError(f"{name}: holds samples up to {peak:.6g}, and full scale is 1; {remedy} {by}")


def _require_rate(rate: int, name: str) -> None:
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(f"{name}: declares a sampling rate of {rate} Hz; {RATES_HZ[0]} to {RATES_HZ[1]} are taken, correct it")


def _at_model_rate(samples: npt.NDArray[np.float32], rate: int) -> Waveform:
    if rate == SAMPLE_RATE_HZ or samples.size == 0:
        return np.ascontiguousarray(samples, dtype=np.float32)
    return resample(samples, rate, SAMPLE_RATE_HZ)


def _at_rms(samples: Waveform, target_dbfs: float) -> Waveform:
    rms = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))
    peak = float(np.abs(samples).max())
    if rms == 0.0:
        return samples
    gain = min(10 ** (target_dbfs / 20) / rms, _PEAK_LIMIT / peak)
    return (samples * np.float32(gain)).astype(np.float32)
