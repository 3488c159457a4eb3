"""Common Voice as it is unpacked: a table for each of its own splits, and the recordings in clips/."""

from collections.abc import Iterator
from pathlib import Path

from lora.corpora.build import Bad, Item
from lora.corpora.recordings.segments import Segment
from lora.corpora.tables import CsvSource, Quotes, csv_items
from lora.errors import ConfigError, ManifestError


def common_voice_segments(source: Path, split: str | None = None) -> Iterator[Segment | Bad]:
    """The rows of a table, or of the one that a language's folder has for `split`; `client_id` is the speaker.

    Raises `ManifestError` if there is no such table, with those that there are; `ConfigError` for a split beside a table.
    """
    table = _table(source, split)
    quotes: Quotes = "csv" if _all_quoted(table) else "plain"
    for item in csv_items(CsvSource(table, "path", "sentence", "client_id", quotes=quotes)):
        yield item if isinstance(item, Bad) else _segment(item, item.text if quotes == "csv" else _unquoted(item.text))


def _all_quoted(table: Path) -> bool:
    """Whether a tool that puts every cell in quotes has written the table again: its header begins with one."""
    try:
        with table.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            return stream.read(1) == '"'
    except OSError as error:
        raise ManifestError(f"{table}: cannot be read ({error.strerror})") from error


def _table(source: Path, split: str | None) -> Path:
    if not source.is_dir():
        if split is not None:
            raise ConfigError("--split: is for a language's folder; leave it out beside a table")
        return source
    tables = sorted(path.stem for path in source.glob("*.tsv"))
    if split not in tables:
        asked = "choose one of its tables with --split" if split is None else f"has no table {split}.tsv"
        there = ", ".join(tables) or "it holds none; name the folder of a language, such as cv-corpus/en"
        raise ManifestError(f"{source}: {asked}: {there}")
    return source / f"{split}.tsv"


def _segment(item: Item, text: str) -> Segment:
    return Segment(item.id, Path(str(item.audio)), text, item.place, item.speaker_id, whole=True)


def _unquoted(text: str) -> str:
    """The sentence: some releases put one that holds quotes in quotes and double those inside, as a spreadsheet does."""
    inside = text[1:-1]
    escaped = len(text) > 2 and text[0] == text[-1] == '"' and '""' in inside and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if escaped else text
