"""From a list of terms to a manifest with sound: who says which sentence, varied if asked for, written whole or not at all."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lora.audio.loading import AudioSettings, EncodedAudio, FileAudio, Waveform, encode_flac
from lora.config import AugmentConfig
from lora.corpora.build import Summary, writing
from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Row, Rules, Utterance
from lora.dataset.synthetic import SYNTHETIC
from lora.errors import SynthesisError
from lora.synthesis.sentences import Line
from lora.synthesis.voices import Voice
from lora.training.augment import Augmenter, plan
from lora.units import SAMPLE_RATE_HZ

LONGEST_S = 30.0
"""Longest sentence."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to say, by which voices, and how to vary it."""

    name: str
    """Of the set: ids begin with it."""
    lines: Sequence[Line]
    voices: Sequence[Voice]
    seed: int
    vary: AugmentConfig | None = None


def synthesise(order: Order, output: Path, *, overwrite: bool, advance: Callable[[], None] = lambda: None) -> Summary:
    """Speaks the sentences and writes them as a manifest with FLAC files; voices take turns. The same order gives the same bytes.

    Raises `SynthesisError` for a voice that fails, `RunFolderError` if the output exists or cannot be written.
    """
    with writing(output, "path", overwrite=overwrite) as writer, tempfile.TemporaryDirectory() as folder:
        spoken = _spoken(order, Path(folder), advance)
        augmenter = _augmenter(order.vary, order.seed, spoken) if order.vary is not None else None
        for utterance in spoken:
            row = Row(audio="", text=utterance.text, speaker_id=utterance.speaker_id, id=utterance.id, language="en", meta=utterance.meta)
            writer.add(*(_varied(row, augmenter, utterance) if augmenter is not None else (row, utterance.audio)))
    return writer.summary


def _spoken(order: Order, folder: Path, advance: Callable[[], None]) -> list[Utterance]:
    """An utterance for each sentence, its sound in `folder`."""

    def speak(place: int) -> Utterance:
        line, voice = order.lines[place], _voice(order, place)
        seed = _seed(order, place)
        samples = voice.speak(line.spoken, seed)
        if len(samples) > LONGEST_S * SAMPLE_RATE_HZ:
            raise SynthesisError(f"{voice.name}: takes over {LONGEST_S:g} s for {line.written[:60]!r}; shorten the sentence")
        return _utterance(order, place, _written(folder, place, samples), seed)

    pool = ThreadPoolExecutor()
    try:
        return list(_counted(pool.map(speak, range(len(order.lines))), advance))
    finally:
        pool.shutdown(cancel_futures=True)  # one voice has failed: do not wait for the others' sentences


def _counted(utterances: Iterator[Utterance], advance: Callable[[], None]) -> Iterator[Utterance]:
    for utterance in utterances:
        yield utterance
        advance()


def _voice(order: Order, place: int) -> Voice:
    return order.voices[place % len(order.voices)]


def _seed(order: Order, place: int) -> int:
    """Of a sentence: that of the order, its set and place."""
    return int.from_bytes(hashlib.sha256(f"{order.seed} {order.name} {place}".encode()).digest()[:4], "big")


def _written(folder: Path, place: int, samples: Waveform) -> FileAudio:
    file = folder / f"{place}.flac"
    file.write_bytes(encode_flac(samples.clip(-1, 1)))
    return FileAudio(file)


def _utterance(order: Order, place: int, audio: FileAudio, seed: int) -> Utterance:
    line, voice = order.lines[place], _voice(order, place)
    origin: dict[str, Any] = {"engine": voice.engine, "voice": voice.name, "seed": seed, "spoken": line.spoken}
    origin |= {"term": line.term} if line.term is not None else {}
    return Utterance(
        id=f"{order.name}-{place:05d}",
        audio=audio,
        text=line.written,
        speaker_id=voice.name,
        line=place + 1,
        meta={SYNTHETIC: origin},
        language="en",
    )


def _augmenter(vary: AugmentConfig, seed: int, utterances: Sequence[Utterance]) -> Augmenter:
    """What varies each clip, as copies of training speech are varied."""
    manifest = Manifest(Path("speech"), "", tuple(utterances))
    rules = Rules(max_s=LONGEST_S, check_rate=False, language="en")
    return plan(vary, seed, rules, (manifest, validate(manifest, rules, AudioSettings())), {}, AudioSettings())


def _varied(row: Row, augmenter: Augmenter, utterance: Utterance) -> tuple[Row, EncodedAudio]:
    samples, text, applied = augmenter.variant(utterance, 1)
    meta = (row.meta or {}) | {"augmentation": msgspec.to_builtins(applied)}
    return msgspec.structs.replace(row, text=text, meta=meta), EncodedAudio(encode_flac(samples), f"{utterance.id}.flac")
