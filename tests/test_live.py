"""Text of a clip that grows: drafts change nothing, committed words stay, and most of them are what the clip says in the end."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora.audio.loading import AudioSettings, Waveform, duration, prepare
from lora.corpora import general
from lora.errors import AudioError
from lora.live import AGREEING, HELD_BACK, Ear, Growing
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.text.normaliser import normalise
from lora.transcribe import Request, Transcriber
from lora.units import SAMPLE_RATE_HZ

SETTINGS = DecodeSettings(tokens_per_second=6.5)
WORDS = st.lists(st.sampled_from(["it", "was", "the", "best", "of", "times,", "Times.", "worst"]), max_size=12)


def ear(speech: LoadedModel, audio: AudioSettings | None = None) -> Ear:
    return Ear(Transcriber(speech, SETTINGS, audio or AudioSettings(), Request("", None, None, None, "cpu", "float32", 1, None)))


@pytest.fixture(scope="module")
def said() -> Waveform:
    """6 s of real speech."""
    return general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 6 * SAMPLE_RATE_HZ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_draft_changes_a_transcript(any_speech: LoadedModel, waveforms: Sequence[Waveform], data: st.DataObject) -> None:
    """Drafts are parts of what is said, with tokens changed, left out and put in."""
    samples = waveforms[data.draw(st.sampled_from([1, 10, 17]))][: 2 * SAMPLE_RATE_HZ]
    heard = ear(any_speech)
    alone = heard(samples)
    start, end = sorted(data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
    draft = list(alone.tokens[start:end])
    for at, token in data.draw(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30_000)), max_size=3)):
        draft[at : at + data.draw(st.integers(0, 2))] = [token]
    assert heard(samples, draft) == alone


@torch.inference_mode()
def test_each_clip_of_a_batch_has_its_own_draft(any_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [waveforms[index] for index in (17, 10, 15)]
    encoded, decoder, lengths_s = Encoder(any_speech)(batch), Decoder(any_speech), [duration(samples) for samples in batch]
    expected = transcribe(decoder, encoded, lengths_s, SETTINGS)
    tokens = [found.tokens for found in expected]
    for drafts in (tokens, [*tokens[1:], tokens[0]], [(), tokens[1][:3], tokens[2] * 4]):
        assert transcribe(decoder, encoded, lengths_s, SETTINGS, drafts) == expected


def test_a_growing_clip_gives_at_each_length_what_it_gives_alone(tiny: LoadedModel, said: Waveform) -> None:
    heard, draft = ear(tiny), ()
    for end in range(SAMPLE_RATE_HZ, len(said), SAMPLE_RATE_HZ):
        transcript = heard(said[:end], draft)
        assert transcript == heard(said[:end])
        draft = transcript.tokens


def test_a_good_draft_takes_fewer_rounds(tiny: LoadedModel, said: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, *values: rounds.append(1) or call(self, *values))
    heard = ear(tiny)
    tokens = heard(said).tokens
    without, rounds[:] = len(rounds), []
    heard(said, tokens)
    assert len(rounds) == 1
    assert without > 10


def test_the_level_that_an_adapter_was_made_with_is_set(tiny: LoadedModel, said: Waveform) -> None:
    loud = AudioSettings(rms_dbfs=-20.0)
    assert ear(tiny, loud)(said * np.float32(0.01)) == ear(tiny)(prepare(said * np.float32(0.01), loud, ""))


def test_sound_that_is_no_sound_is_refused(tiny: LoadedModel) -> None:
    heard = ear(tiny)
    with pytest.raises(AudioError, match="too short"):
        heard(np.zeros(100, dtype=np.float32))
    with pytest.raises(AudioError, match="the microphone: holds NaN"):
        heard(np.full(SAMPLE_RATE_HZ, np.nan, dtype=np.float32))


# --- committed words ----------------------------------------------------------------------------------------------------------------------


def after(*hypotheses: str) -> Growing:
    growing = Growing()
    for text in hypotheses:
        growing = growing.heard(text)
    return growing


def test_words_are_committed_when_three_hypotheses_agree_but_for_the_last_two() -> None:
    assert after("it was the best", "it was the best of").committed == ()
    growing = after("it was the best", "it was the best of", "it was the best of times")
    assert (growing.committed, growing.tentative) == (("it", "was"), ("the", "best", "of", "times"))


def test_a_word_on_which_one_disagrees_is_not_committed_nor_what_follows_it() -> None:
    assert after("a b c d e f", "a b X d e f", "a b c d e f").committed == ("a", "b")


def test_more_is_committed_where_the_hypothesis_has_slipped_by_a_word() -> None:
    growing = Growing(("a", "b", "c"))
    for _ in range(AGREEING):
        growing = growing.heard("well a b c d e f g")
    assert growing.committed == ("a", "b", "c", "d", "e")
    assert growing.tentative == ("f", "g")


def test_nothing_more_is_committed_where_the_committed_words_are_gone() -> None:
    growing = Growing(("a", "b", "c"))
    for _ in range(AGREEING):
        growing = growing.heard("u v w x y z")
    assert growing.committed == ("a", "b", "c")


@given(st.lists(WORDS, max_size=12))
def test_committed_words_only_grow_and_the_newest_are_held_back(hypotheses: list[list[str]]) -> None:
    growing = Growing()
    for words in hypotheses:
        before, growing = growing, growing.heard(" ".join(words))
        assert growing.committed[: len(before.committed)] == before.committed
        assert growing.hypotheses[-1] == tuple(words)
        if growing.committed != before.committed:
            assert len(growing.tentative) >= HELD_BACK


@pytest.mark.slow
def test_on_a_minute_of_real_speech_95_of_100_committed_words_are_in_the_final_text(
    tiny: LoadedModel, waveforms: Sequence[Waveform]
) -> None:
    from jiwer import process_words

    heard = ear(tiny)
    committed = equal = 0
    length_s = 0.0
    for samples in waveforms:
        growing, draft = Growing(), ()
        for end in range(8_000, len(samples), 4_800):
            transcript = heard(samples[:end], draft)
            growing, draft = growing.heard(transcript.text), transcript.tokens
        committed += len(growing.committed)
        if growing.committed:
            equal += process_words(normalise(heard(samples).text), normalise(" ".join(growing.committed))).hits
        length_s += duration(samples)
    assert length_s > 60
    assert committed > 60
    assert equal >= 0.95 * committed
