"""Which step of a training is the best: dev and guard decide, and training that only harms is undone."""

from collections.abc import Sequence

import pytest
import torch
from trainings import DECODE, ONCE, Log, adapt, at, chosen_by_rule, examples, live, retold, run, scored

from lora.audio.loading import AudioSettings, Waveform
from lora.config import AdapterConfig, TrainConfig
from lora.dataset.manifest import Utterance
from lora.evaluation.evaluate import Evaluator
from lora.model.encoder import Encoder
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel
from lora.training.adapter import state
from lora.training.loop import TrainData, allowed_rise, eligible


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
