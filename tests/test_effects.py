"""Effects keep their promises exactly: ratios, levels, bands, lengths and alignment, on real speech."""

import io
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile

from lora.audio import effects
from lora.audio.effects import CODECS, Codec
from lora.audio.loading import Waveform, through_codec
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


def fundamentals(samples: Waveform) -> dict[int, float]:
    """F0 in Hz of the frames of 40 ms that are clearly voiced, by frame number: where normalised autocorrelation peaks."""
    size, hop = SAMPLE_RATE_HZ // 25, SAMPLE_RATE_HZ // 100
    shortest, longest = SAMPLE_RATE_HZ // 500, SAMPLE_RATE_HZ // 60
    loud = np.square(samples, dtype=np.float64).mean()
    found = {}
    for number, start in enumerate(range(0, len(samples) - size - longest, hop)):
        ahead = samples[start : start + size + longest].astype(np.float64)
        frame = ahead[:size]
        if np.square(frame).mean() < loud:
            continue
        norms = np.sqrt(np.convolve(np.square(ahead), np.ones(size), "valid"))
        likeness = np.correlate(ahead, frame, "valid") / (norms * norms[0])
        lag = shortest + int(likeness[shortest:].argmax())
        if likeness[lag] > 0.9:
            first = next(n for n in range(shortest, lag + 1) if likeness[n] > 0.95 * likeness[lag])  # not two periods
            peak = first + int(likeness[first : first + 5].argmax())
            found[number] = SAMPLE_RATE_HZ / peak
    return found


@pytest.mark.parametrize("semitones", [-4.0, -1.5, 1.5, 4.0])
def test_pitch_moves_a_voice_by_its_semitones_and_leaves_its_words_where_they_are(waveforms: Sequence[Waveform], semitones: float) -> None:
    moved, late = [], []
    for speech in waveforms[:4]:
        shifted = effects.change_pitch(speech, semitones)
        assert shifted.shape == speech.shape
        assert shifted.dtype == np.float32
        assert abs(db(effects.power(shifted) / effects.power(speech))) < 1.0
        before, after = fundamentals(speech), fundamentals(shifted)
        moved += [12 * np.log2(after[number] / before[number]) for number in before.keys() & after.keys()]
        late.append(lag(np.abs(speech), np.abs(shifted)))
    assert len(moved) > 50
    assert np.median(moved) == pytest.approx(semitones, abs=0.25)
    assert max(map(abs, late)) < SAMPLE_RATE_HZ * 0.01


def test_pitch_of_zero_leaves_the_voice_and_the_same_clip_always_gives_the_same_samples(speech: Waveform) -> None:
    same = effects.change_pitch(speech, 0.0)
    assert db(effects.power(speech) / effects.power(same - speech)) > 40
    assert np.array_equal(effects.change_pitch(speech, 3.0), effects.change_pitch(speech, 3.0))


@pytest.mark.parametrize("length", [1_600, 1_601, 5_000])
def test_pitch_takes_the_shortest_clips(speech: Waveform, length: int) -> None:
    start = int(np.abs(speech).argmax())
    clip = speech[start - length // 2 : start - length // 2 + length]
    shifted = effects.change_pitch(clip, 2.0)
    assert shifted.shape == clip.shape
    assert np.isfinite(shifted).all()
    assert abs(db(effects.power(shifted) / effects.power(clip))) < 6


def test_pitch_without_its_library_is_refused(speech: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    with pytest.raises(AudioError, match=r"pitch needs python-stretch, .* builds it with a C\+\+ compiler, or leave --pitch-min"):
        effects.change_pitch(speech, 1.0)


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
    assert 3 < left["opus"] < 20


def test_opus_has_the_bitrate_of_a_narrow_connection_and_gives_the_same_samples_each_time(waveforms: Sequence[Waveform]) -> None:
    narrow = np.concatenate(waveforms)[::2]
    subtype, container, level = effects._FORMATS["opus"]
    file = io.BytesIO()
    soundfile.write(file, narrow, effects.TELEPHONE_RATE_HZ, format=container, subtype=subtype, compression_level=level)
    assert 12_000 < 8 * file.tell() / (len(narrow) / effects.TELEPHONE_RATE_HZ) < 20_000
    first, second = (effects.telephone(waveforms[0], "opus") for _ in range(2))
    assert np.array_equal(first, second)


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
