"""Joins two pieces: marks and capitals there are those that the model writes when it hears both sides.

At the end of a clip the model writes a full stop, and a capital at the start of the next, whether a sentence ends there or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lora.audio.loading import Waveform
from lora.audio.voice_activity import FRAME
from lora.units import SAMPLE_RATE_HZ, Samples

OPEN: Final = Samples(round(0.9 * SAMPLE_RATE_HZ))
"""A pause from which the model's full stop at the end of a piece is trusted."""

SIDE: Final = Samples(3 * SAMPLE_RATE_HZ)
"""Samples heard on each side. With 3 s, 28 of 47 seams of LibriSpeech get the marks and capitals that they have in both pieces heard as one
clip, with 5 s 24, in twice the time."""

_LOOK: Final = Samples(SAMPLE_RATE_HZ)
"""Length of the stretch in which the quietest place is searched for the cut."""

NEAR: Final = 3
"""Words on each side by which a seam is found in what is heard across it."""


def across(before: Waveform, pause: Samples | None, after: Waveform) -> Waveform:
    """The sound around a seam."""
    silence = np.zeros(pause or 0, dtype=np.float32)
    return np.concatenate([_last(before), silence, _last(after[::-1])[::-1]])


def _last(samples: Waveform) -> Waveform:
    """The last seconds, from where it is quiet."""
    if len(samples) <= SIDE + _LOOK:
        return samples
    window = samples[-SIDE - _LOOK : -SIDE]
    frames = window[: len(window) // FRAME * FRAME].reshape(-1, FRAME)
    quietest = int(np.square(frames).mean(axis=1).argmin())
    return samples[len(samples) - SIDE - _LOOK + quietest * FRAME :]


@dataclass(frozen=True, slots=True)
class Join:
    """The last word before a seam and the first one behind it."""

    before: str
    after: str


def mended(before: Sequence[str], after: Sequence[str], heard: Sequence[str]) -> Join | None:
    """Both words as `heard` across the seam has them; None if it does not hold them side by side."""
    if not before or not after:
        return None
    last, first = [plain(word) for word in before[-NEAR:]], [plain(word) for word in after[:NEAR]]
    said = [plain(word) for word in heard]
    places = [place for place in range(1, len(said)) if said[place - 1] == last[-1] and said[place] == first[0]]
    if not places or not last[-1] or not first[0]:
        return None
    best = max(places, key=lambda place: _alike(last, said[:place][-NEAR:]) + _alike(first[::-1], said[place : place + NEAR][::-1]))
    return Join(heard[best - 1], heard[best])


def told(before: Sequence[str], after: Sequence[str], heard: Sequence[str]) -> bool:
    """Whether `mended` would give the same whatever else is heard behind; the last word of `heard` may go on."""
    last, first, said = ([plain(word) for word in words] for words in (before[-NEAR:], after[:NEAR], heard[:-1]))
    both = [*last, *first]
    return any(said[place : place + len(both)] == both for place in range(len(said) - len(both) + 1))


def _alike(words: Sequence[str], others: Sequence[str]) -> int:
    """Words that are the same, counted from the end."""
    return sum(word == other for word, other in zip(reversed(words), reversed(others), strict=False))


def plain(word: str) -> str:
    """A word without marks and capitals."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())
