"""Segments are stretches of the recording as it was, none holds silence alone, and no speech is outside them."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora.audio.loading import Waveform
from lora.audio.segments import LEAD, LONGEST, PAUSE, TAIL, Segmenter, Speech
from lora.audio.voice_activity import FRAME, VoiceActivity
from lora.corpora import general
from lora.units import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def activity() -> VoiceActivity:
    return VoiceActivity()


@pytest.fixture(scope="module")
def said() -> Waveform:
    """12 s of real speech."""
    return general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 12 * SAMPLE_RATE_HZ]


def silence(length_s: float) -> Waveform:
    return np.zeros(round(length_s * SAMPLE_RATE_HZ), dtype=np.float32)


def noise(length_s: float, dbfs: float) -> Waveform:
    return (np.random.default_rng(0).normal(size=round(length_s * SAMPLE_RATE_HZ)) * 10 ** (dbfs / 20)).astype(np.float32)


def cut(activity: VoiceActivity, sound: Waveform, chunk: int = 1600) -> list[Speech]:
    segmenter = Segmenter(activity)
    found = [speech for start in range(0, len(sound), chunk) for speech in segmenter.hear(sound[start : start + chunk])]
    return [*found, *segmenter.finish()]


@pytest.mark.parametrize("sound", [silence(3.0), noise(3.0, -60.0), noise(3.0, -30.0)], ids=["silence", "hiss", "loud-hiss"])
def test_sound_without_speech_gives_no_segment(activity: VoiceActivity, sound: Waveform) -> None:
    assert cut(activity, sound) == []


def test_nothing_at_all_gives_no_segment(activity: VoiceActivity) -> None:
    assert cut(activity, silence(0)) == []


def test_a_click_is_no_segment(activity: VoiceActivity) -> None:
    sound = silence(2.0)
    sound[16_000:16_160] = 0.9
    assert cut(activity, sound) == []


def test_segments_hold_the_recording_as_it_was_in_order_and_once(activity: VoiceActivity, said: Waveform) -> None:
    sound = np.concatenate([said, silence(1.0), said[:50_000], silence(0.7), said[60_000:130_000]])
    found = cut(activity, sound)
    assert len(found) > 2
    for speech in found:
        assert np.array_equal(speech.samples, sound[speech.start : speech.end])
    for before, after in pairwise(found):
        assert before.end <= after.start


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.integers(1, 20_000))
def test_cuts_do_not_depend_on_how_the_sound_arrives(activity: VoiceActivity, said: Waveform, chunk: int) -> None:
    sound = np.concatenate([silence(0.5), said[:80_000], silence(0.8)])
    whole, parts = cut(activity, sound, len(sound)), cut(activity, sound, max(chunk, 50))
    assert [(speech.start, speech.end) for speech in parts] == [(speech.start, speech.end) for speech in whole]


def test_a_pause_ends_a_segment_and_a_shorter_one_does_not(activity: VoiceActivity, said: Waveform) -> None:
    words = said[:24_000]
    apart = cut(activity, np.concatenate([words, silence(0.8), words]))
    together = cut(activity, np.concatenate([words, silence(0.1), words]))
    assert len(apart) == len(together) + 1


def test_a_segment_is_given_as_soon_as_the_pause_is_long_enough(activity: VoiceActivity, said: Waveform) -> None:
    words = cut(activity, said[:24_000])[-1]
    segmenter = Segmenter(activity)
    sound = np.concatenate([said[: words.end - TAIL], silence(2.0)])
    ended = [at for at in range(0, len(sound), FRAME) for _ in segmenter.hear(sound[at : at + FRAME])]
    assert ended[-1] - (words.end - TAIL) <= PAUSE + 4 * FRAME


def test_speech_without_a_pause_is_cut_within_15_s_at_a_quiet_place_and_nothing_is_lost(activity: VoiceActivity, said: Waveform) -> None:
    loud = said[np.abs(said) > 0.0]
    unbroken = np.concatenate(_without_pauses(cut(activity, loud)) * 6)[: 40 * SAMPLE_RATE_HZ]
    found = cut(activity, unbroken)
    assert max(len(speech.samples) for speech in found) <= LONGEST + FRAME
    divided = [(before, after) for before, after in pairwise(found) if before.end == after.start]
    assert divided
    power = np.sqrt(np.mean(np.square(unbroken)))
    for before, _ in divided:
        around = unbroken[before.end - FRAME : before.end + FRAME]
        assert np.sqrt(np.mean(np.square(around))) < power / 2


def _without_pauses(found: Sequence[Speech]) -> list[Waveform]:
    return [speech.samples[LEAD // 2 : len(speech.samples) - TAIL] for speech in found]


def test_the_open_segment_is_what_will_be_cut_when_silence_follows(activity: VoiceActivity, said: Waveform) -> None:
    segmenter = Segmenter(activity)
    assert segmenter.open is None
    assert not list(segmenter.hear(np.concatenate([said[:24_000], silence(0.3)])))
    opened = segmenter.open
    assert opened is not None
    assert segmenter.settled
    (ended,) = segmenter.hear(silence(0.5))
    assert (ended.start, ended.end) == (opened.start, opened.end)
    assert segmenter.open is None


def test_sound_that_cannot_become_speech_is_not_kept(activity: VoiceActivity) -> None:
    segmenter = Segmenter(activity)
    for _ in range(60):
        assert not list(segmenter.hear(silence(1.0)))
    assert len(segmenter._kept) <= LEAD + FRAME
    assert segmenter.judged == 60 * SAMPLE_RATE_HZ // FRAME * FRAME
