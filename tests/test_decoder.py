"""The decoder and the loss give what transformers and PEFT give, gradients included, however tokens and clips are put together."""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from msgspec import structs
from torch import Tensor

from lora.audio.loading import Waveform
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.model import cross_attention
from lora.model.cross_attention import Apart
from lora.model.decoder import SUM_STEP, Cache, Decoder
from lora.model.encoder import Encoder
from lora.model.loading import IGNORED_LABEL, Encoded, LoadedModel, join, pad_labels
from lora.model.output_head import HEAD_ROWS
from lora.model.products import rows_are_apart
from lora.system.device import Precision
from lora.training.adapter import Adapted, attach, fold_in, merged, restore, state

ROUNDING = 1e-4
"""Of decoder states, which are normed to about 1: sums in another order."""

MATES = (17, 0, 11)
"""Clips of three lengths."""


def fresh(speech: LoadedModel) -> LoadedModel:
    """A copy that a test may change."""
    return replace(speech, model=deepcopy(speech.model))


def half(speech: LoadedModel) -> LoadedModel:
    return replace(speech, precision="bfloat16")


def difference(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return (first - second).abs().max().item()


@torch.inference_mode()
def heard(speech: LoadedModel, waveforms: Sequence[Waveform], chosen: Sequence[int] = MATES) -> Encoded:
    return Encoder(speech)([waveforms[index] for index in chosen])


def tokens(batch: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 30_000, (batch, count), generator=torch.Generator().manual_seed(seed))


def references(speech: LoadedModel, clips: Sequence[Utterance], chosen: Sequence[int] = MATES) -> list[list[int]]:
    return [speech.labels(clips[index].text or "") for index in chosen]


def mean_loss(speech: LoadedModel, encoded: Encoded, labels: Sequence[int]) -> float:
    with torch.inference_mode():
        return Decoder(speech).loss_sum(encoded, pad_labels([labels], speech.device)).item() / len(labels)


# --- states -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 90], ids=["one", "some", "beyond-the-first-rotary-table"])
def test_states_equal_those_of_transformers_with_padding_in_what_is_heard(
    any_speech: LoadedModel, waveforms: Sequence[Waveform], count: int
) -> None:
    encoded, given = heard(any_speech, waveforms), tokens(3, count)
    assert encoded.mask is not None
    decoder = Decoder(any_speech)
    with torch.inference_mode():
        found = decoder(given, decoder.listen(encoded))
        assert difference(found, reference.states(any_speech, given, encoded)) < ROUNDING


@pytest.mark.parametrize("clips_at_a_time", [1, 2])
def test_states_of_clips_whose_scores_are_held_some_at_a_time_equal_those_of_transformers(
    any_speech: LoadedModel, waveforms: Sequence[Waveform], clips_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, given = heard(any_speech, waveforms), tokens(3, 7)
    attention = any_speech.decoder.layers[0].encoder_attn
    heads = attention.k_proj.weight.shape[0] // attention.head_dim
    monkeypatch.setattr(cross_attention, "SCORES", clips_at_a_time * heads * given.shape[1] * encoded.hidden.shape[1])
    decoder = Decoder(any_speech)
    with torch.inference_mode():
        assert difference(decoder(given, decoder.listen(encoded)), reference.states(any_speech, given, encoded)) < ROUNDING


def test_states_of_a_clip_alone_equal_those_of_transformers_without_a_mask(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    encoded, given = heard(any_speech, waveforms, [0]), tokens(1, 9)
    assert encoded.mask is None
    decoder = Decoder(any_speech)
    with torch.inference_mode():
        assert difference(decoder(given, decoder.listen(encoded)), reference.states(any_speech, given, encoded)) < ROUNDING


@pytest.mark.parametrize(
    "steps",
    [[1] * 12, [5, 1, 3, 2, 1], [1, SUM_STEP, SUM_STEP + 1, 1, 20]],
    ids=["single", "some", "past-the-cache-step"],
)
def test_tokens_that_follow_in_a_cache_give_the_states_of_all_at_once(
    any_speech: LoadedModel, waveforms: Sequence[Waveform], steps: list[int]
) -> None:
    encoded, given = heard(any_speech, waveforms), tokens(3, sum(steps))
    decoder, cache, found = Decoder(any_speech), Cache(), []
    with torch.inference_mode():
        memory = decoder.listen(encoded)
        for part in given.split(steps, dim=1):
            if found:
                cache.set_lengths([sum(states.shape[1] for states in found)] * 3, any_speech.device)
            found.append(decoder(part, memory, cache))
        assert difference(torch.cat(found, dim=1), Decoder(any_speech)(given, memory)) < ROUNDING


def test_token_by_token_equals_all_at_once_far_beyond_the_first_tables(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    encoded, given = heard(random_speech, waveforms), tokens(3, 4 * SUM_STEP + 9)
    decoder, cache, found = Decoder(random_speech), Cache(), []
    with torch.inference_mode():
        memory = decoder.listen(encoded)
        for place in range(given.shape[1]):
            if place:
                cache.set_lengths([place] * 3, random_speech.device)
            found.append(decoder(given[:, place : place + 1], memory, cache))
        assert difference(torch.cat(found, dim=1), reference.states(random_speech, given, encoded)) < ROUNDING


def test_clips_with_different_numbers_of_tokens_share_a_cache(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Of the first ten tokens two, ten and five count; then each clip goes on from where it stands, in rounds of other sizes."""
    encoded, given, kept = heard(any_speech, waveforms), tokens(3, 60), [2, 10, 5]
    decoder, cache = Decoder(any_speech), Cache()
    with torch.inference_mode():
        memory = decoder.listen(encoded)
        whole = decoder(given, memory)
        wrong = given[:, :10].clone()
        for row, count in enumerate(kept):
            wrong[row, count:] = 7
        decoder(wrong, memory, cache)
        for new in (1, 4, 30):
            cache.set_lengths(kept, any_speech.device)
            part = torch.stack([given[row, count : count + new] for row, count in enumerate(kept)])
            found = decoder(part, memory, cache)
            for row, count in enumerate(kept):
                assert difference(found[row], whole[row, count : count + new]) < ROUNDING
            kept = [count + used for count, used in zip(kept, [new, (new + 1) // 2, 1], strict=True)]


def test_a_clip_in_the_place_of_one_that_has_ended_says_what_it_said_before(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    encoded, given = heard(any_speech, waveforms), tokens(3, 9)
    decoder = Decoder(any_speech)
    with torch.inference_mode():
        memory = decoder.listen(encoded)
        whole = decoder(given, memory)
        cache = Cache()
        decoder(given[:, :6], memory, cache)
        cache.move(2, 0)
        memory.move(2, 0)
        cache.set_lengths([6, 6], any_speech.device)
        assert difference(decoder(given[[2, 1], 6:], memory.part(0, 2), cache), whole[[2, 1], 6:]) < ROUNDING


def test_encoder_output_is_not_modified_by_decoding_or_the_loss(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    encoded, decoder = heard(random_speech, waveforms, [17, 15]), Decoder(random_speech)
    before = encoded.hidden.clone()
    with torch.inference_mode():
        decoder(torch.ones(2, 3, dtype=torch.long), decoder.listen(encoded), Cache())
        decoder.loss_sum(encoded, pad_labels([[5, 6, 2], [7, 2]], random_speech.device))
    assert torch.equal(encoded.hidden, before)


# --- the head -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, HEAD_ROWS, 2 * HEAD_ROWS + 1])
def test_best_tokens_are_the_highest_logits(any_speech: LoadedModel, count: int) -> None:
    hidden = torch.randn(count, any_speech.head.weight.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.equal(Decoder(any_speech).head.best_tokens(hidden), any_speech.head(hidden).argmax(dim=-1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_best_tokens_follow_a_head_that_changes(random_v1: LoadedModel, precision: Precision) -> None:
    decoder = Decoder(replace(random_v1, precision=precision))
    hidden = torch.randn(5, random_v1.head.weight.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(decoder.head.best_tokens(hidden), random_v1.head(hidden).argmax(dim=-1))
            random_v1.head.weight.mul_(-1.0)


def test_bfloat16_finds_the_best_tokens_of_float32(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Those that it cannot tell apart are compared again."""
    with torch.inference_mode():
        decoder = Decoder(any_speech)
        hidden = decoder(tokens(3, 30), decoder.listen(heard(any_speech, waveforms))).flatten(0, 1)
        assert torch.equal(Decoder(half(any_speech)).head.best_tokens(hidden), any_speech.head(hidden).argmax(dim=-1))


def test_judging_gives_the_loss_and_the_best_tokens(
    any_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    encoded, decoder = heard(any_speech, waveforms), Decoder(any_speech)
    labels = pad_labels(references(any_speech, clips), any_speech.device)
    wanted = labels != IGNORED_LABEL
    with torch.inference_mode():
        hidden = decoder(decoder.inputs(labels), decoder.listen(encoded))[wanted]
        nats, best = decoder.head.judge(hidden, labels[wanted])
        assert nats == pytest.approx(decoder.loss_sum(encoded, labels).item(), rel=1e-5)
        assert torch.equal(best, any_speech.head(hidden).argmax(dim=-1))


# --- the loss -----------------------------------------------------------------------------------------------------------------------------


def test_loss_of_the_real_model_is_low_on_its_labels_only(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """Pitfalls of the label path, in nats per token over real speech: as it is, with BOS and without EOS, and shifted twice."""
    right, unprepared, shifted_twice = [], [], []
    for clip, samples in list(zip(clips, waveforms, strict=True))[7:]:
        encoded, text, decoder = heard(tiny, [samples], [0]), clip.text or "", Decoder(tiny)
        labels = tiny.labels(text)
        raw: list[int] = tiny.processor.tokenizer(text)["input_ids"]
        assert raw[0] == tiny.start_id
        assert raw[-1] != tiny.end_id
        right.append(mean_loss(tiny, encoded, labels))
        unprepared.append(mean_loss(tiny, encoded, raw))
        with torch.inference_mode():
            inputs = torch.tensor([[tiny.start_id, *labels[:-1]]])
            logits = tiny.head(decoder(inputs, decoder.listen(encoded)))[0]
            shifted_twice.append(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:])).item())
    assert np.mean(right) < 0.5
    assert np.mean(unprepared) > np.mean(right) + 0.8
    assert np.mean(shifted_twice) > 5


def test_loss_equals_that_of_transformers(any_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    samples = reference.whole(waveforms[0])
    values = torch.from_numpy(samples)[None]
    labels = pad_labels(references(any_speech, clips, [0]), any_speech.device)
    with torch.inference_mode():
        expected = any_speech.model(input_values=values, attention_mask=torch.ones_like(values, dtype=torch.long), labels=labels).loss
        found = Decoder(any_speech).loss_sum(heard(any_speech, [samples], [0]), labels)
    assert found.item() == pytest.approx(expected.item() * labels.numel(), rel=1e-4)


def test_loss_of_a_batch_equals_cross_entropy_and_the_sum_of_its_clips(
    any_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    rows = references(any_speech, clips)
    encoded, labels = heard(any_speech, waveforms), pad_labels(rows, any_speech.device)
    with torch.inference_mode():
        together = Decoder(any_speech).loss_sum(encoded, labels).item()
        assert together == pytest.approx(reference.loss_sum(any_speech, encoded, labels).item(), rel=1e-5)
    single = sum(mean_loss(any_speech, heard(any_speech, waveforms, [i]), row) * len(row) for i, row in zip(MATES, rows, strict=True))
    assert together == pytest.approx(single, rel=1e-4)


def test_eos_takes_part_in_the_loss_although_it_is_the_padding_id(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    assert random_v1.processor.tokenizer.pad_token_id == random_v1.end_id
    encoded, labels = heard(random_v1, waveforms, [0]), random_v1.labels(clips[0].text or "")
    decoder = Decoder(random_v1)
    with torch.inference_mode():
        whole = decoder.loss_sum(encoded, pad_labels([labels], random_v1.device))
        without_end = decoder.loss_sum(encoded, pad_labels([[*labels[:-1], IGNORED_LABEL]], random_v1.device))
    assert whole.item() > without_end.item() + 1.0


# --- gradients ----------------------------------------------------------------------------------------------------------------------------

KINDS = {
    "lora": AdapterConfig(lora_dropout=0.0, lora_targets="all"),
    "rslora": AdapterConfig(lora_dropout=0.0, lora_targets="all", use_rslora=True),
    "dora": AdapterConfig(lora_dropout=0.0, lora_targets="all", use_dora=True),
    "pissa": AdapterConfig(lora_dropout=0.0, lora_targets="all", init_lora_weights="pissa"),
    "gaussian": AdapterConfig(lora_dropout=0.0, lora_targets="all", init_lora_weights="gaussian"),
    "orthogonal": AdapterConfig(lora_dropout=0.0, lora_targets="all", init_lora_weights="orthogonal"),
}


def adapt(speech: LoadedModel, config: AdapterConfig) -> Adapted:
    """An adapter as after some training: no factor is zero, so all get gradients."""
    adapted = attach(fresh(speech), config)
    shake(adapted, 1)
    adapted.peft.train()
    return adapted


def shake(adapted: Adapted, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def gradients(adapted: Adapted, loss: Tensor) -> dict[str, Tensor]:
    adapted.peft.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in adapted.peft.named_parameters() if p.requires_grad and p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert difference(found[name], gradient) < 1e-3 * gradient.abs().max().item(), name


@pytest.mark.parametrize("targets", ["decoder", "self", "cross", "mlp", "encoder", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_peft_and_transformers(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], kind: str, targets: str
) -> None:
    adapted = adapt(random_speech, structs.replace(KINDS[kind], lora_targets=targets))
    speech, chosen = adapted.speech, [samples[: 9_600 * (2 + i)] for i, samples in enumerate(waveforms[:2])]
    labels = pad_labels([row[:8] for row in references(speech, clips, [0, 1])], speech.device)
    expected_loss = reference.loss_sum(speech, reference.encoded(speech, chosen), labels)
    expected = gradients(adapted, expected_loss)
    assert len(expected) == len(adapted.parameters())
    loss = Decoder(speech).loss_sum(Encoder(speech)(chosen), labels)
    found = gradients(adapted, loss)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert_close(found, expected)


def test_gradients_of_the_real_model_equal_those_of_peft_and_transformers(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    adapted = adapt(tiny, KINDS["lora"])
    chosen, labels = [waveforms[17], waveforms[15]], pad_labels(references(tiny, clips, [17, 15]), tiny.device)
    expected = gradients(adapted, reference.loss_sum(adapted.speech, reference.encoded(adapted.speech, chosen), labels))
    assert_close(gradients(adapted, Decoder(adapted.speech).loss_sum(Encoder(adapted.speech)(chosen), labels)), expected)


def test_gradients_hold_for_more_labels_than_the_head_takes_at_a_time(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = adapt(random_speech, AdapterConfig(lora_dropout=0.0))
    encoded, rows = heard(random_speech, waveforms), tokens(3, HEAD_ROWS, seed=5).tolist()
    labels = pad_labels([rows[0], rows[1][: HEAD_ROWS // 2], rows[2][:11]], random_speech.device)
    encoded = Encoded(encoded.hidden.clone(), encoded.mask)
    expected = reference.loss_sum(adapted.speech, encoded, labels)
    found = Decoder(adapted.speech).loss_sum(encoded, labels)
    assert (labels != IGNORED_LABEL).sum() > 1.5 * HEAD_ROWS
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_close(gradients(adapted, 0.25 * found), gradients(adapted, 0.25 * expected))


# --- adapters: read live, or baked in -----------------------------------------------------------------------------------------------------


def outputs(encoder: Encoder, decoder: Decoder, waveforms: Sequence[Waveform]) -> Tensor:
    """Decoder states of fixed tokens over three clips, through the encoder."""
    with torch.inference_mode():
        return decoder(tokens(3, 6), decoder.listen(encoder([waveforms[index] for index in MATES])))


@pytest.fixture(params=["lora", "dora", "pissa"])
def adapted(random_speech: LoadedModel, request: pytest.FixtureRequest) -> Adapted:
    """An adapter on both sides, ready to be used."""
    found = adapt(random_speech, KINDS[request.param])
    found.peft.eval()
    return found


def test_merged_unmerged_and_folded_in_adapters_give_the_same_states(adapted: Adapted, waveforms: Sequence[Waveform]) -> None:
    unmerged = outputs(Encoder(adapted.speech), Decoder(adapted.speech), waveforms)
    with merged(adapted) as speech:
        assert difference(outputs(Encoder(speech), Decoder(speech), waveforms), unmerged) < 1e-3
    fold_in(adapted)
    assert difference(outputs(Encoder(adapted.speech), Decoder(adapted.speech), waveforms), unmerged) < 1e-3


@torch.inference_mode()
def test_memories_of_single_clips_give_the_states_of_a_batch(adapted: Adapted, waveforms: Sequence[Waveform]) -> None:
    frames, given = Encoder(adapted.speech).each([waveforms[index] for index in MATES]), tokens(3, 9)
    decoder = Decoder(adapted.speech)
    apart = Apart([decoder.listen(Encoded(clip[None], None)) for clip in frames])
    assert difference(decoder(given, apart), decoder(given, decoder.listen(join(frames)))) < ROUNDING


def test_what_was_made_before_merging_gives_the_same_while_and_after_it_is_merged(adapted: Adapted, waveforms: Sequence[Waveform]) -> None:
    encoder, decoder = Encoder(adapted.speech), Decoder(adapted.speech)
    before = outputs(encoder, decoder, waveforms)
    with merged(adapted):
        assert difference(outputs(encoder, decoder, waveforms), before) < 1e-3
    assert torch.equal(outputs(encoder, decoder, waveforms), before)


def test_what_was_made_before_the_adapter_changed_sees_the_change(adapted: Adapted, waveforms: Sequence[Waveform]) -> None:
    encoder, decoder = Encoder(adapted.speech), Decoder(adapted.speech)
    start, before = state(adapted), outputs(encoder, decoder, waveforms)
    shake(adapted, 2)
    changed = outputs(encoder, decoder, waveforms)
    assert difference(changed, before) > 1e-2
    assert torch.equal(changed, outputs(Encoder(adapted.speech), Decoder(adapted.speech), waveforms))
    restore(adapted, start)
    assert torch.equal(outputs(encoder, decoder, waveforms), before)


def test_what_evaluates_first_can_train_after(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Tables that grow under inference mode must not be ones that autograd refuses."""
    adapted = adapt(random_speech, KINDS["lora"])
    encoder, decoder = Encoder(adapted.speech), Decoder(adapted.speech)
    labels = pad_labels(tokens(2, 100).tolist(), adapted.speech.device)
    batch = [waveforms[0], waveforms[1]]
    with torch.inference_mode():
        expected = decoder.loss_sum(encoder(batch), labels).item()
    loss = decoder.loss_sum(encoder(batch), labels)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients(adapted, loss).values())


# --- bfloat16 -----------------------------------------------------------------------------------------------------------------------------


def test_bfloat16_loss_is_nearly_that_of_float32(tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    chosen = range(8, 20)
    labels = pad_labels(references(tiny, clips, chosen), tiny.device)
    with torch.inference_mode():
        exact = Decoder(tiny).loss_sum(heard(tiny, waveforms, chosen), labels).item()
        found = Decoder(half(tiny)).loss_sum(heard(half(tiny), waveforms, chosen), labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("targets", ["decoder", "all"])
def test_bfloat16_gradients_point_where_those_of_float32_do(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], targets: str
) -> None:
    adapted = adapt(tiny, structs.replace(KINDS["lora"], lora_targets=targets))
    chosen, labels = [waveforms[17], waveforms[15]], pad_labels(references(tiny, clips, [17, 15]), tiny.device)
    exact, rough = (
        gradients(adapted, Decoder(speech).loss_sum(Encoder(speech)(chosen), labels)) for speech in (adapted.speech, half(adapted.speech))
    )
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in rough.values())
    flat = [torch.cat([gradient.flatten() for gradient in found.values()]) for found in (exact, rough)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.98


def test_bfloat16_states_do_not_depend_on_the_batch_or_on_the_number_of_tokens_at_a_time(
    tiny: LoadedModel, waveforms: Sequence[Waveform]
) -> None:
    """To the last bit where rows of products are apart from one another, else up to what bfloat16 rounds."""
    speech = half(tiny)
    decoder, given = Decoder(speech), tokens(1, 90)
    with torch.inference_mode():
        clips = Encoder(speech).each([waveforms[10], waveforms[11], waveforms[17]])
        alone = decoder(given, decoder.listen(join([clips[0]])))[0]
        together = decoder(given.expand(3, -1), decoder.listen(join(clips)))[0]
        memory, cache = decoder.listen(join(clips)), Cache()
        found = [decoder(given[:, :1].expand(3, -1), memory, cache)]
        for start, stop in itertools.pairwise((1, 2, 3, 11, 19, 24, 25, 60, 90)):
            cache.set_lengths([start] * 3, speech.device)
            found.append(decoder(given[:, start:stop].expand(3, -1), memory, cache))
    stepwise = torch.cat([states[0] for states in found])
    if rows_are_apart(speech.device, torch.bfloat16):
        assert torch.equal(together, alone)
        assert torch.equal(stepwise, alone)
    for states in (together, stepwise):
        assert (states - alone).norm() < 0.02 * alone.norm()
