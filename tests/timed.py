"""Recordings with times for tests: clips joined to a long recording, and the forms in which their times are written."""

import html
import itertools
import json
import textwrap
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


def as_elan(folder: Path, file: Path, clips: list[Clip]) -> Path:
    """An utterance tier for each speaker without words, and below it a tier with words, which have no times of their own."""
    (folder / "long.flac").write_bytes(file.read_bytes())
    times = [time_s for clip in clips for time_s in (clip.start_s, clip.end_s)]
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="t{n}" TIME_VALUE="{round(1000 * time_s)}"/>' for n, time_s in enumerate(times))
    tiers = ""
    for speaker in tiers_of(clips):
        said = [(n, clip) for n, clip in enumerate(clips) if clip.speaker == speaker]
        above = "".join(
            f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="t{2 * n}" TIME_SLOT_REF2="t{2 * n + 1}">'
            "<ANNOTATION_VALUE/></ALIGNABLE_ANNOTATION></ANNOTATION>"
            for n, _ in said
        )
        words = [(n, m, word) for n, clip in said for m, word in enumerate(clip.text.split())]
        below = "".join(
            f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a{n}w{m}" ANNOTATION_REF="a{n}"'
            + (f' PREVIOUS_ANNOTATION="a{n}w{m - 1}"' if m else "")
            + f"><ANNOTATION_VALUE>{html.escape(word)}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
            for n, m, word in words
        )
        tiers += f'<TIER TIER_ID="{speaker}" PARTICIPANT="{speaker}">{above}</TIER>'
        tiers += f'<TIER TIER_ID="{speaker}-words" PARENT_REF="{speaker}" PARTICIPANT="{speaker}">{below}</TIER>'
    content = f"<ANNOTATION_DOCUMENT><TIME_ORDER>{slots}</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>"
    (folder / "long.eaf").write_text(content)
    return folder / "long.eaf"


def as_stm(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    lines = [f"long 1 {c.speaker} {c.start_s:.3f} {c.end_s:.3f} <o,f0,unknown> {c.text}" for c in clips]
    last_s = clips[-1].end_s
    lines.insert(1, f"long 1 inter_segment_gap {last_s - 0.2:.3f} {last_s:.3f} <o,f0,unknown> IGNORE_TIME_SEGMENT_IN_SCORING")
    (folder / "long.stm").write_text(";; a comment\n" + "\n".join(lines) + "\n")
    return folder / "long.stm"


def as_ctm(folder: Path, file: Path, clips: list[Clip]) -> Path:
    """Every word; a clip's first one begins with it, and its last one ends with it."""
    (folder / "long.flac").write_bytes(file.read_bytes())
    words = [word for clip in clips for word in words_of(clip)]
    lines = [f"long A {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} 0.98 lex {w.speaker}" for w in words]
    (folder / "long.ctm").write_text(";; a comment\n" + "\n".join(lines) + "\n")
    return folder / "long.ctm"


def as_chat(folder: Path, file: Path, clips: list[Clip]) -> Path:
    """Long utterances go on in the next line."""
    (folder / "long.flac").write_bytes(file.read_bytes())
    people = {speaker: f"S{n:02d}" for n, speaker in enumerate(tiers_of(clips))}
    head = "@UTF8\n@Begin\n@Participants:\t" + ", ".join(f"{code} {speaker} Adult" for speaker, code in people.items()) + "\n"
    texts = ["\n\t".join(textwrap.wrap(clip.text, 70)) for clip in clips]
    bullets = [f"\x15{round(1000 * clip.start_s)}_{round(1000 * clip.end_s)}\x15" for clip in clips]
    lines = [f"*{people[c.speaker]}:\t{text} {at}\n%com:\tnobody says it\n" for c, text, at in zip(clips, texts, bullets, strict=True)]
    (folder / "long.cha").write_text(head + "".join(lines) + "@End\n")
    return folder / "long.cha"


def as_audacity(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    lines = [f"{c.start_s:.6f}\t{c.end_s:.6f}\t{c.text}\n" + ("\\\t80.0\t4000.0\n" if n % 2 else "") for n, c in enumerate(clips)]
    (folder / "long.txt").write_text("".join(lines))
    return folder / "long.txt"


def as_label_studio(folder: Path, file: Path, clips: list[Clip]) -> Path:
    (folder / "long.flac").write_bytes(file.read_bytes())
    results = []
    for clip in clips:
        value = {"start": clip.start_s, "end": clip.end_s, "channel": 0}
        results.append({"id": clip.name, "type": "labels", "value": {**value, "labels": [clip.speaker]}})
        results.append({"id": clip.name, "type": "textarea", "value": {**value, "text": [clip.text]}})
    tasks = [{"id": 7, "data": {"audio": "/data/upload/3/0a1b2c3d-long.flac"}, "annotations": [{"result": results}]}]
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


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
    "elan": Form("elan", as_elan, ("--tier", "*-words")),
    "stm": Form("stm", as_stm),
    "ctm": Form("ctm", as_ctm, ("--join", 0.3)),
    "chat": Form("chat", as_chat),
    "audacity": Form("audacity", as_audacity, speakers=False),
    "label-studio": Form("label-studio", as_label_studio),
    "textgrid": Form("textgrid", as_textgrid, ("--tier", "*", "--tier-speakers")),
}
