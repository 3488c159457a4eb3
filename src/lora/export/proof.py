"""Transcribes test speech with the base model, the tuned one and an export in its runtime, and compares the three."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lora.audio.loading import AudioSettings, load
from lora.checkpoints.checkpoint import resolve
from lora.evaluation.base_scores import BaseScores
from lora.evaluation.evaluate import Evaluator, Example, score_transcripts
from lora.export.agreement import ThreeScores
from lora.export.targets import ASKS_ARCHITECTURE, Target, architecture
from lora.model.encoder_outputs import Features, LiveFeatures, StoredFeatures
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings, Transcript
from lora.runs.export_record import Speed
from lora.runs.outcomes import Evaluation
from lora.runs.record import SetResult
from lora.runtimes.runtime import Clip, transcribe
from lora.scoring.counts import Score
from lora.system.files import sha256_bytes
from lora.text.style import ResolvedStyle
from lora.training.sets import SpeechSet, examples
from lora.units import Seconds

BATCH_SIZE = 32
"""Batch size of PyTorch's transcripts, which do not depend on it."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Models:
    """Both models in PyTorch, the tuned one with its adapter folded in, and how they transcribe. `tuned` is `base` without an adapter."""

    base: LoadedModel
    tuned: LoadedModel
    adapter_sha256: str | None
    trains_encoder: bool
    audio: AudioSettings
    decode: DecodeSettings

    def features(self, *, tuned: bool) -> Features:
        """Encoder outputs, those of the base model from the cache."""
        if tuned and self.trains_encoder:
            return LiveFeatures(self.tuned, self.audio)
        return StoredFeatures(self.base, self.audio)

    def evaluator(self, *, tuned: bool) -> Evaluator:
        """The evaluator of one of the models."""
        return Evaluator(self.tuned if tuned else self.base, self.features(tuned=tuned), self.decode, BATCH_SIZE)


@dataclass(frozen=True)
class ProofSet:
    """Test speech with both models' scores."""

    examples: tuple[Example, ...]
    base: Score
    tuned: Score


@dataclass(frozen=True)
class Unscored:
    """A set to prove on, before it is scored."""

    part: SpeechSet
    references: bool
    """Whether it is scored by its transcripts; else by those of the base model."""
    style: ResolvedStyle
    run: SetResult | None
    """The results of the run with the same adapter and style, if its whole set is used."""


def chosen(part: SpeechSet, count: int | None) -> SpeechSet:
    """`count` utterances of a set, evenly spaced over the manifest, the first among them; all if there are no more, or none is said."""
    if count is None or count >= len(part):
        return part
    places = [number * len(part) // count for number in range(count)]
    utterances = part.manifest.utterances
    return SpeechSet(part.manifest.subset(utterances[place] for place in places), tuple(part.recordings[place] for place in places))


def with_pytorch(models: Models, speech: Unscored, advance: Advance) -> ProofSet:
    """Scores a set with both models.

    Transcripts are kept in the cache by the hash of weights, sound, settings and versions. Where the base model's evaluation is now what
    it was in the run, its loss to the last bit, then sound, settings and arithmetic are the same too, and the tuned model's transcripts
    are those of the run.
    """
    given, run = examples(models.base, speech.part, speech.style), speech.run
    if run is not None and speech.references:
        evaluator = models.evaluator(tuned=False)
        base, _ = BaseScores(models.audio).known(Evaluation, evaluator, given, lambda: evaluator.evaluate(given, advance))
        if base == run.baseline:
            return ProofSet(tuple(given), base.score, run.tuned.score)
    bare = [replace(one, labels=()) for one in given]
    said = _said(models, bare, advance, tuned=False)
    if not speech.references:
        bare = [replace(one, utterance=replace(one.utterance, text=t.text)) for one, t in zip(bare, said, strict=True)]
    base_score = score_transcripts(bare, said, models.base.language)
    if models.adapter_sha256 is None:
        return ProofSet(tuple(bare), base_score, base_score)
    tuned_score = score_transcripts(bare, _said(models, bare, advance, tuned=True), models.base.language)
    return ProofSet(tuple(bare), base_score, tuned_score)


def in_runtime(
    target: Target, folder: Path, sets: dict[str, ProofSet], models: Models, advance: Advance
) -> tuple[dict[str, ThreeScores], Speed | None]:
    """Scores each set with the files in `folder`, in the runtime that they are for; `merged` with PyTorch.

    Raises `OnDeviceError` when the runtime is not installed, does not load them, or fails on a clip.
    """
    every = [example for part in sets.values() for example in part.examples]
    if target == "merged":
        said, speed = _merged(folder, every, models, advance), None
    else:
        said, speed = _on_device(target, folder, every, models, advance)
    scores, start = {}, 0
    for name, part in sets.items():
        end = start + len(part.examples)
        scores[name] = ThreeScores(part.base, part.tuned, score_transcripts(part.examples, said[start:end], models.base.language))
        start = end
    return scores, speed


def _said(models: Models, part: Sequence[Example], advance: Advance, *, tuned: bool) -> list[Transcript]:
    evaluator = keyed = models.evaluator(tuned=tuned)
    if tuned and models.adapter_sha256 is not None:  # the key holds the weights' hash, and these are no longer the checkpoint's
        checkpoint = models.tuned.checkpoint
        sha256 = sha256_bytes(checkpoint.sha256.encode(), models.adapter_sha256.encode())
        keyed = replace(evaluator, speech=replace(models.tuned, checkpoint=replace(checkpoint, sha256=sha256)))
    found, _ = BaseScores(models.audio).known(list[Transcript], keyed, part, lambda: evaluator.transcribe(part, advance))
    return found


def _merged(folder: Path, part: Sequence[Example], models: Models, advance: Advance) -> list[Transcript]:
    """As written to disk: the folder is read again like any checkpoint."""
    speech = load_model(resolve(str(folder.resolve())), torch.device("cpu"), "float32", models.base.language)
    return Evaluator(speech, LiveFeatures(speech, models.audio), models.decode, BATCH_SIZE).transcribe(part, advance)


def _on_device(target: Target, folder: Path, part: Sequence[Example], models: Models, advance: Advance) -> tuple[list[Transcript], Speed]:
    assert target != "merged"
    clips = [Clip(one.utterance.id, load(one.utterance.audio, models.audio), models.decode.cap(one.length_s)) for one in part]
    size = architecture(models.tuned) if target in ASKS_ARCHITECTURE else ""
    found = transcribe(target, folder, size, clips, advance)
    times = [heard.seconds for heard in found.heard]
    speed = Speed(
        real_time_factor=sum(times) / sum(one.length_s for one in part),
        median_s=Seconds(statistics.median(times)),
        load_s=found.load_s,
        peak_bytes=found.peak_bytes,
    )
    return [Transcript(heard.text, (), bool(heard.capped)) for heard in found.heard], speed
