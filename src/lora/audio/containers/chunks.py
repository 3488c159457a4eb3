"""Files made of chunks with a size each: WAV, RF64, W64, AIFF, CAF; and AU, which is one header."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from lora.audio.containers.claims import BrokenFileError, Claim, is_no_sound

_OPEN_ENDED: Final = (range(0x7FFFF000, 0x80000100), range(0xFFFFFF00, 0x100000000))
"""Sizes that programs write to a pipe because they cannot know the real one: sox the first, FFmpeg and others the second."""

_COMPRESSED_BYTES_PER_S: Final = 4000.0
"""Typical bytes of speech, for headers that do not say; only seconds in messages depend on it."""

_REMEDY: Final = "write the header again, for example with `sox --ignore-length FILE NEW`"
_AU_BITS: Final = {1: 8, 2: 8, 3: 16, 4: 24, 5: 32, 6: 32, 7: 64, 23: 4, 24: 8, 25: 3, 26: 5, 27: 8}
_AIFC_PLAIN: Final = {
    b"NONE",
    b"sowt",
    b"twos",
    b"raw ",
    b"in24",
    b"in32",
    b"fl32",
    b"FL32",
    b"fl64",
    b"FL64",
    b"ulaw",
    b"alaw",
    b"ULAW",
    b"ALAW",
}


@dataclass(frozen=True, slots=True)
class Header:
    """Rate and claim of a file of chunks."""

    rate_hz: float
    codec: int | bytes
    """WAV's format tag, or the four letters of CAF and AIFC."""
    claim: Claim | None
    """None if the file has no chunk of sound."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How chunks are written. A chunk's name and size take `head` bytes, and it ends at a multiple of `align`."""

    order: Literal["little", "big"]
    name: int
    size: int
    align: int
    counts_itself: bool = False

    @property
    def head(self) -> int:
        return self.name + self.size

    def at(self, data: bytes, place: int) -> tuple[bytes, int]:
        """Name and size of the content of the chunk at `place`."""
        size = int.from_bytes(data[place + self.name : place + self.head], self.order)
        return data[place : place + 4], size - self.head if self.counts_itself else size

    def after(self, place: int, size: int) -> int:
        return place + self.head + -(-size // self.align) * self.align


_RIFF = _Layout("little", 4, 4, 2)
_RIFX = _Layout("big", 4, 4, 2)
_W64 = _Layout("little", 16, 8, 8, counts_itself=True)
_CAF = _Layout("big", 4, 8, 1)


def header(data: bytes) -> Header | None:
    """What the header of a file of chunks says. None if `data` is another kind of file or ends before the sound."""
    for magic, read in _READERS.items():
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError):  # a truncated header, which the decoder refuses
                return None
    return None


def check_avi(data: bytes) -> None:
    """Raises `BrokenFileError` if the whole is shorter than its header says."""
    size = int.from_bytes(data[4:8], "little")
    if _claimed(size, None) is not None and size + 8 > len(data):
        raise BrokenFileError(f"the file is truncated: {size + 8 - len(data)} of its bytes are missing; copy or record it again")


def _chunks(data: bytes, layout: _Layout, place: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the content and size of each chunk, up to the first that the file does not hold whole."""
    while place + layout.head <= len(data):
        name, size = layout.at(data, place)
        if size < 0:
            return
        yield name, place + layout.head, size
        place = layout.after(place, size)


def _held(data: bytes, layout: _Layout, start: int, size: int) -> int:
    """Bytes of sound from `start` on: `size`, or more where what follows is no chunk, or less where the file ends."""
    if start + size >= len(data):
        return len(data) - start
    place = layout.after(start - layout.head, size)
    while place + layout.head <= len(data):
        name, length = layout.at(data, place)
        after = layout.after(place, length)
        if length < 0 or after > len(data) + layout.align or not all(0x20 <= letter < 0x7F for letter in name):
            break
        place = after
    return size if is_no_sound(data[place:]) else len(data) - start


def _wave(data: bytes, layout: _Layout, place: int) -> Header | None:
    order = "<" if layout.order == "little" else ">"
    tag, rate, bytes_per_s, long_size = 0, 0, 1.0, None
    for name, start, size in _chunks(data, layout, place):
        if name == b"fmt ":
            tag, channels, rate, stated, align, bits = struct.unpack_from(order + "HHIIHH", data, start)
            if tag == 0xFFFE and size >= 40:
                tag = struct.unpack_from(order + "H", data, start + 24)[0]
            plain = tag in (1, 3, 6, 7)
            if plain and align != channels * -(-bits // 8):
                raise BrokenFileError(
                    f"its header contradicts itself: {channels} channels of {bits} bits in frames of {align} bytes; {_REMEDY}"
                )
            bytes_per_s = rate * channels * bits / 8 if plain else min(stated, rate * channels * 2)
            bytes_per_s = bytes_per_s or _COMPRESSED_BYTES_PER_S
        elif name == b"ds64":
            long_size = struct.unpack_from("<Q", data, start + 8)[0]
        elif name == b"data":
            claimed = _claimed(size, long_size)
            held = _held(data, layout, start, claimed) if claimed is not None else len(data) - start
            return Header(rate, tag, Claim(claimed, held, bytes_per_s, _REMEDY))
    return Header(rate, tag, None) if tag else None


def _claimed(size: int, long_size: int | None) -> int | None:
    if long_size is not None and size == 0xFFFFFFFF:
        return long_size if long_size < 1 << 62 else None
    return None if any(size in sizes for sizes in _OPEN_ENDED) else size


def _aiff(data: bytes) -> Header | None:
    rate, codec, frame, frames = 0.0, b"NONE", 0.0, None
    sound: tuple[int, int] | None = None
    for name, start, size in _chunks(data, _RIFX, 12):
        if name == b"COMM":
            channels, frames, bits = struct.unpack_from(">hIh", data, start)
            rate = _extended(data[start + 8 : start + 18])
            codec = data[start + 18 : start + 22] if data[8:12] == b"AIFC" else b"NONE"
            width = 1 if codec.lower() in (b"ulaw", b"alaw") else -(-bits // 8)
            frame = float(channels * width)
        elif name == b"SSND":
            sound = start, size
    if sound is None or not frame:
        return Header(rate, codec, None) if rate else None
    return Header(
        rate, codec, _aiff_claim(data, sound, rate, frames * frame if codec in _AIFC_PLAIN and frames is not None else None, frame)
    )


def _aiff_claim(data: bytes, sound: tuple[int, int], rate_hz: float, stated: float | None, frame: float) -> Claim:
    start, size = sound
    held = _held(data, _RIFX, start, size) - 8
    claimed = _claimed(size, None)
    content = held if claimed is None else max(claimed - 8, 0)
    bytes_per_s = rate_hz * frame if stated is not None else _COMPRESSED_BYTES_PER_S
    least = content if stated is None else min(content, int(stated))
    most = content if stated is None else max(content, int(stated))
    return Claim(most if most > held else least, held, bytes_per_s or _COMPRESSED_BYTES_PER_S)


def _extended(field: bytes) -> float:
    """An 80-bit float, as AIFF stores its rate."""
    exponent, mantissa = struct.unpack(">HQ", field)
    return float(mantissa) * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63) if exponent & 0x7FFF < 16383 + 64 else float("inf")


def _caf(data: bytes) -> Header | None:
    rate, codec, bytes_per_s = 0.0, b"", _COMPRESSED_BYTES_PER_S
    for name, start, size in _chunks(data, _CAF, 8):
        if name == b"desc":
            rate, codec, _flags, packet, frames = struct.unpack_from(">d4sIII", data, start)
            bytes_per_s = rate * packet / frames if packet and frames else _COMPRESSED_BYTES_PER_S
        elif name == b"data":
            edits = 4  # a count of edits stands before the sound
            claimed = None if size == (1 << 64) - 1 else max(size - edits, 0)
            held = _held(data, _CAF, start, size) if claimed is not None else len(data) - start
            return Header(rate, codec, Claim(claimed, held - edits, bytes_per_s or _COMPRESSED_BYTES_PER_S))
    return Header(rate, codec, None) if rate else None


def _au(data: bytes) -> Header | None:
    order = ">" if data[:4] == b".snd" else "<"
    start, size, coding, rate, channels = struct.unpack_from(order + "IIIII", data, 4)
    bytes_per_s = rate * channels * _AU_BITS.get(coding, 8) / 8
    held = len(data) - start
    claimed = _claimed(size, None)
    if claimed is not None and claimed < held and is_no_sound(data[start + claimed :]):
        held = claimed
    return Header(rate, coding, Claim(claimed, held, bytes_per_s or _COMPRESSED_BYTES_PER_S))


_READERS: Final[dict[bytes, Callable[[bytes], Header | None]]] = {
    b"RIFF": lambda data: _wave(data, _RIFF, 12),
    b"RIFX": lambda data: _wave(data, _RIFX, 12),
    b"RF64": lambda data: _wave(data, _RIFF, 12),
    b"BW64": lambda data: _wave(data, _RIFF, 12),
    b"riff\x2e\x91\xcf\x11": lambda data: _wave(data, _W64, 40),
    b"FORM": _aiff,
    b"caff": _caf,
    b".snd": _au,
    b"dns.": _au,
}
