"""What a header claims about its file, and the message if that is wrong."""

from dataclasses import dataclass
from typing import Final

TOLERANCE_S: Final = 0.01
"""Writers miscount by a header's 44 bytes at most, which is less; a copy that lacks so little lacks no word."""

_FOREIGN_TAILS: Final = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""Tags that programs append to sound of any format."""


class BrokenFileError(Exception):
    """A file holds more or less sound than its header says, or is damaged. The message follows the file's name."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Bytes of sound that a header claims, and those that the file holds."""

    claimed: int | None
    """None if the header leaves it open, as writers to a pipe do."""
    held: int
    bytes_per_s: float
    remedy: str = "export it again, or open it as raw samples in an audio editor"

    def check(self) -> None:
        """Raises `BrokenFileError` if the two differ by more than `TOLERANCE_S`."""
        if self.claimed is None:
            return
        if self.claimed == 0 and self._lasts(self.held) > TOLERANCE_S:
            raise BrokenFileError(
                f"its header says 0 s of sound, and {self._lasts(self.held):.2f} s follow: the recorder never closed it; {self.remedy}"
            )
        if self._lasts(self.claimed - self.held) > TOLERANCE_S:
            raise BrokenFileError(broke_off(self._lasts(self.claimed), self._lasts(self.held)))
        if self._lasts(self.held - self.claimed) > TOLERANCE_S:
            raise BrokenFileError(
                f"its header says {self._lasts(self.claimed):.2f} s of sound, and {self._lasts(self.held):.2f} s are there; {self.remedy}"
            )

    def _lasts(self, count: int) -> float:
        return count / self.bytes_per_s


def broke_off(claimed_s: float, held_s: float) -> str:
    """The message for a truncated file."""
    return f"the file is truncated: its header says {claimed_s:.2f} s of sound, it holds {max(held_s, 0.0):.2f} s; copy or record it again"


def is_no_sound(tail: bytes) -> bool:
    """Whether the bytes after the sound are padding or a tag."""
    return not tail.strip(b"\0") or tail.startswith(_FOREIGN_TAILS)
