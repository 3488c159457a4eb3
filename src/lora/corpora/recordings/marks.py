"""Segments without the marks of their source's notation; those whose words are not all there are left out by name."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment
from lora.text.conventions import Notation, said


def without_marks(segments: Iterable[Segment | Bad], notation: Notation, *, allow_empty: bool) -> Iterator[Segment | Bad]:
    """The segments with what is said in them; one that holds marks alone only where nobody needs to speak."""
    for segment in segments:
        yield segment if isinstance(segment, Bad) or not segment.text.strip() else _spoken(segment, notation, allow_empty=allow_empty)


def _spoken(segment: Segment, notation: Notation, *, allow_empty: bool) -> Segment | Bad:
    result = said(segment.text, notation)
    if result.unclear is not None:
        return segment.bad(f"words are missing where it says {result.unclear[:40]!r}; left out", expected=True)
    if not result.text and not allow_empty:
        return segment.bad(f"holds marks and no word ({' '.join(segment.text.split())[:40]!r}); left out", expected=True)
    return replace(segment, text=result.text)
