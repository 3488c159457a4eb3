"""A table on this machine that names recordings and what is said in them: commas, tabs or semicolons."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lora.audio.loading import FileAudio
from lora.corpora.build import Bad, Item, require_columns
from lora.errors import ConfigError, ManifestError
from lora.system.files import is_regular

Delimiter = Literal["comma", "tab", "semicolon"]
Quotes = Literal["csv", "plain"]
"""What a double quote is in a table: `csv` puts cells in quotes and doubles those inside, in `plain` it is a character like any other."""

DELIMITERS: Final[dict[Delimiter, str]] = {"comma": ",", "tab": "\t", "semicolon": ";"}

COMMON_VOICE: Final = frozenset({"client_id", "path", "sentence"})
"""Columns of Common Voice, whose recordings lie in `clips/` beside the table and which holds rows without a sentence."""


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A table of recordings and how it is written; file names are relative to the table, or to `audio_dir`."""

    path: Path
    audio_column: str = "file"
    text_column: str = "text"
    speaker_column: str | None = "speaker"
    id_column: str | None = None
    """None names an utterance after its file, without the suffix."""
    audio_dir: Path | None = None
    delimiter: Delimiter | None = None
    """None takes tabs where the table's name ends in .tsv, commas elsewhere."""
    quotes: Quotes | None = None
    """None is `plain` with tabs, as Common Voice writes, `csv` elsewhere."""

    @property
    def separator(self) -> Delimiter:
        return self.delimiter or ("tab" if self.path.suffix.lower() in (".tsv", ".tab") else "comma")

    @property
    def quoting(self) -> Quotes:
        return self.quotes or ("plain" if self.separator == "tab" else "csv")


@dataclass(frozen=True, slots=True)
class _Record:
    """What the reader made of a row, on these lines of the file; cells or what is wrong with it."""

    first: int
    last: int
    cells: Sequence[str] = ()
    error: str = ""

    @property
    def lines(self) -> str:
        return f"line {self.first}" if self.first == self.last else f"lines {self.first} to {self.last}"


def csv_items(source: CsvSource) -> Iterator[Item | Bad]:
    """The rows of a table, in its order. A row that lost or gained cells, has no audio file or is not UTF-8 is given as `Bad`.

    Raises:
        ManifestError: the table cannot be read.
        ConfigError: a column is missing.
    """
    try:
        with source.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            records = _records(source, stream)
            header = next(records, _Record(1, 1))
            _require_header(source, header)
            where = _audio_dir(source, header.cells)
            for record in records:
                if record.error or record.cells:
                    yield _item(source, where, header.cells, record)
    except OSError as error:
        raise ManifestError(f"{source.path}: cannot be read ({error.strerror})") from error


def _records(source: CsvSource, lines: Iterator[str]) -> Iterator[_Record]:
    """Every row; one that the reader refuses does not end the table."""
    separator = DELIMITERS[source.separator]
    if source.quoting == "csv":
        reader = csv.reader(lines, delimiter=separator, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, strict=True, quoting=csv.QUOTE_NONE)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Record(first, reader.line_num, error=f"cannot be read as a row ({error})")
        else:
            yield _Record(first, reader.line_num, cells)


def _require_header(source: CsvSource, header: _Record) -> None:
    names = list(header.cells)
    if any("\0" in name or _broken(name) for name in names) or header.error:
        reason = header.error or "not UTF-8"
        raise ManifestError(f"{source.path}: cannot be read as a table in UTF-8 ({reason}); save it again as UTF-8")
    for name in names:
        if names.count(name) > 1 and name:
            raise ConfigError(f"{source.path}: has two columns {name!r}; rename one")
    for delimiter, sign in DELIMITERS.items():
        if len(names) == 1 and sign in names[0]:
            raise ConfigError(f"{source.path}: its columns are separated by {delimiter}s; pass --delimiter {delimiter}")
    wanted = {"--audio-column": source.audio_column, "--text-column": source.text_column}
    optional = {"--speaker-column": source.speaker_column, "--id-column": source.id_column}
    require_columns(str(source.path), names, {**wanted, **optional})


def _audio_dir(source: CsvSource, header: Sequence[str]) -> Path:
    if source.audio_dir is not None:
        if not source.audio_dir.is_dir():
            raise ManifestError(f"--audio-dir {source.audio_dir}: no such folder")
        return source.audio_dir
    clips = source.path.parent / "clips"
    return clips if set(header) >= COMMON_VOICE and clips.is_dir() else source.path.parent


def _item(source: CsvSource, where: Path, header: Sequence[str], record: _Record) -> Item | Bad:
    place = f"{source.path} {record.lines}"
    if wrong := _damage(source, header, record):
        return Bad(place, wrong)
    row = dict(zip(header, record.cells, strict=True))
    name, text = row[source.audio_column].strip(), row[source.text_column].strip()
    if not name:
        return Bad(place, f"has no {source.audio_column}")
    if not text and set(header) >= COMMON_VOICE:
        return Bad(place, f"{name}: has no sentence, as some rows of Common Voice", expected=True)
    file = where / name
    if not is_regular(file):
        return Bad(place, f"{name}: no such file under {where}" + ("" if source.audio_dir else "; --audio-dir says where they lie"))
    if file.stat().st_size == 0:
        return Bad(place, f"{name}: the file is empty (0 bytes); copy it again")
    identity = row[source.id_column].strip() if source.id_column else Path(name).with_suffix("").as_posix()
    if not identity:
        return Bad(place, f"has no {source.id_column}")
    speaker = row[source.speaker_column].strip() if source.speaker_column else ""
    return Item(identity, FileAudio(file), text, speaker or None, place)


def _damage(source: CsvSource, header: Sequence[str], record: _Record) -> str | None:
    """What shows that cells of a row are not what stands under their headings."""
    if record.last > record.first and (record.error or source.quotes != "csv"):
        reason = f" ({record.error})" if record.error else ""
        return f"a quotation mark opens a cell that continues over several lines{reason}; {_QUOTES}, or --quotes csv if it is one text"
    if record.error:
        return f"{record.error}; {_QUOTES}"
    if any(_broken(cell) for cell in record.cells):
        return "is not UTF-8; save the table again as UTF-8"
    if len(record.cells) != len(header):
        more = f"; put a text that holds a {source.separator} in quotes" if len(record.cells) > len(header) else ""
        return f"has {len(record.cells)} cells under {len(header)} headings{more}"
    row = dict(zip(header, record.cells, strict=True))
    after = [row[column] for column in (source.speaker_column, source.id_column) if column is not None]
    if source.separator != "tab" and any(cell.startswith(" ") and cell.strip() for cell in after):
        return f"a {source.separator} and a space before the speaker or id look like a text without quotes; put the text in quotes"
    text = row[source.text_column].strip()
    if source.quotes is None and source.quoting == "plain" and len(text) > 2 and text[0] == text[-1] == '"' and '""' in text[1:-1]:
        return "its text is in quotes that are doubled inside; pass --quotes csv, or --quotes plain where they belong to the text"
    return None


_QUOTES: Final = 'write quotes inside a cell twice (""), or pass --quotes plain where they are plain characters'


def _broken(cell: str) -> bool:
    """Whether a cell holds bytes that are no UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in cell)
