"""Recordings on this machine: a folder with transcripts beside the audio, or a table that names the files."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.audio import FileAudio
from lora.corpora.build import AUDIO_SUFFIXES, Item, field_of, require_columns
from lora.errors import ManifestError


def folder_items(folder: Path) -> Iterator[Item]:
    """Every audio file under `folder` with the transcript in the `.txt` file of the same name beside it, sorted by path.

    Files in a subfolder have that subfolder's name as their speaker; files directly in `folder` have none.

    Raises:
        ManifestError: there is no audio, a transcript is missing, or a transcript has no audio.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise ManifestError(f"{folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES))})")
    stems = {path.with_suffix("") for path in recordings}
    lonely = [path for path in recordings if not path.with_suffix(".txt").is_file()]
    lonely += [path for path in files if path.suffix == ".txt" and path.with_suffix("") not in stems]
    if lonely:
        names = ", ".join(str(path.relative_to(folder)) for path in lonely[:5]) + (", ..." if len(lonely) > 5 else "")
        raise ManifestError(f"{folder}: {len(lonely)} files lack their counterpart ({names}); every recording needs NAME.txt beside it")
    for path in recordings:
        relative = path.relative_to(folder)
        speaker = relative.parent.name or None
        yield Item(relative.with_suffix("").as_posix(), FileAudio(path), _transcript(path.with_suffix(".txt")), speaker)


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A table of recordings: commas, or tabs where its name ends in .tsv; file names are relative to the table."""

    path: Path
    audio_column: str = "file"
    text_column: str = "text"
    speaker_column: str | None = "speaker"
    id_column: str | None = None
    """None names an utterance after its file, without the suffix."""


def csv_items(source: CsvSource) -> Iterator[Item]:
    """The rows of a table, in its order.

    Raises:
        ManifestError: the table cannot be read, or a row names no audio file; the message has the row's line.
        ConfigError: a column is missing.
    """
    try:
        with source.path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, delimiter="\t" if source.path.suffix.lower() == ".tsv" else ",", strict=True)
            wanted = {"--audio-column": source.audio_column, "--text-column": source.text_column}
            optional = {"--speaker-column": source.speaker_column, "--id-column": source.id_column}
            require_columns(str(source.path), list(table.fieldnames or ()), {**wanted, **optional})
            for row in table:
                yield _csv_item(source, row, f"{source.path} line {table.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{source.path}: cannot be read as a table in UTF-8 ({error})") from error


def _csv_item(source: CsvSource, row: dict[str, str | None], place: str) -> Item:
    name, text = row[source.audio_column], row[source.text_column]
    if not name or text is None:
        raise ManifestError(f"{place}: has no {source.audio_column if not name else source.text_column}")
    file = source.path.parent / name
    if not file.is_file():
        raise ManifestError(f"{place}: {name}: no such file")
    identity = field_of(row, source.id_column) if source.id_column else Path(name).with_suffix("").as_posix()
    if not identity:
        raise ManifestError(f"{place}: has no {source.id_column}")
    return Item(identity, FileAudio(file), text.strip(), field_of(row, source.speaker_column) or None)


def _transcript(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 ({error.reason}); save it again as UTF-8") from error
