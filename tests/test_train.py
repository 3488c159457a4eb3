"""The training loop: what it learns, counts, repeats exactly, and what it leaves in the model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainings import (
    BRIEF,
    DECODE,
    ONCE,
    Log,
    Recorder,
    adapt,
    chosen_by_rule,
    distance,
    examples,
    fresh,
    last_weights,
    retold,
    run,
)

from lora.audio.loading import AudioSettings, Waveform
from lora.config import AdapterConfig, TrainConfig
from lora.dataset.manifest import Utterance
from lora.errors import AudioError, TrainingError
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import LiveFeatures, StoredFeatures
from lora.model.loading import LoadedModel
from lora.system.cache import Kept
from lora.training.adapter import merged, state
from lora.training.loop import TrainData, parameter_groups, planned_steps, steps_per_epoch, train

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
