"""Brings a file with times and its recording into a manifest, as the command does."""

from pathlib import Path

import numpy as np
import soundfile
from running import Result, moonshine_lora
from timed import Clip

from lora.audio.loading import AudioSettings, FileAudio, load
from lora.dataset.manifest import Manifest, Rules, read
from lora.units import SAMPLE_RATE_HZ


def imported(form: str, source: Path, *options: object) -> Result:
    return moonshine_lora("manifest", "import", form, source, *options)


def made(form: str, source: Path, *options: object) -> Manifest:
    output = source.parent / "made.jsonl"
    result = imported(form, source, "--output", output, *options)
    assert result.code == 0, result.err
    return read(output, Rules(max_s=60))


def two_sides(folder: Path, file: Path, clips: list[Clip]) -> Path:
    """A call: every other clip is on the right channel, and heard on the other side at -26 dB."""
    long = load(FileAudio(file), AudioSettings())
    sides = np.stack([long * 0.05, long * 0.05], axis=1)
    for place, clip in enumerate(clips):
        start, end = (round(time_s * SAMPLE_RATE_HZ) for time_s in (clip.start_s, clip.end_s))
        sides[start:end, place % 2] = long[start:end]
    soundfile.write(folder / "call.flac", sides[: round(clips[-1].end_s * SAMPLE_RATE_HZ)], SAMPLE_RATE_HZ)
    return folder / "call.flac"
