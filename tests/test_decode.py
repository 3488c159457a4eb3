"""The greedy loop gives what `generate` gives, and each clip what it gives alone."""

from collections.abc import Sequence

import pytest
import torch

from lora.audio import Waveform, duration
from lora.corpora import general
from lora.decode import EXTRA_TOKENS, DecodeSettings, Transcript, batches, transcribe
from lora.manifest import Utterance
from lora.model_utils import Speech, encode
from lora.units import Seconds

SETTINGS = DecodeSettings(tokens_per_second=6.5)


def decoded(speech: Speech, waveforms: Sequence[Waveform], settings: DecodeSettings = SETTINGS) -> list[Transcript]:
    with torch.inference_mode():
        encoded = encode(speech, waveforms)
    return transcribe(speech, encoded, [duration(samples) for samples in waveforms], settings)


def generated(speech: Speech, samples: Waveform, most: int) -> tuple[int, ...]:
    """What transformers' own greedy search gives for one clip, without start and end tokens."""
    values = torch.from_numpy(samples[: len(samples) // 80 * 80])[None]
    mask = torch.ones_like(values, dtype=torch.long)
    row = speech.model.generate(values, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=most)[0].tolist()
    assert row[0] == speech.start_id
    return tuple(row[1:-1] if row[-1] == speech.end_id else row[1:])


def test_tokens_equal_those_of_generate_on_real_speech(tiny: Speech, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms:
        samples = samples[: len(samples) // 80 * 80]
        assert decoded(tiny, [samples])[0].tokens == generated(tiny, samples, SETTINGS.cap(duration(samples)))


def test_tokens_equal_those_of_generate_on_a_long_recording(tiny: Speech) -> None:
    samples = general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 24 * 16_000]
    found = decoded(tiny, [samples])[0]
    assert found.tokens == generated(tiny, samples, SETTINGS.cap(duration(samples)))
    assert len(found.tokens) > 60
    assert not found.capped


def test_tokens_equal_those_of_generate_on_random_weights(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms[:6]:
        samples = samples[: len(samples) // 80 * 80]
        assert decoded(random_speech, [samples])[0].tokens == generated(random_speech, samples, SETTINGS.cap(duration(samples)))


def test_a_transcript_is_what_the_clip_says(tiny: Speech, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> None:
    index = next(index for index, clip in enumerate(clips) if clip.text == "What are you talking about?")
    assert decoded(tiny, [waveforms[index]])[0].text == "What are you talking about?"


def test_clips_decoded_together_and_alone_give_the_same(any_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in (17, 0, 10, 15, 6)]
    together = decoded(any_speech, batch)
    assert together == [decoded(any_speech, [samples])[0] for samples in batch]


def test_a_transcript_does_not_depend_on_the_order_of_the_batch(tiny: Speech, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in (17, 0, 10, 15)]
    assert decoded(tiny, batch[::-1]) == decoded(tiny, batch)[::-1]


def test_clips_that_end_early_leave_the_others_as_they_were(tiny: Speech, waveforms: Sequence[Waveform]) -> None:
    """Short clips end at different steps, so the batch shrinks several times while the long one goes on."""
    long = general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 12 * 16_000]
    short = [waveforms[17], waveforms[15], waveforms[11], waveforms[16]]
    together = decoded(tiny, [*short, long])
    assert len({len(found.tokens) for found in together}) > 3
    assert together == [decoded(tiny, [samples])[0] for samples in [*short, long]]


def test_each_clip_has_its_own_cap(random_speech: Speech, waveforms: Sequence[Waveform]) -> None:
    """Random weights never end, so every clip runs into its cap, and no further."""
    batch = [waveforms[0][:samples] for samples in (8_000, 56_000, 24_000)]
    found = decoded(random_speech, batch)
    assert [len(one.tokens) for one in found] == [SETTINGS.cap(duration(samples)) for samples in batch] == [11, 30, 17]
    assert all(one.capped for one in found)


def test_a_transcript_that_ends_by_itself_is_not_capped_and_one_that_is_cut_is(tiny: Speech, waveforms: Sequence[Waveform]) -> None:
    whole = decoded(tiny, [waveforms[10]])[0]
    cut = decoded(tiny, [waveforms[10]], DecodeSettings(tokens_per_second=0.5))[0]
    assert not whole.capped
    assert cut.capped
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert len(cut.tokens) == int(duration(waveforms[10]) * 0.5) + EXTRA_TOKENS


def test_the_cap_grows_with_duration() -> None:
    assert [SETTINGS.cap(Seconds(length_s)) for length_s in (0.0, 1.0, 10.0, 30.0)] == [8, 14, 73, 203]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_batches_hold_every_clip_once_longest_first(size: int) -> None:
    lengths = [Seconds(length_s) for length_s in (2.0, 9.0, 1.0, 4.0, 4.0)]
    found = list(batches(lengths, size))
    flat = [index for batch in found for index in batch]
    assert sorted(flat) == [0, 1, 2, 3, 4]
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in found[:-1])
