"""What is heard of a recording that somebody holds a key for: all of it, whatever its level, and a moment behind the release."""

from collections.abc import Iterator

import numpy as np
import pytest
from lora_cli.engine.events import Partial, Ready, Voice
from talk import CHUNK, NOTHING, Talk, silence, word_errors

from lora.audio.loading import Waveform
from lora.corpora import general
from lora.live import Ear
from lora.scoring.analysis import is_loop
from lora.units import SAMPLE_RATE_HZ

MODEL = "packaged:moonshine-tiny"


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    talk = Talk([Voice("base", MODEL)])
    talk.heard.until(Ready)
    yield talk
    talk.engine.close()


def test_while_a_key_is_held_quiet_speech_is_heard_whole(talk: Talk, ear: Ear, said: Waveform) -> None:
    """At -50 dB, 16 bits, in a quiet room."""
    level = np.float32(10 ** (-50 / 20) / np.sqrt(np.square(said).mean()))
    noise = np.random.default_rng(0).integers(-8, 9, len(said)) / 32768
    (final,) = talk.finals(talk.say((np.rint((said * level + noise) * 32768) / 32768).astype(np.float32)))
    assert word_errors(ear(said).text, final.text) <= 2


def test_a_clip_that_breaks_off_in_a_word_gives_no_loop(talk: Talk, ear: Ear) -> None:
    broken = general.waveform(general.HELDOUT[0])[SAMPLE_RATE_HZ : round(5.3 * SAMPLE_RATE_HZ)]
    assert is_loop(ear(broken).text)
    (final,) = talk.finals(talk.say(broken))
    assert final.text.startswith("It was the best of times")
    assert not is_loop(final.text)
    assert not [partial for partial in talk.heard.of(Partial, final.recording) if is_loop(f"{partial.committed} {partial.tentative}")]


def test_sound_behind_the_release_belongs_to_the_recording_until_the_speaker_is_silent(talk: Talk, ear: Ear, said: Waveform) -> None:
    """And where none comes, the text does; a press meanwhile hears again what the recording before has not heard, and only that."""
    clip, postroll = said[: round(3.62 * SAMPLE_RATE_HZ)], SAMPLE_RATE_HZ // 4
    spoken, behind = clip[:-postroll], clip[-postroll:]
    number = talk.engine.begin(hands_free=False, preroll=spoken)
    talk.engine.end(postroll)
    talk.engine.feed(behind)
    talk.engine.feed(said[:CHUNK])
    (final,) = talk.finals(number)
    assert np.array_equal(final.samples, clip)
    assert word_errors(ear(clip).text, final.text) == 0

    number = talk.engine.begin(hands_free=False, preroll=np.concatenate([spoken, silence(0.5)]))
    talk.engine.end(postroll)
    talk.engine.feed(silence(0.15))
    (final,) = talk.finals(number)
    assert len(final.samples) == len(spoken) + round(0.65 * SAMPLE_RATE_HZ)
    talk.engine.feed(spoken[:CHUNK])
    number = talk.engine.begin(hands_free=False, preroll=np.concatenate([silence(0.1), spoken[: 2 * CHUNK]]), repeated=2 * CHUNK)
    talk.engine.end(postroll)
    (final,) = talk.finals(number)
    assert np.array_equal(final.samples, spoken[: 2 * CHUNK])

    number = talk.engine.begin(hands_free=False, preroll=spoken)
    talk.engine.end(postroll)
    talk.engine.cancel()
    assert talk.finals(number) == []
    first = talk.engine.begin(hands_free=False, preroll=spoken)
    talk.engine.end(postroll)
    second = talk.engine.begin(hands_free=False, preroll=NOTHING)
    assert talk.finals(first)[0].text
    talk.engine.cancel()
    assert talk.finals(second) == []
