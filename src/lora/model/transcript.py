"""What a transcript is, how many tokens it may have, and the draft that it may resemble: what all greedy loops share. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from lora.units import Seconds

EXTRA_TOKENS = 8
"""Tokens added to the cap for very short clips."""


class DecodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that decide the transcript of a clip. No beams, no penalties, no n-gram bans: on-device runtimes have none."""

    tokens_per_second: Annotated[float, msgspec.Meta(gt=0, le=1000)]

    def cap(self, length_s: Seconds) -> int:
        """Most tokens a clip of that length may give. English speech has 3.3 to 5.3 a second; a loop runs into the cap."""
        return int(length_s * self.tokens_per_second) + EXTRA_TOKENS


MOST_AHEAD = 8
"""Most tokens of a draft that are checked in one round."""

NEAR = 5
"""Tokens that a draft and what is said may be apart when single tokens are compared: more would often meet another such token."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Text and token ids, without start and end tokens. `capped` when the model had not ended by the cap."""

    text: str
    tokens: tuple[int, ...]
    capped: bool


Enough = Callable[[Sequence[int]], bool]
"""Whether the tokens that a clip has said so far tell what is asked of it."""


def agreement(guess: Sequence[int], own: Sequence[int]) -> int:
    """How many tokens of a guess the model says too, up to the first difference."""
    return next((index for index, (guessed, token) in enumerate(zip(guess, own, strict=False)) if guessed != token), len(guess))


class Clip:
    """What a clip has said, and where its draft stands."""

    def __init__(self, said: list[int], cap: int, draft: Sequence[int], enough: "Enough | None" = None) -> None:
        self.said = said
        self._cap = cap
        self._enough = enough
        self._draft = list(draft)
        self._next = len(said)
        self._ahead = 2
        self._place()

    def ended(self, end: int) -> bool:
        return self.said[-1] == end or len(self.said) == self._cap or (self._enough is not None and self._enough(self.said))

    def guess(self) -> list[int]:
        """The draft's next tokens."""
        count = min(self._ahead, self._cap - len(self.said) - 1)
        return self._draft[self._next : self._next + count]

    def hear(self, own: list[int], end: int) -> None:
        """Takes the tokens of a round: those of the guess that were right, and one more."""
        self.said += own
        self._next += len(own) - 1
        self._ahead = min(2 * len(own), MOST_AHEAD)
        self._place()
        self.cut(end)

    def cut(self, end: int) -> None:
        """Drops tokens after the end token or the cap."""
        if end in self.said:
            del self.said[self.said.index(end) + 1 :]
        del self.said[self._cap :]

    def transcript(self, end: int, text: Callable[[Sequence[int]], str]) -> Transcript:
        """What was said; `text` decodes tokens."""
        row = self.said[:-1] if self.said[-1] == end else self.said
        return Transcript(text(row), tuple(row), len(row) == self._cap)

    def _place(self) -> None:
        """Finds the place in the draft that follows the last token: the nearest that follows the last two, else the nearest close by."""
        last = self.said[-1]
        found = [i for i, token in enumerate(self._draft) if token == last]
        pairs = [i for i in found if i and self._draft[i - 1 : i] == self.said[-2:-1]]
        close = pairs or [i for i in found if -NEAR <= i - self._next < 2 * NEAR]
        if close:
            self._next = min(close, key=lambda i: abs(i - self._next)) + 1
