"""SRT and WebVTT beside a recording: cues become segments.

The cues are read here: pysubs2 and webvtt-py leave entities as they are written and give rolling captions twice; pysubs2 takes a cue's
identifier for words of the cue before, and drops voices.
"""

import html
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html.entities import html5
from pathlib import Path
from typing import Final

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Timed, files_of, found_recording
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError

SUFFIXES: Final = frozenset({".srt", ".vtt"})
WHAT: Final = "subtitles (.srt, .vtt)"

_TIME: Final = r"(?:\d+:)?[0-5]?\d:[0-5]\d(?:[.,]\d{3})?"
_CUE = re.compile(rf"^\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?$")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^>]*)>")
_INLINE = re.compile(r"<((?:\d+:)?[0-5]?\d:[0-5]\d[.]\d{3})>")
_NAMED = re.compile(r"^\[([^\]:]+)\]: ")
"""As whisperx names the speaker, in SubRip too."""

_READING = re.compile(r"<rt>.*?</rt>|<rt>.*$")
_TAG = re.compile(r"</?(?:i|b|u|s|c|v|font|ruby|rt|lang)(?:[.\s][^>]*)?>|<\d[\d:.]*>|\{\\[^}]*\}", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff]")

CONTINUES_S: Final = 0.06
"""A cue that starts so soon after another, or before its end, may show the other's lines again: at 25 frames a second one frame is 0.04."""


@dataclass(frozen=True, slots=True)
class _Cue:
    line: int
    start_s: float
    end_s: float
    lines: tuple[str, ...]
    voices: tuple[str, ...]
    timed: tuple[tuple[float, str], ...] = ()
    """Its text in parts, and when each is said, as WebVTT's inline times tell."""


def subtitle_segments(file: Timed, longest_s: float = math.inf) -> Iterator[Segment | Bad]:
    """The cues of one file, in its order; a voice that a cue names is its speaker. A longer one is cut at its inline times.

    Raises `ManifestError` if the file cannot be read or holds no cue.
    """
    path = file.path
    cues = list(_cues(path))
    if not cues:
        raise ManifestError(f"{path}: holds no cue with times (00:00:01.000 --> 00:00:02.500)")
    for cue in _said_once([cue for cue in cues if isinstance(cue, _Cue)]):
        place, name = f"{path.name} line {cue.line}", f"{file.prefix}-{cue.line:05d}"
        text = " ".join(" ".join(cue.lines).split())
        if len(set(cue.voices)) > 1:
            yield Bad(place, f"{name}: {' and '.join(dict.fromkeys(cue.voices))} speak in one cue, with no time between; left out", True)
        elif text:
            speaker = (*cue.voices, file.speaker)[0]
            whole = Segment(name, file.recording, text, place, speaker, cue.start_s, cue.end_s, channel=file.channel)
            yield from _parts(whole, cue, longest_s)
    yield from (cue for cue in cues if isinstance(cue, Bad))


def without_transcript(folder: Path) -> list[Path]:
    """Subtitle files under a folder whose recordings have no `.txt` beside them, which is the transcript of all of it."""
    found = [(path, found_recording(path)) for path in files_of(folder, SUFFIXES)]
    return [path for path, recording in found if recording is None or not recording.with_suffix(".txt").exists()]


def _cues(path: Path) -> Iterator[_Cue | Bad]:
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    vtt = lines[0].startswith("WEBVTT")
    if path.suffix.lower() == ".vtt" and not vtt:
        raise ManifestError(f"{path}: does not begin with WEBVTT; save it again, or name it .srt")
    starts = [number for number, line in enumerate(lines) if "-->" in line]
    for number, following in itertools.pairwise([*starts, len(lines)]):
        times = _CUE.match(lines[number])
        if times is None:
            yield Bad(f"{path.name} line {number + 1}", f"its times cannot be read: {lines[number].strip()[:60]!r}")
            continue
        start_s, end_s = (_seconds(time) for time in times.groups())
        shown = _shown(lines[number + 1 : following], vtt=vtt)
        voices = tuple(html.unescape(voice).strip() for line in shown for voice in (*_VOICE.findall(line), *_NAMED.findall(line)))
        yield _Cue(number + 1, start_s, end_s, tuple(filter(None, map(_plain, shown))), voices, _timed(start_s, end_s, shown))


def _timed(start_s: float, end_s: float, lines: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """The parts of a cue between its inline times; none where these are not in order within it."""
    first, *others = _INLINE.split(" ".join(lines))
    starts_s = [start_s, *(_seconds(time) for time in others[::2])]
    if any(after <= before for before, after in itertools.pairwise([*starts_s, end_s])):
        return ()
    return tuple((at_s, text) for at_s, text in zip(starts_s, map(_plain, [first, *others[1::2]]), strict=True) if text)


def _parts(whole: Segment, cue: _Cue, longest_s: float) -> Iterator[Segment]:
    """A cue as it is, or in parts of up to `longest_s` where its inline times allow; captions that roll are as they are."""
    if cue.end_s - cue.start_s <= longest_s or " ".join(text for _, text in cue.timed) != whole.text:
        yield whole
        return
    ends_s = [*(start_s for start_s, _ in cue.timed[1:]), cue.end_s]
    parts = list[list[tuple[float, float, str]]]()
    for (start_s, text), end_s in zip(cue.timed, ends_s, strict=True):
        if not parts or end_s - parts[-1][0][0] > longest_s:
            parts.append([])
        parts[-1].append((start_s, end_s, text))
    for number, part in enumerate(parts, start=1):
        name = whole.id if len(parts) == 1 else f"{whole.id}-{number}"
        yield replace(whole, id=name, text=" ".join(text for *_, text in part), start_s=part[0][0], end_s=part[-1][1])


def _shown(lines: Sequence[str], *, vtt: bool) -> list[str]:
    """A cue's own lines: in WebVTT up to an empty one, in SRT up to the number of the next cue, for some hold empty lines."""
    if vtt:
        return list(lines[: lines.index("")]) if "" in lines else list(lines)
    kept = list(lines)
    if kept and kept[-1].strip().isdecimal() and (len(kept) == 1 or not kept[-2].strip()):
        kept.pop()
    return kept


def _plain(line: str) -> str:
    """What is said: without tags and inline times, entities as characters, without the dash before a change of speaker."""
    bare = _TAG.sub("", _READING.sub("", _NAMED.sub("", line)))
    text = _INVISIBLE.sub("", _ENTITY.sub(_character, bare))
    return re.sub(r"^[-\u2013\u2014]\s+", "", " ".join(text.split()))


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself where HTML has none of this name, of which `html.unescape` would take the beginning."""
    name = entity[0][1:]
    return html.unescape(entity[0]) if name.startswith("#") else html5.get(name, entity[0])


def _said_once(cues: Sequence[_Cue]) -> Iterator[_Cue]:
    """Cues without the lines that only show again what the cue before has shown, as captions that roll do."""
    last: _Cue | None = None
    shown: tuple[str, ...] = ()
    until_s = 0.0
    for cue in cues:
        again = _repeated(shown, cue.lines) if cue.start_s <= until_s + CONTINUES_S else 0
        if last is not None and again and again == len(cue.lines):
            last = replace(last, end_s=max(last.end_s, cue.end_s)) if last.lines == cue.lines else last
        else:
            if last is not None:
                yield last
            last = replace(cue, lines=cue.lines[again:])
        shown, until_s = cue.lines, cue.end_s
    if last is not None:
        yield last


def _repeated(before: Sequence[str], lines: Sequence[str]) -> int:
    """How many of a cue's first lines are the last ones of the cue before."""
    return next((count for count in range(min(len(before), len(lines)), 0, -1) if before[-count:] == lines[:count]), 0)


def _seconds(time: str) -> float:
    total = 0
    *larger, last = time.replace(",", ".").split(":")
    for part in larger:
        total = 60 * total + int(part)
    return 60 * total + float(last)
