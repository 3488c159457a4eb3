"""The same recording in another form is found in another set; different recordings never are."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from running import Manifests, refusal, write_rows

from lora.audio.loading import AudioSettings, EncodedAudio, Waveform, load, resample, through_codec
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.dataset.near_copies import correlation, near_copies, sound_print
from lora.dataset.splits import COPY_CORRELATION, require_no_near_copies
from lora.model.loading import LoadedModel
from lora.units import SAMPLE_RATE_HZ

DATA = Path(__file__).parents[2] / "shared" / "data"


def aac(samples: Waveform) -> Waveform:
    """As the sound of a video."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return load(EncodedAudio(file.getvalue(), "copy.m4a"), AudioSettings())


def mp3(samples: Waveform, level: float) -> Waveform:
    return through_codec(np.clip(samples, -1, 1), SAMPLE_RATE_HZ, "MPEG_LAYER_III", "MP3", level)


FORMS: dict[str, Callable[[Waveform], Waveform]] = {
    "mp3": lambda samples: mp3(samples, 0.5),
    "mp3 of a low bitrate": lambda samples: mp3(samples, 0.9),
    "aac": aac,
    "louder until it clips": lambda samples: np.clip(samples * 4, -1, 1).astype(np.float32),
    "softer": lambda samples: (samples * np.float32(0.25)).astype(np.float32),
    "8 kHz": lambda samples: resample(resample(samples, 16_000, 8_000), 8_000, 16_000),
    "a telephone": lambda samples: resample(through_codec(resample(samples, 16_000, 8_000).clip(-1, 1), 8_000, "ULAW"), 8_000, 16_000),
    "0.3 s off the start": lambda samples: samples[4_800:],
    "0.3 s off the end": lambda samples: samples[:-4_800],
    "cut between two windows, as mp3, louder": lambda samples: mp3(np.clip(samples[2_747:-1_111] * 1.6, -1, 1), 0.7),
    "within a longer one": lambda samples: np.concatenate([samples[::-1][:9_000], samples, samples[::-1][3_000:20_000]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_copy_is_found_and_nothing_else(waveforms: Sequence[Waveform], form: str) -> None:
    copies = [FORMS[form](samples) for samples in waveforms]
    sets = [[sound_print(samples) for samples in every] for every in (waveforms, copies)]
    pairs = {(pair.first, pair.second) for pair in near_copies(sets)}
    sure = {(one, other) for one, other in pairs if correlation(waveforms[one], copies[other]) >= COPY_CORRELATION}
    assert sure == {(number, number) for number in range(len(waveforms))}


def test_which_set_is_larger_makes_no_difference(waveforms: Sequence[Waveform]) -> None:
    prints = [sound_print(samples) for samples in waveforms]
    few = [sound_print(mp3(waveforms[3], 0.5)), sound_print(mp3(waveforms[7], 0.5))]
    for sets, expected in (
        ([prints, few], {((0, 3), (1, 0)), ((0, 7), (1, 1))}),
        ([few, prints], {((0, 0), (1, 3)), ((0, 1), (1, 7))}),
        ([prints[:5], few, prints[5:]], {((0, 3), (1, 0)), ((1, 1), (2, 2))}),
        ([few, few[:1], prints[8:]], {((0, 0), (1, 0))}),
        ([[], few, []], set()),
        ([[b""], [b"", b""]], set()),
    ):
        found = {tuple(sorted(((one.first_set, one.first), (one.second_set, one.second)))) for one in near_copies(sets)}
        assert found >= expected  # the correlation of the waveforms decides about the others
        assert expected or not found


def test_level_cancels_out_and_short_or_silent_clips_have_no_print(waveforms: Sequence[Waveform]) -> None:
    assert sound_print(waveforms[0]) == sound_print((waveforms[0] * np.float32(0.5)).astype(np.float32))
    assert sound_print(waveforms[0][:4_000]) == b""
    assert not any(sound_print(np.zeros(32_000, np.float32)))


def test_other_noise_is_no_copy() -> None:
    drawn = np.random.default_rng(3)
    noise = [drawn.standard_normal(48_000).astype(np.float32) for _ in range(40)]
    prints = [sound_print(one) for one in noise]
    pairs = list(near_copies([prints[:20], prints[20:]]))
    assert all(correlation(noise[pair.first], noise[20 + pair.second]) < 0.3 for pair in pairs)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the speech of `../shared`")
def test_no_two_of_hundreds_of_different_recordings_are_taken_for_one() -> None:
    sets = {}
    for name, step in (("an4/train", 4), ("an4/test", 1), ("accent/test", 1), ("librispeech/heldout", 4)):
        manifest = read(DATA / f"{name}.jsonl", Rules())
        manifest = manifest.subset(manifest.utterances[::step])
        sets[name] = (manifest, validate(manifest, Rules(), AudioSettings(), prints=True))
    assert sum(len(manifest) for manifest, _ in sets.values()) > 500
    require_no_near_copies(sets, AudioSettings())


def test_an_experiment_refuses_them_with_both_rows(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sets.domain.read_text().splitlines()]
    samples, rate = soundfile.read(sets.domain.parent / rows[1]["audio"], dtype="float32")
    soundfile.write(sets.train.parent / "copy.mp3", np.clip(samples[3_000:] * 1.4, -1, 1), rate)
    train = [json.loads(line) for line in sets.train.read_text().splitlines()]
    copied = {"audio": "copy.mp3", "text": rows[1]["text"], "speaker_id": "other", "id": "copy"}
    manifest = write_rows(sets.train.parent / "with-copy.jsonl", [*train, copied])
    arguments = ("--model-id", random_v1.checkpoint.folder, *sets.flags(train=manifest), "--split-by", "utterance", "--device", "cpu")
    message = refusal("experiment", *arguments, "--output-dir", tmp_path / "run")
    places = f"with-copy.jsonl line 6 (copy) and {sets.domain} line 2 ({rows[1]['id']})"
    assert f"{places}: the same recording, in another form or cut, is in train and domain (1 pair); scores on it" in message
    assert not (tmp_path / "run").exists()
