"""Which words of a hypothesis differ from its reference, in the words that are scored."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from lora.language import Language
from lora.scoring.analysis import Edit, align_words
from lora.scoring.counts import UtteranceScore

Kind = Literal["same", "missed", "added"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Words in a row of one kind: in both texts, in the reference only, or in the hypothesis only."""

    kind: Kind
    words: str


def pieces(row: UtteranceScore, language: Language = "en") -> tuple[Piece, ...]:
    """The alignment by which errors are counted; substitutions are a missed piece and an added one."""
    found: list[Piece] = []
    for kind, group in groupby(align_words(row, language), lambda edit: edit.kind):
        edits = list(group)
        if kind == "equal":
            found.append(Piece("same", _words(edits, "reference")))
            continue
        if kind != "insert":
            found.append(Piece("missed", _words(edits, "reference")))
        if kind != "delete":
            found.append(Piece("added", _words(edits, "hypothesis")))
    return tuple(found)


def _words(edits: list[Edit], side: Literal["reference", "hypothesis"]) -> str:
    return " ".join(str(getattr(edit, side)) for edit in edits)
