"""Varied copies of the training speech, made once and kept as ordinary recordings with a manifest. No torch.

A copy depends on the seed, its utterance's id and its number only (and on what the settings offer to draw from), so neither the order
of the manifest nor the number of workers nor a run that goes on after a stop changes it. Each effect draws from a stream of its own:
switching one on leaves the others' draws as they were.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock

from lora.audio import effects
from lora.audio.decoding import AUDIO_SUFFIXES
from lora.audio.effects import Codec
from lora.audio.loading import (
    AudioSettings,
    FileAudio,
    Waveform,
    encode_flac,
    encode_wav,
    fingerprint,
    is_silent,
    load,
    prepare,
    waveform_hash,
)
from lora.config import AugmentConfig
from lora.dataset.checking import as_checked, validate
from lora.dataset.manifest import Manifest, Recording, Row, Rules, Utterance, read, to_row, write
from lora.dataset.splits import sample
from lora.errors import AudioError, ConfigError, ManifestError, RunFolderError
from lora.language import traits
from lora.runs.outcomes import Augmentation
from lora.system.cache import key
from lora.system.files import atomic_folder, cache_dir, sha256_bytes, write_json
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds

PAUSE_S = (0.2, 0.6)
"""Silence between joined clips, in seconds, from and to."""

PARTNERS_TRIED = 32
"""How many clips of the same speaker, and of others, are tried to find one that fits after a clip."""

MANIFEST_FILE = "manifest.jsonl"
MARK_FILE = "augmentation.json"
"""Marks a folder that was written here and may be replaced."""

RAW = AudioSettings()
"""Copies are made of the sound as recorded; the run's own audio settings apply when a copy is read."""


class Applied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done to a copy; recorded under `meta.augmentation` of its manifest line."""

    source: str
    """Id of the utterance."""
    copy: int
    joined: tuple[str, ...] = ()
    """Ids of the utterances that follow it in the clip."""
    speed: float | None = None
    pitch: float | None = None
    """Semitones."""
    impulse: str | None = None
    noise: str | None = None
    snr_db: float | None = None
    codec: Codec | None = None
    gain_db: float | None = None
    scaled_db: float | None = None
    """How much the finished clip was attenuated to keep its peak below full scale."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Augmented utterances with what decoding them showed, in the same order."""

    manifest: Manifest
    recordings: tuple[Recording, ...]
    summary: Augmentation


@dataclass(frozen=True)
class _Sounds:
    """A folder of noises or impulse responses: names relative to it, in order, with the hash of each file's waveform."""

    folder: Path
    hashes: Mapping[str, str]

    def draw(self, rng: np.random.Generator) -> tuple[str, Waveform]:
        name = list(self.hashes)[int(rng.integers(len(self.hashes)))]
        return name, _read_sound(self.folder / name)


@dataclass(frozen=True)
class Augmenter:
    """Makes the copies of one training set."""

    config: AugmentConfig
    seed: int
    rules: Rules
    manifest: Manifest
    lengths: Mapping[str, Samples]
    """Of each utterance, by id."""
    noises: _Sounds | None
    impulses: _Sounds | None

    def make(self, audio: AudioSettings, advance: Callable[[], None] = lambda: None) -> Copies:
        """The copies from the cache folder; missing ones are made first. `advance` is called after each clip made."""
        folder = cache_dir() / "augmented" / self._key()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # a second process waits instead of making the same clips
            if not folder.is_dir():
                with atomic_folder(folder) as temporary:
                    self._write(temporary, self._planned(), encode_flac, ".flac", advance)
        rules = replace(self.rules, check_rate=False)  # copies may play at twice the speed
        manifest = read(folder / MANIFEST_FILE, rules)
        recordings = validate(manifest, rules, audio)
        done = [msgspec.convert((utterance.meta or {})["augmentation"], Applied) for utterance in manifest]
        summary = Augmentation(
            copies=self.config.augment_copies,
            clips=len(manifest),
            seconds=Seconds(sum(recording.length_s for recording in recordings)),
            joined=sum(bool(one.joined) for one in done),
            scaled=sum(one.scaled_db is not None for one in done),
            folder=str(folder),
        )
        return Copies(as_checked(manifest, recordings), recordings, summary)

    def write_examples(self, folder: Path, count: int) -> int:
        """Writes `count` of the copies, or all, as wav files with a manifest that says what was done to each; returns how many.

        Raises `RunFolderError` when `folder` holds anything but earlier examples.
        """
        if folder.exists() and not (folder / MARK_FILE).is_file():
            raise RunFolderError(f"{folder}: exists and holds no augmented examples; move it or choose another --output-dir")
        planned = sample(list(self._planned()), count, self.seed)
        with atomic_folder(folder) as temporary:
            self._write(temporary, planned, encode_wav, ".wav", lambda: None)
        return len(planned)

    def variant(self, utterance: Utterance, copy: int) -> tuple[Waveform, str, Applied]:
        """A copy's samples `[samples]` at 16 kHz with a peak below 1, its transcript, and what was done."""
        config = self.config

        def draws(effect: str) -> np.random.Generator:
            digest = hashlib.sha256(f"{self.seed}\0{utterance.id}\0{copy}\0{effect}".encode()).digest()
            return np.random.default_rng(int.from_bytes(digest, "big"))

        speed = draws("speed").uniform(config.speed_min, config.speed_max) if config.changes_speed() else None
        chain = [utterance]
        pauses: list[Samples] = []
        rng = draws("concat")
        if rng.random() < config.concat_probability:
            chain, pauses = self._chain(utterance, speed or 1.0, rng)
        samples = effects.join([load(one.audio, RAW) for one in chain], pauses)
        if speed is not None:
            samples = effects.change_speed(samples, speed)
        pitch = draws("pitch").uniform(config.pitch_min, config.pitch_max) if config.changes_pitch() else None
        if pitch is not None:
            samples = effects.change_pitch(samples, pitch)
        impulse = noise = snr_db = codec = gain_db = None
        rng = draws("impulse")
        if self.impulses is not None and rng.random() < config.impulse_probability:
            impulse, response = self.impulses.draw(rng)
            samples = effects.reverberate(samples, response)
        rng = draws("noise")
        if self.noises is not None and rng.random() < config.noise_probability:
            noise, sound = self.noises.draw(rng)
            snr_db = float(rng.uniform(config.snr_min_db, config.snr_max_db))
            start = Samples(int(rng.integers(len(sound))))
            part = effects.cut(sound, start, Samples(len(samples)), str(self.noises.folder / noise))
            samples = effects.add_noise(samples, part, snr_db)
        rng = draws("telephone")
        if rng.random() < config.telephone_probability:
            codecs = config.codecs()
            codec = codecs[int(rng.integers(len(codecs)))]
            samples = effects.telephone(samples, codec)
        if config.gain_db > 0:
            gain_db = float(draws("gain").uniform(-config.gain_db, config.gain_db))
            samples = effects.change_gain(samples, gain_db)
        limited = effects.limit(samples)
        applied = Applied(
            source=utterance.id,
            copy=copy,
            joined=tuple(one.id for one in chain[1:]),
            speed=speed,
            pitch=pitch,
            impulse=impulse,
            noise=noise,
            snr_db=snr_db,
            codec=codec,
            gain_db=gain_db,
            scaled_db=None if limited is samples else 10 * float(np.log10(effects.power(limited) / effects.power(samples))),
        )
        language = self.rules.language
        space = "" if language is not None and not traits(language).separates_words else " "
        return limited, space.join(one.text for one in chain if one.text), applied

    def _chain(self, first: Utterance, speed: float, rng: np.random.Generator) -> tuple[list[Utterance], list[Samples]]:
        """Utterances to be heard one after another and the pauses between them, within the longest clip; the same speaker comes first."""
        wanted = int(rng.integers(2, self.config.concat_clips + 1))
        longest = int(self.rules.max_s * speed * SAMPLE_RATE_HZ) - SAMPLE_RATE_HZ // 100  # resampling rounds
        chain, pauses, length = [first], list[Samples](), self.lengths[first.id]
        for candidate in self._partners(first, rng):
            if len(chain) == wanted:
                break
            pause = Samples(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ))
            if length + pause + self.lengths[candidate.id] <= longest:
                chain.append(candidate)
                pauses.append(pause)
                length = Samples(length + pause + self.lengths[candidate.id])
        return chain, pauses

    def _partners(self, first: Utterance, rng: np.random.Generator) -> Iterator[Utterance]:
        own = self._by_speaker.get(first.speaker_id, ()) if first.speaker_id is not None else ()
        for pool in (own, self._ordered):
            for number in rng.permutation(len(pool))[:PARTNERS_TRIED]:
                candidate = pool[number]
                if candidate.id != first.id and (pool is own or first.speaker_id is None or candidate.speaker_id != first.speaker_id):
                    yield candidate

    @cached_property
    def _ordered(self) -> tuple[Utterance, ...]:
        return tuple(sorted(self.manifest, key=lambda one: one.id))

    @cached_property
    def _by_speaker(self) -> dict[str | None, tuple[Utterance, ...]]:
        return {speaker: tuple(one for one in self._ordered if one.speaker_id == speaker) for speaker in self.manifest.speakers()}

    def _planned(self) -> Iterator[tuple[Utterance, int]]:
        return ((utterance, copy) for utterance in self.manifest for copy in range(1, self.config.augment_copies + 1))

    def _write(self, folder: Path, planned: Any, encode: Callable[[Waveform], bytes], suffix: str, advance: Callable[[], None]) -> None:
        (folder / "audio").mkdir()

        def render(item: tuple[Utterance, int]) -> Row:
            utterance, copy = item
            samples, text, applied = self.variant(utterance, copy)
            name = f"audio/{sha256_bytes(utterance.id.encode())[:16]}-{copy}{suffix}"
            (folder / name).write_bytes(encode(samples))
            row = to_row(utterance, name, len(samples) / SAMPLE_RATE_HZ)
            meta = (utterance.meta or {}) | {"augmentation": msgspec.to_builtins(applied)}
            return msgspec.structs.replace(row, id=f"{utterance.id}+augmented-{copy}", text=text, meta=meta)

        rows = []
        with ThreadPoolExecutor() as pool:  # soxr, libsndfile and the transforms release the interpreter lock
            for row in pool.map(render, planned):
                rows.append(row)
                advance()
        write(folder / MANIFEST_FILE, rows)
        write_json(folder / MARK_FILE, {"seed": self.seed, "settings": msgspec.to_builtins(self.config)})

    def _key(self) -> str:
        """Hash of everything that decides how the copies sound."""
        parts = [(one.id, one.text, one.speaker_id, fingerprint(one.audio, RAW), one.meta) for one in self._ordered]
        sounds = [dict(found.hashes) if found is not None else {} for found in (self.noises, self.impulses)]
        settings = msgspec.structs.replace(self.config, noise_dir=None, impulse_dir=None)  # their content counts, not their path
        shifter = effects.pitch_version() if self.config.changes_pitch() else None
        return key(__name__, settings, self.seed, self.rules.max_s, parts, sounds, shifter)


def plan(
    config: AugmentConfig,
    seed: int,
    rules: Rules,
    train: tuple[Manifest, tuple[Recording, ...]],
    others: Mapping[str, tuple[Recording, ...]],
    audio: AudioSettings,
) -> Augmenter:
    """Reads and checks what copies of the training set need, and writes nothing. `others` are the sets that no noise may come from.

    Six parameters: synthesised speech is varied too, and has no run from which they could be taken together.

    Raises `AudioError` for a folder without audio, for a file in it that is unreadable, silent or a recording of another set, and
    where pitch is asked for and cannot be shifted here; `ConfigError` when the slowest speed makes a clip longer than the longest one
    accepted.
    """
    if config.changes_pitch():
        effects.pitch_version()
    manifest, recordings = train
    longest, utterance = max(
        ((recording.length_s, utterance) for recording, utterance in zip(recordings, manifest, strict=True)), key=lambda pair: pair[0]
    )
    if longest / config.speed_min > rules.max_s:
        raise ConfigError(
            f"--speed-min {config.speed_min:g}: {manifest.path} line {utterance.line} lasts {longest:.1f} s and would last "
            f"{longest / config.speed_min:.1f} s, over --max-seconds {rules.max_s:g}; raise either"
        )
    if "augmentation" in (keys := Counter(key for one in manifest for key in one.meta or {})):
        raise ManifestError(f"{manifest.path}: {keys['augmentation']} lines are augmented copies already; train on their originals")
    taken = {recording.sha256: name for name, part in others.items() for recording in part}
    return Augmenter(
        config=config,
        seed=seed,
        rules=rules,
        manifest=manifest,
        lengths={one.id: Samples(round(found.length_s * SAMPLE_RATE_HZ)) for one, found in zip(manifest, recordings, strict=True)},
        noises=_sounds(config.noise_dir, "--noise-dir", taken, audio),
        impulses=_sounds(config.impulse_dir, "--impulse-dir", taken, audio),
    )


def _sounds(folder_name: str | None, flag: str, taken: Mapping[str, str], audio: AudioSettings) -> _Sounds | None:
    if folder_name is None:
        return None
    folder = Path(folder_name)
    if not folder.is_dir():
        raise AudioError(f"{flag} {folder}: no such folder")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
    if not files:
        raise AudioError(f"{flag} {folder}: holds no audio ({', '.join(sorted(AUDIO_SUFFIXES))}); put recordings in it")

    def check(file: Path) -> str:
        samples = load(FileAudio(file, channel="mix"), RAW)
        if is_silent(samples):
            raise AudioError(f"{file}: is silent; take it out of {flag}")
        if (name := taken.get(waveform_hash(prepare(samples, audio, str(file))))) is not None:
            raise AudioError(f"{file}: is a recording of the set {name}; training must not hear it, take it out of {flag}")
        return waveform_hash(samples)

    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(check, files))
    return _Sounds(folder, {file.relative_to(folder).as_posix(): digest for file, digest in zip(files, hashes, strict=True)})


@lru_cache(maxsize=16)
def _read_sound(file: Path) -> Waveform:
    return load(FileAudio(file, channel="mix"), RAW)
