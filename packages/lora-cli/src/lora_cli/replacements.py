"""What is written for what was spoken: a user's table, applied to decoded text. `replace` is pure; no torch, no numpy.

A text is searched once, from left to right, so what one entry writes no other entry changes. Where several entries fit at a place, the
longest one counts.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from lora.errors import ConfigError
from lora.system.documents import ContentError, read_bytes, toml_value

FILE_NAME: Final = "replacements.toml"

_EDGES: Final = ".,;:?!\"'()"
_SENTENCE_ENDS: Final = (".", "?", "!", "\n")


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry. Words of `spoken` are separated by spaces; a hyphen in the text counts as a space."""

    spoken: str
    written: str
    match_case: bool = False
    """Whether capital letters have to be where `spoken` has them."""
    inside_words: bool = False
    """Whether it is found within longer words too."""
    follow_case: bool = False
    """Whether a capital at the start of what was heard is kept: at the start of a sentence, say."""
    mark: bool = False
    """Whether it is punctuation: it stands at the word before it, and takes the place of punctuation that the model put around it."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user's entries, and which built-in English ones are switched on."""

    new_line: bool = False
    """Whether `LINES` are written."""
    punctuation: bool = False
    """Whether `PUNCTUATION` is written."""
    replacement: tuple[Replacement, ...] = ()

    @property
    def entries(self) -> tuple[Replacement, ...]:
        """All entries that count; the user's own stand before built-in ones."""
        return (*self.replacement, *(LINES if self.new_line else ()), *(PUNCTUATION if self.punctuation else ()))


def difference(heard: str, wanted: str) -> Replacement | None:
    """The entry that makes `wanted` of `heard`: that of the one stretch of words in which they differ; None where there is no such one.

    Punctuation at the ends of the stretch is no part of the entry.
    """
    first, second = heard.split(), wanted.split()
    changes = [change for change in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes() if change[0] != "equal"]
    if len(changes) != 1:
        return None
    _, start, end, other_start, other_end = changes[0]
    spoken, written = (" ".join(words).strip(_EDGES) for words in (first[start:end], second[other_start:other_end]))
    return Replacement(spoken, written) if spoken and written and spoken != written else None


def _marks(**written: str) -> tuple[Replacement, ...]:
    return tuple(Replacement(name.replace("_", " "), mark, mark=True) for name, mark in written.items())


LINES: Final = _marks(new_line="\n", newline="\n", new_paragraph="\n\n")
PUNCTUATION: Final = _marks(
    full_stop=".", comma=",", question_mark="?", exclamation_mark="!", exclamation_point="!", colon=":", semicolon=";"
)


@dataclass(frozen=True, slots=True)
class Applied:
    """A replacement that was made: what was heard at `start` of the text, in characters, and what is written instead."""

    heard: str
    written: str
    start: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """A text after its replacements, and which ones were made, from left to right."""

    text: str
    applied: tuple[Applied, ...] = ()


def replace(text: str, table: Table) -> Replaced:
    """The text with every entry of the table applied. A text in which none is found comes back as it is."""
    entries = _longest_first(table.entries)
    parts, applied = [""], []
    done = 0
    for match in _pattern(entries).finditer(text) if entries else ():
        entry = entries[(match.lastindex or 0) - 1]
        start, end = _span(text, match, entry, done)
        written = _written(entry, match[0])
        parts += [_following(parts[-1], text[done:start]), written]
        applied.append(Applied(match[0], written, match.start()))
        done = end
    return Replaced("".join([*parts, _following(parts[-1], text[done:])]), tuple(applied))


def _longest_first(entries: Iterable[Replacement]) -> tuple[Replacement, ...]:
    return tuple(sorted(entries, key=lambda entry: (-len(entry.spoken), not entry.match_case)))


@cache
def _pattern(entries: tuple[Replacement, ...]) -> re.Pattern[str]:
    """All entries at once; the group that is found has the entry's number, counted from 1."""
    return re.compile("|".join(f"({_alternative(entry)})" for entry in entries))


def _alternative(entry: Replacement) -> str:
    words = [re.escape(word).replace("'", "['\u2019]") for word in entry.spoken.split()]
    pattern = r"(?:\s+|\s*-\s*)".join(words)
    bounded = pattern if entry.inside_words else rf"(?<!\w){pattern}(?!\w)"
    return bounded if entry.match_case else f"(?i:{bounded})"


def _span(text: str, match: re.Match[str], entry: Replacement, done: int) -> tuple[int, int]:
    """What an entry takes the place of: for a mark the space before it and punctuation around it, for nothing the space before it."""
    start, end = match.span()
    if entry.mark and entry.written.isspace():
        before, after = re.compile(r"[\s,]*"), re.compile(r"[,.;:!?]*\s*")
    elif entry.mark:
        before, after = re.compile(r"[\s,.;:!?]*"), re.compile(r"[,.;:!?]*")
    elif not entry.written:
        before, after = re.compile(r"\s*"), re.compile("")
    else:
        return start, end
    gap = text[done:start][::-1]
    back, on = before.match(gap), after.match(text, end)
    assert back is not None  # both match nothing too
    assert on is not None
    return start - back.end(), on.end()


def _written(entry: Replacement, heard: str) -> str:
    follows = entry.follow_case and heard[:1].isupper()
    return entry.written[:1].upper() + entry.written[1:] if follows else entry.written


def _following(written: str, rest: str) -> str:
    """What stands behind a replacement: with a capital, where a sentence begins there because of it."""
    if not written.endswith(_SENTENCE_ENDS):
        return rest
    return re.sub(r"[^\W\d_]", lambda letter: letter[0].upper(), rest, count=1) if re.match(r"\s*[^\W\d_]", rest) else rest


# --- the file --------------------------------------------------------------------------------------------------------------------------


def user_file() -> Path:
    """`$XDG_CONFIG_HOME/moonshine-lora/replacements.toml`, else in `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "moonshine-lora" / FILE_NAME


def read(file: Path) -> Table:
    """A table from TOML, or from lines of tab-separated `spoken`, `written` and options (a name ending in `.tsv`).

    Raises `ConfigError` with the file and the entry for what is no table.
    """
    return parse(read_bytes(file, ConfigError), file)


def read_user_table() -> Table:
    """The user's table; an empty one where the user has none. Raises `ConfigError` as `read` does."""
    file = user_file()
    return read(file) if file.exists() else Table()


def parse(content: bytes, file: Path) -> Table:
    """The table that stands in a file of that name. Raises as `read` does."""
    table = _from_tsv(content, file) if file.suffix == ".tsv" else _from_toml(content, file)
    for number, entry in enumerate(table.replacement, start=1):
        if (fault := _fault(entry, table.replacement[: number - 1])) is not None:
            raise ConfigError(f"{file}: entry {number}: {fault}")
    return table


def _from_toml(content: bytes, file: Path) -> Table:
    try:
        return msgspec.convert(toml_value(content), Table)
    except (ContentError, msgspec.ValidationError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _from_tsv(content: bytes, file: Path) -> Table:
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is no UTF-8 text") from error
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    return Table(replacement=tuple(_from_row(file, number, row) for number, row in rows))


def _from_row(file: Path, line: int, row: Sequence[str]) -> Replacement:
    options = {option.strip().replace("-", "_") for option in row[2].split(",")} if len(row) == 3 and row[2].strip() else set()
    unknown = options - _OPTIONS
    if len(row) not in (2, 3) or unknown:
        wrong = f"there is no option {min(unknown)}" if unknown else f"has {len(row)} columns"
        raise ConfigError(f"{file} line {line}: {wrong}; write spoken, tab, written, and perhaps a tab and {', '.join(sorted(_OPTIONS))}")
    written = row[1].replace("\\n", "\n").replace("\\t", "\t")
    return Replacement(row[0], written, **dict.fromkeys(options, True))


_OPTIONS: Final = {"match_case", "inside_words", "follow_case", "mark"}


def _fault(entry: Replacement, before: Sequence[Replacement]) -> str | None:
    """What is wrong with an entry, given those before it; None for nothing."""
    if not any(letter.isalnum() for letter in entry.spoken):
        return f"spoken is {entry.spoken!r}: give words that can be said"
    if unicodedata.normalize("NFC", entry.spoken) != entry.spoken:
        return f"spoken is {entry.spoken!r}, with letters and marks apart: write them composed (NFC), as the model does"
    if steering := [letter for letter in entry.written if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"]:
        return f"written holds the control character {steering[0]!r}, which would press a key: leave it out"
    for number, other in enumerate(before, start=1):
        if _same(entry, other):
            return f"{entry.spoken!r} is spoken in entry {number} too: leave one of them out"
    return None


def _same(one: Replacement, other: Replacement) -> bool:
    if one.match_case != other.match_case:
        return False
    first, second = (" ".join(entry.spoken.replace("-", " ").split()) for entry in (one, other))
    return first == second if one.match_case else first.casefold() == second.casefold()
