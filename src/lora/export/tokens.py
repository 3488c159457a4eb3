"""The vocabulary in the forms that runtimes read: `tokenizer.bin` of moonshine-voice and `tokens.txt` of sherpa-onnx.

Both hold each token's bytes in the order of the ids, with `▁` for a space, as in the checkpoint; runtimes put the space back.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from lora.errors import ExportError

LONGEST_TOKEN = 255 * 128 + 127
"""Bytes that the two length bytes of `tokenizer.bin` can count."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def vocabulary(tokenizer: Any, rows: int) -> list[bytes]:
    """Bytes of each token in the order of the ids, added tokens included; `<0x0A>` is the byte it names.

    Raises `ExportError` when the tokenizer is of another kind, or does not have exactly one token for each of the embedding's `rows`.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if not model.get("byte_fallback"):
        raise ExportError(f"the tokenizer ({model['type']}) does not write unknown characters as bytes; runtimes read only one that does")
    ids: dict[str, int] = tokenizer.get_vocab()
    if sorted(ids.values()) != list(range(rows)):
        raise ExportError(
            f"the tokenizer has {len(ids)} tokens with ids up to {max(ids.values())}, the model {rows}; "
            "give the processor that the model was trained with, or resize the model's embedding to it"
        )
    # Not the keys above: an added token stands there without the space that belongs to it.
    tokens = [_bytes(token) for token in tokenizer.convert_ids_to_tokens(list(range(rows)))]
    for number, token in enumerate(tokens):
        if not 0 < len(token) <= LONGEST_TOKEN:
            raise ExportError(f"token {number} has {len(token)} bytes; runtimes read 1 to {LONGEST_TOKEN}")
    return tokens


def tokenizer_bin(tokens: Sequence[bytes]) -> bytes:
    """Each token behind its length: one byte below 128, else the low seven bits with the highest set, then the rest."""
    return b"".join(_length(len(token)) + token for token in tokens)


def tokens_txt(tokens: Sequence[bytes]) -> bytes:
    """A line for each token: its bytes in Base64, and its id."""
    return "".join(f"{base64.b64encode(token).decode()} {number}\n" for number, token in enumerate(tokens)).encode()


def _length(count: int) -> bytes:
    return bytes([count]) if count < 128 else bytes([128 + count % 128, count // 128])


def _bytes(token: str) -> bytes:
    if single := _BYTE.fullmatch(token):
        return bytes([int(single[1], 16)])
    return token.encode()
