"""The encoder gives what transformers' gives for each clip alone, whatever the clip is batched with."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora.audio.loading import Waveform
from lora.config import AdapterConfig
from lora.errors import AudioError
from lora.model.encoder import MIN_SAMPLES, Encoder
from lora.model.loading import LoadedModel, join
from lora.model.products import PRODUCT_DTYPES, rows_are_apart
from lora.system.device import Precision
from lora.training.adapter import attach

ROUNDING = 2e-5
"""Sums in another order; what a clip is batched with changes v1 by 0.1 and v2's last frames by 0.1 where this is done wrong."""


@torch.inference_mode()
def alone(speech: LoadedModel, samples: Waveform) -> Tensor:
    return Encoder(speech)([samples]).hidden[0]


@torch.inference_mode()
def each(speech: LoadedModel, waveforms: Sequence[Waveform]) -> list[Tensor]:
    return Encoder(speech).each(waveforms)


def difference(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return (first - second).abs().max().item()


# --- what transformers gives --------------------------------------------------------------------------------------------------------------


def test_a_clip_is_encoded_as_transformers_encodes_it_alone(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    for samples in (waveforms[17], waveforms[0], waveforms[15][:9_999], waveforms[10][:960]):
        with torch.inference_mode():
            expected = reference.encoded(any_speech, [samples]).hidden[0]
        assert difference(alone(any_speech, reference.whole(samples)), expected) < ROUNDING


def test_a_clip_longer_than_the_first_table_of_positions_is_encoded_as_transformers_does(
    random_v1: LoadedModel, waveforms: Sequence[Waveform]
) -> None:
    samples = np.concatenate(waveforms[:4])
    with torch.inference_mode():
        expected = reference.encoded(random_v1, [samples]).hidden[0]
    assert len(expected) > 500
    assert difference(alone(random_v1, reference.whole(samples)), expected) < ROUNDING


def test_a_whole_streaming_clip_is_encoded_with_its_sliding_windows(random_v2: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    samples = reference.whole(waveforms[0])
    with torch.inference_mode():
        without_windows = random_v2.encoder(input_values=torch.from_numpy(samples)[None], attention_mask=None).last_hidden_state[0]
    assert difference(alone(random_v2, samples), without_windows) > 0.1


@pytest.mark.parametrize("extra", [1, 40, 79])
def test_streaming_drops_the_samples_of_an_unfinished_frame(random_v2: LoadedModel, waveforms: Sequence[Waveform], extra: int) -> None:
    assert torch.equal(alone(random_v2, waveforms[0][:16_000]), alone(random_v2, waveforms[0][: 16_000 + extra]))


# --- batches ------------------------------------------------------------------------------------------------------------------------------


def test_encoder_output_of_a_clip_does_not_depend_on_its_batch_mates(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[17], waveforms[0], waveforms[10], waveforms[15][:9_999]]
    for samples, hidden in zip(batch, each(any_speech, batch), strict=True):
        assert difference(hidden, alone(any_speech, samples)) < ROUNDING


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_encoder_output_is_the_same_in_any_batch_and_order(
    any_speech: LoadedModel, waveforms: Sequence[Waveform], precision: Precision
) -> None:
    """To the last bit where rows of products are apart from one another, else up to what the precision rounds."""
    speech = replace(any_speech, precision=precision)
    batch = [waveforms[17], waveforms[0], waveforms[10], waveforms[15][:9_999]]
    expected = [alone(speech, samples) for samples in batch]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3]):
        for index, hidden in zip(order, each(speech, [batch[index] for index in order]), strict=True):
            if rows_are_apart(speech.device, PRODUCT_DTYPES[precision]):
                assert torch.equal(hidden, expected[index])
            assert (hidden - expected[index]).norm() < (0.02 if precision == "bfloat16" else 1e-4) * expected[index].norm()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=st.lists(st.integers(MIN_SAMPLES, 20_000), min_size=2, max_size=5))
@example(data=None, lengths=[16_000, 16_001, 16_079, 16_080, 16_081])
def test_encoder_output_of_a_clip_does_not_depend_on_lengths_and_order(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], data: st.DataObject | None, lengths: list[int]
) -> None:
    batch = [waveforms[0][5_000 : 5_000 + length] for length in lengths]
    order = data.draw(st.permutations(range(len(batch)))) if data else range(len(batch))
    for index, hidden in zip(order, each(random_speech, [batch[index] for index in order]), strict=True):
        assert difference(hidden, alone(random_speech, batch[index])) < ROUNDING


@pytest.mark.parametrize("at_once", [1, 150_000])
def test_what_goes_through_the_layers_at_once_decides_nothing(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [waveforms[17], waveforms[0], waveforms[10], waveforms[15][:9_999]]
    expected = each(random_speech, batch)
    monkeypatch.setattr("lora.model.encoder.AT_ONCE", at_once)
    for hidden, one in zip(each(random_speech, batch), expected, strict=True):
        assert difference(hidden, one) < ROUNDING


def test_clips_encoded_alone_and_joined_equal_those_encoded_together(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[17], waveforms[0], waveforms[10]]
    with torch.inference_mode():
        together = Encoder(random_speech)(batch)
    joined = join([alone(random_speech, samples) for samples in batch])
    assert together.mask is not None
    assert joined.mask is not None
    assert torch.equal(together.mask, joined.mask)
    assert difference(together.hidden, joined.hidden) < ROUNDING
    assert together.hidden[~together.mask].abs().max() == 0


def test_clips_of_one_length_carry_no_mask(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    assert Encoder(random_speech)([samples[:16_000] for samples in waveforms[:3]]).mask is None


# --- shortest clips -----------------------------------------------------------------------------------------------------------------------


def test_the_shortest_clip_gives_a_frame_and_a_shorter_one_is_refused(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    assert alone(any_speech, waveforms[0][:MIN_SAMPLES]).shape[0] >= 1
    with pytest.raises(AudioError, match=r"a clip of 0\.056 s is too short; Moonshine needs 0\.056 s"):
        Encoder(any_speech)([waveforms[0], waveforms[0][: MIN_SAMPLES - 1]])


def test_shortest_clip_is_one_v1_frame(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    assert alone(random_v1, waveforms[0][:MIN_SAMPLES]).shape[0] == 1


# --- checkpointed gradients ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_gradients_are_bit_for_bit_those_of_kept_activations(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], dropout: float
) -> None:
    """Dropout too: what is computed again draws the same random numbers."""
    adapted = attach(replace(random_speech, model=deepcopy(random_speech.model)), AdapterConfig(lora_targets="both", lora_dropout=dropout))
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    adapted.peft.train()

    def gradients(checkpointing: bool) -> list[Tensor]:
        torch.manual_seed(7)
        features = Encoder(adapted.speech, gradient_checkpointing=checkpointing).each([waveforms[17], waveforms[0]])
        trained = [p for name, p in adapted.speech.encoder.named_parameters() if p.requires_grad]
        return list(torch.autograd.grad(sum((clip**2).sum() for clip in features), trained))  # type: ignore[arg-type]

    kept, again = gradients(False), gradients(True)
    assert all(gradient.abs().max() > 0 for gradient in kept)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_checkpointing_keeps_less_of_the_encoder(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """What autograd keeps for the backward pass, in numbers."""
    adapted = attach(replace(random_v1, model=deepcopy(random_v1.model)), AdapterConfig(lora_targets="encoder"))

    def kept(checkpointing: bool) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Encoder(adapted.speech, gradient_checkpointing=checkpointing).each([waveforms[0]])
        return sum(sizes)

    assert kept(True) < kept(False) / 3


# --- bfloat16 -----------------------------------------------------------------------------------------------------------------------------


def test_bfloat16_encodes_nearly_what_float32_does(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    hidden = alone(replace(any_speech, precision="bfloat16"), waveforms[17])
    assert hidden.dtype == torch.float32
    assert difference(hidden, alone(any_speech, waveforms[17])) > 0
    assert np.corrcoef(hidden.numpy().ravel(), alone(any_speech, waveforms[17]).numpy().ravel())[0, 1] > 0.99
