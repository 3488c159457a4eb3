"""Transcripts of recordings in which nobody speaks are marked and kept; those of speech, quiet or noisy, are not marked."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import moonshine_lora

from lora.audio.effects import add_noise, change_gain, telephone
from lora.audio.loading import Waveform
from lora.audio.voice_activity import holds_speech
from lora.corpora.general import HELDOUT, REPLAY, waveform
from lora.model.loading import LoadedModel
from lora.scoring.doubtful import marks, summary

TIME = np.arange(12 * 16_000) / 16_000
NOISE = np.random.default_rng(0).standard_normal(len(TIME))


def tone(*frequencies: float) -> Waveform:
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * f * TIME) for f in frequencies), dtype=np.float32)


NOT_SPEECH = {
    "digital silence": np.zeros(80_000),
    "next to nothing": np.zeros(80_000) + 1e-4 * (np.arange(80_000) == 100),
    "room noise": NOISE * 10 ** (-50 / 20),
    "loud noise": 0.3 * NOISE,
    "rumble": 0.001 * np.cumsum(NOISE),
    "mains hum": tone(50, 150),
    "dial tone": tone(350, 440),
    "busy tone": tone(425) * (TIME % 1 < 0.5),
    "ringing": tone(440, 480) * (TIME % 6 < 2),
    "touch tones": tone(697, 1209) * (TIME % 0.3 < 0.15),
    "clicks": 0.8 * (np.random.default_rng(1).random(len(TIME)) < 0.0005),
    "chord": tone(262, 330, 392),
    "offset": np.full(80_000, 0.2),
    "0.1 s of noise": 0.1 * NOISE[:1600],
}


@pytest.mark.parametrize("name", NOT_SPEECH)
def test_sound_in_which_nobody_speaks_holds_no_speech(name: str) -> None:
    assert not holds_speech(NOT_SPEECH[name].astype(np.float32))


@pytest.mark.parametrize("name", ["as it is", "40 dB lower", "60 dB lower", "over a telephone", "in noise", "one second"])
def test_speech_is_heard_as_such(name: str) -> None:
    for recording in [*HELDOUT[:2], *REPLAY[:2]]:
        speech = waveform(recording)
        noise = np.resize(NOISE, len(speech)).astype(np.float32)
        forms = {
            "as it is": speech,
            "40 dB lower": change_gain(speech, -40),
            "60 dB lower": change_gain(speech, -60),
            "over a telephone": telephone(speech, "gsm"),
            "in noise": add_noise(speech, noise, 10),
            "one second": speech[16_000:32_000],
        }
        assert holds_speech(forms[name])


def test_marks_are_named_and_counted() -> None:
    loop = "the first is " * 8
    assert marks(True, "Hello there.", False, "en") == ()
    assert marks(False, loop, True, "en") == ("no speech", "loop", "cap")
    assert marks(True, "", None, "en") == ()
    assert summary([(), ()]) is None
    assert summary([("no speech",), (), ("loop", "cap")]) == "2 marked as doubtful: 1 no speech, 1 loop, 1 cap"


def test_transcribe_marks_rows_and_counts_them_and_keeps_the_text(tiny: LoadedModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "zero.wav", np.zeros(32_000), 16_000)
    soundfile.write(tmp_path / "said.wav", waveform(HELDOUT[1])[:48_000], 16_000)
    files = ("--audio", tmp_path / "zero.wav", tmp_path / "said.wav", "--output", tmp_path / "out.json")
    result = moonshine_lora("transcribe", "--model-id", tiny.checkpoint.model_id, "--device", "cpu", *files)
    assert result.code == 0, result.err
    silent, said = result.out.splitlines()
    assert silent.endswith("\t[no speech]")
    assert silent.split("\t")[1]
    assert "[" not in said
    assert result.err == "2 utterances, 1 marked as doubtful: 1 no speech, 0 loop, 0 cap\n"
    assert [row["marks"] for row in json.loads((tmp_path / "out.json").read_text())["utterances"]] == [["no speech"], []]
    wrong = moonshine_lora("transcribe", "--model-id", "x", "--manifest", tmp_path / "m.jsonl", "--channel", 1)
    assert "--channel and --track are for --audio" in wrong.err
