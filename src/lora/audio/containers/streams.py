"""Files made of frames, pages, boxes or elements: MP3, AAC, Ogg, MP4 and Matroska. Each must end where a part ends."""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from lora.audio.containers.claims import BrokenFileError, broke_off, is_no_sound

_V1_RATES = {1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)}
_V1_RATES |= {2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)}
_V1_RATES |= {3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
_V2_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_V2_RATES = {1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256), 2: _V2_LOW, 3: _V2_LOW}
_HZ = (44_100, 48_000, 32_000)

_SYNC: Final = re.compile(rb"\xff[\xe0-\xff]")
_FLAC_SYNC: Final = re.compile(rb"\xff[\xf8\xf9][^\x00-\x0f\xf0-\xff]")
_SEARCHED: Final = 1 << 16
"""How far the first whole frame is searched for: the recording of a stream starts in the middle of one."""

_CUT_FRAME: Final = "the file is truncated: its last frame is not complete; copy it again, or convert it where it is part of a live stream"

_SEVERAL: Final = "holds several recordings, one behind the other; convert it to one, or cut it into its parts"
_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))

_EBML_OPEN: Final = {0x18538067, 0x1F43B675}
"""Segment and cluster: a live writer leaves their sizes open, so their parts are checked one by one."""


def mpeg_frame(data: bytes, place: int) -> tuple[int, int, int] | None:
    """Bytes, samples and rate of the MPEG audio frame whose header lies at `place`; None if none does."""
    if place + 4 > len(data) or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[place + 1] >> 3 & 3, 4 - (data[place + 1] >> 1 & 3)
    bitrate, rate, padding = data[place + 2] >> 4, data[place + 2] >> 2 & 3, data[place + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hz = _HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbps = (_V1_RATES if version == 3 else _V2_RATES)[layer][bitrate - 1]
    if layer == 1:
        return (12_000 * kbps // hz + padding) * 4, 384, hz
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples * 125 * kbps // hz + padding, samples, hz


def adts_frame(data: bytes, place: int) -> tuple[int, int, int] | None:
    """The same of an AAC frame."""
    if place + 7 > len(data) or data[place] != 0xFF or data[place + 1] & 0xF6 != 0xF0:
        return None
    length = (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5
    return (length, 1024, 0) if length >= 7 and data[place + 2] >> 2 & 15 < 13 else None


Frame = Callable[[bytes, int], tuple[int, int, int] | None]


def first_frame(data: bytes, frame: Frame) -> int | None:
    """Where the first of three frames in a row starts, or of as many as there are; None if there is none."""
    start = behind_tags(data)
    for found in _SYNC.finditer(data, start, start + _SEARCHED):
        place, count = found.start(), 0
        while count < 3 and (one := frame(data, place)) is not None:
            place, count = place + one[0], count + 1
        if count == 3 or (count and place >= len(data) and found.start() == start):
            return found.start()
    return None


def check_mp3(data: bytes) -> None:
    """Raises `BrokenFileError` if the last frame is cut, or frames are missing that the Xing or Info frame counts."""
    place = first_frame(data, mpeg_frame)
    if place is None:
        return
    stated, seconds, frames = _xing_frames(data, place), 0.0, 0
    for _, samples, hz in _mpeg_frames(data, place):
        seconds, frames = seconds + samples / hz, frames + 1
    if stated is not None and frames < stated:  # the frame that states it is one more
        raise BrokenFileError(broke_off(stated * seconds / frames, seconds))


def _mpeg_frames(data: bytes, place: int) -> Iterator[tuple[int, int, int]]:
    """End, samples and rate of each frame from `place` on. Raises `BrokenFileError` if one is cut, or another recording follows."""
    while place >= 0:
        if data.startswith(b"ID3", place):
            raise BrokenFileError(_SEVERAL)
        if (one := mpeg_frame(data, place)) is None:
            place = _resumed(data, place)
            continue
        size, samples, hz = one
        if place + size > len(data):
            raise BrokenFileError(_CUT_FRAME)
        place += size
        yield place, samples, hz


def without_tail(data: bytes) -> bytes:
    """An MP3 without the padding or tags after its last frame, which FFmpeg may take for a damaged frame."""
    place = first_frame(data, mpeg_frame)
    if place is None:
        return data
    end = max((end for end, _, _ in _mpeg_frames(data, place)), default=len(data))
    return data[:end] if is_no_sound(data[end:]) else data


def check_adts(data: bytes) -> None:
    """Raises `BrokenFileError` if the last frame is cut."""
    place = first_frame(data, adts_frame)
    while place is not None and (one := adts_frame(data, place)) is not None:
        place += one[0]
    if place is not None and (place > len(data) or 0 < len(data) - place < 7):
        raise BrokenFileError(_CUT_FRAME)


def behind_tags(data: bytes) -> int:
    """Where the sound starts after the ID3 tags, whose sizes use 7 bits of each byte."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        a, b, c, d = data[place + 6 : place + 10]
        place += 10 + (a << 21 | b << 14 | c << 7 | d)
    return place


def _xing_frames(data: bytes, place: int) -> int | None:
    """How many frames follow by the Xing or Info frame; None without one."""
    for name in (b"Xing", b"Info"):
        at = data.find(name, place, place + 60)
        if at >= 0 and data[at + 7] & 1:
            return int.from_bytes(data[at + 8 : at + 12], "big")
    return None


def _resumed(data: bytes, place: int) -> int:
    """Where frames resume after something else; -1 if they do not."""
    if is_no_sound(data[place : place + 16]):
        return -1
    for found in _SYNC.finditer(data, place):
        one = mpeg_frame(data, found.start())
        if one is not None and (found.start() + one[0] == len(data) or mpeg_frame(data, found.start() + one[0]) is not None):
            return found.start()
    if 0 < len(data) - place < 4 or _SYNC.match(data, place):
        raise BrokenFileError(_CUT_FRAME)
    return -1


def check_ogg(data: bytes) -> None:
    """Raises `BrokenFileError` if the last page is cut, a page is missing, or one recording follows another."""
    place, numbers, begun = 0, dict[int, int](), False
    while place < len(data):
        page = data[place : place + 27]
        table = data[place + 27 : place + 27 + page[26]] if len(page) == 27 else b""
        after = place + 27 + len(table) + sum(table)
        if not page.startswith(b"OggS"[: len(page)]):
            if is_no_sound(data[place:]):
                return
            raise BrokenFileError(f"is damaged: at byte {place} a page should start, and none does; copy it again")
        if len(page) < 27 or len(table) < page[26] or after > len(data):
            raise BrokenFileError("the file is truncated: its last page is not complete; copy or record it again")
        if int.from_bytes(page[22:26], "little") != _ogg_sum(page[:22] + bytes(4) + data[place + 26 : after]):
            raise BrokenFileError(f"is damaged: the page at byte {place} has another checksum; copy or record it again")
        _follow(page, numbers, begun)
        begun, place = begun or not page[5] & 2, after


def _ogg_sum(page: bytes) -> int:
    """Ogg's checksum: zlib's without its inversions, and with the bits of each byte, and of the result, in the other order."""
    return int(f"{zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _follow(page: bytes, numbers: dict[int, int], begun: bool) -> None:
    serial, number = int.from_bytes(page[14:18], "little"), int.from_bytes(page[18:22], "little")
    if page[5] & 2 and begun:
        raise BrokenFileError(_SEVERAL)
    if serial in numbers and number != numbers[serial] + 1:
        raise BrokenFileError(f"is damaged: page {numbers[serial] + 1} is missing; copy or record it again")
    numbers[serial] = number


def ogg_streams(data: bytes) -> int:
    """How many streams the first pages open."""
    place, count = 0, 0
    while data.startswith(b"OggS", place) and len(data) > place + 27 and data[place + 5] & 2:
        segments = data[place + 26]
        place, count = place + 27 + segments + sum(data[place + 27 : place + 27 + segments]), count + 1
    return count


def check_flac(data: bytes) -> None:
    """Raises `BrokenFileError` if more sound follows than the header says, as decoders leave it out."""
    start = behind_tags(data)
    if data.find(b"fLaC\0\0\0\x22", start + 4) > 0:
        raise BrokenFileError(_SEVERAL)
    stated = int.from_bytes(data[start + 21 : start + 26], "big") & 0xFFFFFFFFF
    rate = int.from_bytes(data[start + 18 : start + 21], "big") >> 4
    last = _last_flac_frame(data, start)
    if stated and rate and last is not None and last >= stated:
        raise BrokenFileError(f"its header says {stated / rate:.2f} s of sound, and over {last / rate:.2f} s are there; convert it again")


def _fits_flac(form: int, described: bytes) -> bool:
    """Whether a frame's byte of channels and bits is that of the stream: in other bytes a frame's beginning is often seen."""
    channels, bits = described[0] >> 1 & 7, ((described[0] & 1) << 4 | described[1] >> 4) + 1
    stated = {0: bits, 1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}.get(form >> 1 & 7)
    return not form & 1 and stated == bits and (form >> 4 == channels or (channels == 1 and 8 <= form >> 4 <= 10))


def _last_flac_frame(data: bytes, start: int) -> int | None:
    """Number of the sample with which the last frame starts; None if none is found. The stream starts at `start`."""
    number = _last_flac_frame_from(data, start, max(0, len(data) - _SEARCHED // 8))  # one of speech is shorter
    return _last_flac_frame_from(data, start, max(0, len(data) - _SEARCHED)) if number is None else number


def _last_flac_frame_from(data: bytes, start: int, first: int) -> int | None:
    block, described = int.from_bytes(data[start + 8 : start + 10], "big"), data[start + 20 : start + 22]
    for place in reversed([found.start() for found in _FLAC_SYNC.finditer(data, first)]):
        if place + 5 > len(data) or not _fits_flac(data[place + 3], described):
            continue
        lead = 8 - (data[place + 4] ^ 0xFF).bit_length()
        length = max(lead, 1)
        extra = {6: 1, 7: 2}.get(data[place + 2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(data[place + 2] & 15, 0)
        end = place + 4 + length + extra
        if lead == 1 or end >= len(data) or _crc8(data[place:end]) != data[end]:
            continue
        number = data[place + 4] & (0x7F >> lead)
        for byte in data[place + 5 : place + 4 + length]:
            number = number << 6 | byte & 0x3F
        return number if data[place + 1] & 1 else number * block
    return None


def _crc8(header: bytes) -> int:
    value = 0
    for byte in header:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 7 if value & 0x80 else value << 1) & 0xFF
    return value


def check_mp4(data: bytes) -> None:
    """Raises `BrokenFileError` if a box reaches beyond the file, or if the index is missing."""
    place, names = 0, set[bytes]()
    while place + 8 <= len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size or len(data) - place
        if not name.strip(b"\0") and is_no_sound(data[place:]):
            break
        if place + size > len(data):
            raise BrokenFileError(f"the file is truncated: {place + size - len(data)} of its bytes are missing; copy or record it again")
        if size < 8:
            raise BrokenFileError(f"is damaged at byte {place}: a part of {size} bytes; copy or record it again")
        names.add(name)
        place += size
    if b"moov" not in names:
        raise BrokenFileError("has no index (moov): the file is truncated, or the recorder never closed it; copy or record it again")


def check_matroska(data: bytes) -> None:
    """Raises `BrokenFileError` if an element reaches beyond the file."""
    place = 0
    while place < len(data) and (data[place] or not is_no_sound(data[place:])):
        name, place = _number(data, place, keep_marker=True)
        size, place = _number(data, place, keep_marker=False)
        if name in _EBML_OPEN and (size is None or place + size <= len(data)):
            continue
        if name is None or size is None or place + size > len(data):
            raise BrokenFileError("the file is truncated: its last part is not complete; copy or record it again")
        place += size


def _number(data: bytes, place: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """An EBML number and where it ends; None for one that is cut off, or whose bits are all set, which leaves it open."""
    length = 9 - data[place].bit_length() if place < len(data) and data[place] else 9
    if length > 8 or place + length > len(data):
        return None, len(data)
    value = int.from_bytes(data[place : place + length], "big")
    open_ended = (1 << 7 * length) - 1
    if keep_marker:
        return value, place + length
    return (None if value & open_ended == open_ended else value & open_ended), place + length
