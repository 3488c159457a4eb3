"""ELAN's .eaf: annotations of the chosen tiers become segments.

An annotation of a tier that refers to another has that one's times, and those of one parent are one segment: nothing says where in it
each is said. Slots without a time are taken together in the same way. pympi gives each such annotation all of its parent's time, none
where a slot has none, and does not know that a recording may begin later than the document (TIME_ORIGIN).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Reader, Timed
from lora.corpora.recordings.segments import Segment
from lora.corpora.recordings.tiers import chosen
from lora.errors import ManifestError
from lora.system.documents import read_bytes

SUFFIXES: Final = frozenset({".eaf"})
WHAT: Final = "ELAN files (.eaf)"


@dataclass(frozen=True, slots=True)
class _Annotation:
    id: str
    text: str
    start: str = ""
    """Time slots; empty if it refers to `parent`."""
    end: str = ""
    parent: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class _Tier:
    name: str
    participant: str | None
    annotations: Sequence[_Annotation]

    @property
    def texts(self) -> int:
        return sum(bool(one.text) for one in self.annotations)

    def __str__(self) -> str:
        return f"{self.name} ({'1 text' if self.texts == 1 else f'{self.texts} texts'})"


@dataclass(slots=True)
class _Document:
    path: Path
    slots: dict[str, int | None] = field(default_factory=dict)
    """Milliseconds of each time slot, in their order; None if nobody has set it."""
    origins: dict[str, int] = field(default_factory=dict)
    """Where in a recording, by its name without the suffix, the document begins, in milliseconds."""
    tiers: list[_Tier] = field(default_factory=list)


def elan_reader(tiers: Sequence[str]) -> Reader:
    """Reads these tiers, named exactly or by a pattern; without a name, the only one that holds text."""
    return partial(_segments, tiers=tiers)


def _segments(file: Timed, tiers: Sequence[str]) -> Iterator[Segment | Bad]:
    document = _read(file.path)
    origin_s = _origin_ms(document, file.recording) / 1000
    known = {one.id: one for tier in document.tiers for one in tier.annotations}
    found, bad = list[Segment](), list[Bad]()
    for tier in chosen(file.path, document.tiers, tiers):
        for group, times in _groups(document, tier, known):
            text = " ".join(" ".join(one.text for one in group).split())
            place, name = f"{file.path.name} tier {tier.name} annotation {group[0].id}", f"{file.prefix}-{tier.name}-{group[0].id}"
            if times is None and text:
                bad.append(Bad(place, f"{name}: has no times in ELAN, and its neighbours have none; left out", True))
            elif times is not None and text:
                start_s, end_s = (time / 1000 + origin_s for time in times)
                speaker = tier.participant or file.speaker
                found.append(Segment(name, file.recording, text, place, speaker, start_s, end_s, channel=file.channel))
    yield from sorted(found, key=lambda segment: segment.start_s)
    yield from bad


_Times = tuple[int, int] | None
"""Start and end in milliseconds; None if nobody has set them."""


def _groups(document: _Document, tier: _Tier, known: dict[str, _Annotation]) -> Iterator[tuple[list[_Annotation], _Times]]:
    """Annotations that share one time, in the order in which they are said."""
    below: dict[str, list[_Annotation]] = {}
    for one in tier.annotations:
        below.setdefault(_root(one, known, document.path).id, []).append(one)
    for holder in document.tiers:
        for run, times in _runs(document, [one for one in holder.annotations if not one.parent]):
            if members := [one for root in run for one in _in_order(below.get(root.id, []))]:
                yield members, times


def _runs(document: _Document, annotations: Sequence[_Annotation]) -> Iterator[tuple[list[_Annotation], _Times]]:
    """Each annotation with those that follow it at slots without a time, up to one with a time."""
    slots, starts = document.slots, {one.start: one for one in annotations}
    for one in annotations:
        if missing := next((slot for slot in (one.start, one.end) if slot not in slots), None):
            raise ManifestError(
                f"{document.path}: annotation {one.id} names a time slot {missing!r} that is not there; save it in ELAN again"
            )
    rest = {one.id: one for one in annotations}
    for one in [one for one in annotations if slots[one.start] is not None]:
        run = [rest.pop(one.id)]
        while slots[run[-1].end] is None and (following := starts.get(run[-1].end)) is not None and following.id in rest:
            run.append(rest.pop(following.id))
        start, end = slots[one.start], slots[run[-1].end]
        yield run, None if start is None or end is None else (start, end)
    yield from (([one], None) for one in rest.values())


def _root(one: _Annotation, known: dict[str, _Annotation], path: Path) -> _Annotation:
    """The annotation with times that this one hangs on."""
    seen = set[str]()
    while one.parent:
        if one.parent not in known or one.id in seen:
            raise ManifestError(f"{path}: annotation {one.id} refers to {one.parent!r}, which is not there; save it in ELAN again")
        seen.add(one.id)
        one = known[one.parent]
    return one


def _in_order(annotations: Sequence[_Annotation]) -> list[_Annotation]:
    """Those of one parent as each names the one before it, parents in the order in which they come."""
    following: dict[tuple[str, str], list[_Annotation]] = {}
    for one in annotations:
        following.setdefault((one.parent, one.previous), []).append(one)
    ordered = list[_Annotation]()
    for parent in dict.fromkeys(one.parent for one in annotations):
        waiting = following.pop((parent, ""), [])
        while waiting:
            one = waiting.pop(0)
            ordered.append(one)
            waiting += following.pop((parent, one.id), [])
    return ordered + [one for several in following.values() for one in several]


def _origin_ms(document: _Document, recording: Path) -> int:
    if recording.stem in document.origins or not any(document.origins.values()):
        return document.origins.get(recording.stem, 0)
    names = ", ".join(f"{name} at {origin} ms" for name, origin in document.origins.items())
    raise ManifestError(f"{document.path}: its recordings begin at different times ({names}); name {recording.name} as one of them")


def _read(path: Path) -> _Document:
    content = read_bytes(path, ManifestError)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ManifestError(f"{path}: defines entities, which ELAN does not write; save it in ELAN again")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two for encodings that are unknown or too wide
        raise ManifestError(f"{path}: is no XML ({error}); open it in ELAN and save it again") from error
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ManifestError(f"{path}: is no ELAN file: it begins with <{root.tag}>, not with <ANNOTATION_DOCUMENT>")
    document = _Document(path)
    try:
        _fill(document, root)
    except (KeyError, ValueError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"holds a time that is no number ({error})"
        raise ManifestError(f"{path}: {reason}; open it in ELAN and save it again") from error
    return document


def _fill(document: _Document, root: ElementTree.Element) -> None:
    header = root.find("HEADER")
    if header is not None and header.get("TIME_UNITS", "milliseconds") != "milliseconds":
        raise ManifestError(f"{document.path}: counts time in {header.get('TIME_UNITS')}; save it in ELAN again")
    for media in root.iter("MEDIA_DESCRIPTOR"):
        name = media.get("MEDIA_URL", "").replace("\\", "/").rpartition("/")[2]
        document.origins[Path(name).stem] = int(media.get("TIME_ORIGIN", "0"))
    for slot in root.iter("TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        document.slots[slot.attrib["TIME_SLOT_ID"]] = None if value is None else int(value)
    for tier in root.iter("TIER"):
        annotations = [_annotation(one) for holder in tier.iter("ANNOTATION") for one in holder]
        document.tiers.append(_Tier(tier.attrib["TIER_ID"], tier.get("PARTICIPANT", "").strip() or None, annotations))


def _annotation(element: ElementTree.Element) -> _Annotation:
    text = " ".join((element.findtext("ANNOTATION_VALUE") or "").split())
    name = element.attrib["ANNOTATION_ID"]
    if element.tag == "REF_ANNOTATION":
        return _Annotation(name, text, parent=element.attrib["ANNOTATION_REF"], previous=element.get("PREVIOUS_ANNOTATION", ""))
    return _Annotation(name, text, element.attrib["TIME_SLOT_REF1"], element.attrib["TIME_SLOT_REF2"])
