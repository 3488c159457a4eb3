"""Manifests: one JSON object per line, one utterance each. Reads, writes and checks them; no torch.

A line holds `audio` (a path relative to the manifest, or a list of float samples), `text`, and optionally `speaker_id`, `id`,
`sampling_rate` (Hz; for a list of samples the rate they were taken at, 16000 when absent), `channel` (of a file, counted from 1, or `mix`),
`track` (of a container, counted from 1), `offset` (seconds; where in a long file it starts), `duration` (seconds), `language` (a code such
as `en`) and `meta` (an object for anything else).
"""

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from lora.audio.channels import Channel
from lora.audio.loading import AudioSource, FileAudio, InlineAudio, Span
from lora.dataset.speech_rate import least_seconds, too_much
from lora.errors import AudioError, ManifestError, Problem
from lora.language import Language, code, foreign_script, lacks_own_script, traits
from lora.system.documents import ContentError, json_value
from lora.system.files import is_regular, leads_out, real_folder, write_jsonl
from lora.text.mojibake import damage, one_spelling
from lora.text.tags import REMEDY, TagRule, counted, tags_in, without_tags
from lora.units import SAMPLE_RATE_HZ, Seconds

DURATION_TOLERANCE_S = 0.15
"""How far a declared duration may be from the audio's own: manifests round, and some tools count in 10 ms frames."""

MIN_S = Seconds(0.1)
"""Shortest utterance: below 56 ms the encoder has no frame at all, below 100 ms nobody has said a word."""

PROBLEMS_SHOWN = 20
LINES_SHOWN = 5
"""How many lines that share a problem a message names."""


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A manifest line as it is stored."""

    audio: str | list[float]
    text: str | None = None
    speaker_id: str | None = None
    id: str | None = None
    sampling_rate: int | None = None
    channel: Channel | None = None
    track: int | None = None
    duration: float | None = None
    language: str | None = None
    meta: dict[str, Any] | None = None


class _RawRow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    audio: msgspec.Raw = msgspec.Raw()
    audio_filepath: str | None = None
    offset: float | None = None
    text: str | None = None
    speaker_id: str | int | None = None
    id: str | int | None = None
    sampling_rate: int | None = None
    channel: int | str | None = None
    track: int | None = None
    duration: float | None = None
    language: str | None = None
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and what is said in it."""

    id: str
    audio: AudioSource
    text: str | None
    """The reference transcript; None if the manifest gives none, which only replay audio may do."""
    speaker_id: str | None
    line: int
    declared_s: Seconds | None = None
    meta: dict[str, Any] | None = field(default=None, hash=False)
    language: str | None = None
    declared_hz: int | None = None
    """The `sampling_rate` that the manifest gives."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What decoding an utterance's audio showed."""

    length_s: Seconds
    sha256: str
    """`waveform_hash` of the audio as recorded: equal for the same sound in any container."""
    sound: bytes = b""
    """`sound_print` of it, if asked for and somebody speaks."""
    stored_sha256: str = ""
    """`stored_hash` of what was read: by this every later stage knows the recording, without reading it again."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Utterances in file order. `sha256` is that of the file they came from."""

    path: Path
    sha256: str
    utterances: tuple[Utterance, ...]
    tags: str = ""
    """What was found of tags in its transcripts and done with them, in words; empty if there are none."""

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def subset(self, utterances: Iterable[Utterance]) -> "Manifest":
        """The same file's manifest with fewer utterances."""
        return replace(self, utterances=tuple(utterances))

    def speakers(self) -> frozenset[str]:
        return frozenset(u.speaker_id for u in self.utterances if u.speaker_id is not None)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for a manifest beyond its schema."""

    max_s: float = 30.0
    require_text: bool = True
    missing_text: str = "is missing; every utterance needs its transcript"
    """What to say of an utterance without a text where one is required."""
    allow_empty_text: bool = False
    """An empty text is right where nobody speaks: it teaches the model to be quiet, and in a test set every word is an insertion."""
    check_rate: bool = True
    """Whether a text must be sayable within its recording: copies that play faster need not."""
    allow_outside: bool = False
    """Whether audio paths may leave the manifest's folder."""
    language: Language | None = None
    """What all utterances must be in, by their `language` and by the letters of their text; None checks neither."""
    tags: TagRule = "keep"
    """What becomes of `<COMMA>`, `[noise]` and the like in transcripts. Commands that train or score ask the user."""


@dataclass(slots=True)
class Problems:
    """Problems of a manifest's lines, reported together."""

    path: Path
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, field_name: str, message: str) -> None:
        self.found.append(Problem(line, field_name, message))

    def raise_if_any(self) -> None:
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda p: p.line)
        alike: dict[tuple[str, str], list[int]] = {}  # the same mistake is often made in every line
        for problem in ordered:
            alike.setdefault((problem.field, problem.message), []).append(problem.line)
        parts = [f"{_lines_named(lines)}: {where}: {what}" for (where, what), lines in list(alike.items())[:PROBLEMS_SHOWN]]
        if left := sum(len(lines) for lines in list(alike.values())[PROBLEMS_SHOWN:]):
            parts.append(f"and {left} more")
        noun = "problem" if len(ordered) == 1 else "problems"
        raise ManifestError(f"{self.path}: {len(ordered)} {noun}: " + "; ".join(parts), tuple(ordered))


def _lines_named(lines: Sequence[int]) -> str:
    """`line 4`, or `lines 4, 8 and 3 more`."""
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    rest = f" and {len(lines) - LINES_SHOWN} more" if len(lines) > LINES_SHOWN else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{rest}"


def read(path: Path, rules: Rules, left_out: list[Problem] | None = None) -> Manifest:
    """Reads a manifest without touching its audio beyond checking that the files exist.

    With `left_out`, bad lines are left out and reported there. Raises `ManifestError` that names every line with invalid JSON, an unknown
    field, missing text or audio, a duplicate id, a text too long for any recording, a path outside the manifest's folder or a file that
    does not exist.
    """
    real_folder.cache_clear()
    problems = Problems(path)
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    digest = hashlib.sha256()
    offset = 0
    for number, raw in enumerate(_lines(path), start=1):
        digest.update(raw)
        if raw.strip():
            utterance = _parse(_Line(number, offset, raw, rules, problems))
            if utterance is not None:
                if utterance.id in seen:
                    problems.add(number, "id", f"{utterance.id!r} is already used on line {seen[utterance.id]}")
                else:
                    utterances.append(utterance)
                seen[utterance.id] = number
        offset += len(raw)
    tags = _settle_tags(utterances, rules, problems)
    if left_out is not None:
        left_out += problems.found
    else:
        problems.raise_if_any()
    if not utterances and not left_out:
        raise ManifestError(f"{path}: the manifest is empty; every line must hold one JSON object with `audio` and `text`")
    _require_own_script(path, utterances, rules)
    return Manifest(path, digest.hexdigest(), tuple(utterances), tags)


def too_much_text(text: str, limit: str) -> str:
    """What to say of a text that is longer than its recording; `limit` says how long that is."""
    return (
        f"has {len(text.split())} words ({len(text)} characters), which takes at least {least_seconds(text):.1f} s to say, and {limit}; it "
        "is the text of another recording or of several: check the rows around it"
    )


def write(path: Path, rows: Iterable[Row]) -> int:
    """Writes a manifest whole or not at all and returns the number of lines."""
    return write_jsonl(path, rows)


def to_row(utterance: Utterance, audio: str | list[float], duration_s: float | None = None) -> Row:
    """A manifest line for an utterance with this audio: the same file, or samples at 16 kHz. All other fields are kept."""
    return Row(
        audio=audio,
        text=utterance.text,
        speaker_id=utterance.speaker_id,
        id=utterance.id,
        duration=duration_s,
        language=utterance.language,
        meta=utterance.meta,
        sampling_rate=utterance.declared_hz if isinstance(audio, str) and isinstance(utterance.audio, FileAudio) else None,
    )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            yield from stream
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such manifest; check the path, or make one with `moonshine-lora manifest`") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is being read: its place, its rules, and where its problems are collected."""

    number: int
    offset: int
    """Bytes of the file before it."""
    raw: bytes
    rules: Rules
    problems: Problems

    @property
    def path(self) -> Path:
        return self.problems.path

    def wrong(self, field_name: str, message: str) -> None:
        self.problems.add(self.number, field_name, message)


_DECODER = msgspec.json.Decoder(_RawRow)
_STRING = msgspec.json.Decoder(str)


def _parse(line: _Line) -> Utterance | None:
    try:
        row = json_value(line.raw, _DECODER.decode)
    except msgspec.ValidationError as error:
        line.wrong(str(error).rsplit("`$.", 1)[1].rstrip("`") if "`$." in str(error) else "line", _explain(error))
        return None
    except ContentError as error:
        line.wrong("line", error.reason)
        return None
    before = len(line.problems.found)
    for name, value in (("id", row.id), ("speaker_id", row.speaker_id)):
        if value is not None and not str(value).strip():
            line.wrong(name, "is empty; leave the field out where there is none")
    _check_text(line, row)
    _check_language(line, row)
    source = _source(line, row)
    if source is None or len(line.problems.found) > before:
        return None
    return Utterance(
        id=str(row.id) if row.id is not None else f"line-{line.number}",
        audio=source,
        text=row.text,
        speaker_id=one_spelling(str(row.speaker_id)) if row.speaker_id is not None else None,
        line=line.number,
        declared_s=Seconds(row.duration) if row.duration is not None else None,
        meta=row.meta,
        language=sys.intern(row.language) if row.language is not None else None,
        declared_hz=row.sampling_rate,
    )


def _check_text(line: _Line, row: _RawRow) -> None:
    rules = line.rules
    if row.text is None:
        if rules.require_text:
            line.wrong("text", rules.missing_text)
    elif not row.text.strip() and not rules.allow_empty_text and rules.require_text:
        line.wrong("text", "is empty; write the transcript or drop the line (where nobody speaks: --allow-empty-text)")
    elif rules.check_rate and too_much(row.text, rules.max_s):
        line.wrong("text", too_much_text(row.text, f"--max-seconds is {rules.max_s:g}"))
    elif wrong := damage(row.text):
        line.wrong("text", wrong)


def _check_language(line: _Line, row: _RawRow) -> None:
    rules = line.rules
    if rules.language is None:
        return
    name, advice = traits(rules.language).name, "keep one language in a run, and name it with --language"
    if row.language is not None and re.split("[-_]", code(row.language.lower()))[0] != code(rules.language):  # en-US and en_GB are English
        line.wrong("language", f"is {row.language!r} in a run for {name}; {advice}")
    elif row.text and (script := foreign_script(row.text, rules.language)):
        line.wrong("text", f"is in {script} letters, which {name} does not use; {advice}")


def _settle_tags(utterances: list[Utterance], rules: Rules, problems: Problems) -> str:
    """Treats the tags of the transcripts by the rules, and describes what was found and done; empty if there are none."""
    tagged = [place for place, utterance in enumerate(utterances) if tags_in(utterance.text or "")]
    if not tagged:
        return ""
    texts = [utterances[place].text or "" for place in tagged]
    found = f"tags in {len(tagged)} of {len(utterances)} transcripts ({counted(texts)})"
    for place, text in zip(tagged, texts, strict=True):
        plain = without_tags(text)
        if rules.tags == "refuse":
            problems.add(utterances[place].line, "text", f"there are {found}, such as {texts[0][:60]!r}; {REMEDY}")
        elif rules.tags == "drop":
            utterances[place] = replace(utterances[place], text=plain)
            if not plain and rules.require_text and not rules.allow_empty_text:
                problems.add(utterances[place].line, "text", "holds only tags, and nothing is left without them; remove the line")
    return f"{found}: " + ("dropped" if rules.tags == "drop" else "kept as they are written")


def _require_own_script(path: Path, utterances: Sequence[Utterance], rules: Rules) -> None:
    """One text in Latin letters may be a name; where most are, the language is another one."""
    if rules.language is None:
        return
    texts = [utterance for utterance in utterances if utterance.text]
    other = [utterance for utterance in texts if lacks_own_script(utterance.text or "", rules.language)]
    if 2 * len(other) > len(texts):
        name = traits(rules.language).name
        raise ManifestError(
            f"{path}: {len(other)} of {len(texts)} texts hold no {name} letter, the first on line {other[0].line}; "
            "name the language of the speech with --language"
        )


def _source(line: _Line, row: _RawRow) -> AudioSource | None:
    value = bytes(row.audio)
    if row.audio_filepath is not None:  # NeMo's name for it
        if value:
            line.wrong("audio_filepath", "stands beside `audio`; keep one of them")
            return None
        value = msgspec.json.encode(row.audio_filepath)
    if value in (b"", b"null"):
        line.wrong("audio", "is missing; give a path or a list of samples")
        return None
    if row.sampling_rate is not None and row.sampling_rate <= 0:
        line.wrong("sampling_rate", f"must be positive, not {row.sampling_rate}")
        return None
    if value.startswith(b'"'):
        try:
            name = json_value(value, _STRING.decode)
        except ContentError as error:  # escapes of a raw field are first decoded here
            line.wrong("audio", error.reason)
            return None
        return _file_source(line, name, row)
    if value.startswith(b"["):
        for field_name in ("channel", "track", "offset"):
            if getattr(row, field_name) is not None:
                line.wrong(field_name, "is for files; a list of samples has one, leave it out")
                return None
        if not value[1:-1].strip():
            line.wrong("audio", "holds no samples")
            return None
        return InlineAudio(line.path, line.offset + line.raw.index(value), len(value), row.sampling_rate or SAMPLE_RATE_HZ)
    line.wrong("audio", "must be a path or a list of float samples")
    return None


def _span(line: _Line, row: _RawRow) -> Span | None:
    """The part of its file that a row names; reports an invalid one."""
    if row.offset is None:
        return None
    if row.duration is None or row.offset < 0 or row.duration <= 0:
        line.wrong("offset", "is the start of a part in seconds, from 0, and needs its `duration`, above 0")
        return None
    return Span.between(row.offset, row.offset + row.duration)


def _channel(line: _Line, row: _RawRow) -> Channel | None:
    """The row's channel; reports an invalid channel or track."""
    if row.track is not None and row.track < 1:
        line.wrong("track", f"must be a number from 1, not {row.track}")
    if row.channel is None:
        return None
    if row.channel == "mix":
        return "mix"
    if isinstance(row.channel, int) and row.channel >= 1:
        return row.channel
    line.wrong("channel", f"must be a number from 1 (the left one) or 'mix', not {row.channel!r}")
    return None


def _file_source(line: _Line, name: str, row: _RawRow) -> AudioSource | None:
    rules, folder = line.rules, line.path.parent
    if not name:
        line.wrong("audio", "is an empty path")
        return None
    file = folder / name
    inside = not os.path.normpath(name).startswith(("..", os.sep))
    if (inside or rules.allow_outside) and not is_regular(file):
        line.wrong("audio", f"{name}: no such file under {folder}")
        return None
    if not rules.allow_outside and (not inside or leads_out(folder, file)):
        line.wrong("audio", f"{name} lies outside the manifest's folder; move it or pass --allow-outside-paths")
        return None
    source, rate_hz = FileAudio(file, _channel(line, row), row.track, _span(line, row)), row.sampling_rate
    if rate_hz is not None:
        try:
            actual = source.rate_hz()
        except AudioError as error:
            line.wrong("audio", str(error))
            return None
        if actual != rate_hz:
            line.wrong("sampling_rate", f"says {rate_hz} Hz, {name} has {actual} Hz; correct it or leave it out")
            return None
    return source


def _explain(error: msgspec.ValidationError) -> str:
    message = str(error)
    if "unknown field" not in message:
        return message.split(" - at")[0]
    name = message.split("`")[1]
    if name in ("path", "wav", "transcript", "seconds"):
        return f"unknown field {name!r}; `moonshine-lora manifest import nemo` reads rows of other tools"
    known = [own for own in _RawRow.__struct_fields__ if own != "audio_filepath"]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}; anything else goes under `meta`"
    return f"unknown field {name!r}; {hint}"
