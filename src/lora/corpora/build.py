"""Recordings of any corpus to a manifest: choose, check, write; and several manifests to one. Nothing appears half-written."""

import difflib
import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from lora.audio.decoding import AUDIO_SUFFIXES
from lora.audio.loading import (
    AudioSettings,
    AudioSource,
    EncodedAudio,
    FileAudio,
    duration,
    encode_flac,
    load,
    stored_seconds,
    waveform_hash,
)
from lora.corpora.timed import timed
from lora.dataset.manifest import MIN_S, Manifest, Row, Rules, Utterance, read, to_row
from lora.errors import AudioError, ConfigError, ManifestError, Problem, RunFolderError
from lora.system.destination import file_target
from lora.system.files import atomic_file, atomic_folder
from lora.text.mojibake import damage
from lora.units import Seconds

AudioMode = Literal["inline", "path"]
"""Whether a manifest holds the samples itself, or paths of files in `<stem>_audio/` beside it."""

BAD_SHOWN = 20
"""How many bad rows a message names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Item:
    """One recording of a corpus, still encoded."""

    id: str
    audio: FileAudio | EncodedAudio
    text: str
    speaker_id: str | None
    place: str = ""
    """Where it stands in its source, such as `t.csv line 4`; empty if the id says it."""

    def bad(self, reason: str) -> "Bad":
        """Why this recording cannot be used."""
        return Bad(self.place, f"{self.id}: {reason}") if self.place else Bad(self.id, reason)


@dataclass(frozen=True, slots=True)
class Bad:
    """An entry of a source that cannot be used as a recording."""

    place: str
    reason: str
    expected: bool = False
    """Whether such rows are normal for this kind of source: they are left out and reported, and stop nothing."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which items of a corpus become a manifest: those within the limits of length, and of these a sample, the first ones, or all."""

    samples: int | None = None
    """Draws this many with `seed`, all equally likely; the corpus is read to its end."""
    seed: int = 0
    limit: int | None = None
    """Takes the first ones, at most this many."""
    hours: float | None = None
    """Takes the first ones, until they last this long."""
    min_s: float = MIN_S
    max_s: float = Rules().max_s
    skip_bad: bool = False
    """Leaves out and reports what cannot be used, instead of refusing everything."""
    allow_empty_text: bool = False
    """Accepts recordings without speech."""


@dataclass(slots=True)
class Summary:
    """What was written."""

    utterances: int = 0
    duration_s: float = 0.0
    speakers: set[str] = field(default_factory=set)
    unknown_speakers: int = 0
    upper_case: int = 0
    outside_limits: int = 0
    duplicates: int = 0
    renamed: list[tuple[str, str]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    """What could not be used."""

    @property
    def reason(self) -> str:
        """Why nothing was taken: what was left out, if anything."""
        if not self.bad:
            return "check the source and the limits of length"
        more = f"; and {len(self.bad) - BAD_SHOWN} more" if len(self.bad) > BAD_SHOWN else ""
        return "left out: " + "; ".join(map(str, self.bad[:BAD_SHOWN])) + more

    def require_none_bad(self, output: Path, choice: Choice) -> None:
        """Raises `ManifestError` with the first `BAD_SHOWN` bad rows where there are any that may not be left out."""
        grave = [bad for bad in self.bad if not bad.expected]
        if grave and not choice.skip_bad:
            shown = "; ".join(map(str, grave[:BAD_SHOWN])) + (f"; and {len(grave) - BAD_SHOWN} more" if len(grave) > BAD_SHOWN else "")
            rows = "row" if len(grave) == 1 else "rows"
            raise ManifestError(f"{output}: not written, for {len(grave)} bad {rows} (--skip-bad leaves them out): {shown}")


def build(source: Iterable[Item | Bad], choice: Choice, output: Path, mode: AudioMode, *, overwrite: bool) -> Summary:
    """Writes the chosen items as a manifest and says what is in it.

    Items are written as they arrive; only a sample is held in memory. After `limit` or `hours` nothing more is read.

    Raises:
        ConfigError: fewer items to draw from than asked for.
        ManifestError: there are none, or some cannot be taken: two share an id, one has no text or cannot be decoded. It names all of
            them, for the source is read to its end.
        RunFolderError: the output exists, or cannot be written.
    """
    refuse_existing(output, mode, overwrite=overwrite)
    summary = Summary()
    chosen = choose(_sound(source, choice, summary), choice, summary)
    first = next(chosen, None)  # a missing source is refused before anything is opened for writing
    if first is None:
        summary.require_none_bad(output, choice)
        raise ManifestError(f"{output}: not written, as there is nothing to put in; {summary.reason}")
    with writing(output, mode, overwrite=overwrite) as writer:
        writer.summary = summary
        for item in itertools.chain([first], chosen):
            text = " ".join(item.text.split()) if "\n" in item.text else item.text
            try:
                writer.add(Row(audio="", text=text, speaker_id=item.speaker_id, id=item.id), item.audio)
            except AudioError as error:
                summary.bad.append(item.bad(str(error)))
        summary.require_none_bad(output, choice)
        if not summary.utterances:
            raise ManifestError(f"{output}: not written, as no recording can be decoded")
    return summary


def _sound(source: Iterable[Item | Bad], choice: Choice, summary: Summary) -> Iterator[Item]:
    """Those whose names and texts are valid; the others are reported to `summary`."""
    known = set[str]()
    for item in source:
        bad = item if isinstance(item, Bad) else _wrong(item, known, choice)
        if bad is not None:
            summary.bad.append(bad)
        elif isinstance(item, Item):
            known.add(item.id)
            yield item


def _wrong(item: Item, known: set[str], choice: Choice) -> Bad | None:
    if item.id in known:
        return item.bad("names several recordings; choose another --id-column, or none to number them")
    if not item.text.strip():
        advice = "check --text-column, remove it, or pass --allow-empty-text where nobody speaks"
        return None if choice.allow_empty_text else item.bad(f"has no text; {advice}")
    if wrong := damage(item.text):
        return item.bad(f"its text {wrong}")
    if kind := timed(item.text):
        return item.bad(f"{kind}, not a transcript ({' '.join(item.text.split())[:40]!r}); write only what is said, numbers in words")
    return None


def choose(items: Iterable[Item], choice: Choice, summary: Summary) -> Iterator[Item]:
    """The chosen items in the corpus's order; `summary` counts those outside the limits of length.

    A sample is a reservoir: every item of the corpus has the same chance, whatever order it comes in, and the same seed gives the
    same items. Raises `ConfigError` if there are fewer.
    """
    fitting = _fitting(items, choice, summary)
    return _first(fitting, choice) if choice.samples is None else iter(_sample(fitting, choice.samples, choice, summary))


def _fitting(items: Iterable[Item], choice: Choice, summary: Summary) -> Iterator[tuple[Item, Seconds]]:
    """Those within the limits of length, and how long they last."""
    for item in items:
        try:
            length_s = stored_seconds(item.audio)
        except AudioError as error:
            summary.bad.append(item.bad(str(error)))
            continue
        if choice.min_s <= length_s <= choice.max_s:
            yield item, length_s
        else:
            summary.outside_limits += 1


def _first(fitting: Iterator[tuple[Item, Seconds]], choice: Choice) -> Iterator[Item]:
    taken_s = 0.0
    for number, (item, length_s) in enumerate(fitting, start=1):
        yield item
        taken_s += length_s
        if number == choice.limit or (choice.hours is not None and taken_s >= 3600 * choice.hours):
            return


def _sample(fitting: Iterator[tuple[Item, Seconds]], count: int, choice: Choice, summary: Summary) -> list[Item]:
    source = random.Random(choice.seed)
    kept: list[tuple[int, Item]] = []
    seen = 0
    for item, _ in fitting:
        if seen < count:
            kept.append((seen, item))
        elif (place := source.randrange(seen + 1)) < count:
            kept[place] = (seen, item)
        seen += 1
    if seen < count:
        limits = f" ({summary.outside_limits} more lie outside {choice.min_s:g} to {choice.max_s:g} s)" if summary.outside_limits else ""
        raise ConfigError(f"--samples {count}: only {seen} are available{limits}; ask for fewer, or leave --samples out for all")
    kept.sort(key=lambda pair: pair[0])
    return [item for _, item in kept]


def merge(
    manifests: Sequence[Path],
    output: Path,
    mode: AudioMode,
    *,
    overwrite: bool,
    allow_outside: bool = False,
    skip_bad: bool = False,
) -> Summary:
    """Writes the utterances of several manifests as one, each recording once, with all that their lines say.

    Where ids collide, the later utterance is named `<its manifest's stem>-<id>`. Audio files are copied unchanged; with the mode
    `path`, inline audio becomes 16 kHz FLAC. `skip_bad` leaves out lines that cannot be taken. Six parameters: each is an argument or a
    flag of the command.

    Raises:
        ManifestError: lines of any of the manifests cannot be taken, or the same recording has two different transcripts.
        RunFolderError: the output exists, or cannot be written.
    """
    refuse_existing(output, mode, overwrite=overwrite)
    rules, choice = Rules(require_text=False, allow_empty_text=True, allow_outside=allow_outside), Choice(skip_bad=skip_bad)
    summary = Summary()
    parts = [_read(path, rules, summary) for path in manifests]
    first: dict[str, tuple[Manifest, Utterance]] = {}
    taken: set[str] = set()
    with writing(output, mode, overwrite=overwrite) as writer:
        writer.summary = summary
        for part, utterance in ((manifest, one) for manifest in parts for one in manifest):
            try:
                value = waveform_hash(load(utterance.audio, AudioSettings()))
            except AudioError as error:
                summary.bad.append(Bad(f"{part.path} line {utterance.line}", str(error)))
                continue
            if value in first:
                _require_same_text(*first[value], part, utterance)
                summary.duplicates += 1
                continue
            first[value] = (part, utterance)
            name = _free_id(utterance.id, part.path.stem, taken)
            taken.add(name)
            if name != utterance.id:
                summary.renamed.append((utterance.id, name))
            writer.add(to_row(replace(utterance, id=name), ""), utterance.audio)
        summary.require_none_bad(output, choice)
        if not summary.utterances:
            raise ManifestError(f"{output}: not written, as no line can be taken")
    return summary


def _read(path: Path, rules: Rules, summary: Summary) -> Manifest:
    """A manifest without its bad lines, which go to `summary`, so that the bad lines of all manifests are named at once."""
    problems: list[Problem] = []
    manifest = read(path, rules, problems)
    summary.bad += [Bad(f"{path} line {problem.line}", f"{problem.field}: {problem.message}") for problem in problems]
    return manifest


@dataclass(slots=True)
class Writer:
    """Adds lines to a manifest that is being written."""

    stream: BinaryIO
    folder: Path | None
    folder_name: str
    summary: Summary = field(default_factory=Summary)
    names: set[str] = field(default_factory=set)

    def add(self, row: Row, audio: AudioSource | EncodedAudio) -> None:
        """Writes `row` with this audio; its `audio` and `duration` are filled in."""
        samples = load(audio, AudioSettings())
        length_s = duration(samples)
        if self.folder is None:
            stored: str | list[float] = samples.clip(-1, 1).tolist()  # as FLAC does with what resampling adds
        else:
            whole = isinstance(audio, FileAudio | EncodedAudio) and audio.channel is None and audio.track is None
            whole = whole and getattr(audio, "span", None) is None
            suffix = Path(str(audio)).suffix.lower() if whole else ""
            content, suffix = (audio.content(), suffix) if suffix in AUDIO_SUFFIXES else (encode_flac(samples), ".flac")
            name = self._free_name(str(row.id), suffix)
            (self.folder / name).write_bytes(content)
            stored = f"{self.folder_name}/{name}"
        self.stream.write(msgspec.json.encode(msgspec.structs.replace(row, audio=stored, duration=round(length_s, 3))) + b"\n")
        self._count(row, length_s)

    def _free_name(self, identity: str, suffix: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", identity).lstrip(".")[:100] or "clip"
        name, number = f"{stem}{suffix}", 2
        while name.lower() in self.names:  # macOS and Windows do not tell cases apart
            name, number = f"{stem}-{number}{suffix}", number + 1
        self.names.add(name.lower())
        return name

    def _count(self, row: Row, length_s: Seconds) -> None:
        self.summary.utterances += 1
        self.summary.duration_s += length_s
        if row.speaker_id is None:
            self.summary.unknown_speakers += 1
        else:
            self.summary.speakers.add(row.speaker_id)
        self.summary.upper_case += bool(row.text and row.text.isupper())


@contextmanager
def writing(output: Path, mode: AudioMode, *, overwrite: bool) -> Iterator[Writer]:
    """A writer whose manifest, with its audio files, appears whole when the block ends well, or not at all."""
    refuse_existing(output, mode, overwrite=overwrite)
    folder = audio_folder(output)
    with atomic_file(output) as stream:
        if mode == "inline":
            yield Writer(stream, None, folder.name)
        else:
            with atomic_folder(folder) as temporary:
                yield Writer(stream, temporary, folder.name)
                if output.exists():  # two names cannot change in one step: between them no manifest is there, never an old one of new audio
                    file_target(output).unlink()


def audio_folder(output: Path) -> Path:
    """Where the audio files of the manifest `output` go."""
    return output.with_name(f"{output.stem}_audio")


def refuse_existing(output: Path, mode: AudioMode, *, overwrite: bool) -> None:
    """Raises `RunFolderError` when the manifest or its audio folder is there already and `overwrite` is not set."""
    if overwrite:
        return
    for path in (output, audio_folder(output)) if mode == "path" else (output,):
        if path.exists():
            raise RunFolderError(f"{path}: exists already; pass --overwrite to replace it, or choose another --output")


def describe(output: Path, summary: Summary) -> Iterator[str]:
    """What was written, in lines for a person."""
    speakers = f"{len(summary.speakers)} speakers" if summary.speakers else "no speaker ids"
    yield f"{output}: {summary.utterances} utterances, {summary.duration_s / 60:.1f} min, {speakers}"
    if summary.speakers and summary.unknown_speakers:
        yield f"{summary.unknown_speakers} utterances have no speaker id: they cannot be split by speaker"
    if summary.outside_limits:
        yield f"left out {summary.outside_limits} outside --min-seconds and --max-seconds"
    if summary.bad:
        yield f"left out {len(summary.bad)} bad rows:"
        yield from (f"  {' '.join(str(bad).split())}" for bad in summary.bad[:BAD_SHOWN])
    if len(summary.bad) > BAD_SHOWN:
        yield f"  and {len(summary.bad) - BAD_SHOWN} more"
    if summary.duplicates:
        yield f"dropped {summary.duplicates} recordings that were there already"
    for old, new in summary.renamed[:5]:
        yield f"renamed id {old} to {new}"
    if len(summary.renamed) > 5:
        yield f"and {len(summary.renamed) - 5} ids more"
    if summary.utterances and summary.upper_case == summary.utterances:
        yield "every transcript is in upper case: good for scoring; training on it teaches the model to write like that"


def field_of(row: dict[str, Any], column: str | None) -> str | None:
    """The value of a column as text, None if there is no such column or value."""
    value = row[column] if column is not None else None
    return None if value is None else str(value)


def require_columns(name: str, available: Sequence[str], wanted: dict[str, str | None]) -> None:
    """Raises `ConfigError` for a column that is not there. `wanted` maps the flag that names a column to the column."""
    for flag, column in wanted.items():
        if column is not None and column not in available:
            near = difflib.get_close_matches(column, available, n=1, cutoff=0.4)
            optional = flag in ("--speaker-column", "--id-column")
            hint = f"closest is {near[0]!r}; " if near else ""
            raise ConfigError(
                f"{name}: has no column {column!r}, only {', '.join(available)}; {hint}set {flag}"
                + (f", or {flag} none to do without" if optional else "")
            )


def _require_same_text(earlier: Manifest, old: Utterance, later: Manifest, new: Utterance) -> None:
    if old.text != new.text:
        raise ManifestError(
            f"{earlier.path} line {old.line} and {later.path} line {new.line}: the same recording with different transcripts "
            f"({(old.text or '')[:40]!r} and {(new.text or '')[:40]!r}); remove one of them"
        )


def _free_id(identity: str, stem: str, taken: set[str]) -> str:
    if identity not in taken:
        return identity
    name, number = f"{stem}-{identity}", 2
    while name in taken:
        name, number = f"{stem}-{identity}-{number}", number + 1
    return name
