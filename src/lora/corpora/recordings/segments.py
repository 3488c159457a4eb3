"""What every form yields: segments of recordings, and the problems of their times."""

import math
from dataclasses import dataclass
from pathlib import Path

from lora.corpora.build import Bad
from lora.dataset.manifest import DURATION_TOLERANCE_S
from lora.errors import ManifestError
from lora.system.documents import read_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A text and when it is said."""

    id: str
    recording: Path
    text: str
    place: str
    """Where it stands in its source, such as `talk.srt line 4`."""
    speaker: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    """None: the recording's end."""
    whole: bool = False
    """The recording is a clip of its own: its file is taken as it is."""
    channel: int | None = None
    """Which channel it is said on, counted from 1, if its source tells it."""

    def bad(self, reason: str, *, expected: bool = False) -> Bad:
        return Bad(self.place, f"{self.id}: {reason}", expected)


def untimely(segment: Segment) -> bool:
    """Whether a segment's times are invalid for any recording: negative, not finite, or an end before the start."""
    end_s = math.inf if segment.end_s is None else segment.end_s
    return not (0 <= segment.start_s <= end_s < math.inf)


def wrong_times(segment: Segment, length_s: float) -> str | None:
    """What is wrong with a segment's times."""
    start_s, end_s = segment.start_s, length_s if segment.end_s is None else segment.end_s
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        return "its times are no numbers; correct them"
    if start_s < 0:
        return f"starts at {start_s:g} s, before the recording; correct the times"
    if max(start_s, end_s - DURATION_TOLERANCE_S) > length_s:
        return f"goes from {start_s:g} to {end_s:g} s, and {segment.recording.name} lasts {length_s:.2f} s; it belongs to another recording"
    if end_s <= start_s:
        return f"goes from {start_s:g} to {end_s:g} s, which is no time; correct the times"
    return None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark. Raises `ManifestError` for one that cannot be read."""
    content = read_bytes(path, ManifestError)
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 ({error.reason}); save it again as UTF-8") from error
