"""Characters that a tokenizer spells in bytes, a token each: `<0xE3> <0x81> <0x8C>` is が. Pure."""

import codecs
import re
from collections.abc import Callable, Sequence
from itertools import groupby

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def whole(tokens: Sequence[int], piece: Callable[[int], str | None], number: Callable[[str], int | None]) -> list[int]:
    """Tokens that say the same, with every character that is spelled in bytes whole.

    A character that the last tokens begin and do not finish goes; bytes within that are no character are spelled as U+FFFD. `tokenizers`
    would give U+FFFD for every byte of a run that holds one such byte, and so lose the whole characters beside it.

    Args:
        piece: what a token id stands for.
        number: the id of a piece.
    """
    pieces = [piece(token) or "" for token in tokens]
    if not any(map(_BYTE.fullmatch, pieces)):
        return list(tokens)
    spelled: list[int] = []
    place = 0
    for in_bytes, run in groupby(pieces, lambda one: _BYTE.fullmatch(one) is not None):
        start, names = place, list(run)
        place += len(names)
        if in_bytes:
            text = decoded(bytes(int(name[3:5], 16) for name in names), unfinished=place == len(pieces))
            names = [f"<0x{byte:02X}>" for byte in text.encode()]
            spelled += [found for name in names if (found := number(name)) is not None]
        else:
            spelled += tokens[start:place]
    return spelled


def joined(pieces: Sequence[str]) -> str:
    """The text of pieces that hold their spaces. A character that the last ones begin and do not finish goes."""
    parts: list[str] = []
    place = 0
    for in_bytes, run in groupby(pieces, lambda one: _BYTE.fullmatch(one) is not None):
        names = list(run)
        place += len(names)
        parts.append(decoded(bytes(int(name[3:5], 16) for name in names), unfinished=place == len(pieces)) if in_bytes else "".join(names))
    return "".join(parts)


def decoded(spelled: bytes, *, unfinished: bool) -> str:
    """The text of bytes in UTF-8, U+FFFD for those that are no character; `unfinished` ones at the end, where more may follow, go."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(spelled, final=not unfinished)
