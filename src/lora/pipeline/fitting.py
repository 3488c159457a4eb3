"""Training up to its best step: what a run and a trial of settings share. Nothing here evaluates a test set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lora.display import Display
from lora.evaluation.evaluate import Evaluator
from lora.model.encoder_outputs import Features, LiveFeatures, StoredFeatures
from lora.pipeline.baseline import evaluator_of, train_data
from lora.pipeline.preparation import Prepared
from lora.pipeline.reporting import Reporter
from lora.runs.outcomes import Augmentation, Evaluation, TrainOutcome
from lora.system import distributed
from lora.system.process import give_back_memory
from lora.training import adapter as adapters
from lora.training.adapter import Adapted
from lora.training.augment import Augmenter
from lora.training.loop import Progress, TrainData, planned_steps, train
from lora.training.sets import SpeechSet, with_copies

TESTS = ("domain", "heldout")
"""Sets that are only reported."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of a training whose adapter is not kept. `dev` and `guard` are of the best step; `guard` is None without replay."""

    outcome: TrainOutcome
    dev: Evaluation
    guard: Evaluation | None


def fit(prepared: Prepared, reporter: Reporter, progress_of: Callable[[Callable[[int, str], None]], Progress]) -> Fitted:
    """Trains with the run's settings and scores the best step on dev and guard alone: no test set is encoded or evaluated.

    `progress_of` takes the function that moves the bar and returns what the loop reports to. Changes the model of `prepared`. Raises as
    `train` does.
    """
    display = reporter.display
    if prepared.augmenter is not None:
        prepared, _ = augmented(prepared, prepared.augmenter, reporter)
    parts = {name: part for name, part in prepared.sets.named().items() if name not in TESTS}
    evaluator = evaluator_of(prepared, encoded(prepared, parts, display))
    data, _ = train_data(prepared, evaluator, display)
    adapted, evaluator = attached(prepared, evaluator)
    steps = planned_steps(prepared.config.train, len(data.domain))
    with display.stage("train", training_title(adapted)), display.bar(steps, "updates") as advance:
        outcome = train(adapted, data, evaluator, prepared.config.train, progress_of(advance))
    dev, guard = scored_on_dev(adapted, data, evaluator)
    give_back_memory()
    return Fitted(outcome, dev, guard)


def training_title(adapted: Adapted) -> str:
    return f"Training {sum(parameter.numel() for parameter in adapted.parameters())} parameters"


def augmented(prepared: Prepared, augmenter: Augmenter, reporter: Reporter) -> tuple[Prepared, Augmentation]:
    """The run with varied copies added to its training utterances; from here on they are treated like any other utterance."""
    clips = len(prepared.sets.train) * prepared.config.augment.augment_copies
    with reporter.display.stage("augment", "Augmenting the training speech"):
        with reporter.display.bar(clips, "clips") as advance:
            copies = augmenter.make(prepared.config.data.audio(), lambda: advance(1, ""))
        reporter.augmented(copies.summary)
    return replace(prepared, sets=with_copies(prepared.sets, copies)), copies.summary


def encoded(prepared: Prepared, parts: Mapping[str, SpeechSet], display: Display) -> Features:
    """Encoder outputs of these sets: all computed now when the encoder is frozen, else on demand."""
    audio = prepared.config.data.audio()
    if any(site.in_encoder for site in prepared.sites):
        return LiveFeatures(prepared.speech, audio)
    stored = StoredFeatures(prepared.speech, audio, prepared.kept)
    utterances = [utterance for part in parts.values() for utterance in part.manifest]
    with display.stage("encode", "Encoding speech, once for all stages"), display.bar(len(utterances), "utterances") as advance:
        stored.prepare(utterances, lambda: advance(distributed.count(), ""))
    give_back_memory()
    return stored


def attached(prepared: Prepared, evaluator: Evaluator) -> tuple[Adapted, Evaluator]:
    """The model with a new adapter, and what evaluates it."""
    config = prepared.config
    adapted = adapters.attach(prepared.speech, config.adapter, config.train.seed, prepared.sites)
    if adapted.trains_encoder:  # the existing encoder was built before the adapter was attached
        features = LiveFeatures(prepared.speech, config.data.audio(), gradient_checkpointing=config.train.gradient_checkpointing)
        evaluator = replace(evaluator, features=features)
    return adapted, evaluator


def scored_on_dev(adapted: Adapted, data: TrainData, evaluator: Evaluator) -> tuple[Evaluation, Evaluation | None]:
    """Dev and guard with the adapter as it is now; None without a guard."""
    with adapters.merged(adapted) as speech:
        merged = replace(evaluator, speech=speech)
        return merged.evaluate(data.dev), merged.evaluate(data.guard) if data.guard else None
