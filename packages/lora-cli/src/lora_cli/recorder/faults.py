"""What can be wrong with a take: a code for the manifest, and a line for the speaker."""

from dataclasses import dataclass
from enum import StrEnum


class FaultCode(StrEnum):
    SILENT = "silent"
    CLIPPED = "clipped"
    QUIET = "quiet"
    LONG = "long"
    NOISE = "noise"
    START = "cut at the start"
    END = "cut at the end"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Fault:
    code: FaultCode
    message: str

    @property
    def final(self) -> bool:
        """Whether such a take cannot be kept: without speech there is nothing to train on."""
        return self.code is FaultCode.SILENT
