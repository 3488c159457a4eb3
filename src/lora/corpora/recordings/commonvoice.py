"""Common Voice as it is unpacked: a table for each of its own splits, and the recordings in clips/."""

from collections.abc import Iterator
from pathlib import Path

from lora.corpora.build import Bad, Item
from lora.corpora.recordings.segments import Segment
from lora.corpora.tables import CsvSource, csv_items
from lora.errors import ConfigError, ManifestError


def common_voice_segments(source: Path, split: str | None = None) -> Iterator[Segment | Bad]:
    """The rows of a table, or of the one that a language's folder has for `split`; `client_id` is the speaker.

    Raises `ManifestError` if there is no such table, with those that there are; `ConfigError` for a split beside a table.
    """
    return map(_segment, csv_items(CsvSource(_table(source, split), "path", "sentence", "client_id", quotes="plain")))


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


def _segment(item: Item | Bad) -> Segment | Bad:
    if isinstance(item, Bad):
        return item
    return Segment(item.id, Path(str(item.audio)), _unquoted(item.text), item.place, item.speaker_id, whole=True)


def _unquoted(text: str) -> str:
    """The sentence: some releases put one that holds quotes in quotes and double those inside, as a spreadsheet does."""
    inside = text[1:-1]
    escaped = len(text) > 2 and text[0] == text[-1] == '"' and '""' in inside and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if escaped else text
