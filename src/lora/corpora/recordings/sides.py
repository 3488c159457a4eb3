"""Which side of a call a segment belongs to: the channel on which it is loudest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.audio.decoding import stored_format
from lora.audio.loading import AudioSettings, FileAudio, Span, load
from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment
from lora.errors import AudioError

UNCLEAR_RATIO: Final = 4.0
"""A voice is on a channel that has so many times (6 dB) the energy of any other. Crosstalk between the sides of a call is 20 dB weaker."""


def on_sides(recording: Path, segments: Sequence[Segment]) -> list[Segment | Bad]:
    """The segments with the channel that each is said on: if none is named, the loudest one meanwhile.

    Of a named speaker beside others, all that is said decides; elsewhere each segment by itself, and its channel is its speaker. Raises
    `AudioError` for a recording of one channel.
    """
    unknown = [one for one in segments if one.channel is None]
    count = stored_format(recording).channels
    if count < 2:
        raise AudioError(f"{recording}: holds one channel, which cannot be split; leave --channel split out")
    powers = (
        np.stack([_powers(FileAudio(recording, channel + 1), unknown) for channel in range(count)]) if unknown else np.zeros((count, 0))
    )
    several = len({one.speaker for one in segments}) > 1
    sums: dict[str | None, npt.NDArray[np.float64]] = {}
    for one, power in zip(unknown, powers.T, strict=True):
        sums[one.speaker] = sums.get(one.speaker, np.zeros(count)) + power
    loud = {one.id: sums[one.speaker] if several and one.speaker else power for one, power in zip(unknown, powers.T, strict=True)}
    return [one if one.channel is not None else _on_loudest(one, loud[one.id], named=several) for one in segments]


def _powers(source: FileAudio, segments: Sequence[Segment]) -> npt.NDArray[np.float64]:
    """Energy of each segment."""
    samples = load(source, AudioSettings())
    spans = [Span.between(one.start_s, one.end_s or 0.0) for one in segments]
    return np.array([np.square(samples[span.start : span.start + span.count], dtype=np.float64).sum() for span in spans])


def _on_loudest(segment: Segment, powers: npt.NDArray[np.float64], *, named: bool) -> Segment | Bad:
    *_, second, first = np.argsort(powers)
    if powers[first] <= UNCLEAR_RATIO * powers[second]:
        return segment.bad(f"is as loud on channel {first + 1} as on {second + 1}, so its side is unclear; left out", expected=True)
    channel = int(first) + 1
    speaker = segment.speaker if named and segment.speaker else f"{segment.speaker or segment.recording.stem}-{channel}"
    return replace(segment, channel=channel, speaker=speaker)
