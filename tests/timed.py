"""Recordings with times for tests: clips joined to a long recording, and the forms in which their times are written."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora.audio.loading import Waveform
from lora.units import SAMPLE_RATE_HZ

PAUSE_S = 0.5


@dataclass(frozen=True)
class Clip:
    """One utterance of the long recording, `start_s` and `end_s` in whole milliseconds."""

    name: str
    text: str
    samples: Waveform
    start_s: float
    speaker: str

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.samples) / SAMPLE_RATE_HZ


def joined(clips: list[tuple[str, str, Waveform, str]]) -> tuple[Waveform, list[Clip]]:
    """A recording of clips with pauses between; each clip is cut to whole milliseconds, which is what subtitles can say."""
    pause, parts, placed, start = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), np.float32), list[Waveform](), list[Clip](), 0
    for name, text, samples, speaker in clips:
        whole = samples[: len(samples) // 16 * 16]
        placed.append(Clip(name, text, whole, start / SAMPLE_RATE_HZ, speaker))
        parts += [whole, pause]
        start += len(whole) + len(pause)
    return np.concatenate(parts[:-1]), placed


def words_of(clip: Clip) -> list[Clip]:
    """The words of a clip, without pauses between, as a recogniser times them."""
    words = clip.text.split()
    start, end = (round(time_s * SAMPLE_RATE_HZ) for time_s in (clip.start_s, clip.end_s))
    edges = [start, *(start + (end - start) * place // len(words) // 16 * 16 for place in range(1, len(words))), end]
    cut = [clip.samples[left - start : right - start] for left, right in itertools.pairwise(edges)]
    return [Clip(clip.name, word, sound, edge / SAMPLE_RATE_HZ, clip.speaker) for word, sound, edge in zip(words, cut, edges, strict=False)]


def clock(time_s: float, point: str) -> str:
    whole = round(time_s * 1000)
    return f"{whole // 3600000:02d}:{whole // 60000 % 60:02d}:{whole // 1000 % 60:02d}{point}{whole % 1000:03d}"


def as_srt(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    cues = [f"{n}\r\n{clock(c.start_s, ',')} --> {clock(c.end_s, ',')}\r\n{c.text}\r\n\r\n" for n, c in enumerate(clips, 1)]
    (folder / "long.srt").write_text("\ufeff" + "".join(cues), newline="")
    return folder / "long.srt"


def as_vtt(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    cues = [f"{c.name}\n{clock(c.start_s, '.')} --> {clock(c.end_s, '.')} line:0\n<v {c.speaker}>{c.text}</v>\n" for c in clips]
    (folder / "long.en.vtt").write_text("\n".join(["WEBVTT - made by hand\n", "NOTE not said\n", *cues]))
    return folder / "long.en.vtt"


def as_nemo(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    rows = [
        {"audio_filepath": "long.flac", "text": c.text, "offset": c.start_s, "duration": c.end_s - c.start_s, "speaker": c.speaker, "n": 1}
        for c in clips
    ]
    (folder / "m.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.json"


def as_kaldi(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "wav.scp").write_text(f"rec {file}\n")
    ends = [*(f"{clip.end_s:.4f}" for clip in clips[:-1]), "-1"]
    (folder / "segments").write_text("".join(f"{c.name} rec {c.start_s:.4f} {end}\n" for c, end in zip(clips, ends, strict=True)))
    (folder / "text").write_text("".join(f"{clip.name} {clip.text}\n" for clip in clips))
    (folder / "utt2spk").write_text("".join(f"{clip.name} {clip.speaker}\n" for clip in clips))
    return folder


def tiers_of(clips: list[Clip]) -> dict[str, list[Clip]]:
    """The clips of each speaker."""
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        found.setdefault(clip.speaker, []).append(clip)
    return found


def as_textgrid(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    end_s = clips[-1].end_s + 0.001
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end_s}", "<exists>", f"{len(tiers_of(clips)) + 1}"]
    lines += ['"TextTier"', '"clicks"', "0", f"{end_s}", "1", "0.5", '"here"']
    for speaker, said in tiers_of(clips).items():
        intervals, last_s = list[str](), 0.0
        for clip in said:
            label = clip.text.replace('"', '""')
            intervals += [f'{last_s}\n{clip.start_s}\n""', f'{clip.start_s}\n{clip.end_s}\n"{label}"']
            last_s = clip.end_s
        lines += ['"IntervalTier"', f'"{speaker}"', "0", f"{end_s}", f"{2 * len(said)}", *intervals]
    (folder / "long.TextGrid").write_text("\n".join(lines) + "\n", encoding="utf-16")
    return folder / "long.TextGrid"


@dataclass(frozen=True)
class Form:
    """A form, what writes it, and the flags with which it comes back."""

    name: str
    write: Callable[[Path, Path, list[Clip]], Path]
    options: tuple[object, ...] = ()
    speakers: bool = True


FORMS = {
    "srt": Form("subtitles", as_srt, speakers=False),
    "vtt": Form("subtitles", as_vtt),
    "nemo": Form("nemo", as_nemo),
    "kaldi": Form("kaldi", as_kaldi),
    "textgrid": Form("textgrid", as_textgrid, ("--tier", "*", "--tier-speakers")),
}
