"""Effects keep their promises exactly: ratios, levels, bands, lengths and alignment, on real speech."""

from collections.abc import Sequence

import numpy as np
import pytest
import soundfile

from lora import effects
from lora.audio import Waveform, through_codec
from lora.effects import CODECS, Codec
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ, Samples


@pytest.fixture(scope="module")
def speech(waveforms: Sequence[Waveform]) -> Waveform:
    return waveforms[0]


@pytest.fixture(scope="module")
def noise(speech: Waveform) -> Waveform:
    samples: Waveform = np.random.default_rng(0).normal(0, 0.1, len(speech)).astype(np.float32)
    return samples


def db(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def lag(one: Waveform, other: Waveform) -> int:
    """By how many samples `other` comes later than `one`: where their cross-correlation is highest."""
    size = 2 * len(one)
    correlation = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)), size)
    at = int(correlation.argmax())
    return at if at < len(one) else at - size


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.937, 1.1, 2.0])
def test_speed_changes_the_length_by_its_factor_and_moves_a_tone_with_it(factor: float) -> None:
    tone: Waveform = np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    played = effects.change_speed(tone, factor)
    assert abs(len(played) - len(tone) / factor) <= 1
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    assert spectrum.argmax() * SAMPLE_RATE_HZ / len(played) == pytest.approx(440 * factor, abs=1)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.3, 40.0])
def test_noise_lies_as_far_below_speech_as_asked(speech: Waveform, noise: Waveform, snr_db: float) -> None:
    mixed = effects.add_noise(speech, noise, snr_db)
    assert db(effects.power(speech) / effects.power(mixed - speech)) == pytest.approx(snr_db, abs=0.1)


def test_noise_that_is_shorter_begins_again_and_silence_is_refused() -> None:
    ramp: Waveform = np.arange(1, 5, dtype=np.float32) / 10
    assert effects.cut(ramp, Samples(2), Samples(7), "ramp").tolist() == pytest.approx([0.3, 0.4, 0.1, 0.2, 0.3, 0.4, 0.1])
    half_silent: Waveform = np.concatenate([np.zeros(SAMPLE_RATE_HZ), np.ones(10)]).astype(np.float32)
    with pytest.raises(AudioError, match=r"hum\.wav: is silent for 0\.5 s from 0\.0 s on; cut the silence out of it"):
        effects.cut(half_silent, Samples(0), Samples(SAMPLE_RATE_HZ // 2), "hum.wav")


def test_a_room_of_one_reflection_less_impulse_changes_nothing(speech: Waveform) -> None:
    """The impulse comes late in its file, as it does in recorded ones."""
    impulse: Waveform = np.zeros(5000, np.float32)
    impulse[1234] = -0.4
    wet = effects.reverberate(speech, impulse)
    assert wet.shape == speech.shape
    np.testing.assert_allclose(-wet, speech, atol=1e-6)


def test_a_room_keeps_length_level_and_alignment_and_equals_direct_convolution(speech: Waveform) -> None:
    rng = np.random.default_rng(1)
    impulse: Waveform = (rng.normal(0, 0.1, 6000) * np.exp(-np.arange(6000) / 1500)).astype(np.float32)
    impulse[200] = 1.0
    wet = effects.reverberate(speech, impulse)
    assert wet.shape == speech.shape
    assert effects.power(wet) == pytest.approx(effects.power(speech), rel=1e-4)
    assert lag(speech, wet) == 0
    direct = np.convolve(speech[:8000].astype(np.float64), impulse)[200:8200]
    short = effects.reverberate(speech[:8000], impulse)
    np.testing.assert_allclose(short, direct * np.sqrt(effects.power(speech[:8000]) / np.mean(direct**2)), atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
def test_a_telephone_line_leaves_nothing_above_4_khz_and_moves_no_word(speech: Waveform, codec: Codec) -> None:
    for samples in (speech, speech[:-1], speech * np.float32(1.5 / np.abs(speech).max())):
        heard = effects.telephone(samples, codec)
        assert heard.shape == samples.shape
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
        spectrum = np.square(np.abs(np.fft.rfft(heard * np.hanning(len(heard)))))
        above = np.fft.rfftfreq(len(heard), 1 / SAMPLE_RATE_HZ) > 4050
        assert db(spectrum[above].sum() / spectrum.sum()) < -60
        assert abs(lag(effects.telephone(samples, "none"), heard)) <= 1
        assert abs(db(effects.power(heard) / effects.power(effects.telephone(samples, "none")))) < 1.0


def test_mu_law_gives_the_levels_of_g711(speech: Waveform) -> None:
    """All 128 magnitudes by the recommendation's formula, of 14 bits, at the 16-bit scale."""
    levels = {((2 * mantissa + 33) * 2**exponent - 33) * 4 for exponent in range(8) for mantissa in range(16)}
    heard = through_codec(speech[::2], effects.TELEPHONE_RATE_HZ, "ULAW")
    assert set(np.abs(np.rint(heard * 32768)).astype(int).tolist()) <= levels
    assert len(np.unique(heard)) > 50


def test_codecs_degrade_speech_in_the_order_that_is_known(speech: Waveform) -> None:
    line = effects.telephone(speech, "none")
    left = {codec: db(effects.power(line) / effects.power(effects.telephone(speech, codec) - line)) for codec in CODECS[1:]}
    assert left["mulaw"] > 20
    assert left["alaw"] > 20
    assert 3 < left["gsm"] < 20


def test_a_codec_that_libsndfile_lacks_is_refused(speech: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "check_format", lambda *_: False)
    with pytest.raises(AudioError, match=r"libsndfile [\d.]+ cannot write GSM610; leave this codec out"):
        through_codec(speech, effects.TELEPHONE_RATE_HZ, "GSM610")


@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_gain_is_exact(speech: Waveform, gain_db: float) -> None:
    np.testing.assert_allclose(effects.change_gain(speech, gain_db), speech * 10 ** (gain_db / 20), rtol=1e-6)


def test_joined_clips_stand_in_order_with_silence_of_the_asked_length_between(waveforms: Sequence[Waveform]) -> None:
    first, second, third = waveforms[:3]
    joined = effects.join([first, second, third], [Samples(1600), Samples(800)])
    expected = [first, np.zeros(1600), second, np.zeros(800), third]
    assert np.array_equal(joined, np.concatenate(expected).astype(np.float32))


def test_a_loud_clip_is_scaled_as_a_whole_and_a_soft_one_stays(speech: Waveform) -> None:
    soft = speech * np.float32(0.5 / np.abs(speech).max())
    assert effects.limit(soft) is soft
    loud = soft * np.float32(4)
    limited = effects.limit(loud)
    assert np.abs(limited).max() == pytest.approx(effects.PEAK_LIMIT, rel=1e-5)
    np.testing.assert_allclose(
        limited / loud[np.abs(loud).argmax()], loud / loud[np.abs(loud).argmax()] * (effects.PEAK_LIMIT / 2), rtol=1e-4, atol=1e-7
    )
