"""Audio in: decode, mix to mono, resample to 16 kHz, optional loudness. The one path for training, evaluation and live use."""

import io
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from lora.errors import AudioError
from lora.files import sha256_bytes
from lora.process import signals_wait
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds

Waveform = npt.NDArray[np.float32]
"""Mono samples at `SAMPLE_RATE_HZ`, shape `[samples]`, nominally within [-1, 1]."""

SILENCE_DBFS = -70.0
"""Peak below this is silence: 10 bits under 16-bit full scale would still be -60; recordings of speech peak above -40."""

PYAV_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".webm", ".mka"})
"""Containers that libsndfile does not read; they take the optional extra `av`."""

_PEAK_LIMIT = 0.999
_RESAMPLER_QUALITY = "HQ"


class AudioSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to every waveform. Recorded with the adapter and applied wherever that adapter is used."""

    rms_dbfs: Annotated[float, msgspec.Meta(ge=-100, le=0)] | None = None
    """Target RMS level in dB relative to full scale; None leaves the level as recorded."""


@dataclass(frozen=True, slots=True, init=False)
class FileAudio:
    """Encoded audio in a file of its own."""

    name: str
    """The path as text: a `Path` takes three times the memory, and a corpus names millions of files."""

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "name", str(path))

    @property
    def path(self) -> Path:
        return Path(self.name)

    def __str__(self) -> str:
        return self.name

    def content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be read ({error.strerror}); check the path in the manifest") from error

    def waveform(self) -> Waveform:
        """Decoded mono samples at 16 kHz, level untouched."""
        return _decode(self.path.suffix.lower(), self.content(), str(self.path))

    def rate_hz(self) -> int:
        """The file's own sampling rate, from its header."""
        if self.path.suffix.lower() in PYAV_SUFFIXES:
            return _pyav_decode(self.content(), str(self.path))[1]
        import soundfile

        try:
            return int(soundfile.info(self.path).samplerate)
        except soundfile.LibsndfileError as error:
            raise AudioError(_unreadable(str(self.path), error)) from error


@dataclass(frozen=True, slots=True)
class InlineAudio:
    """A JSON array of float samples inside a manifest, left on disk until it is needed."""

    manifest: Path
    offset: int
    length: int
    rate: int = SAMPLE_RATE_HZ

    def __str__(self) -> str:
        return f"{self.manifest} (inline audio)"

    def content(self) -> bytes:
        with self.manifest.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)

    def waveform(self) -> Waveform:
        """Samples at 16 kHz, resampled when the row declares another rate."""
        try:
            samples = np.asarray(_FLOATS.decode(self.content()), dtype=np.float32)
        except msgspec.MsgspecError as error:
            raise AudioError(f"{self}: `audio` must hold numbers only ({error})") from error
        return _at_model_rate(samples, self.rate, str(self))

    def rate_hz(self) -> int:
        return self.rate


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """Encoded bytes in memory, as a hub dataset delivers them; `name` is used in messages and for the format's suffix."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name

    def content(self) -> bytes:
        return self.data

    def waveform(self) -> Waveform:
        return _decode(Path(self.name).suffix.lower(), self.data, self.name)


AudioSource = FileAudio | InlineAudio
"""What a manifest row points to."""

_FLOATS = msgspec.json.Decoder(list[float])


def load(source: AudioSource | EncodedAudio, settings: AudioSettings) -> Waveform:
    """The waveform of `source` as every stage sees it.

    Raises `AudioError` when it cannot be read or decoded, is empty or holds values that are not finite.
    """
    return prepare(source.waveform(), settings, str(source))


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
    """How long a recording lasts, from its header where that says so. Raises `AudioError` when it cannot be read."""
    if Path(str(source)).suffix.lower() in PYAV_SUFFIXES:
        return duration(source.waveform())
    import soundfile

    try:
        with nameless_file(source.content()) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            return Seconds(sound.frames / sound.samplerate)
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(str(source), error)) from error


def is_silent(samples: Waveform) -> bool:
    """Whether the loudest sample stays below `SILENCE_DBFS`."""
    return bool(np.abs(samples).max(initial=0.0) < 10 ** (SILENCE_DBFS / 20))


def duration(samples: Waveform) -> Seconds:
    return seconds(samples.shape[-1])


def fingerprint(source: AudioSource, settings: AudioSettings) -> str:
    """Hex SHA-256 over the stored bytes and all that decides how they become a waveform. Equal content, equal value."""
    rate = source.rate if isinstance(source, InlineAudio) else 0
    options = json.dumps({"rms_dbfs": settings.rms_dbfs, "rate": rate, "resampler": _RESAMPLER_QUALITY}, sort_keys=True)
    return sha256_bytes(source.content(), options.encode())


def waveform_hash(samples: Waveform) -> str:
    """Hex SHA-256 of 16-bit samples: the same speech has the same value in a wav, in a flac and inline."""
    return sha256_bytes(_pcm16(samples).astype("<i2").tobytes())


def resample(samples: npt.NDArray[np.float32], from_hz: float, to_hz: float) -> Waveform:
    """`samples` of shape `[samples]` at another sampling rate."""
    with signals_wait():
        import soxr

    return np.ascontiguousarray(soxr.resample(samples, from_hz, to_hz, quality=_RESAMPLER_QUALITY), dtype=np.float32)


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


def read_file(path: Path, settings: AudioSettings) -> Waveform:
    """The waveform of a file named by a person; a missing one raises `AudioError`."""
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file")
    return load(FileAudio(path), settings)


def _decode(suffix: str, data: bytes, name: str) -> Waveform:
    if not data:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    samples, rate = _pyav_decode(data, name) if suffix in PYAV_SUFFIXES else _sndfile_decode(data, name)
    return _at_model_rate(samples.mean(axis=1) if samples.ndim == 2 else samples, rate, name)


def _sndfile_decode(data: bytes, name: str) -> tuple[npt.NDArray[np.float32], int]:
    import soundfile

    try:
        with nameless_file(data) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            return sound.read(dtype="float32"), sound.samplerate
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(name, error)) from error


def nameless_file(data: bytes = b"") -> IO[bytes]:
    """A file with this content that is gone when it is closed; on Linux it never touches a disk.

    Given a stream, libsndfile calls back into Python, where Ctrl-C gets lost and cuts the audio.
    """
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("audio"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.seek(0)
    return file


def _unreadable(name: str, error: Exception) -> str:
    return f"{name}: not readable as wav, flac, ogg or mp3 ({error}); convert it, or name m4a and webm files by their suffix"


def _pyav_decode(data: bytes, name: str) -> tuple[npt.NDArray[np.float32], int]:
    import av  # loads as slowly as all else here together, and few files need it

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            frames = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
            frames += [out.to_ndarray() for out in resampler.resample(None)]
    except av.FFmpegError as error:
        raise AudioError(f"{name}: cannot be decoded ({error.strerror})") from error
    if not frames:
        raise AudioError(f"{name}: holds no audio")
    return np.concatenate(frames, axis=1).T.astype(np.float32), int(rate)


def _at_model_rate(samples: npt.NDArray[np.float32], rate: int, name: str) -> Waveform:
    if rate <= 0:
        raise AudioError(f"{name}: declares a sampling rate of {rate} Hz")
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
