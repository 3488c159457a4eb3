"""NeMo manifests, and those of the official Moonshine trainer: a JSON object a line, with a part of a recording."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from lora.audio.loading import FileAudio, stored_seconds
from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment
from lora.dataset.manifest import DURATION_TOLERANCE_S
from lora.errors import AudioError, ManifestError
from lora.system.documents import ContentError, json_value, read_bytes
from lora.system.files import is_regular

NAMES: Final = {
    "recording": ("audio_filepath", "audio", "path", "wav", "audio_path"),
    "text": ("text", "transcript"),
    "offset": ("offset",),
    "duration": ("duration", "seconds"),
    "speaker": ("speaker", "speaker_id"),
    "id": ("id", "utt_id"),
}
"""What a row says, and the fields that say it: NeMo's own name first, then those of the official trainer and others."""

_OBJECT = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a row stands."""

    manifest: Path
    number: int

    def __str__(self) -> str:
        return f"{self.manifest.name} line {self.number}"


def nemo_segments(path: Path, audio_dir: Path | None = None) -> Iterator[Segment | Bad]:
    """The rows of a manifest; recordings are relative to it, or to `audio_dir`. Raises `ManifestError` if it cannot be read."""
    rows = read_bytes(path, ManifestError).splitlines()
    if not any(row.strip() for row in rows):
        raise ManifestError(f"{path}: is empty; every line must hold one JSON object with `audio_filepath` and `text`")
    for number, row in enumerate(rows, start=1):
        line = _Line(path, number)
        if not row.strip():
            continue
        try:
            yield _segment(json_value(row, _OBJECT.decode), line, audio_dir or path.parent)
        except ContentError as error:
            yield Bad(str(line), error.reason)
        except (msgspec.ValidationError, _RowError) as error:
            yield Bad(str(line), str(error))


class _RowError(ManifestError):
    """A row says nothing, or two things."""


def _segment(row: dict[str, Any], line: _Line, folder: Path) -> Segment | Bad:
    name, text = _words(row, "recording"), _words(row, "text")
    if not name:
        raise _RowError(f"names no recording; give it in `{NAMES['recording'][0]}` (it has {', '.join(row)})"[:300])
    if text is None:
        raise _RowError("has no `text`; every row needs what is said")
    recording, identity = folder / name, _words(row, "id") or f"{Path(name).stem}-{line.number}"
    speaker, offset_s, duration_s = _words(row, "speaker") or None, _number(row, "offset"), _number(row, "duration")
    if offset_s is None:
        return _whole(Segment(identity, recording, text, str(line), speaker, whole=True), duration_s)
    end_s = None if duration_s is None else offset_s + duration_s
    return Segment(identity, recording, text, str(line), speaker, offset_s, end_s)


def _whole(segment: Segment, duration_s: float | None) -> Segment | Bad:
    """A row without an offset is of a whole file, whose length its duration must be."""
    if duration_s is None or not is_regular(segment.recording):
        return segment
    try:
        length_s = stored_seconds(FileAudio(segment.recording))
    except AudioError as error:
        return segment.bad(str(error))
    if abs(length_s - duration_s) > DURATION_TOLERANCE_S:
        return segment.bad(f"says {duration_s:g} s, and {segment.recording.name} lasts {length_s:.2f} s; give the part's `offset`")
    return segment


def _value(row: dict[str, Any], what: str) -> tuple[str, Any]:
    given = [name for name in NAMES[what] if row.get(name) is not None]
    if len(given) > 1 and any(row[name] != row[given[0]] for name in given):
        raise _RowError(f"has {' and '.join(given)}, which differ; keep one")
    return (given[0], row[given[0]]) if given else (NAMES[what][0], None)


def _words(row: dict[str, Any], what: str) -> str | None:
    name, value = _value(row, what)
    if value is None or isinstance(value, str):
        return value
    if what in ("speaker", "id") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _RowError(f"{name}: must be a text, not {type(value).__name__}")


def _number(row: dict[str, Any], what: str) -> float | None:
    name, value = _value(row, what)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise _RowError(f"{name}: must be a number of seconds, not {value!r}"[:200])
