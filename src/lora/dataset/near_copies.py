"""The same recording in another form: another codec, level or sampling rate, cut at its ends, or within a longer one. No torch.

A print says for every 32 ms in which of 16 neighbouring bands between 180 and 1,750 Hz the energy tips over to the higher one (the bits of
Haitsma and Kalker, A Highly Robust Audio Fingerprinting System, ISMIR 2002, with fewer and lower bands). Level cancels out, and codecs
and telephones keep these bands. Pieces of two prints that are equal lead to a pair; the share of unequal bits where both overlap decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.audio.loading import Waveform
from lora.units import SAMPLE_RATE_HZ

DECIMATION: Final = 4
WINDOW: Final = 256
HOP: Final = 128
"""In decimated samples: 64 ms and 32 ms."""

SMOOTHED: Final = 3
"""Windows that are added up, so that a print hardly depends on where the windows begin."""

STEP: Final = 3
"""Windows between the two moments that are compared."""

BANDS: Final = 17
LOWEST_HZ: Final = 165.0
HIGHEST_HZ: Final = 1950.0
QUIET: Final = 1e-5
"""Share of the loudest window's energy below which a window says nothing: 50 dB."""

APART: Final = 4
"""Windows between the two values that make a key."""

KEY_BITS: Final = 8
"""Of the later value that are part of a key; the earlier gives all 16."""

LEAST_WINDOWS: Final = 12
"""Shortest overlap that is compared: 0.4 s of 16 bits."""

LEAST_SHARE: Final = 0.6
"""Of the shorter print, that must overlap."""

UNEQUAL: Final = 0.25
"""Share of unequal bits below which two prints are of one recording; those of different ones come near a half."""

LONE_KEYS: Final = 2_000_000_000
"""Product of the windows of two sets up to which a single key that is equal but for one bit is checked. In larger ones too many are by
chance, and there must be two equal ones at one shift: more of the short clips that are also cut may then be missed."""

POPULAR: Final = 64
"""A key that occurs more often than this in the smaller sets is that of a hum or a beep, and identifies nothing."""

CHUNK: Final = 200_000
"""How many windows are looked up together."""

_SAME: Final = (np.uint32(0),)
_NEAR: Final = (*_SAME, *(np.uint32(1 << bit) for bit in range(16 + KEY_BITS)))
"""What turns a key into itself, and into those that differ in a bit."""

COMPARED: Final = 4_000
"""Candidates that are compared together: some 10 MB."""

Words = npt.NDArray[np.uint16]
Candidates = npt.NDArray[np.int64]
"""Pairs that may be copies `[pairs, 3]`: the numbers of their prints, and by how many windows the second is ahead."""

Asked = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Keys, the places of their windows, and the numbers of their prints."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two recordings that sound alike: numbers of their sets, places in these, and the share of unequal bits."""

    first_set: int
    first: int
    second_set: int
    second: int
    unequal: float


def sound_print(samples: Waveform) -> bytes:
    """The print of a waveform `[samples]` at 16 kHz: 16 bits for every 32 ms, 0 where it is quiet; empty below 0.3 s."""
    count = len(samples) // DECIMATION
    if count < WINDOW + (SMOOTHED + STEP) * HOP:
        return b""
    spectrum = np.fft.rfft(_windows(_slow(samples)) * _window())[:, : _edges()[-1]]
    parts = np.ascontiguousarray(spectrum).view(np.float32)  # real and imaginary ones in turn
    narrow = np.add.reduceat(np.square(parts, out=parts), 2 * _edges()[:-1], axis=1)
    bands = narrow[:, :-2] + 2 * narrow[:, 1:-1] + narrow[:, 2:]  # bands that overlap change less where the windows begin elsewhere
    energies = sum((bands[first : first + len(bands) - SMOOTHED + 1] for first in range(1, SMOOTHED)), bands[: 1 - SMOOTHED])
    tilt = np.diff(np.log(energies + np.float32(1e-12)), axis=1)
    words = np.packbits(tilt[STEP:] > tilt[:-STEP], axis=1).view(np.uint16)[:, 0]
    total = energies.sum(axis=1)[STEP:]
    words[total < QUIET * total.max()] = 0
    return words.tobytes()


def _windows(slow: Waveform) -> npt.NDArray[np.float32]:
    """Overlapping windows `[windows, WINDOW]` of decimated samples, as a view."""
    step = slow.strides[0]
    count = (len(slow) - WINDOW) // HOP + 1
    return np.lib.stride_tricks.as_strided(slow, (count, WINDOW), (HOP * step, step), writeable=False)


@cache
def _window() -> npt.NDArray[np.float32]:
    return np.hanning(WINDOW).astype(np.float32)


@cache
def _edges() -> npt.NDArray[np.int64]:
    """Numbers of the first bins of the bands, evenly spaced on a logarithmic scale, and the end. No product: BLAS would start threads."""
    bin_hz = SAMPLE_RATE_HZ / DECIMATION / WINDOW
    edges: npt.NDArray[np.int64] = np.rint(np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 3) / bin_hz).astype(np.int64)
    return edges


def near_copies(sets: Sequence[Sequence[bytes]]) -> Iterator[Pair]:
    """Pairs of recordings of different sets that sound alike, by their prints. Time and memory grow with the windows of all sets."""
    every = [_Prints.of([number] * len(prints), prints) for number, prints in enumerate(sets)]
    largest = max(range(len(every)), key=lambda number: len(every[number].words))
    numbers = [number for number, prints in enumerate(sets) if number != largest for _ in prints]
    index = _Index.of(_Prints.of(numbers, [one for number, prints in enumerate(sets) if number != largest for one in prints]))
    first_of = np.concatenate([[0], np.cumsum([0 if number == largest else len(prints) for number, prints in enumerate(sets)])])
    for number, query in enumerate(every):
        for place, other, unequal in index.alike(query, number, earlier_too=number == largest):
            second = int(index.prints.sets[other])
            yield Pair(number, place, second, int(other - first_of[second]), unequal)


@dataclass(frozen=True)
class _Prints:
    """Prints one after another."""

    words: Words
    starts: npt.NDArray[np.int64]
    """Of each print, and the end."""
    sets: npt.NDArray[np.int64]

    @staticmethod
    def of(sets: Sequence[int], prints: Sequence[bytes]) -> "_Prints":
        starts = np.concatenate([[0], np.cumsum([len(one) // 2 for one in prints], dtype=np.int64)]).astype(np.int64)
        return _Prints(np.frombuffer(b"".join(prints), np.uint16), starts, np.asarray(sets, np.int64))

    def one(self, number: int) -> Words:
        return self.words[self.starts[number] : self.starts[number + 1]]

    def keys(self, start: int, end: int) -> "Asked":
        """Keys of the windows from `start` to before `end` that say something, with their places and the numbers of their prints."""
        end = min(end, len(self.words) - APART)
        first, second = self.words[start:end], self.words[start + APART : max(end, start) + APART]
        places = np.flatnonzero((first != 0) & (second != 0)) + start
        owners = np.searchsorted(self.starts, places, side="right") - 1
        whole = places + APART < self.starts[owners + 1]
        places, owners = places[whole], owners[whole]
        later = self.words[places + APART].astype(np.uint32) & np.uint32((1 << KEY_BITS) - 1)
        keys: npt.NDArray[np.uint32] = (self.words[places].astype(np.uint32) << np.uint32(KEY_BITS)) | later
        return keys, places.astype(np.int64), owners.astype(np.int64)


@dataclass(frozen=True)
class _Index:
    """Where each key stands in the prints."""

    prints: _Prints
    keys: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]

    @staticmethod
    def of(prints: _Prints) -> "_Index":
        keys, places, owners = prints.keys(0, len(prints.words))
        order = np.argsort(keys, kind="stable")
        return _Index(prints, keys[order], places[order], owners[order])

    def alike(self, query: _Prints, number: int, *, earlier_too: bool) -> Iterator[tuple[int, int, float]]:
        """Numbers of a query's print and of one here that sound alike, and the share of unequal bits."""
        for start in range(0, len(query.words), CHUNK):
            keys, *where = query.keys(start, start + CHUNK)
            asked = [(keys ^ pattern, where[0], where[1]) for pattern in (_NEAR if self._small(query) else _SAME)]
            found = np.unique(np.concatenate([self._candidates(query, one, number, earlier_too) for one in asked]), axis=0)
            for first in range(0, len(found), COMPARED):
                some = found[first : first + COMPARED]
                unequal = compared(query, self.prints, some)
                for (place, other, _), share in zip(some[unequal < UNEQUAL].tolist(), unequal[unequal < UNEQUAL].tolist(), strict=True):
                    yield place, other, share

    def _candidates(
        self,
        query: _Prints,
        asked: Asked,
        number: int,
        earlier_too: bool,
    ) -> Candidates:
        """Pairs with equal keys, in large sets with two at the same shift or one apart."""
        keys, places, owners = asked
        low, high = np.searchsorted(self.keys, keys, side="left"), np.searchsorted(self.keys, keys, side="right")
        counts = np.where(high - low > POPULAR, 0, high - low)
        if not counts.sum():
            return np.zeros((0, 3), np.int64)
        which = np.repeat(np.arange(len(keys)), counts)
        there = np.repeat(low, counts) + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        mine, theirs = owners[which], self.owners[there]
        sets = self.prints.sets[theirs]
        wanted = (sets != number) if earlier_too else (sets > number)
        which, there, mine, theirs = which[wanted], there[wanted], mine[wanted], theirs[wanted]
        shift = (self.places[there] - self.prints.starts[theirs]) - (places[which] - query.starts[mine])
        order = np.lexsort((shift, theirs, mine))
        mine, theirs, shift = mine[order], theirs[order], shift[order]
        if not self._small(query):
            again = np.flatnonzero((np.diff(mine) == 0) & (np.diff(theirs) == 0) & (np.diff(shift) <= 1))
            mine, theirs, shift = mine[again], theirs[again], shift[again]
        return np.stack([mine, theirs, shift], axis=1)

    def _small(self, query: _Prints) -> bool:
        return len(query.words) * len(self.keys) <= LONE_KEYS


def correlation(first: Waveform, second: Waveform) -> float:
    """Highest correlation of two waveforms `[samples]` below 2 kHz, at any shift at which they overlap by `LEAST_SHARE` of the shorter.

    Of copies it is near 1 whatever codec they went through, for codecs keep the course of low frequencies; of two recordings of the same
    words by the same voice it stays below a half.
    """
    one, other = _slow(first), _slow(second)
    size = 1 << (len(one) + len(other) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(one, size) * np.conj(np.fft.rfft(other, size)), size)
    shifts = np.arange(-(len(other) - 1), len(one))  # of `other`, later than `one`
    start, end = np.maximum(shifts, 0), np.minimum(shifts + len(other), len(one))
    energies = [np.concatenate([[0.0], np.cumsum(np.square(part, dtype=np.float64))]) for part in (one, other)]
    power = (energies[0][end] - energies[0][start]) * (energies[1][end - shifts] - energies[1][start - shifts])
    wanted = (end - start >= LEAST_SHARE * min(len(one), len(other))) & (power > 1e-12)
    return float(np.max(products[shifts[wanted]] / np.sqrt(power[wanted]), initial=0.0))


def _slow(samples: Waveform) -> Waveform:
    """Every fourth sample, of four added up."""
    count = len(samples) // DECIMATION
    slow = samples[: count * DECIMATION : DECIMATION].copy()
    for offset in range(1, DECIMATION):
        slow += samples[offset : count * DECIMATION : DECIMATION]
    return slow


def compared(first: _Prints, second: _Prints, pairs: Candidates) -> npt.NDArray[np.float64]:
    """Shares of unequal bits where two prints overlap, each at its shift or at one window more or less; infinite for too little."""
    shares = [_shares(first, second, pairs + np.array([0, 0, by])) for by in (-1, 0, 1)]
    least: npt.NDArray[np.float64] = np.minimum.reduce(shares)
    return least


def _shares(first: _Prints, second: _Prints, pairs: Candidates) -> npt.NDArray[np.float64]:
    shares = np.full(len(pairs), np.inf)
    lengths = np.diff(first.starts)[pairs[:, 0]], np.diff(second.starts)[pairs[:, 1]]
    start = np.maximum(0, -pairs[:, 2])
    counts = np.minimum(lengths[0], lengths[1] - pairs[:, 2]) - start
    enough = np.flatnonzero(counts >= np.maximum(LEAST_WINDOWS, LEAST_SHARE * np.minimum(*lengths)))
    if not len(enough):
        return shares
    (mine, theirs, shift), start, counts = pairs[enough].T, start[enough], counts[enough]
    ends = np.cumsum(counts)
    steps = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    one = first.words[np.repeat(first.starts[mine] + start, counts) + steps]
    other = second.words[np.repeat(second.starts[theirs] + start + shift, counts) + steps]
    telling = (one != 0) & (other != 0)
    told, unequal = (
        np.add.reduceat(values, ends - counts, dtype=np.int64) for values in (telling, np.where(telling, np.bitwise_count(one ^ other), 0))
    )
    shares[enough] = np.where(told < LEAST_WINDOWS, np.inf, unequal / np.maximum(16 * told, 1))
    return shares
