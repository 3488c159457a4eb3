"""Encoded sound to samples: which library reads which kind of file, and the checks that come before and after it."""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from lora.audio.containers import chunks, streams
from lora.audio.containers.claims import TOLERANCE_S, BrokenFileError, broke_off
from lora.errors import AudioError, TooLongError
from lora.units import Seconds

_SOUND: Final = "wav flac ogg oga opus mp3 mp2 aac aiff aif aifc au snd caf w64 rf64 voc sph m4a m4b mka amr wma"
_FILM: Final = "mp4 m4v mov 3gp 3g2 webm mkv avi flv ts mpg mpeg"
AUDIO_SUFFIXES: Final = frozenset(f".{name}" for name in f"{_SOUND} {_FILM}".split())
"""Suffixes that are searched for in folders. The kind of a file follows from its first bytes, whatever its name."""

RATES_HZ: Final = (4_000, 768_000)
"""Lowest and highest sampling rate accepted: below it no word is intelligible, and no recorder goes beyond."""

MOST_CHANNELS: Final = 64
LONGEST_S: Final = Seconds(6 * 3600.0)
"""Longest recording that is decoded at once by default."""

_BLOCK: Final = 1 << 20
"""Samples of a channel that are decoded at a time, so that no header decides how much memory is allocated."""

_INT16: Final = np.float32(1 / 32768)
"""One quantisation step of 16-bit samples."""

_DURATION_SLACK_S: Final = 0.5
"""How far a container's duration may be from its sound: it may count another stream, or the encoder's delay."""

_WAV_CODECS: Final = {1, 2, 3, 6, 7, 0x11, 0x31, 0x38, 0x40, 0x45}
"""Format tags of WAV that libsndfile reads; FFmpeg reads the others."""

_CAF_CODECS: Final = {b"lpcm", b"ulaw", b"alaw"}
_SNDFILE_MAGIC: Final = (b"NIST_1A", b"Creative Voice File")
_CHUNKED: Final = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff\x2e\x91\xcf\x11", b"FORM", b"caff", b".snd", b"dns.")
_MAGIC: Final = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"#!AMR": "amr",
    b"FLV\x01": "flv",
    b"\0\0\x01\xba": "mpeg",
}
_MP4_BOXES: Final = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_CHECKS: Final[dict[str, Callable[[bytes], None]]] = {
    "mp3": streams.check_mp3,
    "aac": streams.check_adts,
    "mov": streams.check_mp4,
    "matroska": streams.check_matroska,
    "ogg": streams.check_ogg,
}
_ESTIMATED: Final = {"flac", "mp3", "aac", "amr", "mpeg", "mpegts", "flv"}
"""Kinds whose duration FFmpeg estimates: it says nothing of what the file should hold."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Decoded samples `[frames, channels]`, and their rate."""

    samples: npt.NDArray[np.float32]
    rate_hz: int


@dataclass(frozen=True, slots=True)
class Kind:
    """The library that reads a file. `container` is FFmpeg's name for its format; it never guesses, as some formats open other files."""

    container: str | None
    """None if libsndfile reads it."""
    check: Callable[[bytes], None] | None = None


def kind_of(data: bytes, name: str) -> Kind:
    """The kind of a file by its first bytes. Raises `AudioError` if it is none that is known."""
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return Kind("avi", chunks.check_avi)
    if data.startswith(b"fLaC"):
        return _flac(data, 0)
    if data.startswith(_CHUNKED):
        return _kind_of_chunks(data)
    if data.startswith(_SNDFILE_MAGIC):
        return Kind(None)
    if data.startswith(b"OggS"):
        single = streams.ogg_streams(data) == 1 and (b"OpusHead" in data[:64] or b"vorbis" in data[:64])
        return Kind(None if single else "ogg", streams.check_ogg)
    container = next((found for magic, found in _MAGIC.items() if data.startswith(magic)), None)
    if container is None and data[4:8] in _MP4_BOXES:
        container = "mov"
    if container is None and all(data[place : place + 1] == b"G" for place in (0, 188, 376)):
        container = "mpegts"
    if container is None:
        return _kind_of_frames(data, name)
    return Kind(container, _CHECKS.get(container))


def _flac(data: bytes, start: int) -> Kind:
    """libsndfile does not read one whose header leaves the length open, as that of one that was written to a pipe."""
    length = int.from_bytes(data[start + 21 : start + 26], "big") & 0xFFFFFFFFF
    return Kind(None if length else "flac", streams.check_flac)


def _kind_of_chunks(data: bytes) -> Kind:
    found = chunks.header(data)
    foreign = None
    if found is not None and data[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and found.codec not in _WAV_CODECS:
        foreign = "wav"
    if found is not None and data[:4] == b"caff" and found.codec not in _CAF_CODECS:
        foreign = "caf"
    return Kind(foreign, _check_chunks)


def _check_chunks(data: bytes) -> None:
    found = chunks.header(data)
    if found is None:
        return
    if not RATES_HZ[0] <= found.rate_hz <= RATES_HZ[1]:
        raise BrokenFileError(_absurd(found.rate_hz))
    if found.claim is not None:
        found.claim.check()


def _kind_of_frames(data: bytes, name: str) -> Kind:
    tagged = data.startswith(b"ID3")
    start = streams.behind_tags(data)
    if tagged and data.startswith(b"fLaC", start):
        return _flac(data, start)
    aac, mp3 = (streams.first_frame(data, frame) for frame in (streams.adts_frame, streams.mpeg_frame))
    if aac is not None and (mp3 is None or aac < mp3):
        return Kind("aac", streams.check_adts)
    if mp3 is not None or tagged:
        return Kind("mp3", streams.check_mp3)
    raise AudioError(f"{name}: {_UNREADABLE}; convert it to flac")


_UNREADABLE: Final = "not readable as wav, flac, ogg or mp3, nor as m4a, webm, aiff or another known kind of sound"


def decode(data: bytes, name: str, track: int | None, max_s: float | None) -> Sound:
    """All samples of an encoded file.

    Raises `AudioError` if it is unreadable, truncated, contradicts its header, or holds several tracks and `track` (counted from 1)
    chooses none; `TooLongError` beyond `max_s`, which the header decides where it can.
    """
    kind = checked_kind(data, name)
    limit_s = LONGEST_S if max_s is None else max_s
    if kind.container is not None:
        return _with_ffmpeg(data, name, kind.container, track, limit_s)
    if track not in (None, 1):
        raise AudioError(f"{name}: holds one audio track; leave out track {track}")
    return _with_libsndfile(data, name, limit_s)


def stream(source: Path | bytes, name: str, track: int | None) -> Iterator[Sound]:
    """All samples of a file, or of its content, block by block, so that memory does not grow with its length.

    Raises what `decode` raises, but for limits. Headers are checked when the first block is asked for; that the sound is as long as they
    say, after the last one.
    """
    data = _content(source) if isinstance(source, Path) else source
    kind = checked_kind(data, name)
    if kind.container is not None:
        whole = kind.container == "mp3" or isinstance(source, bytes)
        yield from _ffmpeg_blocks(source, data if whole else None, name, kind.container, track)
        return
    if track not in (None, 1):
        raise AudioError(f"{name}: holds one audio track; leave out track {track}")
    del data
    yield from _libsndfile_blocks(source, name)


def _file_of(source: Path | bytes) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else nameless_file(source)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); check the path in the manifest") from error


def checked_kind(data: bytes, name: str) -> Kind:
    """The kind of a file whose headers agree with what it holds. Raises `AudioError`."""
    if not data:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    try:
        kind = kind_of(data, name)
        if kind.check is not None:
            kind.check(data)
    except BrokenFileError as error:
        raise AudioError(f"{name}: {error}") from error
    return kind


def stored_length(data: bytes, name: str) -> Seconds | None:
    """How long a file lasts by its header; None if no header says it for certain. Raises `AudioError`."""
    if checked_kind(data, name).container is not None:
        return None
    import soundfile

    try:
        with nameless_file(data) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            _require_plausible(name, sound.samplerate, sound.channels)
            return Seconds(sound.frames / sound.samplerate) if _says_length(sound.frames) else None
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(name, error)) from error


@dataclass(frozen=True, slots=True)
class Format:
    """What a header says of a track."""

    rate_hz: int
    channels: int


def stored_format(path: Path, track: int | None = None) -> Format:
    """A file's own sampling rate and number of channels, from its header. Raises `AudioError` as `decode` does."""
    data = _content(path)
    name, kind = str(path), checked_kind(data, str(path))
    if kind.container is not None:
        with _opened(data, name, kind.container) as container:
            stream = _track(container, name, track)
            return Format(int(stream.rate or 0), stream.channels)
    import soundfile

    try:
        with nameless_file(data) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            return Format(sound.samplerate, sound.channels)
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(name, error)) from error


def _says_length(frames: int) -> bool:
    return 0 < frames < 1 << 62  # libsndfile's number for a FLAC that was written to a pipe


def _with_libsndfile(data: bytes, name: str, limit_s: float) -> Sound:
    import soundfile

    try:
        with nameless_file(data) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            rate, stated = int(sound.samplerate), int(sound.frames) if _says_length(sound.frames) else None
            _require_plausible(name, rate, sound.channels)
            if stated is not None and stated > limit_s * rate:
                raise TooLongError(name, stated / rate, limit_s)
            samples = _joined(_blocks(sound, name), name, rate, limit_s)
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(name, error)) from error
    _require_frames(name, stated, len(samples), rate)
    return Sound(samples, rate)


def _require_frames(name: str, stated: int | None, count: int, rate: int) -> None:
    if stated is not None and (stated - count) / rate > TOLERANCE_S:
        raise AudioError(f"{name}: {broke_off(stated / rate, count / rate)}")


def _libsndfile_blocks(source: Path | bytes, name: str) -> Iterator[Sound]:
    import soundfile

    count = 0
    try:
        with _file_of(source) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            rate, stated = int(sound.samplerate), int(sound.frames) if _says_length(sound.frames) else None
            _require_plausible(name, rate, sound.channels)
            for block in _blocks(sound, name):
                count += len(block)
                yield Sound(block, rate)
    except soundfile.LibsndfileError as error:
        raise AudioError(_unreadable(name, error)) from error
    _require_frames(name, stated, count, rate)


def _blocks(sound: Any, name: str) -> Iterator[npt.NDArray[np.float32]]:
    """Reads to the end of the sound, block by block: codecs without seeking can be read in no other way."""
    import soundfile

    left, stored = sound.frames, "int16" if sound.subtype == "PCM_16" else "float32"
    try:
        while left and len(block := sound.read(_BLOCK, dtype=stored, always_2d=True)):
            left -= len(block)
            yield block if stored == "float32" else np.multiply(block, _INT16, dtype=np.float32)  # what libsndfile does, and sooner
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: the file is truncated or damaged ({error}); copy or record it again") from error


def _joined(blocks: Iterator[npt.NDArray[np.float32]], name: str, rate: int, limit_s: float) -> npt.NDArray[np.float32]:
    """The blocks as one. Raises `TooLongError` as soon as they last longer than `limit_s`."""
    kept, count = list[npt.NDArray[np.float32]](), 0
    for block in blocks:
        kept.append(block)
        count += len(block)
        if count > limit_s * rate:
            raise TooLongError(name, None, limit_s)
    if not kept:
        return np.zeros((0, 1), dtype=np.float32)
    return kept[0] if len(kept) == 1 else np.concatenate(kept)


def _require_plausible(name: str, rate: float, channels: int) -> None:
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(f"{name}: {_absurd(rate)}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise AudioError(f"{name}: declares {channels} channels; up to {MOST_CHANNELS} are taken, check what wrote the file")


def _absurd(rate: float) -> str:
    return f"declares a sampling rate of {rate:.10g} Hz; {RATES_HZ[0]} to {RATES_HZ[1]} are taken, write the header again"


def _opened(data: bytes, name: str, container: str) -> Any:
    return _open(io.BytesIO(streams.without_tail(data) if container == "mp3" else data), name, container)


def _open(file: IO[bytes], name: str, container: str) -> Any:
    import av

    try:
        return av.open(file, mode="r", format=container)
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise AudioError(_undecodable(name, error)) from error


def _track(container: Any, name: str, track: int | None) -> Any:
    """The wanted audio stream. Raises `AudioError` if there is none, or several and none is chosen."""
    found = container.streams.audio
    if not found:
        raise AudioError(f"{name}: holds no audio stream")
    if track is None and len(found) > 1:
        listed = ", ".join(f"{number}: {_described(stream)}" for number, stream in enumerate(found, start=1))
        raise AudioError(
            f"{name}: holds {len(found)} audio tracks ({listed}), which are not mixed; choose with --track, or with `track` in a manifest"
        )
    if track is not None and not 1 <= track <= len(found):
        raise AudioError(f"{name}: has no track {track}, only {len(found)}; tracks are counted from 1")
    return found[(track or 1) - 1]


def _described(stream: Any) -> str:
    names = [str(stream.metadata[key])[:40] for key in ("language", "title", "handler_name") if stream.metadata.get(key)]
    return " ".join([stream.codec_context.name, f"{stream.channels} ch", *names])


def _with_ffmpeg(data: bytes, name: str, kind: str, track: int | None, limit_s: float) -> Sound:
    import av

    try:
        with _opened(data, name, kind) as container:
            stream = _track(container, name, track)
            _require_plausible(name, stream.rate or 0, stream.channels)
            stated_s = _stated_s(container, stream, kind)
            if stated_s is not None and stated_s - _DURATION_SLACK_S > limit_s:
                raise TooLongError(name, stated_s, limit_s)
            rate = int(stream.rate)
            samples = _joined(_frames(container, stream, name), name, rate, limit_s)
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise AudioError(_undecodable(name, error)) from error
    _require_length(name, stated_s, len(samples), rate)
    return Sound(samples, rate)


def _require_length(name: str, stated_s: float | None, count: int, rate: int) -> None:
    if not count:
        raise AudioError(f"{name}: holds no audio")
    if stated_s is not None and stated_s - count / rate > max(_DURATION_SLACK_S, 0.02 * stated_s):
        raise AudioError(f"{name}: {broke_off(stated_s, count / rate)}")


def _ffmpeg_blocks(source: Path | bytes, data: bytes | None, name: str, kind: str, track: int | None) -> Iterator[Sound]:
    """`data` is the file's content if it is in memory already or must be examined as a whole."""
    import av

    count = 0
    try:
        with ExitStack() as opened:
            file = None if data is not None else opened.enter_context(_file_of(source))
            container = opened.enter_context(_open(file, name, kind) if file is not None else _opened(data or b"", name, kind))
            chosen = _track(container, name, track)
            _require_plausible(name, chosen.rate or 0, chosen.channels)
            stated_s, rate = _stated_s(container, chosen, kind), int(chosen.rate)
            for block in _gathered(_frames(container, chosen, name)):
                count += len(block)
                yield Sound(block, rate)
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise AudioError(_undecodable(name, error)) from error
    _require_length(name, stated_s, count, rate)


def _gathered(frames: Iterator[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Codecs' short frames in blocks of `_BLOCK` samples and more."""
    kept, count = list[npt.NDArray[np.float32]](), 0
    for frame in frames:
        kept.append(frame)
        count += len(frame)
        if count >= _BLOCK:
            yield np.concatenate(kept)
            kept, count = [], 0
    if kept:
        yield np.concatenate(kept)


def _stated_s(container: Any, stream: Any, kind: str) -> float | None:
    """How long the track lasts by its header; None if that is an estimate, or may be another track's length."""
    if kind in _ESTIMATED:
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return container.duration / 1e6 if alone and container.duration is not None else None


def _frames(container: Any, stream: Any, name: str) -> Iterator[npt.NDArray[np.float32]]:
    """Samples `[frames, channels]` at the track's own rate."""
    import av

    resampler = av.AudioResampler(format="fltp", rate=int(stream.rate))
    for frame in container.decode(stream):
        if frame.sample_rate != stream.rate:
            raise AudioError(f"{name}: changes its sampling rate from {stream.rate} to {frame.sample_rate} Hz; convert it to flac")
        yield from _arrays(resampler.resample(frame))
    yield from _arrays(resampler.resample(None))


def _arrays(frames: Any) -> Iterator[npt.NDArray[np.float32]]:
    for frame in frames:
        yield frame.to_ndarray().T


def nameless_file(data: bytes = b"") -> IO[bytes]:
    """A file with this content that vanishes when it is closed; on Linux it never touches a disk.

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
    return f"{name}: not readable as wav, flac, ogg or mp3 ({error}); convert it, or copy it again"


def _undecodable(name: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name}: cannot be decoded ({reason}); copy it again, or convert it to flac"
