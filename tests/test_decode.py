"""The greedy loop gives what `generate` gives, each clip what it gives alone, and the same whatever is drafted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora.audio.loading import Waveform, duration
from lora.corpora import general
from lora.dataset.manifest import Utterance
from lora.model.decoder import Cache, Decoder, Memory
from lora.model.encoder import Encoder
from lora.model.greedy import BATCH_SECONDS, batches, transcribe, transcribe_and_score
from lora.model.joining import Joining
from lora.model.loading import Encoded, LoadedModel, join, pad_labels
from lora.model.transcript import EXTRA_TOKENS, DecodeSettings, Transcript
from lora.units import Seconds

SETTINGS = DecodeSettings(tokens_per_second=6.5)


def decoded(speech: LoadedModel, waveforms: Sequence[Waveform], settings: DecodeSettings = SETTINGS) -> list[Transcript]:
    return transcribe(Decoder(speech), heard(speech, waveforms), [duration(samples) for samples in waveforms], settings)


@torch.inference_mode()
def heard(speech: LoadedModel, waveforms: Sequence[Waveform]) -> Encoded:
    return Encoder(speech)(waveforms)


def generated(speech: LoadedModel, samples: Waveform, most: int) -> tuple[int, ...]:
    """What transformers' own greedy search gives for one clip, without start and end tokens."""
    values = torch.from_numpy(samples[: len(samples) // 80 * 80])[None]
    mask = torch.ones_like(values, dtype=torch.long)
    row = speech.model.generate(values, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=most)[0].tolist()
    assert row[0] == speech.start_id
    return tuple(row[1:-1] if row[-1] == speech.end_id else row[1:])


def test_tokens_equal_those_of_generate_on_real_speech(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms:
        samples = samples[: len(samples) // 80 * 80]
        assert decoded(tiny, [samples])[0].tokens == generated(tiny, samples, SETTINGS.cap(duration(samples)))


def test_tokens_equal_those_of_generate_on_a_long_recording(tiny: LoadedModel) -> None:
    samples = general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 24 * 16_000]
    found = decoded(tiny, [samples])[0]
    assert found.tokens == generated(tiny, samples, SETTINGS.cap(duration(samples)))
    assert len(found.tokens) > 60
    assert not found.capped


def test_tokens_equal_those_of_generate_on_random_weights(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms[:6]:
        samples = samples[: len(samples) // 80 * 80]
        assert decoded(random_speech, [samples])[0].tokens == generated(random_speech, samples, SETTINGS.cap(duration(samples)))


def test_a_transcript_is_what_the_clip_says(tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    index = next(index for index, clip in enumerate(clips) if clip.text == "What are you talking about?")
    assert decoded(tiny, [waveforms[index]])[0].text == "What are you talking about?"


def test_clips_decoded_together_and_alone_give_the_same(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in (17, 0, 10, 15, 6)]
    together = decoded(any_speech, batch)
    assert together == [decoded(any_speech, [samples])[0] for samples in batch]


def test_a_transcript_does_not_depend_on_the_order_of_the_batch(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in (17, 0, 10, 15)]
    assert decoded(tiny, batch[::-1]) == decoded(tiny, batch)[::-1]


def test_clips_that_end_early_leave_the_others_as_they_were(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Short clips end at different steps, so the batch shrinks several times while the long one goes on."""
    long = general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 12 * 16_000]
    short = [waveforms[17], waveforms[15], waveforms[11], waveforms[16]]
    together = decoded(tiny, [*short, long])
    assert len({len(found.tokens) for found in together}) > 3
    assert together == [decoded(tiny, [samples])[0] for samples in [*short, long]]


def test_each_clip_has_its_own_cap(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Random weights never end, so every clip runs into its cap, and no further."""
    batch = [waveforms[0][:samples] for samples in (8_000, 56_000, 24_000)]
    found = decoded(random_speech, batch)
    assert [len(one.tokens) for one in found] == [SETTINGS.cap(duration(samples)) for samples in batch] == [11, 30, 17]
    assert all(one.capped for one in found)


def test_a_transcript_that_ends_by_itself_is_not_capped_and_one_that_is_cut_is(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    whole = decoded(tiny, [waveforms[10]])[0]
    cut = decoded(tiny, [waveforms[10]], DecodeSettings(tokens_per_second=0.5))[0]
    assert not whole.capped
    assert cut.capped
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert len(cut.tokens) == int(duration(waveforms[10]) * 0.5) + EXTRA_TOKENS


def test_the_cap_grows_with_duration() -> None:
    assert [SETTINGS.cap(Seconds(length_s)) for length_s in (0.0, 1.0, 10.0, 30.0)] == [8, 14, 73, 203]


# --- with labels and drafts ---------------------------------------------------------------------------------------------------------------


DRAFTED = (17, 10, 15)
"""Clips of three lengths."""


class Rounds(Decoder):
    """Counts how often the decoder runs."""

    rounds = 0

    def __call__(self, tokens: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        self.rounds += 1
        return super().__call__(tokens, memory, cache)


def scored(
    decoder: Decoder,
    waveforms: Sequence[Waveform],
    labels: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    settings: DecodeSettings = SETTINGS,
) -> tuple[float, list[Transcript]]:
    lengths_s = [duration(samples) for samples in waveforms]
    return transcribe_and_score(decoder, heard(decoder.speech, waveforms), lengths_s, settings, labels, drafts)


def kinds_of_drafts(labels: Sequence[list[int]], own: Sequence[Sequence[int]], end: int) -> Mapping[str, Sequence[Sequence[int]]]:
    strange = torch.randint(3, 30_000, (len(labels), 25), generator=torch.Generator().manual_seed(4)).tolist()
    return {
        "nothing": [()] * len(labels),
        "the labels": labels,
        "what is said": own,
        "what is said and the end": [[*row, end] for row in own],
        "what is said without its third token": [[*row[:2], *row[3:]] for row in own],
        "what is said with another third token": [[*row[:2], 77, *row[3:]] for row in own],
        "the end too early": [[*row[:3], end, *row[3:]] for row in own],
        "the end alone": [[end]] * len(labels),
        "any tokens": strange,
        "one token again and again": [row[:1] * 40 for row in own],
        "what another clip says": [*own[1:], own[0]],
        "more than the cap": [[*row, *row, *other] * 9 for row, other in zip(own, strange, strict=True)],
    }


@pytest.mark.parametrize("tokens_per_second", [SETTINGS.tokens_per_second, 0.5], ids=["usual-cap", "low-cap"])
def test_neither_labels_nor_drafts_change_a_transcript(
    any_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], tokens_per_second: float
) -> None:
    settings, decoder = DecodeSettings(tokens_per_second=tokens_per_second), Decoder(any_speech)
    batch = [waveforms[index] for index in DRAFTED]
    encoded, lengths_s = heard(any_speech, batch), [duration(samples) for samples in batch]
    labels = [any_speech.labels(clips[index].text or "") for index in DRAFTED]
    expected = transcribe(decoder, encoded, lengths_s, settings)
    with torch.inference_mode():
        nats = decoder.loss_sum(encoded, pad_labels(labels, any_speech.device)).item()
    for kind, drafts in kinds_of_drafts(labels, [found.tokens for found in expected], any_speech.end_id).items():
        loss, found = transcribe_and_score(decoder, encoded, lengths_s, settings, labels, drafts)
        assert found == expected, kind
        assert loss == pytest.approx(nats, rel=1e-5), kind


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_labels_and_any_drafts_give_the_same_transcripts(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], data: st.DataObject
) -> None:
    """Labels and drafts mix what is said with other tokens, the end among them."""
    batch = [waveforms[17], waveforms[0][:24_000], waveforms[15]]
    expected = decoded(random_speech, batch)

    def mixed(said: Sequence[int], least: int) -> list[int]:
        token = st.sampled_from([*said, random_speech.end_id, 5])
        piece = st.slices(len(said)).map(lambda part: list(said[part])) | st.lists(token, max_size=3)
        return sum(data.draw(st.lists(piece, max_size=4)), data.draw(st.lists(token, min_size=least, max_size=least)))

    labels, drafts = ([mixed(found.tokens, least) for found in expected] for least in (1, 0))
    nats, found = scored(Decoder(random_speech), batch, labels, drafts)
    assert found == expected
    with torch.inference_mode():
        loss = Decoder(random_speech).loss_sum(heard(random_speech, batch), pad_labels(labels, random_speech.device))
    assert nats == pytest.approx(loss.item(), rel=1e-5)


def test_labels_that_the_model_says_itself_need_no_further_step(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in DRAFTED]
    expected, decoder = decoded(tiny, batch), Rounds(tiny)
    _, found = scored(decoder, batch, [[*one.tokens, tiny.end_id] for one in expected], [()] * len(batch))
    assert found == expected
    assert decoder.rounds == 1


def test_a_good_draft_saves_rounds_and_a_wrong_one_costs_none(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in DRAFTED]
    own = [one.tokens for one in decoded(tiny, batch)]
    useless, rounds = [[tiny.end_id]] * len(batch), {}
    kinds = kinds_of_drafts(useless, own, tiny.end_id)
    for kind in ("nothing", "what is said", "what is said with another third token", "any tokens", "one token again and again"):
        decoder = Rounds(tiny)
        scored(decoder, batch, useless, kinds[kind])
        rounds[kind] = decoder.rounds
    assert rounds["what is said"] < rounds["nothing"] / 2
    assert rounds["what is said with another third token"] < rounds["nothing"] / 2
    assert max(rounds.values()) == rounds["nothing"] == max(len(row) for row in own) + 1


def test_a_clip_that_has_said_enough_ends_and_the_others_continue(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in DRAFTED]
    expected = decoded(tiny, batch)
    enough = [partial(_as_many, 5 if index % 2 else 1000) for index in range(len(batch))]
    lengths_s = [duration(samples) for samples in batch]
    found = transcribe(Decoder(tiny), heard(tiny, batch), lengths_s, SETTINGS, enough=enough)
    for index, (one, whole) in enumerate(zip(found, expected, strict=True)):
        assert one.tokens == (whole.tokens[:5] if index % 2 else whole.tokens)
        assert one.text == tiny.text(one.tokens)


def _as_many(most: int, tokens: Sequence[int]) -> bool:
    return len(tokens) >= most


@pytest.mark.parametrize("long", [False, True], ids=["labels-below-the-cap", "labels-beyond-the-cap"])
def test_caps_hold_for_labels_and_drafts_of_any_length(random_speech: LoadedModel, waveforms: Sequence[Waveform], long: bool) -> None:
    """Random weights never end: what they say beyond the cap is drafted, and is not heard."""
    batch = [waveforms[0][:samples] for samples in (8_000, 56_000, 24_000)]
    beyond = [one.tokens for one in decoded(random_speech, batch, DecodeSettings(tokens_per_second=30))]
    labels = [[*row, random_speech.end_id] if long else [*row[:2], random_speech.end_id] for row in beyond]
    _, found = scored(Decoder(random_speech), batch, labels, beyond)
    assert [found.tokens for found in found] == [row[:count] for row, count in zip(beyond, (11, 30, 17), strict=True)]
    assert all(one.capped for one in found)


# --- bfloat16 -----------------------------------------------------------------------------------------------------------------------------


def test_bfloat16_transcripts_of_real_speech_do_not_depend_on_batch_size_order_or_drafts(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    speech, chosen = replace(tiny, precision="bfloat16"), range(10, 20)
    decoder = Decoder(speech)
    with torch.inference_mode():
        features = dict(zip(chosen, Encoder(speech).each([waveforms[index] for index in chosen]), strict=True))

    def of(batch: Sequence[int]) -> tuple[Encoded, list[Seconds]]:
        return join([features[index] for index in batch]), [duration(waveforms[index]) for index in batch]

    alone = {index: transcribe(decoder, *of([index]), SETTINGS)[0] for index in chosen}
    for batch in ([10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [18, 10, 15, 19, 12], [13, 11, 17]):
        expected = [alone[index] for index in batch]
        assert transcribe(decoder, *of(batch), SETTINGS) == expected
        labels = [speech.labels(clips[index].text or "") for index in batch]
        assert transcribe_and_score(decoder, *of(batch), SETTINGS, labels, labels)[1] == expected


# --- batches ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_batches_hold_every_clip_once_longest_first(size: int) -> None:
    lengths = [Seconds(length_s) for length_s in (2.0, 9.0, 1.0, 4.0, 4.0)]
    found = list(batches(lengths, size))
    flat = [index for batch in found for index in batch]
    assert sorted(flat) == [0, 1, 2, 3, 4]
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    assert [len(batch) for batch in found] == {1: [1, 1, 1, 1, 1], 2: [1, 2, 2], 3: [1, 3, 1], 10: [1, 4]}[size], (
        "two at a time, alike long"
    )


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.floats(0, 2 * BATCH_SECONDS), max_size=40), size=st.integers(1, 16))
@example(lengths=[5e-324], size=1)
def test_a_batch_holds_at_most_so_many_clips_and_seconds(lengths: list[float], size: int) -> None:
    found = list(batches([Seconds(length_s) for length_s in lengths], size))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= BATCH_SECONDS


def test_a_clip_longer_than_a_batch_goes_alone() -> None:
    lengths = [Seconds(1.0), Seconds(BATCH_SECONDS + 1), Seconds(2.0), Seconds(BATCH_SECONDS + 2)]
    assert list(batches(lengths, 4)) == [[3], [1], [2, 0]]


def test_clips_that_join_and_leave_while_others_are_decoded_give_what_they_give_alone(
    any_speech: LoadedModel, waveforms: Sequence[Waveform]
) -> None:
    decoder, encoder = Decoder(any_speech), Encoder(any_speech)
    batch, found, most, waiting = Joining[int](decoder, SETTINGS), dict[int, Transcript](), 0, list(range(6))
    while waiting or len(batch):
        if waiting and len(batch) < 3:
            clip = waiting.pop()
            with torch.inference_mode():
                batch.join(clip, encoder.each([waveforms[clip]])[0], duration(waveforms[clip]))
        most = max(most, len(batch))
        found.update(batch.round())
    assert most == 3
    assert [found[clip] for clip in range(6)] == [decoded(any_speech, [samples])[0] for samples in waveforms[:6]]


def test_a_clip_that_is_taken_out_leaves_the_others_as_they_were(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch, found = Joining[int](Decoder(tiny), SETTINGS), dict[int, Transcript]()
    for clip in range(3):
        batch.join(clip, heard(tiny, [waveforms[clip]]).hidden[0], duration(waveforms[clip]))
    batch.round()
    batch.leave([0])
    assert sorted(batch.keys) == [1, 2]
    while len(batch):
        found.update(batch.round())
    assert [found[clip] for clip in (1, 2)] == [decoded(tiny, [waveforms[clip]])[0] for clip in (1, 2)]
