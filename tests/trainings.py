"""A training in a test: what it is told, what it leaves behind."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from torch import Tensor

from lora.audio.loading import AudioSettings, Waveform, duration
from lora.config import AdapterConfig, TrainConfig
from lora.dataset.manifest import Utterance
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import Encoded, LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runs.outcomes import Evaluation, Step, TrainOutcome
from lora.training.adapter import Adapted, attach, merged, state
from lora.training.loop import Progress, TrainData, eligible, train

DECODE = DecodeSettings(tokens_per_second=6.5)
BRIEF = DecodeSettings(tokens_per_second=0.5)
"""Random weights never end a transcript; there is no point in waiting for them."""

NO_DROPOUT = AdapterConfig(lora_dropout=0.0)
ONCE = 10_000
"""An evaluation interval that leaves the base model and the last step."""


def fresh(speech: LoadedModel) -> LoadedModel:
    """A copy that a test may change."""
    return replace(speech, model=deepcopy(speech.model))


def adapt(speech: LoadedModel, config: AdapterConfig = NO_DROPOUT, seed: int = 0) -> Adapted:
    return attach(fresh(speech), config, seed)


def examples(speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], chosen: Sequence[int]) -> list[Example]:
    return [Example(clips[index], duration(waveforms[index]), tuple(speech.labels(clips[index].text or ""))) for index in chosen]


def retold(speech: LoadedModel, example: Example, text: str) -> Example:
    """The same recording with another transcript."""
    return replace(example, utterance=replace(example.utterance, text=text), labels=tuple(speech.labels(text)))


@dataclass
class Recorder:
    """Live features that note which utterances were asked for, batch by batch, and in which mode the model was."""

    adapted: Adapted
    training: list[list[str]] = field(default_factory=list)
    evaluating: list[list[str]] = field(default_factory=list)

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        (self.training if self.adapted.peft.training else self.evaluating).append([utterance.id for utterance in utterances])
        return LiveFeatures(self.adapted.speech, AudioSettings()).batch(utterances)

    def encoded_by(self, speech: LoadedModel) -> LiveFeatures:
        return LiveFeatures(speech, AudioSettings())


@dataclass
class Log:
    """What the loop reported."""

    updates: list[tuple[int, int, float]] = field(default_factory=list)
    evaluated: list[tuple[int, bool]] = field(default_factory=list)

    def progress(self) -> Progress:
        return Progress(
            update=lambda step, steps, loss, _speed: self.updates.append((step, steps, loss)),
            evaluated=lambda step, best: self.evaluated.append((step.step, best)),
        )


def live(adapted: Adapted) -> LiveFeatures:
    return LiveFeatures(adapted.speech, AudioSettings())


def run(adapted: Adapted, data: TrainData, config: TrainConfig, log: Log | None = None, decode: DecodeSettings = BRIEF) -> TrainOutcome:
    return train(adapted, data, Evaluator(adapted.speech, live(adapted), decode, 8), config, (log or Log()).progress())


def last_weights(adapted: Adapted, data: TrainData, config: TrainConfig) -> dict[str, Tensor]:
    """The adapter as the last update left it, whichever step was the best."""
    weights: list[dict[str, Tensor]] = []
    progress = Progress(update=lambda *_: weights.append(state(adapted)))
    train(adapted, data, Evaluator(adapted.speech, live(adapted), BRIEF, 8), config, progress)
    return weights[-1]


def scored(adapted: Adapted, chosen: Sequence[Example], decode: DecodeSettings = BRIEF) -> Evaluation:
    """As training does it: the encoder is made before the adapter is merged, and reads it apart."""
    features = live(adapted)
    with merged(adapted) as speech:
        return Evaluator(speech, features, decode, 8).evaluate(chosen)


def chosen_by_rule(history: Sequence[Step], dev_words: int, guard_words: int = 0) -> Step:
    """What the documentation says the best step is."""
    return min(eligible(history, dev_words, guard_words), key=lambda step: step.dev_loss)


def at(number: int, wer: float, loss: float, guard: float | None = None) -> Step:
    return Step(step=number, epoch=0.0, train_loss=None, dev_loss=loss, dev_wer=wer, guard_wer=guard)


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
