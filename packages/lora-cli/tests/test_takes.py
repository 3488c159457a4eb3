"""What is said of a take at once: its sound and its words."""

from pathlib import Path

import numpy as np
import pytest
from lora_cli.recorder import words
from lora_cli.recorder.faults import FaultCode
from lora_cli.recorder.sound import faults, measure

from lora.audio.loading import AudioSettings, Waveform, read_file
from lora.units import SAMPLE_RATE_HZ

PAUSE = 0.3


@pytest.fixture(scope="module")
def take(clip: Path) -> Waveform:
    """Real speech as the recorder hears it: in a quiet room, with a moment before and behind it."""
    speech = read_file(clip, AudioSettings())
    moment = np.zeros(round(PAUSE * SAMPLE_RATE_HZ), dtype=np.float32)
    return room(np.concatenate([moment, speech, moment]), 0.001)


def room(samples: Waveform, level: float) -> Waveform:
    noise = np.random.default_rng(0).normal(0, level, len(samples))
    return (samples + noise).astype(np.float32)


def codes(samples: Waveform) -> list[FaultCode]:
    return [fault.code for fault in faults(measure(samples))]


def test_speech_with_a_moment_around_it_is_fine(take: Waveform) -> None:
    assert codes(take) == []


@pytest.mark.parametrize("gain_db", [-20, -10, 0])
def test_usual_levels_are_fine(take: Waveform, gain_db: float) -> None:
    assert codes(take * np.float32(10 ** (gain_db / 20) / np.abs(take).max())) == []


def test_a_whisper_far_away_is_too_quiet(take: Waveform) -> None:
    assert codes(take * np.float32(0.01)) == [FaultCode.QUIET]


def test_sound_that_is_cut_off_at_full_scale_is_clipped(take: Waveform) -> None:
    loud = np.clip(take * np.float32(4 / np.abs(take).max()), -1, 1)
    assert codes(loud) == [FaultCode.CLIPPED]


def test_one_high_sample_is_no_clipping(take: Waveform) -> None:
    click = take.copy()
    click[len(click) // 2] = 1.0
    assert codes(click) == []


def test_a_start_within_a_word_and_an_end_within_one_are_told_apart(take: Waveform) -> None:
    loud = np.flatnonzero(np.abs(take) > 0.5 * np.abs(take).max())
    assert codes(take[loud[0] :]) == [FaultCode.START]
    assert codes(take[: loud[-1]]) == [FaultCode.END]


def test_a_voice_that_hardly_stands_out_is_noise(take: Waveform) -> None:
    assert codes(room(take, 0.5 * float(np.sqrt(np.mean(take**2))))) == [FaultCode.NOISE]


def test_what_lasts_longer_than_an_utterance_may_is_too_long(take: Waveform) -> None:
    assert FaultCode.LONG in codes(np.tile(take, 29 * SAMPLE_RATE_HZ // len(take) + 1))


SHOWN = "We measured the kitchen twice and still bought the wrong table."


@pytest.mark.parametrize(
    "heard",
    [
        SHOWN,
        "we measured the kitchen twice, and still bought the wrong table",
        "We measured a kitchen twice and still bought a wrong cable.",
        "We measure the kitchen twice and still bought wrong table.",
        "We major the chicken device and steel put the wrong tape.",
    ],
)
def test_what_a_model_mishears_blocks_nobody(heard: str) -> None:
    assert words.fault(SHOWN, (), heard, "en") is None


@pytest.mark.parametrize(
    ("heard", "named"),
    [
        ("The goat ate the ribbon off my hat.", "other words: heard 'the goat ate the ribbon off ...'"),
        ("We measured the kitchen twice and still bought.", "left out: 'the wrong table'"),
        ("The kitchen twice and still bought the wrong table.", "left out: 'we measured'"),
        ("We measured the no we measured the kitchen twice and still bought the wrong table.", "said besides:"),
        ("", "no word was understood"),
    ],
)
def test_other_words_are_named(heard: str, named: str) -> None:
    fault = words.fault(SHOWN, (), heard, "en")
    assert fault is not None
    assert fault.code is FaultCode.WORDS
    assert named in fault.message


def test_a_term_may_be_heard_as_it_is_said() -> None:
    assert words.fault("A WYSIWYG editor.", (), "a whizzy wig editor", "en") is None, "the rest of the sentence is enough"
    assert words.fault("CVS.", (), "see vee ess", "en") is not None
    assert words.fault("CVS.", ("See vee ess.",), "see vee ess", "en") is None


def test_languages_without_spaces_are_compared_by_character() -> None:
    assert words.fault("今日はとても天気がいいです。", (), "今日はとても天気がいいです", "ja") is None
    assert words.fault("今日はとても天気がいいです。", (), "犬が庭を走っています", "ja") is not None
