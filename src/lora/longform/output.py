"""Writes a transcript to a file, in the format of its suffix."""

import html
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from lora.errors import ConfigError
from lora.language import Language, traits
from lora.longform.captions import SENTENCE, Caption, captions
from lora.passages import Passage, Word
from lora.system.files import atomic_file, write_json, write_jsonl
from lora.transcribe import Result, Transcription

SUFFIXES: Final = (".txt", ".srt", ".vtt", ".json", ".jsonl", ".tsv", ".TextGrid", ".eaf")
OF_ONE: Final = (".srt", ".vtt", ".TextGrid", ".eaf")
"""Formats for a single recording, with a time for each word."""


def require_kind(path: Path, recordings: int | None) -> None:
    """Raises `ConfigError` if no file of that name can be written of so many recordings; None is a manifest."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output {path}: name it {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, which says what is written")
    if path.suffix in OF_ONE and recordings != 1:
        given = "a manifest" if recordings is None else f"{recordings} files"
        raise ConfigError(
            f"--output {path}: {path.suffix} is of one recording, and --{'manifest' if recordings is None else 'audio'} gives {given}"
        )
    if path.suffix == ".eaf" and importlib.util.find_spec("pympi") is None:
        raise ConfigError(f"--output {path}: .eaf is written by pympi-ling, which is not installed: pip install 'moonshine-lora[elan]'")


def needs_words(path: Path | None) -> bool:
    """Whether the format of a file always has word times."""
    return path is not None and path.suffix in OF_ONE


def write_result(result: Result, output: Path, language: Language, *, word_times: bool = False) -> None:
    """Writes all rows: whole or not at all."""
    if output.suffix == ".json":
        write_json(output, result)
    elif output.suffix == ".jsonl":
        write_jsonl(output, result.utterances)
    else:
        content = _content(output.suffix, result.utterances, language, word_times)
        with atomic_file(output) as stream:
            stream.write(content)


def _content(suffix: str, rows: Sequence[Transcription], language: Language, word_times: bool) -> bytes:
    if suffix == ".txt":
        return "\n".join(_paragraphs(row) for row in rows).encode()
    if suffix == ".tsv":
        return _table(rows, word_times).encode()
    (row,) = rows
    if suffix in _SUBTITLES:
        return subtitles(suffix, _words(row), language, word_times=word_times).encode()
    return _TIERS[suffix](row)


def _paragraphs(row: Transcription) -> str:
    """The text, a line for each passage that ends a sentence."""
    if not row.passages:
        return f"{row.text}\n"
    text = ""
    for passage in row.passages:
        if passage.text:
            text += passage.text + ("\n" if passage.text.endswith(SENTENCE) else " ")
    return f"{text.rstrip()}\n"


def _table(rows: Sequence[Transcription], word_times: bool) -> str:
    lines = ["audio\tstart\tend\ttext" + ("\tconfidence" if word_times else "")]
    for row in rows:
        if word_times:
            lines += [f"{_cell(row.id)}\t{w.start_s:.3f}\t{w.end_s:.3f}\t{_cell(w.text)}\t{w.confidence:.3f}" for w in _words(row)]
        elif row.passages:
            lines += [f"{_cell(row.id)}\t{p.start_s:.3f}\t{p.end_s:.3f}\t{_cell(p.text)}" for p in row.passages]
        else:
            lines.append(f"{_cell(row.id)}\t{0:.3f}\t{row.seconds:.3f}\t{_cell(row.text)}")
    return "".join(f"{line}\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split())


def _words(row: Transcription) -> list[Word]:
    return [word for passage in row.passages for word in passage.words or ()]


def subtitles(suffix: str, words: Sequence[Word], language: Language, *, word_times: bool = False) -> str:
    """A recording's words as `.srt` or `.vtt`. No subtitle goes over a cut at a pause, for there nobody speaks."""
    return _SUBTITLES[suffix](captions(words, apart=traits(language).separates_words), word_times)


def srt(found: Sequence[Caption], word_times: bool) -> str:
    """SubRip; with `word_times` every word is a subtitle of its own."""
    spoken: list[tuple[float, float, str]]
    if word_times:
        spoken = [(word.start_s, word.end_s, word.text) for one in found for word in one.words]
    else:
        spoken = [(one.start_s, one.end_s, "\n".join(one.lines)) for one in found]
    return "".join(f"{n}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n" for n, (start, end, text) in enumerate(spoken, start=1))


def _vtt(found: Sequence[Caption], word_times: bool) -> str:
    """WebVTT; with `word_times` the time of each word stands before it."""
    cues = [f"{_clock(one.start_s, '.')} --> {_clock(one.end_s, '.')}\n{_cue(one, word_times)}\n" for one in found]
    return "\n".join(["WEBVTT\n", *cues])


def _cue(one: Caption, word_times: bool) -> str:
    text = "\n".join(html.escape(line, quote=False) for line in one.lines)
    if not word_times:
        return text
    spelled, at = "", 0
    for word in one.words:
        piece = html.escape(word.text, quote=False)
        place = text.index(piece, at)
        inside = one.start_s < word.start_s < one.end_s
        spelled += text[at:place] + (f"<{_clock(word.start_s, '.')}>" if inside else "") + piece
        at = place + len(piece)
    return spelled


def _clock(at_s: float, point: str) -> str:
    seconds, milliseconds = divmod(round(1000 * at_s), 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{point}{milliseconds:03}"


def _textgrid(row: Transcription) -> bytes:
    """Praat's long text form: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html."""
    tiers = _tiers(row)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        *_extent(row.seconds),
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, entries) in enumerate(tiers.items(), start=1):
        filled = _filled(entries, row.seconds)
        lines += [
            f"item [{number}]:",
            'class = "IntervalTier"',
            f'name = "{name}"',
            *_extent(row.seconds),
            f"intervals: size = {len(filled)}",
        ]
        for place, (start_s, end_s, text) in enumerate(filled, start=1):
            quoted = text.replace('"', '""')
            lines += [f"intervals [{place}]:", f"xmin = {start_s:.4f}", f"xmax = {end_s:.4f}", f'text = "{quoted}"']
    return "".join(f"{line}\n" for line in lines).encode()


def _extent(length_s: float) -> list[str]:
    return ["xmin = 0", f"xmax = {length_s:.4f}"]


def _filled(entries: Sequence[tuple[float, float, str]], length_s: float) -> list[tuple[float, float, str]]:
    """A tier covers the whole recording: where nothing is said an interval is empty."""
    found, at_s = list[tuple[float, float, str]](), 0.0
    for start_s, end_s, text in entries:
        if start_s > at_s:
            found.append((at_s, start_s, ""))
        found.append((start_s, end_s, text))
        at_s = end_s
    if at_s < length_s:
        found.append((at_s, length_s, ""))
    return found


def _eaf(row: Transcription) -> bytes:
    import pympi

    document = pympi.Elan.Eaf(author="moonshine-lora")
    document.remove_tier("default")
    document.add_linked_file(row.audio, mimetype="audio/x-wav")
    for name, entries in _tiers(row).items():
        document.add_tier(name)
        for start_s, end_s, text in entries:
            document.add_annotation(name, round(1000 * start_s), max(round(1000 * start_s) + 1, round(1000 * end_s)), text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transcript.eaf"
        document.to_file(str(path))
        return path.read_bytes()


def _tiers(row: Transcription) -> dict[str, list[tuple[float, float, str]]]:
    """Passages and words, none of which is empty or without length, and none of which goes over the recording's end."""
    entries: Mapping[str, Sequence[Passage | Word]] = {"passages": row.passages, "words": _words(row)}
    length_s = float(row.seconds)
    return {
        name: [
            (float(one.start_s), min(float(one.end_s), length_s), one.text)
            for one in found
            if one.text and min(one.end_s, length_s) > one.start_s
        ]
        for name, found in entries.items()
    }


_SUBTITLES: Final[dict[str, Callable[[Sequence[Caption], bool], str]]] = {".srt": srt, ".vtt": _vtt}
_TIERS: Final[dict[str, Callable[[Transcription], bytes]]] = {".TextGrid": _textgrid, ".eaf": _eaf}
