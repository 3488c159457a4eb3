"""JSON and TOML from outside: every kind of bad content becomes one reason with its line. Knows no domain type.

All readers of the project go through here. The parsers themselves raise six kinds of exceptions, some of which are no `ValueError`.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lora.errors import LoraError

MOST_BYTES = 512 * 1024 * 1024
"""Size limit of a file: above any of ours, and it stops reading from an endless device."""

MOST_LEVELS = 100
"""Nesting limit of a TOML file."""

_STRINGS = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"\s*(:?)', re.DOTALL)
"""All strings of a JSON text, with the colon that makes one a key."""

Value = TypeVar("Value")


class ContentError(Exception):
    """Content that is no JSON or TOML; `line` counts from 1, and is None if the parser does not tell."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        at = f", line {line}" if line is not None and "line" not in reason else ""
        super().__init__(f"{reason}{at}")
        self.reason = reason
        self.line = line


def json_value(content: bytes, decode: Callable[[bytes], Value]) -> Value:
    """What `decode`, a msgspec decoder's, makes of JSON.

    Raises `ContentError` for what is no JSON, is no UTF-8 (even in a part that nobody reads), nests too deep or names a key twice in an
    object, and `msgspec.ValidationError` for JSON of another type than the decoder's.
    """
    return _parsed(content, lambda: _strict(content, decode), "JSON")


def toml_value(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ContentError`."""
    return _parsed(content, lambda: _within_limits(tomllib.loads(content.decode())), "TOML")


def read_json(path: Path, kind: Any = Any, error: type[LoraError] = LoraError) -> Any:
    """Reads JSON of the type `kind`; `error` is raised with the file's name, and the line, where it is missing or does not fit."""
    decoder = msgspec.json.Decoder(kind)
    return _from_file(path, lambda content: json_value(content, decoder.decode), error)


def require_json(path: Path, error: type[LoraError]) -> None:
    """Raises `error`, with the file's name and the line, if a file is no JSON object: before a library reads it in its own way."""
    objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
    _from_file(path, lambda content: _parsed(content, lambda: _decoded(content, objects.decode), "JSON"), error)


def read_toml(path: Path, error: type[LoraError] = LoraError) -> dict[str, Any]:
    """Reads TOML; `error` is raised with the file's name, and the line, where it is missing or is none."""
    return _from_file(path, toml_value, error)


def read_bytes(path: Path, error: type[LoraError]) -> bytes:
    """The whole file; `error` is raised with its name if it cannot be read or has more than `MOST_BYTES`."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as missing:
        raise error(f"{path}: no such file") from missing
    except OSError as refused:
        raise error(f"{path}: cannot be read ({refused.strerror})") from refused
    if len(content) > MOST_BYTES:
        raise error(f"{path}: is longer than {MOST_BYTES >> 20} MB, so it is not the file that belongs here")
    return content


def _from_file(path: Path, parse: Callable[[bytes], Value], error: type[LoraError]) -> Value:
    try:
        return parse(read_bytes(path, error))
    except ContentError as broken:
        raise error(f"{path}: {broken}") from broken
    except msgspec.ValidationError as unfit:
        raise error(f"{path}: {unfit}") from unfit


def _parsed(content: bytes, parse: Callable[[], Value], form: str) -> Value:
    try:
        return parse()
    except msgspec.ValidationError:
        raise
    except UnicodeDecodeError:
        raise _not_utf8(content, form) from None
    except RecursionError:
        raise ContentError(f"not valid {form} (nested too deep)") from None
    except ContentError:
        raise
    except ValueError as broken:  # of msgspec, tomllib and Python's numbers
        raise _syntax_error(content, str(broken), form) from None


def _strict(content: bytes, decode: Callable[[bytes], Value]) -> Value:
    value = _decoded(content, decode)
    _require_single_keys(content)
    return value


def _decoded(content: bytes, decode: Callable[[bytes], Value]) -> Value:
    if not content.isascii():
        content.decode()  # msgspec skips over parts that are not asked for
    return decode(content)


def _require_single_keys(content: bytes) -> None:
    """Parsers take the last of several: which one was meant is unclear. Objects are checked only if a name occurs twice."""
    keys = [key for key, colon in _STRINGS.findall(content) if colon]
    if len(set(keys)) < len(keys) or any(b"\\" in key for key in keys):
        json.loads(content, object_pairs_hook=_single)


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ContentError(f"not valid JSON (the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object)")
    return found


def _within_limits(tables: dict[str, Any]) -> dict[str, Any]:
    """tomllib knows neither a depth for dotted keys nor a size for numbers in other bases; what shows them later does."""
    level: list[Any] = [tables]
    for _ in range(MOST_LEVELS):
        if any(isinstance(value, int) and value.bit_length() > 64 for value in level):
            raise ContentError("not valid TOML (a number has too many digits)")
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return tables
    raise ContentError("not valid TOML (nested too deep)")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _not_utf8(content: bytes, form: str) -> ContentError:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ContentError(f"not valid {form} (it is written in UTF-16; save it as UTF-8)", 1)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        return ContentError(f"not valid {form} (byte 0x{byte:02x} is no UTF-8; save it as UTF-8)", content.count(b"\n", 0, error.start) + 1)
    return ContentError(f"not valid {form} (it holds half of a character)")


def _syntax_error(content: bytes, reason: str, form: str) -> ContentError:
    if content.startswith(b"\xef\xbb\xbf"):
        return ContentError(f"not valid {form} (it begins with a byte-order mark; save it as UTF-8 without one)", 1)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _not_utf8(content, form)
    if not content.strip():
        return ContentError(f"not valid {form} (it is empty)")
    if "integer string conversion" in reason:
        return ContentError(f"not valid {form} (a number has too many digits)")
    return ContentError(f"not valid {form} ({_shortened(reason)})", _line(content, reason))


def _shortened(reason: str) -> str:
    return reason.removeprefix("JSON is malformed: ").split("\n")[0][:160]


def _line(content: bytes, reason: str) -> int | None:
    """Where msgspec and tomllib say that it is: `(byte 12)`, `(at line 3, column 4)`."""
    if "(byte " in reason:
        return content.count(b"\n", 0, int(reason.rsplit("(byte ", 1)[1].rstrip(")"))) + 1
    if "truncated" in reason:
        return content.rstrip().count(b"\n") + 1
    if "(at line " in reason:
        return int(reason.rsplit("(at line ", 1)[1].split(",")[0])
    return None
