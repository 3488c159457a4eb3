"""Recordings of a manifest, read and decoded once each: what is wrong with them, how long they are, and their hashes. No torch.

What was found in sound recordings is kept for the next check, which reads and hashes their files but decodes none.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec

from lora.audio.loading import (
    AudioSettings,
    FileAudio,
    InlineAudio,
    duration,
    fingerprint_of,
    is_silent,
    load,
    stored,
    stored_hash,
    waveform_hash,
)
from lora.dataset.manifest import DURATION_TOLERANCE_S, MIN_S, Manifest, Problems, Recording, Rules, Utterance, too_much_text
from lora.dataset.near_copies import sound_print
from lora.dataset.speech_rate import too_much
from lora.errors import AudioError, ManifestError, Problem, TooLongError, WorkerError
from lora.system.cache import Kept, key
from lora.system.workers import Workers, cores
from lora.units import Seconds

TOGETHER = 50
"""Recordings that are decoded in one go, and kept in one file: what a pool keeps for each of 100,000 calls is more than what is found."""

MANY = 2_000
"""Recordings from which it pays to start processes: libraries need half a second to load in each."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some utterances of a manifest, and how they are checked."""

    utterances: tuple[Utterance, ...]
    rules: Rules
    settings: AudioSettings
    prints: bool
    kept: Path | None
    """Folder of kept files."""

    def key(self, first_sha256: str) -> str:
        """Of what is kept of them: by the content of the first, so that it can be found before the others are read, and by their texts."""
        first = fingerprint_of(first_sha256, self.utterances[0].audio, self.settings)
        rows = [(one.text, one.declared_s, one.audio.channel, one.audio.track) for one in self.utterances]
        rates = [one.audio.rate if isinstance(one.audio, InlineAudio) else None for one in self.utterances]
        return key(__name__, first, rows, rates, self.rules.max_s, self.rules.check_rate, self.prints)


@dataclass(frozen=True, slots=True)
class _Found:
    recordings: list[Recording]
    problems: list[Problem]
    damaged: list[Path] = field(default_factory=list)
    """Kept files that were damaged."""


class _Earlier:
    """What an earlier check found in the recordings of a part, if it kept that."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._kept = Kept(part.kept) if part.kept is not None else None
        self._file: Path | None = None
        self._known: list[Recording] = []

    @property
    def damaged(self) -> list[Path]:
        return self._kept.damaged if self._kept is not None else []

    def find(self, place: int, stored_sha256: str) -> Recording | None:
        """What was found in the recording at this place of the part, if its content was the same. The first is asked for first."""
        if self._kept is not None and place == 0:
            self._file = self._kept.file(self._part.key(stored_sha256), ".msgpack")
            if self._kept.has(self._file) and (content := self._kept.read(self._file)) is not None:
                self._known = msgspec.msgpack.decode(content, type=list[Recording])
        known = self._known[place] if self._known else None
        return known if known is not None and known.stored_sha256 == stored_sha256 else None

    def keep(self, found: list[Recording]) -> None:
        """Keeps what was found, unless it is kept already."""
        if self._kept is not None and self._file is not None and found != self._known:
            self._kept.write(self._file, msgspec.msgpack.encode(found))


def validate(
    manifest: Manifest, rules: Rules, settings: AudioSettings, *, prints: bool = False, kept: Kept | None = None
) -> tuple[Recording, ...]:
    """Decodes every recording once and returns what was found, in the utterances' order; with `prints`, what near copies are found by.

    With `kept`, recordings that were in order before and have not changed since are read and hashed, but not decoded.

    Raises `ManifestError` that names every line whose audio is unreadable, empty, not finite, silent although text is claimed,
    shorter than `MIN_S`, longer than `rules.max_s`, or in disagreement with the declared duration.
    """
    rows = manifest.utterances
    folder = kept.folder if kept is not None and not _has_spans(manifest) else None  # hashing a part of a long recording decodes it
    parts = [_Part(rows[start : start + TOGETHER], rules, settings, prints, folder) for start in range(0, len(rows), TOGETHER)]
    found = list(_in_processes(manifest, parts) if _pays(manifest) else _in_threads(parts))
    if kept is not None:
        kept.damaged += itertools.chain.from_iterable(part.damaged for part in found)
    problems = Problems(manifest.path, list(itertools.chain.from_iterable(part.problems for part in found)))
    recordings = tuple(itertools.chain.from_iterable(part.recordings for part in found))
    for first, second in two_texts(manifest, recordings):
        problems.add(second.line, "text", f"is not that of line {first.line}, which is the same recording; {_one_is_wrong(first, second)}")
    problems.raise_if_any()
    return recordings


def _pays(manifest: Manifest) -> bool:
    """Whether processes are sooner done than threads, which wait for each other's Python. Parts of a long recording share its decoding."""
    return len(manifest) >= MANY and cores() > 1 and not _has_spans(manifest)


def _has_spans(manifest: Manifest) -> bool:
    return any(isinstance(one.audio, FileAudio) and one.audio.span is not None for one in manifest)


def _in_threads(parts: Sequence[_Part]) -> Iterator[_Found]:
    with ThreadPoolExecutor(cores()) as pool:  # libsndfile and soxr release the interpreter lock
        yield from pool.map(check_part, parts)


def _in_processes(manifest: Manifest, parts: Sequence[_Part]) -> Iterator[_Found]:
    with Workers(check_part, cores()) as workers:
        try:
            yield from workers.map(parts)
        except WorkerError as error:
            raise ManifestError(
                f"{manifest.path}: a process that decodes its recordings ended ({error}): memory ran out, or a library failed at a file; "
                "run it again with fewer programs open, or check parts of the manifest to find the file"
            ) from error


def check_part(part: _Part) -> _Found:
    """What is found in the recordings of a part, each read once: decoded, or kept by an earlier check."""
    problems: list[Problem] = []
    earlier = _Earlier(part)
    recordings = [_check(place, part, earlier, problems) for place in range(len(part.utterances))]
    if not problems:
        earlier.keep(recordings)
    return _Found(recordings, problems, earlier.damaged)


def _check(place: int, part: _Part, earlier: _Earlier, problems: list[Problem]) -> Recording:
    utterance, rules = part.utterances[place], part.rules
    problem = partial(Problem, utterance.line)
    try:
        content = stored(utterance.audio, rules.max_s)
        sha256 = stored_hash(content)
        if (known := earlier.find(place, sha256)) is not None:
            return known
        samples = load(utterance.audio, part.settings, rules.max_s, content)
    except TooLongError as error:
        problems.append(problem("audio", f"{error.lasts} is over --max-seconds {rules.max_s:g}; cut it or raise the limit"))
        problems += _undeclared(utterance, error.length_s)
        return Recording(Seconds(0.0), "")
    except AudioError as error:
        problems.append(problem("audio", str(error)))
        return Recording(Seconds(0.0), "")
    length_s = duration(samples)
    if length_s < MIN_S:
        problems.append(problem("audio", f"{length_s:.3f} s is too short for speech; Moonshine needs {MIN_S:g} s"))
    if utterance.text and is_silent(samples):
        problems.append(problem("audio", f"is silent although the text says {utterance.text[:40]!r}"))
    if utterance.text and rules.check_rate and too_much(utterance.text, length_s):
        problems.append(problem("text", too_much_text(utterance.text, f"the audio lasts {length_s:.1f} s")))
    problems += _undeclared(utterance, length_s)
    sound = sound_print(samples) if part.prints and utterance.text != "" else b""
    return Recording(length_s, waveform_hash(samples), sound, sha256)


def as_checked(manifest: Manifest, recordings: Iterable[Recording]) -> Manifest:
    """The manifest whose recordings are known by the hashes that their check found: they are hashed no more, and refused if they change."""
    pairs = zip(manifest, recordings, strict=True)
    return manifest.subset([replace(one, audio=one.audio.checked(found.stored_sha256)) for one, found in pairs])


def _undeclared(utterance: Utterance, length_s: float | None) -> list[Problem]:
    """The problem of a declared duration that is not the recording's."""
    if utterance.declared_s is None or length_s is None or abs(utterance.declared_s - length_s) <= DURATION_TOLERANCE_S:
        return []
    return [Problem(utterance.line, "duration", f"says {utterance.declared_s:.2f} s, the audio lasts {length_s:.2f} s")]


def two_texts(manifest: Iterable[Utterance], recordings: Iterable[Recording]) -> Iterator[tuple[Utterance, Utterance]]:
    """Pairs of utterances of one recording with different texts: the first of that recording, and another."""
    first: dict[str, Utterance] = {}
    for utterance, recording in zip(manifest, recordings, strict=True):
        known = first.setdefault(recording.sha256, utterance) if recording.sha256 and utterance.text is not None else utterance
        if (known.text or "").split() != (utterance.text or "").split():
            yield known, utterance


def require_one_text(manifest: Manifest, recordings: Sequence[Recording]) -> None:
    """Raises `ManifestError` for a recording with two texts. `validate` does so for what it is given, which may be a part."""
    for first, second in two_texts(manifest, recordings):
        raise ManifestError(
            f"{manifest.path}: {first.id} (line {first.line}) and {second.id} (line {second.line}) are the same recording with different "
            f"texts; {_one_is_wrong(first, second)}"
        )


def _one_is_wrong(first: Utterance, second: Utterance) -> str:
    return f"one is wrong, remove it ({(first.text or '')[:40]!r} and {(second.text or '')[:40]!r})"
