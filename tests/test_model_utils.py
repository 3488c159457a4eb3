"""What encoder, decoder and loss must keep to, on the real tiny model and on random ones of both generations."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.audio import Waveform
from lora.checkpoint import resolve
from lora.errors import AudioError, CheckpointError, ConfigError
from lora.files import read_json, write_json
from lora.manifest import Utterance
from lora.model_utils import (
    IGNORED_LABEL,
    MIN_SAMPLES,
    Encoded,
    Speech,
    choose_device,
    decode_hidden,
    encode,
    join,
    load_speech,
    loss_sum,
    new_cache,
    pad_labels,
    split,
)

ROUNDING = 2e-5
"""Sums in another order; what a clip is batched with changes v1 by 0.1 and v2's last frames by 0.1 where this is done wrong."""


@pytest.fixture
def copy(random_v1: Speech, tmp_path: Path) -> Path:
    """A checkpoint folder that a test may break."""
    return Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "checkpoint"))


def alone(speech: Speech, samples: Waveform) -> Tensor:
    with torch.inference_mode():
        return encode(speech, [samples]).hidden[0]


def difference(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return (first - second).abs().max().item()


def mean_loss(speech: Speech, encoded: Encoded, labels: Sequence[int]) -> float:
    with torch.inference_mode():
        return loss_sum(speech, encoded, pad_labels([labels], speech.device)).item() / len(labels)


# --- encoder ------------------------------------------------------------------------------------------------------------------------------


def test_encoder_output_of_a_clip_does_not_depend_on_its_batch_mates(any_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[17], waveforms[0], waveforms[10], waveforms[15][:9_999]]
    with torch.inference_mode():
        together = split(encode(any_speech, batch))
    for samples, hidden in zip(batch, together, strict=True):
        assert difference(hidden, alone(any_speech, samples)) < ROUNDING


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=st.lists(st.integers(MIN_SAMPLES, 20_000), min_size=2, max_size=5))
@example(data=None, lengths=[16_000, 16_001, 16_079, 16_080, 16_081])
def test_encoder_output_of_a_clip_does_not_depend_on_lengths_and_order(
    random_speech: Speech, waveforms: Sequence[Waveform], data: st.DataObject | None, lengths: list[int]
) -> None:
    batch = [waveforms[0][5_000 : 5_000 + length] for length in lengths]
    order = data.draw(st.permutations(range(len(batch)))) if data else range(len(batch))
    with torch.inference_mode():
        together = split(encode(random_speech, [batch[index] for index in order]))
    for index, hidden in zip(order, together, strict=True):
        assert difference(hidden, alone(random_speech, batch[index])) < ROUNDING


def test_clips_encoded_alone_and_joined_equal_those_encoded_together(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[17], waveforms[0], waveforms[10]]
    with torch.inference_mode():
        together = encode(random_speech, batch)
    joined = join([alone(random_speech, samples) for samples in batch])
    assert together.mask is not None
    assert joined.mask is not None
    assert torch.equal(together.mask, joined.mask)
    assert difference(together.hidden[together.mask], joined.hidden[joined.mask]) < ROUNDING


def test_clips_of_one_length_carry_no_mask(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    batch = [samples[:16_000] for samples in waveforms[:3]]
    assert encode(random_speech, batch).mask is None


def test_a_whole_clip_is_encoded_as_transformers_encodes_it_alone(any_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    samples = waveforms[0][: len(waveforms[0]) // 80 * 80]
    values = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        expected = any_speech.encoder(input_values=values, attention_mask=torch.ones_like(values, dtype=torch.long))
    assert difference(alone(any_speech, samples), expected.last_hidden_state[0]) < ROUNDING


def test_a_whole_streaming_clip_is_encoded_with_its_sliding_windows(random_v2: Speech, waveforms: Sequence[Waveform]) -> None:
    samples = waveforms[0][: len(waveforms[0]) // 80 * 80]
    with torch.inference_mode():
        without_windows = random_v2.encoder(input_values=torch.from_numpy(samples)[None], attention_mask=None).last_hidden_state[0]
    assert difference(alone(random_v2, samples), without_windows) > 0.1


@pytest.mark.parametrize("extra", [1, 40, 79])
def test_streaming_drops_the_samples_of_an_unfinished_frame(random_v2: Speech, waveforms: Sequence[Waveform], extra: int) -> None:
    whole, longer = waveforms[0][:16_000], waveforms[0][: 16_000 + extra]
    assert torch.equal(alone(random_v2, whole), alone(random_v2, longer))


def test_the_shortest_clip_gives_a_frame_and_a_shorter_one_is_refused(any_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    assert alone(any_speech, waveforms[0][:MIN_SAMPLES]).shape[0] >= 1
    with pytest.raises(AudioError, match=r"a clip of 0\.056 s is too short; Moonshine needs 0\.056 s"):
        encode(any_speech, [waveforms[0], waveforms[0][: MIN_SAMPLES - 1]])


def test_shortest_clip_is_one_v1_frame(random_v1: Speech, waveforms: Sequence[Waveform]) -> None:
    assert alone(random_v1, waveforms[0][:MIN_SAMPLES]).shape[0] == 1


def test_encoding_keeps_gradients_for_an_encoder_that_trains(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    speech = load_speech(random_speech.checkpoint, random_speech.device, "float32")
    speech.encoder.requires_grad_(True)
    encode(speech, [waveforms[17], waveforms[15]]).hidden.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in speech.encoder.layers.parameters())


# --- decoder and loss ---------------------------------------------------------------------------------------------------------------------


def test_encoder_output_is_not_modified_by_decoding_or_the_loss(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    encoded = encode(random_speech, [waveforms[17], waveforms[15]])
    before = encoded.hidden.clone()
    with torch.inference_mode():
        decode_hidden(random_speech, torch.ones(2, 3, dtype=torch.long), encoded, new_cache(random_speech))
        loss_sum(random_speech, encoded, pad_labels([[5, 6, 2], [7, 2]], random_speech.device))
    assert torch.equal(encoded.hidden, before)


def test_labels_end_in_eos_and_hold_no_bos(tiny: Speech, clips: Sequence[Utterance]) -> None:
    for clip in clips:
        labels = tiny.labels(clip.text or "")
        assert labels[-1] == tiny.end_id
        assert labels.count(tiny.end_id) == 1
        assert tiny.start_id not in labels
        assert tiny.text(labels) == clip.text


def test_loss_of_the_real_model_is_low_on_its_labels_only(tiny: Speech, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    """Pitfalls of the label path, in nats per token over real speech: as it is, with BOS and without EOS, and shifted twice."""
    right, unprepared, shifted_twice = [], [], []
    for clip, samples in list(zip(clips, waveforms, strict=True))[7:]:
        encoded, text = encode(tiny, [samples]), clip.text or ""
        labels = tiny.labels(text)
        raw: list[int] = tiny.processor.tokenizer(text)["input_ids"]
        assert raw[0] == tiny.start_id
        assert raw[-1] != tiny.end_id
        right.append(mean_loss(tiny, encoded, labels))
        unprepared.append(mean_loss(tiny, encoded, raw))
        with torch.inference_mode():
            inputs = torch.tensor([[tiny.start_id, *labels[:-1]]])
            logits = tiny.head(decode_hidden(tiny, inputs, encoded))[0]
            shifted_twice.append(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:])).item())
    assert np.mean(right) < 0.5
    assert np.mean(unprepared) > np.mean(right) + 0.8
    assert np.mean(shifted_twice) > 5


def test_loss_equals_that_of_transformers(any_speech: Speech, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    samples = waveforms[0][: len(waveforms[0]) // 80 * 80]
    values = torch.from_numpy(samples)[None]
    labels = pad_labels([any_speech.labels(clips[0].text or "")], any_speech.device)
    with torch.inference_mode():
        expected = any_speech.model(input_values=values, attention_mask=torch.ones_like(values, dtype=torch.long), labels=labels).loss
        found = loss_sum(any_speech, encode(any_speech, [samples]), labels)
    assert found.item() == pytest.approx(expected.item() * labels.numel(), rel=1e-4)


def test_loss_of_a_batch_is_the_sum_of_its_clips(any_speech: Speech, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    chosen = [17, 0, 11]
    rows = [any_speech.labels(clips[index].text or "") for index in chosen]
    with torch.inference_mode():
        together = loss_sum(any_speech, encode(any_speech, [waveforms[i] for i in chosen]), pad_labels(rows, any_speech.device))
    single = sum(mean_loss(any_speech, encode(any_speech, [waveforms[i]]), row) * len(row) for i, row in zip(chosen, rows, strict=True))
    assert together.item() == pytest.approx(single, rel=1e-4)


def test_eos_takes_part_in_the_loss_although_it_is_the_padding_id(
    random_v1: Speech, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    assert random_v1.processor.tokenizer.pad_token_id == random_v1.end_id
    encoded, labels = encode(random_v1, [waveforms[0]]), random_v1.labels(clips[0].text or "")
    with torch.inference_mode():
        whole = loss_sum(random_v1, encoded, pad_labels([labels], random_v1.device))
        without_end = loss_sum(random_v1, encoded, pad_labels([[*labels[:-1], IGNORED_LABEL]], random_v1.device))
    assert whole.item() > without_end.item() + 1.0


def test_padding_labels_marks_positions_and_not_ids() -> None:
    padded = pad_labels([[5, 2], [2], [7, 8, 2]], torch.device("cpu"))
    assert padded.tolist() == [[5, 2, -100], [2, -100, -100], [7, 8, 2]]


# --- loading ------------------------------------------------------------------------------------------------------------------------------


def test_nothing_trains_in_a_loaded_model(random_speech: Speech) -> None:
    assert not any(parameter.requires_grad for parameter in random_speech.model.parameters())
    assert not random_speech.model.training


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent_is_refused_and_the_others_are_named(device: str) -> None:
    if torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available():
        assert choose_device(device).type == device  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError, match=rf"--device {device}: .* available: .*cpu"):
        choose_device(device)  # type: ignore[arg-type]


def test_auto_takes_a_device_that_can_compute() -> None:
    assert torch.ones(2, device=choose_device("auto")).sum().item() == 2


def test_missing_weights_are_refused_by_name(copy: Path) -> None:
    file = copy / "model.safetensors"
    weights = load_file(file)
    del weights["model.decoder.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing or of another shape, among them model\.decoder\.norm\.weight"):
        load_speech(resolve(str(copy)), torch.device("cpu"), "float32")


def test_weights_of_another_shape_are_refused_by_name(copy: Path) -> None:
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", config | {"intermediate_size": config["intermediate_size"] + 8})
    with pytest.raises(CheckpointError, match=r"of another shape, among them model\.\S+\.mlp\.fc"):
        load_speech(resolve(str(copy)), torch.device("cpu"), "float32")


def test_a_checkpoint_without_start_token_is_refused(random_v2: Speech, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(random_v2.checkpoint.folder, tmp_path / "checkpoint"))
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", config | {"decoder_start_token_id": None})
    with pytest.raises(CheckpointError, match="decoder_start_token_id"):
        load_speech(resolve(str(copy)), torch.device("cpu"), "float32")


def test_a_processor_of_another_rate_is_refused(copy: Path) -> None:
    file = next(file for file in (copy / "processor_config.json", copy / "preprocessor_config.json") if file.is_file())
    file.write_text(file.read_text().replace("16000", "8000"))
    with pytest.raises(CheckpointError, match="wants 8000 Hz; Moonshine takes 16000 Hz"):
        load_speech(resolve(str(copy)), torch.device("cpu"), "float32")


def test_bfloat16_encodes_nearly_what_float32_does(any_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    half = load_speech(any_speech.checkpoint, any_speech.device, "bfloat16")
    hidden = alone(half, waveforms[17])
    assert hidden.dtype == torch.bfloat16
    exact = alone(any_speech, waveforms[17]).numpy()
    correlation = np.corrcoef(hidden.float().numpy().ravel(), exact.ravel())[0, 1]
    assert correlation > 0.99
