"""The folder of recordings: two manifests, the sound, and the sentences that belong to it. For its owner's eyes only.

A take is on disk, sound first and then its row, before the next sentence is shown; a kill leaves each manifest whole, as it was or as it
will be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from lora.audio.loading import Waveform, duration, encode_flac
from lora.dataset.manifest import Row
from lora.errors import ManifestError, PromptsError, RunFolderError
from lora.language import Language
from lora.system.destination import writing_errors
from lora.system.documents import ContentError, json_value, read_bytes
from lora.system.files import atomic_file, remove_leftovers, write_jsonl
from lora.units import Seconds
from lora_cli.recorder.prompts import Prompt, PromptSet

SETS: Final[tuple[PromptSet, ...]] = ("train", "test")
AUDIO_FOLDER: Final = "audio"
PROMPTS_FILE: Final = "prompts.jsonl"

_LOCK_FILE: Final = ".lock"


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the sentences' file: where they come from, the language, and the model that listens."""

    source: str
    language: Language
    model_id: str | None
    """None if none listens."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What is recorded of a set."""

    sentences: int
    length_s: Seconds


class Folder:
    """Recordings of one speaker. One process at a time writes into it; `close` gives it free."""

    def __init__(self, path: Path, language: Language) -> None:
        """Makes the folder, or opens one that is there and removes recordings without a row, which a kill has left.

        Raises `RunFolderError` when it cannot be written or another process has it open, and `ManifestError` when it holds what this app
        has not written.
        """
        self.path, self.language = path, language
        with writing_errors(path):
            for folder in (path, path / AUDIO_FOLDER):
                _make_private(folder)
            self._lock = FileLock(path / _LOCK_FILE, mode=0o600)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise RunFolderError(f"{path}: another moonshine records into it; end that one, or give another --output-dir") from error
        try:
            self.rows = rows(path)
            self.swept = self._sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets others write."""
        self._lock.release()

    @property
    def recorded(self) -> dict[str, PromptSet]:
        """The texts that are recorded, each with its set."""
        return {row.text: name for name in SETS for row in self.rows[name].values() if row.text is not None}

    def put(self, heading: Heading, prompts: Sequence[Prompt]) -> None:
        """Stores the sentences that belong to the folder."""
        write_jsonl(self.path / PROMPTS_FILE, [heading, *prompts], durable=True, private=True)

    def keep(self, prompt: Prompt, samples: Waveform, meta: Mapping[str, object]) -> Row:
        """Puts sound and row on the disk; a sentence that was recorded before gets the new sound. Raises `RunFolderError`."""
        before = self.rows[prompt.set].get(prompt.id)
        name = f"{AUDIO_FOLDER}/{prompt.id}-{_take(before) + 1}.flac"
        row = Row(
            audio=name,
            text=prompt.text,
            id=prompt.id,
            duration=round(duration(samples), 3),
            language=None if self.language == "en" else self.language,
            meta=dict(meta),
        )
        with writing_errors(self.path):
            with atomic_file(self.path / name, durable=True, private=True) as stream:
                stream.write(encode_flac(samples))
            found = {**self.rows[prompt.set], prompt.id: row}
            write_jsonl(self.path / f"{prompt.set}.jsonl", found.values(), durable=True, private=True)
            self.rows[prompt.set] = found
            if before is not None:
                self.sound(before).unlink(missing_ok=True)
        return row

    def sound(self, row: Row) -> Path:
        """The recording of a row."""
        return self.path / str(row.audio)

    def _sweep(self) -> int:
        """Removes recordings that no row names; returns how many."""
        named = {self.sound(row) for one in self.rows.values() for row in one.values()}
        left = [file for file in (self.path / AUDIO_FOLDER).glob("*.flac") if file not in named]
        with writing_errors(self.path):
            for file in left:
                file.unlink()
        for folder in (self.path, self.path / AUDIO_FOLDER):
            remove_leftovers(folder)
        return len(left)


def rows(path: Path) -> dict[PromptSet, dict[str, Row]]:
    """The rows of both manifests by id. Raises `ManifestError` for rows that this app has not written."""
    return {name: {str(row.id): row for row in _rows(path / f"{name}.jsonl")} for name in SETS}


def stored(path: Path) -> tuple[Heading, list[Prompt]] | None:
    """The sentences that belong to a folder; None if there are none yet. Raises `PromptsError` for a file of another kind."""
    file = path / PROMPTS_FILE
    if not file.exists():
        return None
    lines = [line for line in read_bytes(file, PromptsError).split(b"\n") if line.strip()]
    try:
        heading = msgspec.json.decode(lines[0], type=Heading)
        return heading, [msgspec.json.decode(line, type=Prompt) for line in lines[1:]]
    except (IndexError, msgspec.DecodeError) as error:
        raise PromptsError(f"{file}: is no list of sentences of moonshine record ({error}); give another --output-dir") from error


def counted(rows: Mapping[str, Row]) -> Counted:
    """How much is recorded."""
    return Counted(len(rows), Seconds(sum(row.duration or 0.0 for row in rows.values())))


def _take(row: Row | None) -> int:
    return 0 if row is None else int(str(row.audio).removesuffix(".flac").rpartition("-")[2])


def _rows(file: Path) -> Iterator[Row]:
    if not file.exists():
        return
    for number, line in enumerate(read_bytes(file, ManifestError).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Row = json_value(line, _ROW.decode)
        except (ContentError, msgspec.ValidationError) as error:
            raise ManifestError(f"{file} line {number}: is no row of a manifest ({error}); {_ELSEWHERE}") from error
        if row.meta is None or "heard" not in row.meta or row.id is None or row.text is None:
            raise ManifestError(f"{file} line {number}: was not recorded by moonshine record; {_ELSEWHERE}")
        if not (file.parent / str(row.audio)).is_file():
            raise ManifestError(f"{file} line {number}: its sound {row.audio} is gone; remove the line, and the sentence is asked again")
        yield row


def _make_private(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, for its owner only."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


_ROW = msgspec.json.Decoder(Row)
_ELSEWHERE: Final = "give another --output-dir"
