"""The training loop: what it learns, counts, repeats exactly, and what it leaves in the model."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora.audio.loading import AudioSettings, Waveform, duration
from lora.config import AdapterConfig, TrainConfig
from lora.dataset.manifest import Utterance
from lora.errors import AudioError, TrainingError
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder import Encoder
from lora.model.encoder_outputs import LiveFeatures, StoredFeatures
from lora.model.loading import Encoded, LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runs.outcomes import Evaluation, Step, TrainOutcome
from lora.system.cache import Kept
from lora.training.adapter import Adapted, attach, merged, state
from lora.training.loop import Progress, TrainData, allowed_rise, eligible, parameter_groups, planned_steps, steps_per_epoch, train

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


# --- learning -----------------------------------------------------------------------------------------------------------------------------


def test_the_real_model_learns_a_handful_of_clips_by_heart(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], tmp_path: Path
) -> None:
    adapted = adapt(tiny, AdapterConfig(lora_targets="decoder"))
    texts = ["alpha bravo charlie", "delta echo", "foxtrot golf hotel india"]
    domain = [retold(tiny, example, text) for example, text in zip(examples(tiny, clips, waveforms, [15, 17, 11]), texts, strict=True)]
    guard = examples(tiny, clips, waveforms, [14])
    features = StoredFeatures(adapted.speech, AudioSettings(), Kept(tmp_path))
    config = TrainConfig(epochs=16, batch_size=3, learning_rate=5e-3, warmup_steps=2, eval_interval=4)
    outcome = train(adapted, TrainData(domain=domain, dev=domain, guard=guard), Evaluator(adapted.speech, features, DECODE, 8), config)
    base, best = outcome.history[0], next(step for step in outcome.history if step.step == outcome.best_step)
    assert base.dev_wer > 0.9
    assert min(step.dev_wer for step in outcome.history) < 0.2
    assert min(step.dev_loss for step in outcome.history) < base.dev_loss / 10
    assert base.guard_wer == 0
    with merged(adapted) as speech:
        found = Evaluator(speech, features, DECODE, 8).evaluate(domain).score
        assert best == chosen_by_rule(outcome.history, found.words.reference_length, guard_words=9)
        assert found.wer == best.dev_wer
        assert Evaluator(speech, features, DECODE, 8).evaluate(guard).score.wer == best.guard_wer


def test_training_lowers_the_loss_it_trains_on(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    domain = examples(random_speech, clips, waveforms, [15, 17])
    config = TrainConfig(epochs=10, learning_rate=1e-2, warmup_steps=0)
    outcome = run(adapt(random_speech), TrainData(domain=domain, dev=domain), config)
    assert outcome.history[-1].dev_loss < outcome.history[0].dev_loss - 1
    losses = [step.train_loss for step in outcome.history[1:] if step.train_loss is not None]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.5


def test_encoder_sites_learn_through_live_features(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted = adapt(random_speech, AdapterConfig(lora_targets="encoder", lora_dropout=0.0))
    domain = examples(random_speech, clips, waveforms, [15, 17])
    config = TrainConfig(epochs=4, learning_rate=1e-2, encoder_learning_rate=1e-2, warmup_steps=0, eval_interval=ONCE)
    weights = last_weights(adapted, TrainData(domain=domain, dev=domain), config)
    assert weights
    assert all(".encoder." in name for name in weights)
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)


# --- counting -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("utterances", "batch_size", "accumulation", "updates"), [(8, 2, 1, 4), (8, 2, 2, 2), (9, 2, 2, 3), (5, 2, 2, 2), (1, 8, 4, 1)]
)
def test_a_trailing_partial_batch_or_accumulation_is_an_update(utterances: int, batch_size: int, accumulation: int, updates: int) -> None:
    config = TrainConfig(batch_size=batch_size, gradient_accumulation_steps=accumulation, epochs=3)
    assert steps_per_epoch(config, utterances) == updates
    assert planned_steps(config, utterances) == 3 * updates


def test_part_of_an_epoch_and_most_steps_are_counted_in_updates() -> None:
    assert planned_steps(TrainConfig(batch_size=2, epochs=0.5), 12) == 3
    assert planned_steps(TrainConfig(batch_size=2, epochs=0.01), 12) == 1
    assert planned_steps(TrainConfig(batch_size=2, epochs=2, max_steps=5), 12) == 5
    assert planned_steps(TrainConfig(batch_size=2, epochs=2, max_steps=50), 12) == 12


def test_every_example_is_trained_on_once_an_epoch(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted, log = adapt(random_v1), Log()
    domain, dev = examples(random_v1, clips, waveforms, range(5)), examples(random_v1, clips, waveforms, [17])
    recorder = Recorder(adapted)
    config = TrainConfig(batch_size=2, gradient_accumulation_steps=2, epochs=3, eval_interval=ONCE)
    outcome = train(adapted, TrainData(domain=domain, dev=dev), Evaluator(adapted.speech, recorder, BRIEF, 8), config, log.progress())
    assert outcome.status == "finished"
    assert outcome.steps == 6
    assert [(step, steps) for step, steps, _ in log.updates] == [(number, 6) for number in range(1, 7)]
    seen = [id for batch in recorder.training for id in batch]
    for start in range(0, 15, 5):
        assert sorted(seen[start : start + 5]) == sorted(example.utterance.id for example in domain)
    assert len({tuple(seen[start : start + 5]) for start in range(0, 15, 5)}) > 1
    assert outcome.audio_seconds == pytest.approx(3 * sum(example.length_s for example in domain))
    assert [step.step for step in outcome.history] == [0, 6]
    assert outcome.history[-1].epoch == 3


def test_training_stops_at_the_most_steps_allowed(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(random_v1, clips, waveforms, [15, 17])
    outcome = run(adapt(random_v1), TrainData(domain=chosen, dev=chosen), TrainConfig(batch_size=1, epochs=50, max_steps=3))
    assert (outcome.status, outcome.steps, outcome.history[-1].step) == ("finished", 3, 3)


@pytest.mark.parametrize(("ratio", "rehearsed"), [(0.0, 0), (0.25, 4), (0.75, 12), (2.0, 32)])
def test_replay_is_rehearsed_in_its_ratio_in_batches_of_its_own(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], ratio: float, rehearsed: int
) -> None:
    adapted = adapt(random_v1)
    domain = examples(random_v1, clips, waveforms, range(8))
    replay, dev = examples(random_v1, clips, waveforms, range(12, 15)), examples(random_v1, clips, waveforms, [17])
    names = {example.utterance.id for example in replay}
    recorder = Recorder(adapted)
    config = TrainConfig(batch_size=2, epochs=2, replay_ratio=ratio, eval_interval=ONCE)
    train(adapted, TrainData(domain=domain, dev=dev, replay=replay), Evaluator(adapted.speech, recorder, BRIEF, 8), config)
    assert sum(len(batch) for batch in recorder.training if names.isdisjoint(batch)) == 16
    assert sum(len(batch) for batch in recorder.training if names.issuperset(batch)) == rehearsed
    if rehearsed >= len(names):
        assert {id for batch in recorder.training for id in batch} >= names


def test_the_learning_rate_warms_up_and_falls_linearly(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(random_v1, clips, waveforms, [17])
    config = TrainConfig(learning_rate=1.2e-4, warmup_steps=2, epochs=6, eval_interval=1, patience=9)
    outcome = run(adapt(random_v1), TrainData(domain=chosen, dev=chosen), config)
    rates = [step.learning_rate / 1.2e-4 for step in outcome.history]
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4])


def test_a_run_shorter_than_the_warm_up_still_reaches_its_rate(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(random_v1, clips, waveforms, [17])
    config = TrainConfig(learning_rate=1e-4, warmup_steps=100, epochs=4, eval_interval=1, patience=9)
    outcome = run(adapt(random_v1), TrainData(domain=chosen, dev=chosen), config)
    assert max(step.learning_rate for step in outcome.history) == 1e-4


EPSILON = 1e-8
"""What Adam adds to a gradient's size before it divides by it."""


def first_update(speech: LoadedModel, chosen: Sequence[Example], **settings: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapter's weights before and after a single update at a rate of 0.01."""
    adapted = adapt(speech)
    before = state(adapted)
    config = TrainConfig(max_steps=1, warmup_steps=0, learning_rate=1e-2, eval_interval=ONCE, **settings)
    return before, last_weights(adapted, TrainData(domain=chosen, dev=chosen), config)


def test_gradients_are_clipped_to_the_norm_that_is_set(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """Adam's first update is rate * g / (|g| + epsilon). Gradients far below epsilon move a weight by rate * g / epsilon, so the norm of
    all moves is rate / epsilon times that of the gradients."""
    chosen, norm = examples(random_v1, clips, waveforms, [15, 17]), 1e-11
    before, after = first_update(random_v1, chosen, max_grad_norm=norm, weight_decay=0.0)
    moved = math.sqrt(sum((after[name] - before[name]).double().square().sum().item() for name in before))
    assert moved == pytest.approx(1e-2 * norm / EPSILON, rel=0.01)


def test_weights_decay_by_rate_times_decay(random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    """While B is zero, A has no gradient: all that moves it is the decay."""
    before, after = first_update(random_v1, examples(random_v1, clips, waveforms, [15, 17]), weight_decay=0.5)
    factors = [name for name in before if ".lora_A." in name]
    assert factors
    for name in factors:
        torch.testing.assert_close(after[name], before[name] * (1 - 1e-2 * 0.5), rtol=1e-6, atol=0)


# --- the same again -----------------------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_large_batch(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """One update an epoch over the same four clips of different lengths: the mean is over all tokens, not of batch means."""
    chosen = examples(random_speech, clips, waveforms, [0, 10, 15, 17])
    start = state(adapt(random_speech))

    def result(batch_size: int, accumulation: int) -> dict[str, Tensor]:
        config = TrainConfig(batch_size=batch_size, gradient_accumulation_steps=accumulation, epochs=3, warmup_steps=0, eval_interval=ONCE)
        return last_weights(adapt(random_speech), TrainData(domain=chosen, dev=chosen[-1:]), config)

    whole = result(4, 1)
    moved = distance(whole, start)
    assert moved > 1e-3
    assert distance(result(2, 2), whole) < moved / 100
    assert distance(result(3, 2), whole) < moved / 100


def test_one_seed_gives_one_adapter_bit_for_bit(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(random_speech, clips, waveforms, [11, 13, 15, 17])

    def result(seed: int) -> dict[str, Tensor]:
        adapted = adapt(random_speech, AdapterConfig(lora_dropout=0.2))
        config = TrainConfig(batch_size=2, epochs=2, seed=seed, learning_rate=1e-2, warmup_steps=0, eval_interval=ONCE)
        return last_weights(adapted, TrainData(domain=chosen, dev=chosen[-1:], replay=chosen[:2]), config)

    first = result(3)
    torch.rand(7)  # what was drawn before does not matter
    assert distance(first, result(3)) == 0
    assert distance(first, result(4)) > 1e-4


# --- choosing the step --------------------------------------------------------------------------------------------------------------------


def test_of_steps_that_dev_cannot_tell_apart_the_lowest_loss_wins() -> None:
    history = [at(0, 0.10, 1.2), at(1, 0.050, 0.40), at(2, 0.055, 0.30), at(3, 0.08, 0.20)]
    assert [step.step for step in eligible(history, 300, 0)] == [1, 2]  # one standard error of 5 % on 300 words is 1.3 points
    assert chosen_by_rule(history, 300).step == 2
    assert chosen_by_rule(history, 100_000).step == 1


def test_a_step_that_harms_the_guard_is_not_eligible_for_its_loss() -> None:
    history = [at(0, 0.10, 1.2, 0.05), at(1, 0.050, 0.40, 0.05), at(2, 0.045, 0.30, 0.09)]
    assert [step.step for step in eligible(history, 300, 500)] == [1]
    assert [step.step for step in eligible(history, 300, 20)] == [1, 2], "one of twenty words is no harm that can be seen"


@pytest.mark.parametrize("words", [3, 10, 49, 500, 777])
def test_one_word_more_is_no_harm_whatever_the_rounding(words: int) -> None:
    """In binary numbers 8/10 is above 7/10 + 1/10."""
    for before in range(words):
        after = (before + 1) / words
        assert after <= before / words + allowed_rise(words)
        history = [at(0, 0.1, 1.2, before / words), at(1, 0.0500, 0.4, before / words), at(2, 0.0501, 0.3, after)]
        assert [step.step for step in eligible(history, 10_000, words)] == [1, 2]


def test_a_dev_set_too_small_to_tell_steps_apart_does_not_excuse_harm_to_the_guard() -> None:
    """One standard error of 10 % on 30 words is 5.8 points, which the second step is within: its dev WER with what the guard lost."""
    history = [at(0, 0.30, 1.2, 0.05), at(1, 0.10, 0.40, 0.05), at(2, 0.09, 0.30, 0.07)]
    assert [step.step for step in eligible(history, 30, 500)] == [1]


def test_no_guard_is_no_harm() -> None:
    assert [step.step for step in eligible([at(0, 0.2, 1.0), at(1, 0.1, 0.5)], 1000, 0)] == [1]


def test_the_best_steps_weights_are_left_in_the_model(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted, log = adapt(random_v1, AdapterConfig(lora_targets="all", lora_dropout=0.0)), Log()
    domain, dev = examples(random_v1, clips, waveforms, [0]), examples(random_v1, clips, waveforms, [1])
    config = TrainConfig(epochs=24, learning_rate=1e-2, encoder_learning_rate=1e-2, warmup_steps=0, eval_interval=2, patience=12)
    outcome = run(adapted, TrainData(domain=domain, dev=dev), config, log)
    best = next(step for step in outcome.history if step.step == outcome.best_step)
    found = scored(adapted, dev)
    assert best == chosen_by_rule(outcome.history, found.score.words.reference_length)
    assert [step for step, is_best in log.evaluated if is_best][-1] == best.step
    assert (found.score.wer, found.loss) == (best.dev_wer, best.dev_loss)
    assert len({step.dev_loss for step in outcome.history}) == 13


def test_training_that_does_harm_ends_with_an_adapter_that_does_nothing(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted = adapt(tiny)
    domain, dev = examples(tiny, clips, waveforms, [15]), examples(tiny, clips, waveforms, [17])
    outcome = run(adapted, TrainData(domain=domain, dev=dev), TrainConfig(learning_rate=3.0, warmup_steps=0, epochs=2), decode=DECODE)
    assert outcome.history[-1].dev_loss > outcome.history[0].dev_loss + 1
    assert outcome.best_step == 0
    with torch.inference_mode():
        encoded = Encoder(tiny)([waveforms[0]])
    chosen = examples(tiny, clips, waveforms, [0])
    adapted_text = Evaluator(adapted.speech, live(adapted), DECODE, 1).transcribe(chosen)
    assert adapted_text == Evaluator(tiny, LiveFeatures(tiny, AudioSettings()), DECODE, 1).transcribe(chosen)
    assert torch.equal(Encoder(adapted.speech)([waveforms[0]]).hidden, encoded.hidden)
    assert all(weight.abs().max() == 0 for name, weight in state(adapted).items() if "lora_B" in name)


def test_training_stops_after_so_many_evaluations_without_a_better_one(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(tiny, clips, waveforms, [17])
    config = TrainConfig(learning_rate=3.0, warmup_steps=0, epochs=50, eval_interval=2, patience=3)
    outcome = run(adapt(tiny, AdapterConfig(lora_targets="self")), TrainData(domain=chosen, dev=chosen), config)
    assert outcome.status == "stopped-early"
    assert outcome.best_step == 0
    assert [step.step for step in outcome.history] == [0, 2, 4, 6]
    assert outcome.steps == 6


def test_a_step_that_harms_general_speech_more_than_it_helps_is_not_the_best(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """A clip is learnt with three of its words changed. By dev alone that is better; the guard has the clip as it is said."""
    said = examples(tiny, clips, waveforms, [17, 15])
    domain = [retold(tiny, said[0], "When are you walking around?"), said[1]]
    config = TrainConfig(learning_rate=1e-2, warmup_steps=0, epochs=10, eval_interval=ONCE)
    alone = run(adapt(tiny), TrainData(domain=domain, dev=domain), config, decode=DECODE)
    guarded = run(adapt(tiny), TrainData(domain=domain, dev=domain, guard=said[:1]), config, decode=DECODE)
    assert alone.history[0].dev_wer == guarded.history[0].dev_wer == pytest.approx(3 / 11)
    assert alone.history[-1].dev_wer == guarded.history[-1].dev_wer == 0
    assert [step.guard_wer for step in guarded.history] == [0, pytest.approx(3 / 5)]
    assert alone.best_step == 10
    assert guarded.best_step == 0


# --- modes and failures -------------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_training(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = examples(random_v1, clips, waveforms, [17])
    config = TrainConfig(learning_rate=1e37, warmup_steps=0, epochs=9, eval_interval=ONCE)
    with pytest.raises(TrainingError, match=r"step [2-9]: the loss is (nan|inf) on .*; lower --learning-rate \(it is 1e\+37\)"):
        run(adapt(random_v1), TrainData(domain=chosen, dev=chosen), config)


def test_the_model_trains_between_evaluations_and_is_left_in_evaluation_mode(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted = adapt(random_v1)
    domain, dev = examples(random_v1, clips, waveforms, [15]), examples(random_v1, clips, waveforms, [17])
    recorder = Recorder(adapted)
    config = TrainConfig(epochs=4, eval_interval=1, patience=9)
    train(adapted, TrainData(domain=domain, dev=dev), Evaluator(adapted.speech, recorder, BRIEF, 8), config)
    assert recorder.training == [[domain[0].utterance.id]] * 4
    assert recorder.evaluating == [[dev[0].utterance.id]] * 5
    assert not adapted.peft.training


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_puts_the_models_mode_back(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], training: bool
) -> None:
    speech = fresh(random_v1)
    speech.model.train(training)
    features = LiveFeatures(speech, AudioSettings())
    chosen = examples(speech, clips, waveforms, [15, 17])
    Evaluator(speech, features, BRIEF, 1).evaluate(chosen)
    assert speech.model.training is training


def test_evaluation_that_fails_puts_the_models_mode_back(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], tmp_path: Path
) -> None:
    speech = fresh(random_v1)
    speech.model.train()
    broken = replace(examples(speech, clips, waveforms, [17])[0])
    broken = replace(broken, utterance=replace(broken.utterance, audio=type(broken.utterance.audio)(tmp_path / "absent.flac")))  # type: ignore[call-arg]
    with pytest.raises(AudioError, match="absent"):
        Evaluator(speech, LiveFeatures(speech, AudioSettings()), BRIEF, 1).evaluate([broken])
    assert speech.model.training


def test_evaluation_does_not_depend_on_the_batch_size(tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    chosen = examples(tiny, clips, waveforms, [17, 0, 10, 15])
    features, counted = LiveFeatures(tiny, AudioSettings()), []
    one = Evaluator(tiny, features, DECODE, 1).evaluate(chosen)
    many = Evaluator(tiny, features, DECODE, 3).evaluate(chosen, counted.append)
    assert one.score == many.score
    assert one.loss == pytest.approx(many.loss, rel=1e-4)
    assert counted == [1, 3]
    assert [row.id for row in many.score.utterances] == [example.utterance.id for example in chosen]


def test_evaluation_loss_is_a_mean_over_tokens(random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    chosen = examples(random_v1, clips, waveforms, [17, 10])
    features = LiveFeatures(random_v1, AudioSettings())
    single = [Evaluator(random_v1, features, BRIEF, 1).evaluate([example]).loss for example in chosen]
    tokens = [len(example.labels) for example in chosen]
    expected = math.fsum(loss * count for loss, count in zip(single, tokens, strict=True)) / sum(tokens)
    assert Evaluator(random_v1, features, BRIEF, 2).evaluate(chosen).loss == pytest.approx(expected, rel=1e-5)


# --- rates for each kind of site ----------------------------------------------------------------------------------------------------------


def test_encoder_sites_have_a_rate_of_their_own(random_speech: LoadedModel) -> None:
    adapted = adapt(random_speech, AdapterConfig(lora_targets="both"))
    decoder, encoder = parameter_groups(adapted, TrainConfig())
    assert (decoder["lr"], encoder["lr"]) == (1e-3, 1e-4)
    inside = {id(parameter) for parameter in adapted.speech.encoder.parameters()}
    assert {id(parameter) for parameter in encoder["params"]} <= inside
    assert not inside & {id(parameter) for parameter in decoder["params"]}
    assert len(decoder["params"]) + len(encoder["params"]) == len(adapted.parameters())


def test_one_kind_of_site_and_equal_rates_are_one_group(random_speech: LoadedModel) -> None:
    for targets, rate in (("decoder", 1e-3), ("encoder", 1e-4)):
        adapted = adapt(random_speech, AdapterConfig(lora_targets=targets))
        (group,) = parameter_groups(adapted, TrainConfig())
        assert (group["lr"], len(group["params"])) == (rate, len(adapted.parameters()))
    adapted = adapt(random_speech, AdapterConfig(lora_targets="both"))
    (group,) = parameter_groups(adapted, TrainConfig(encoder_learning_rate=1e-3))
    assert all(one is other for one, other in zip(group["params"], adapted.parameters(), strict=True))


def test_an_update_moves_each_kind_by_its_rate(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """Adam's first update moves a weight by its rate, whatever the gradient."""
    adapted = adapt(random_speech, AdapterConfig(lora_targets="both", lora_dropout=0.0))
    before = state(adapted)
    chosen = examples(random_speech, clips, waveforms, [15, 17])
    config = TrainConfig(max_steps=1, warmup_steps=0, learning_rate=1e-2, encoder_learning_rate=1e-4, eval_interval=1)
    after = last_weights(adapted, TrainData(domain=chosen, dev=chosen), config)
    for encoder, rate in ((False, 1e-2), (True, 1e-4)):
        moved = [
            (after[name] - before[name]).abs().max().item()
            for name in before
            if ".lora_B." in name and (".encoder.layers" in name) == encoder
        ]
        assert max(moved) == pytest.approx(rate, rel=1e-2)
