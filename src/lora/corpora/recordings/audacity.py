"""Audacity's label track beside a recording: start, end and label between tabs, and perhaps a line with frequencies below."""

import re
from collections.abc import Iterator
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Timed
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError

SUFFIXES: Final = frozenset({".txt"})
WHAT: Final = "label tracks (.txt)"

_SPEAKER = re.compile(r"\[\[([^\]]+)\]\] *(\S.*)")
"""As whisperx names the speaker of a label."""


def label_segments(file: Timed) -> Iterator[Segment | Bad]:
    """The labels that last some time, in the file's order; a label at one point is named, an empty one is no segment.

    Raises `ManifestError` if the file cannot be read or holds none.
    """
    lines = [(number, line) for number, line in enumerate(read_text(file.path).splitlines(), start=1) if line.strip()]
    labels = [(number, line) for number, line in lines if not line.startswith("\\")]
    if not labels:
        raise ManifestError(f"{file.path}: holds no label; Audacity writes start, end and label with tabs between")
    for number, line in labels:
        place, name = f"{file.path.name} line {number}", f"{file.prefix}-{number:05d}"
        found = _label(line)
        if found is None:
            yield Bad(place, f"is no start, end and label with tabs between ({line.strip()[:40]!r})")
        elif found[2]:
            start_s, end_s, text = found
            named = _SPEAKER.fullmatch(text)
            speaker, text = named.groups() if named else (file.speaker, text)
            segment = Segment(name, file.recording, text, place, speaker, start_s, end_s, channel=file.channel)
            yield segment if start_s != end_s else segment.bad("marks a point, which lasts no time; left out", expected=True)


def _label(line: str) -> tuple[float, float, str] | None:
    """Without an end it marks a point, as Audacity reads it. Some versions write numbers with the comma of the system's language."""
    start, end, label = [*line.split("\t", 2), "", ""][:3]
    start_s, end_s = _number(start), _number(end)
    if start_s is None:
        return None
    return (start_s, start_s, " ".join(end.split())) if end_s is None else (start_s, end_s, " ".join(label.split()))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
