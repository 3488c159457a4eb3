"""What a file's header claims is held against what the file holds, channels and tracks are chosen, and nothing is mixed in doubt."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import Samples, muxed, written

from lora.audio.containers.streams import _crc8, check_flac
from lora.audio.effects import reverberate
from lora.audio.loading import AudioSettings, EncodedAudio, FileAudio, InlineAudio, Waveform, duration, fingerprint, load
from lora.console import channel_or_split
from lora.corpora.commands import build_domain_manifest
from lora.corpora.general import HELDOUT, REPLAY, waveform
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.errors import AudioError, ConfigError, LoraError, ManifestError, TooLongError
from lora.transcribe import Choice, from_files

AS_IS = AudioSettings()
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> Waveform:
    return waveform(HELDOUT[1])[: 4 * RATE]


@pytest.fixture(scope="module")
def other() -> Waveform:
    return waveform(REPLAY[0])[: 4 * RATE]


def put(data: bytes, place: int, layout: str, value: Any) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, place, value)
    return bytes(changed)


def refusal(data: bytes, max_s: float | None = None) -> str:
    with pytest.raises(AudioError) as caught:
        load(EncodedAudio(data, "clip"), AS_IS, max_s)
    message = str(caught.value)
    assert message.startswith("clip: ")
    assert "\n" not in message
    return message


HEADERS = [("WAV", b"data", 4, "<I"), ("AIFF", b"SSND", 4, ">I"), ("AU", b".snd", 8, ">I"), ("CAF", b"data", 4, ">q")]
"""Where a file of 16-bit samples says how many bytes of sound it holds."""


@pytest.mark.parametrize(("container", "name", "behind", "layout"), HEADERS, ids=[header[0] for header in HEADERS])
def test_a_header_that_claims_another_length_is_named_before_anything_is_decoded(
    speech: Waveform, container: str, name: bytes, behind: int, layout: str
) -> None:
    data = written(speech, RATE, container, "PCM_16")
    place = data.find(name) + behind
    assert "its header says 0 s of sound, and 4.00 s follow: the recorder never closed it" in refusal(put(data, place, layout, 0))
    assert "its header says 1.00 s of sound, and 4.00 s are there" in refusal(put(data, place, layout, 32_000 + 8 * (container == "AIFF")))
    start = time.monotonic()
    assert "the file is truncated: its header says" in refusal(put(data, place, layout, 2_000_000_000))
    assert time.monotonic() - start < 1


def test_a_wav_that_was_written_to_a_pipe_is_heard_to_its_end(speech: Waveform) -> None:
    data = written(speech, RATE, "WAV", "PCM_16")
    for size in (0xFFFFFFFF, 0x7FFFF000):
        assert duration(load(EncodedAudio(put(data, data.find(b"data") + 4, "<I", size), "clip"), AS_IS)) == 4.0


def test_the_remedy_for_a_header_without_a_length_is_the_right_one(speech: Waveform) -> None:
    data = written(speech, RATE, "WAV", "PCM_16")
    assert "sox --ignore-length" in refusal(put(data, data.find(b"data") + 4, "<I", 0))


def test_chunks_behind_the_sound_are_no_sound(speech: Waveform) -> None:
    data = written(speech, RATE, "WAV", "PCM_16")
    for tail in (b"LIST" + struct.pack("<I", 4) + b"INFO", bytes(5000), b"ID3" + bytes(range(200)) * 30):
        assert duration(load(EncodedAudio(data + tail, "clip"), AS_IS)) == 4.0
    assert "are there" in refusal(data + (speech * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("rate", [0, 1, 3_999, 768_001, 2**31, 2**32 - 1])
def test_absurd_sampling_rates_are_refused_from_the_header(speech: Waveform, rate: int) -> None:
    assert f"declares a sampling rate of {rate} Hz" in refusal(put(written(speech, RATE, "WAV", "PCM_16"), 24, "<I", rate))


def test_an_inline_rate_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps([0.1] * 100))
    for rate in (1, 10**9):
        with pytest.raises(AudioError, match=f"declares a sampling rate of {rate} Hz"):
            load(InlineAudio(tmp_path / "a", 0, (tmp_path / "a").stat().st_size, rate), AS_IS)


def flac_claiming(data: bytes, frames: int) -> bytes:
    field = int.from_bytes(data[21:26], "big") >> 36 << 36 | frames
    return data[:21] + field.to_bytes(5, "big") + data[26:]


def test_a_flac_says_what_it_holds(speech: Waveform) -> None:
    data = written(speech, RATE, "FLAC", "PCM_16")
    assert "its header says 1.00 s of sound" in refusal(flac_claiming(data, RATE))
    assert "truncated" in refusal(flac_claiming(data, 10 * RATE))
    assert "over the limit of 30 s" in refusal(flac_claiming(data, 2**36 - 1), 30)
    assert np.array_equal(load(EncodedAudio(flac_claiming(data, 0), "clip"), AS_IS), load(EncodedAudio(data, "clip"), AS_IS))


def test_recordings_one_behind_the_other_are_refused(speech: Waveform) -> None:
    for container, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")):
        assert "holds several recordings" in refusal(written(speech, RATE, container, subtype) * 2)


def test_a_damaged_or_missing_page_of_an_ogg_is_named(speech: Waveform) -> None:
    data = written(speech, RATE, "OGG", "VORBIS")
    pages = [place for place in range(len(data)) if data.startswith(b"OggS", place)]
    middle = pages[len(pages) // 2]
    assert "has another checksum" in refusal(data[: middle + 60] + bytes([data[middle + 60] ^ 1]) + data[middle + 61 :])
    after = pages[len(pages) // 2 + 1]
    assert "is missing" in refusal(data[:middle] + data[after:])


def test_an_mp3_whose_frames_are_fewer_than_its_header_counts_is_refused(speech: Waveform) -> None:
    data = muxed([speech[:, None]], RATE, "mp3", "libmp3lame")
    place = max(data.find(b"Xing"), data.find(b"Info"))
    assert "truncated: its header says" in refusal(put(data, place + 8, ">I", 100_000))
    assert abs(duration(load(EncodedAudio(data[: data.find(b"ID3") + 0] + data, "clip"), AS_IS)) - 4) < 0.1


@pytest.mark.parametrize("tail", [bytes(3000), b"LYRICSBEGIN" + b"la " * 70 + b"LYRICS200TAG" + b" " * 125, b"TAG" + bytes(125)])
def test_an_mp3_is_heard_to_its_end_whatever_tag_or_padding_follows(tail: bytes, speech: Waveform) -> None:
    data = muxed([speech[:, None]], RATE, "mp3", "libmp3lame")
    assert np.array_equal(load(EncodedAudio(data + tail, "clip"), AS_IS), load(EncodedAudio(data, "clip"), AS_IS))


@pytest.mark.parametrize("tail", [b"\xff\xf8\xc9", b"\xff\xf8\xc9\x18", b"\xff\xf8\xc9\x02\x7f" + bytes([_crc8(b"\xff\xf8\xc9\x02\x7f")])])
def test_bytes_that_look_like_a_flac_frame_do_not_count_as_one(tail: bytes, speech: Waveform) -> None:
    data = written(speech, RATE, "FLAC", "PCM_16")
    check_flac(data + tail)


def test_an_mp3_that_starts_amid_a_frame_is_heard(speech: Waveform) -> None:
    data = muxed([speech[:, None]], RATE, "mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    assert 3.8 < duration(load(EncodedAudio(data[100:], "clip"), AS_IS)) < 4.2


def test_a_header_decides_against_the_limit_before_anything_is_decoded(tmp_path: Path, speech: Waveform) -> None:
    with pytest.raises(TooLongError, match=r"lasts 4\.0 s, over the limit of 3 s"):
        load(EncodedAudio(written(speech, RATE, "WAV", "PCM_16"), "clip"), AS_IS, 3)
    with pytest.raises(TooLongError, match="lasts more than 3 s"):
        load(EncodedAudio(muxed([speech[:, None]], RATE, "mp3", "libmp3lame", write_xing="0"), "clip"), AS_IS, 3)
    (tmp_path / "a").write_text(json.dumps([0.1] * 10 * RATE))
    with pytest.raises(TooLongError, match=r"lasts 10\.0 s"):
        load(InlineAudio(tmp_path / "a", 0, (tmp_path / "a").stat().st_size), AS_IS, 3)


@pytest.mark.parametrize("scale", [127, 32_767, 2**31 - 1, 3])
def test_samples_beyond_full_scale_are_refused_with_the_divisor(tmp_path: Path, speech: Waveform, scale: int) -> None:
    big = speech / np.abs(speech).max() * scale
    divisor = {127: "by 128,", 32_767: "by 32768,", 2**31 - 1: "by 2147483648,", 3: "by their peak"}[scale]
    for container in ("WAV", "AIFF", "AU", "CAF", "W64"):
        assert divisor in refusal(written(big, RATE, container, "FLOAT"))
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": big.tolist(), "text": "x"}) + "\n")
    with pytest.raises(ManifestError, match="full scale is 1"):
        validate(read(tmp_path / "m.jsonl", Rules()), Rules(), AS_IS)


def test_a_hot_recording_is_taken_as_it_is(speech: Waveform) -> None:
    hot = (speech / np.abs(speech).max() * 1.3).astype(np.float32)
    assert np.array_equal(load(EncodedAudio(written(hot, RATE, "WAV", "FLOAT"), "clip"), AS_IS), hot)


def stereo(first: Samples, second: Samples) -> bytes:
    return written(np.stack([first, second], axis=1), RATE, "WAV", "FLOAT")


def test_channels_that_cancel_are_refused(speech: Waveform) -> None:
    assert "of opposite phase and cancel" in refusal(stereo(speech, -speech))
    assert "of opposite phase and cancel" in refusal(stereo(speech * 0.3, -speech))


def test_two_speakers_are_not_mixed(speech: Waveform, other: Waveform) -> None:
    crosstalk = 0.1
    other = other * np.float32(np.sqrt(np.mean(speech**2) / np.mean(other**2)))
    for first, second in ((speech, other), (speech + crosstalk * other, other + crosstalk * speech)):
        message = refusal(stereo(first.astype(np.float32), second.astype(np.float32)))
        assert "hold different sounds" in message
        assert "--channel 1|2|mix" in message
    data = stereo(speech, other)
    assert np.array_equal(load(EncodedAudio(data, "clip", 1), AS_IS), speech)
    assert np.array_equal(load(EncodedAudio(data, "clip", 2), AS_IS), other)
    assert np.allclose(load(EncodedAudio(data, "clip", "mix"), AS_IS), (speech + other) / 2)
    with pytest.raises(AudioError, match="has no channel 3, only 2"):
        load(EncodedAudio(data, "clip", 3), AS_IS)


@pytest.mark.parametrize("low", [0.0, 50.0, 60.0])
def test_an_offset_or_hum_makes_no_two_channels_alike_or_different(low: float, speech: Waveform, other: Waveform) -> None:
    other = other * np.float32(np.sqrt(np.mean(speech**2) / np.mean(other**2)))
    hum = (4 * speech.std() * np.cos(2 * np.pi * low * np.arange(len(speech)) / RATE)).astype(np.float32)
    assert "hold different sounds" in refusal(stereo(speech + hum, other + hum))
    assert "of opposite phase" in refusal(stereo(speech + hum, hum - speech))
    for first, second in ((speech + hum, speech - hum), (speech, hum / 40)):
        assert np.allclose(load(EncodedAudio(stereo(first, second), "clip"), AS_IS), (first + second) / 2, atol=1e-6)


def test_samples_of_two_channels_that_are_not_finite_are_refused(speech: Waveform) -> None:
    for value in (np.nan, np.inf):
        broken = speech.copy()
        broken[100] = value
        assert "NaN or infinite" in refusal(stereo(broken, speech))


def test_one_sound_in_both_channels_is_mixed_as_before(speech: Waveform) -> None:
    late = np.concatenate([np.zeros(80, np.float32), speech[:-80]])
    count = RATE // 2
    decay = (np.random.default_rng(0).standard_normal(count) * np.exp(-np.arange(count) / (0.05 * RATE))).astype(np.float32)
    decay[0] = 3.0  # the direct sound
    echoing = reverberate(speech, decay)
    for second in (speech, 0.5 * speech, late, np.zeros_like(speech), 0.001 * np.sin(np.arange(len(speech)))):
        second = np.asarray(second, dtype=np.float32)
        assert np.allclose(load(EncodedAudio(stereo(speech, second), "clip"), AS_IS), (speech + second) / 2, atol=1e-6)
    load(EncodedAudio(stereo(speech, echoing[: len(speech)].astype(np.float32)), "clip"), AS_IS)


@pytest.mark.parametrize(("container", "codec"), [("matroska", "aac"), ("mov", "pcm_s16le"), ("mp4", "aac"), ("webm", "libopus")])
def test_several_tracks_are_listed_and_one_is_chosen(speech: Waveform, container: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    quiet = np.zeros((4 * rate, 1), dtype=np.float32)
    loud = np.repeat(speech, rate // RATE)[:, None].astype(np.float32)
    data = muxed([quiet, loud], rate, container, codec)
    message = refusal(data)
    assert "holds 2 audio tracks (1: " in message
    assert "--track" in message
    assert np.abs(load(EncodedAudio(data, "clip", None, 1), AS_IS)).max() < 0.001
    assert np.abs(load(EncodedAudio(data, "clip", None, 2), AS_IS)).max() > 0.1
    with pytest.raises(AudioError, match="has no track 3, only 2"):
        load(EncodedAudio(data, "clip", None, 3), AS_IS)


def test_channel_and_track_are_part_of_what_identifies_a_recording(tmp_path: Path, speech: Waveform) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(stereo(speech, speech))
    parts = [FileAudio(file), FileAudio(file, 1), FileAudio(file, 2), FileAudio(file, "mix"), FileAudio(file, None, 1)]
    assert len({fingerprint(part, AS_IS) for part in parts}) == len(set(parts)) == 5


def manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps({"text": "x", **row}) + "\n" for row in rows))
    return path


def test_rows_choose_channels(tmp_path: Path, speech: Waveform, other: Waveform) -> None:
    (tmp_path / "call.wav").write_bytes(stereo(speech, other))
    found = read(manifest(tmp_path, *({"audio": "call.wav", "channel": channel, "id": str(channel)} for channel in (1, 2, "mix"))), Rules())
    assert len({recording.sha256 for recording in validate(found, Rules(), AS_IS)}) == 3
    with pytest.raises(ManifestError, match="hold different sounds"):
        validate(read(manifest(tmp_path, {"audio": "call.wav"}), Rules()), Rules(), AS_IS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"channel": 0}, "channel: must be a number from 1"),
        ({"channel": "left"}, "channel: must be a number from 1"),
        ({"track": 0}, "track: must be a number from 1"),
        ({"channel": True}, "channel"),
        ({"audio": [0.1], "channel": 1}, "channel: is for files"),
        ({"audio": [0.1], "track": 1}, "track: is for files"),
    ],
)
def test_a_channel_that_is_none_is_named(tmp_path: Path, speech: Waveform, row: dict[str, Any], message: str) -> None:
    (tmp_path / "call.wav").write_bytes(stereo(speech, speech))
    with pytest.raises(ManifestError, match=message):
        read(manifest(tmp_path, {"audio": "call.wav", **row}), Rules())


def test_files_give_an_utterance_for_each_channel(tmp_path: Path, speech: Waveform, other: Waveform) -> None:
    (tmp_path / "call.wav").write_bytes(stereo(speech, other))
    utterances, lengths_s = from_files([tmp_path / "call.wav"], 30, AS_IS, Choice("split"))
    assert [one.id for one in utterances] == [f"{tmp_path}/call.wav#1", f"{tmp_path}/call.wav#2"]
    assert np.array_equal(load(utterances[1].audio, AS_IS), other)
    assert lengths_s == [4.0, 4.0]


def test_a_call_becomes_a_row_for_each_channel(tmp_path: Path, speech: Waveform, other: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "7.wav").write_bytes(stereo(speech, other))
    for number, text in ((1, "The agent."), (2, "The customer.")):
        (tmp_path / "calls" / f"7.{number}.txt").write_text(text)
    arguments = ["--from-folder", "calls", "--output", "m.jsonl", "--channel", "split"]
    assert build_domain_manifest(arguments) == 0
    rows = [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]
    assert [(row["id"], row["speaker_id"], row["text"]) for row in rows] == [("7-1", "7-1", "The agent."), ("7-2", "7-2", "The customer.")]
    heard = validate(read(Path("m.jsonl"), Rules()), Rules(), AS_IS)
    assert len({recording.sha256 for recording in heard}) == 2
    (tmp_path / "calls" / "7.2.txt").unlink()
    with pytest.raises(LoraError, match=r"write what is said into 7\.2\.txt"):
        build_domain_manifest([*arguments, "--overwrite"])
    with pytest.raises(ConfigError, match="--channel split is for --from-folder"):
        build_domain_manifest(["--csv", "a.csv", "--output", "n.jsonl", "--channel", "split"])


def test_one_channel_of_a_folder_is_written_by_itself(
    tmp_path: Path, speech: Waveform, other: Waveform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "7.wav").write_bytes(stereo(speech, other))
    (tmp_path / "calls" / "7.txt").write_text("The customer.")
    assert build_domain_manifest(["--from-folder", "calls", "--output", "m.jsonl", "--channel", "2"]) == 0
    samples, rate = soundfile.read(next(tmp_path.glob("m_audio/*")))
    assert rate == RATE
    assert np.allclose(samples, other.clip(-1, 1), atol=1e-3)


@pytest.mark.parametrize("given", ["0", "-1", "left", "1.5", ""])
def test_channels_on_the_command_line_count_from_one(given: str) -> None:
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="counted from 1"):
        channel_or_split(given)
