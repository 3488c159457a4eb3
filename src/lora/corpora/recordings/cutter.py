"""Cuts segments into clips, exact to the sample and without reaching into a neighbour; reports what cannot be cut."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from lora.audio.channels import Channel
from lora.audio.loading import AudioSettings, FileAudio, Span, load, stored_seconds
from lora.audio.voice_activity import holds_speech
from lora.corpora.build import Bad, Item
from lora.corpora.recordings.segments import Segment, wrong_times
from lora.corpora.recordings.sides import on_sides
from lora.dataset.manifest import MIN_S, Rules
from lora.errors import AudioError
from lora.system.files import is_regular
from lora.units import SAMPLE_RATE_HZ, Seconds

PADDING_S: Final = Seconds(0.05)
"""Added on each side of a segment: times are rounded to a video's frames or set by ear, and the first sound of a word is short."""

OVERLAP_S: Final = Seconds(0.02)
"""Overlaps up to this are rounding."""

_ROUNDING_S: Final = 1e-6
"""Rounding error of a difference of two times."""


@dataclass(slots=True)
class Cutter:
    """How segments become clips, and what a person should know of them afterwards."""

    padding_s: float = PADDING_S
    max_s: float = Rules().max_s
    min_s: float = MIN_S
    channel: Channel | None = None
    track: int | None = None
    split: bool = False
    """Each segment is taken from the channel that it is said on: a call becomes two speakers."""
    overlaps: list[str] = field(default_factory=list)
    """Segments that were said at the same time, in words."""

    def __call__(self, segments: Iterable[Segment | Bad]) -> Iterator[Item | Bad]:
        """The clips, recording by recording, each in its source's order.

        A segment without a recording, beyond its end, without a length or with an id that was there is given as `Bad`; one that lasts too
        long or too short as `Bad` that stops nothing.
        """
        of: dict[Path, list[Segment]] = {}
        known = set[str]()
        for segment in segments:
            if isinstance(segment, Bad):
                yield segment
            elif segment.id in known:
                yield segment.bad("the id is there twice; every segment needs its own")
            else:
                known.add(segment.id)
                of.setdefault(segment.recording, []).append(segment)
        for recording, several in of.items():
            yield from self._clips(recording, several)

    def _clips(self, recording: Path, segments: Sequence[Segment]) -> Iterator[Item | Bad]:
        if not is_regular(recording):
            yield from (segment.bad(f"its recording {recording}: no such file") for segment in segments)
            return
        try:
            length_s = stored_seconds(FileAudio(recording, 1 if self.split else segments[0].channel or self.channel, self.track))
            heard = self._heard(recording, [replace(one, end_s=length_s if one.end_s is None else one.end_s) for one in segments], length_s)
        except AudioError as error:
            yield Bad(segments[0].place, f"{error} ({len(segments)} segments)")
            return
        yield from (one for one in heard if isinstance(one, Bad))
        timed = [one for one in heard if isinstance(one, Segment)]
        neighbours = self._neighbours(timed, length_s)
        yield from _spoken(
            self._clip(one, FileAudio(recording, one.channel or self.channel, self.track), length_s, neighbours[one.channel])
            for one in timed
        )

    def _heard(self, recording: Path, segments: Sequence[Segment], length_s: float) -> list[Segment | Bad]:
        """The segments on the channel that is asked for; with `split` each on the channel that it is said on."""
        if self.channel == "mix":
            return [replace(one, channel=None) for one in segments]
        if self.channel is not None:
            return [one for one in segments if one.channel in (None, self.channel)]
        if not self.split:
            return list(segments)
        wrong: list[Segment | Bad] = [one for one in segments if wrong_times(one, length_s) is not None]
        right = [one for one in segments if wrong_times(one, length_s) is None]
        return wrong + on_sides(recording, right)

    def _neighbours(self, segments: Sequence[Segment], length_s: float) -> "dict[int | None, _Neighbours]":
        """Who speaks when, channel by channel: what is said on another one is in no padding."""
        right = [segment for segment in segments if wrong_times(segment, length_s) is None]
        found = dict[int | None, _Neighbours]()
        for channel in dict.fromkeys(segment.channel for segment in segments):
            here = [segment for segment in right if segment.channel == channel]
            self._note_overlaps(here)
            found[channel] = _Neighbours(here, length_s)
        return found

    def _clip(self, segment: Segment, source: FileAudio, length_s: float, neighbours: "_Neighbours") -> Item | Bad:
        if (wrong := wrong_times(segment, length_s)) is not None:
            return segment.bad(wrong)
        start_s, end_s = segment.start_s, min(segment.end_s or 0.0, length_s)
        lasts_s = end_s - start_s
        if lasts_s > self.max_s + _ROUNDING_S:
            return segment.bad(f"lasts {lasts_s:.1f} s, over --max-seconds {self.max_s:g}; left out", expected=True)
        if lasts_s < self.min_s:
            return segment.bad(f"lasts {lasts_s:.2f} s, under --min-seconds {self.min_s:g}; left out", expected=True)
        if not segment.whole:
            before_s, after_s = neighbours.room(start_s, end_s)
            padding_s = min(self.padding_s, max(0.0, self.max_s - lasts_s) / 2)
            span = Span.between(start_s - min(padding_s, before_s), end_s + min(padding_s, after_s))
            span = Span(span.start, min(span.count, int(self.max_s * SAMPLE_RATE_HZ)))
            source = FileAudio(source.path, source.channel, source.track, span)
        return Item(segment.id, source, segment.text, segment.speaker, segment.place)

    def _note_overlaps(self, segments: Sequence[Segment]) -> None:
        ordered = sorted(segments, key=lambda segment: segment.start_s)
        last: Segment | None = None
        for segment in ordered:
            if last is not None and (shared := min(last.end_s or 0.0, segment.end_s or 0.0) - segment.start_s) > OVERLAP_S:
                who = f", {last.speaker} and {segment.speaker}" if last.speaker != segment.speaker else ""
                self.overlaps.append(f"{last.id} and {segment.id} overlap by {shared:.2f} s{who}: each clip holds both")
            if last is None or (segment.end_s or 0.0) > (last.end_s or 0.0):
                last = segment


def _spoken(clips: Iterator[Item | Bad]) -> Iterator[Item | Bad]:
    """The clips of a recording; or what is wrong with it, if nobody speaks in any that is a part of it and has a text."""
    silent = list[Item]()
    for clip in clips:
        if isinstance(clip, Bad):
            yield clip
        elif _may_hold_speech(clip):
            yield from [*silent, clip]
            yield from clips
            return
        else:
            silent.append(clip)
    if silent:
        advice = "check that it is the right recording, channel and track"
        yield Bad(silent[0].place, f"{silent[0].audio}: no speech found in its {len(silent)} segments; {advice}")


def _may_hold_speech(clip: Item) -> bool:
    """Of a part with a text whether somebody speaks in it; of all else nobody asks."""
    if not isinstance(clip.audio, FileAudio) or clip.audio.span is None or not clip.text.strip():
        return True
    try:
        return holds_speech(load(clip.audio, AudioSettings()))
    except AudioError:  # told when the clip is written
        return True


class _Neighbours:
    """Where else in a recording there is speech."""

    def __init__(self, segments: Sequence[Segment], length_s: float) -> None:
        self._starts = sorted(segment.start_s for segment in segments)
        self._ends = sorted(segment.end_s or 0.0 for segment in segments)
        self._length_s = length_s

    def room(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Seconds before and after a segment: to the middle of the pause between it and its neighbour, or to the recording's end."""
        place = bisect.bisect_right(self._ends, start_s)
        began = bisect.bisect_left(self._starts, start_s)
        before_s = (start_s - self._ends[place - 1]) / 2 if place else start_s
        later = bisect.bisect_left(self._starts, end_s)
        after_s = (self._starts[later] - end_s) / 2 if later < len(self._starts) else self._length_s - end_s
        ended = bisect.bisect_right(self._ends, end_s)
        return (0.0 if began > place else before_s), (0.0 if later > ended else max(0.0, after_s))
