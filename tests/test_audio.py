"""One path for all audio: every format gives the same speech, resampling is exact, and each way to be broken has its message."""

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lora.audio.loading import (
    AudioSettings,
    EncodedAudio,
    FileAudio,
    InlineAudio,
    Waveform,
    duration,
    encode_flac,
    fingerprint,
    is_silent,
    load,
    prepare,
    read_file,
    waveform_hash,
)
from lora.corpora.general import HELDOUT, waveform
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ

AS_IS = AudioSettings()


@pytest.fixture(scope="module")
def speech() -> Waveform:
    """Ten seconds of real speech at 16 kHz."""
    return waveform(HELDOUT[1])


def inline(path: Path, samples: object, rate: int = SAMPLE_RATE_HZ) -> InlineAudio:
    content = json.dumps(samples).encode()
    path.write_bytes(content)
    return InlineAudio(path, 0, len(content), rate)


def with_av(path: Path, samples: Waveform, codec: str, rate: int) -> Path:
    """`samples` in the container that the suffix of `path` names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def similarity(first: Waveform, second: Waveform) -> float:
    """Largest correlation over shifts of up to 0.1 s, as lossy codecs delay."""
    length = min(first.size, second.size) - 3200
    a = first[1600 : 1600 + length]
    return max(float(np.corrcoef(a, second[1600 + shift : 1600 + shift + length])[0, 1]) for shift in range(-1600, 1601, 16))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_formats_give_the_same_samples(tmp_path: Path, speech: Waveform, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, (speech * 32768).astype(np.int16), SAMPLE_RATE_HZ)
    assert np.array_equal(load(FileAudio(path), AS_IS), speech)
    assert np.array_equal(load(EncodedAudio(path.read_bytes(), path.name), AS_IS), speech)
    assert FileAudio(path).rate_hz() == SAMPLE_RATE_HZ


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_formats_give_the_same_speech(tmp_path: Path, speech: Waveform, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, speech, SAMPLE_RATE_HZ)
    assert similarity(speech, read_file(path, AS_IS)) > 0.98


@pytest.mark.parametrize(("suffix", "codec", "rate"), [(".m4a", "aac", 16_000), (".webm", "libopus", 48_000)])
def test_m4a_and_webm_give_the_same_speech(tmp_path: Path, speech: Waveform, suffix: str, codec: str, rate: int) -> None:
    path = with_av(tmp_path / f"a{suffix}", speech, codec, rate)
    assert similarity(speech, read_file(path, AS_IS)) > 0.98
    assert FileAudio(path).rate_hz() == rate


def test_channels_are_averaged(tmp_path: Path, speech: Waveform) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([speech, np.zeros_like(speech)], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    assert np.array_equal(load(FileAudio(path), AS_IS), speech / 2)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_resampled_tone_stays_that_tone(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate), rate, subtype="FLOAT")
    samples = load(FileAudio(path), AS_IS)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(samples.size) / SAMPLE_RATE_HZ)
    assert abs(duration(samples) - 1) < 0.001
    assert np.abs(samples - expected)[800:-800].max() < 1e-3


def test_inline_samples_are_resampled_from_their_rate(tmp_path: Path) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).tolist()
    samples = load(inline(tmp_path / "a", tone, 8000), AS_IS)
    assert samples.size == SAMPLE_RATE_HZ
    assert samples.dtype == np.float32


@pytest.mark.parametrize("level", [-40.0, -30.0, -23.0])
def test_rms_level_is_reached(speech: Waveform, level: float) -> None:
    louder = prepare(speech, AudioSettings(rms_dbfs=level), "x")
    assert 20 * np.log10(np.sqrt(np.mean(louder.astype(np.float64) ** 2))) == pytest.approx(level, abs=0.01)
    assert similarity(louder, speech) == pytest.approx(1, abs=1e-5)


def test_rms_level_never_clips(speech: Waveform) -> None:
    assert np.abs(prepare(speech, AudioSettings(rms_dbfs=0.0), "x")).max() <= 1


def test_rms_of_silence_stays_silence() -> None:
    assert not prepare(np.zeros(100, np.float32), AudioSettings(rms_dbfs=-20), "x").any()


def test_silence_is_distinguished_from_quiet_speech(speech: Waveform) -> None:
    assert is_silent(np.zeros(1000, np.float32))
    assert is_silent(np.full(1000, 1e-4, np.float32))
    assert not is_silent(speech * 0.01)


def test_same_speech_has_one_hash_in_every_lossless_form(tmp_path: Path, speech: Waveform) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, (speech * 32768).astype(np.int16), SAMPLE_RATE_HZ)
    forms = [FileAudio(path), inline(tmp_path / "a.json", speech.tolist()), EncodedAudio(encode_flac(speech), "a.flac")]
    assert len({waveform_hash(load(form, AS_IS)) for form in forms}) == 1


@given(npst.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=60, deadline=None)
def test_flac_keeps_the_hash_of_any_samples(samples: Waveform) -> None:
    assert waveform_hash(load(EncodedAudio(encode_flac(samples), "a.flac"), AS_IS)) == waveform_hash(samples)


def test_fingerprint_tells_settings_rates_and_contents_apart(tmp_path: Path) -> None:
    first, second = inline(tmp_path / "a", [0.1]), inline(tmp_path / "b", [0.2])
    other_rate = InlineAudio(first.manifest, 0, first.length, 8000)
    values = {fingerprint(source, AS_IS) for source in (first, second, other_rate)} | {fingerprint(first, AudioSettings(rms_dbfs=-20))}
    assert len(values) == 4
    assert fingerprint(first, AS_IS) == fingerprint(inline(tmp_path / "c", [0.1]), AS_IS)


def wav_bytes(samples: object, **options: object) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.asarray(samples), SAMPLE_RATE_HZ, format="WAV", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", b"", "0 bytes"),
        ("a.wav", b"no audio at all", "not readable as wav"),
        ("a.m4a", b"no audio at all", "not readable as wav"),
        ("a.m4a", b"\0\0\0\x10ftypM4A \0\0\0\0", "has no index"),
        ("a.wav", wav_bytes(np.zeros((0, 1))), "holds no samples"),
        ("a.wav", wav_bytes([0.1, float("nan")], subtype="FLOAT"), "NaN or infinite"),
        ("a.wav", wav_bytes([0.1, float("inf")], subtype="FLOAT"), "NaN or infinite"),
    ],
    # Named, for libsndfile writes the time into a file of floats: ids of its bytes would differ between two workers.
    ids=["empty", "not-audio", "not-a-container", "no-track", "no-samples", "nan", "infinite"],
)
def test_broken_files_are_named_with_the_reason(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        load(FileAudio(path), AS_IS)
    assert str(path) in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such audio file"):
        read_file(tmp_path / "a.wav", AS_IS)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read"):
        load(FileAudio(tmp_path / "a.wav"), AS_IS)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read"):
        FileAudio(tmp_path / "a.wav").rate_hz()


def test_a_container_without_audio_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio stream"):
        load(FileAudio(path), AS_IS)


def test_inline_audio_that_is_no_list_of_numbers_is_named(tmp_path: Path) -> None:
    for wrong in (["a"], [[0.1]], [None]):
        with pytest.raises(AudioError, match="must hold numbers only"):
            load(inline(tmp_path / "a", wrong), AS_IS)
    with pytest.raises(AudioError, match="sampling rate of 0 Hz"):
        load(inline(tmp_path / "a", [0.1], 0), AS_IS)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_no_signal_at_the_first_resampling_is_lost_or_aborts_it(name: str) -> None:
    """Interrupted while the resampler is imported, at a random moment, in one child after another."""
    code = f"""
import os, random, signal, time
import numpy as np
from lora.audio.loading import resample
from lora.console import run

def work():
    signal.setitimer(signal.ITIMER_VIRTUAL, random.uniform(1e-4, 12e-3))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        resample(samples, 48_000, 16_000)
    return 1

samples = np.zeros(4_800, np.float32)
signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.{name}))
codes = set()
for _ in range(30):
    if not (pid := os.fork()):
        code = 99
        try:
            code = run(work)
        finally:
            os._exit(code)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(codes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ("{130}\n" if name == "SIGINT" else "{143}\n"), done.stderr
