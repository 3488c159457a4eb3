"""An export to moonshine-voice gives times of words there, close to those of `transcribe --word-times`."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch

from lora.audio.loading import AudioSettings, duration, load
from lora.checkpoints.checkpoint import resolve
from lora.dataset.manifest import Rules, read
from lora.export.targets import write_target
from lora.longform.seams import plain
from lora.longform.words import words
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import load_model
from lora.model.transcript import DecodeSettings
from lora.runtimes.separate import voice_packages

HELDOUT = Path(__file__).parents[2] / "shared/data/librispeech/heldout.jsonl"

TIMED = """
import json, sys
import numpy as np
sys.path.append(sys.argv[1])
from moonshine_voice import ModelArch, Transcriber
transcriber = Transcriber(sys.argv[2], ModelArch.TINY, options={"word_timestamps": "true", "max_tokens_per_second": "13"})
found = []
for file in sys.argv[3:]:
    samples = np.concatenate([np.load(file), np.zeros(8000, np.float32)])  # a line that a file's end cuts off gets no times
    lines = transcriber.transcribe_without_streaming(samples.tolist(), 16000).lines
    found.append([(word.word, word.start, word.end) for line in lines for word in line.words or []])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not HELDOUT.is_file(), reason="needs LibriSpeech clips in ../shared")
def test_moonshine_voice_gives_words_with_times_close_to_ours(tmp_path: Path) -> None:
    speech, settings = load_model(resolve("packaged:moonshine-tiny"), torch.device("cpu"), "float32"), DecodeSettings(tokens_per_second=6.5)
    sounds = [load(row.audio, AudioSettings()) for row in list(read(HELDOUT, Rules(max_s=40)))[:6]]
    encoder, decoder = Encoder(speech), Decoder(speech)
    ours = []
    for number, sound in enumerate(sounds):
        np.save(tmp_path / f"{number}.npy", sound)
        encoded = encoder([sound])
        said = transcribe(decoder, encoded, [duration(sound)], settings)
        ours.append([(word.text, word.start_s, word.end_s) for word in words(decoder, encoded, said, [sound])[0]])
    folder = tmp_path / "export"
    folder.mkdir()
    write_target(speech, "moonshine-voice", "fp32", folder)
    files = [str(tmp_path / f"{number}.npy") for number in range(len(sounds))]
    command = [sys.executable, "-c", TIMED, str(voice_packages()), str(folder), *files]
    theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    far = np.abs([late for one, other in zip(ours, theirs, strict=True) for late in _late(one, other)])
    assert len(far) > 0.8 * 2 * sum(map(len, ours)), (
        "words of the runtime are missing"
    )  # it cuts at other places, and hears a few otherwise
    assert np.median(far) < 0.05
    assert (far < 0.1).mean() > 0.75


def _late(ours: list[tuple[str, float, float]], theirs: list[list[str | float]]) -> list[float]:
    """How much later than ours the borders of words are that both have, in seconds."""
    late = list[float]()
    for chunk in jiwer.process_words(" ".join(_plain(ours)), " ".join(_plain(theirs))).alignments[0]:
        if chunk.type == "equal":
            for own, other in zip(
                ours[chunk.ref_start_idx : chunk.ref_end_idx], theirs[chunk.hyp_start_idx : chunk.hyp_end_idx], strict=True
            ):
                late += [float(other[1]) - own[1], float(other[2]) - own[2]]
    return late


def _plain(words: Sequence[Sequence[object]]) -> list[str]:
    """Without marks and capitals, which differ where the runtime cuts."""
    return [plain(str(word[0])) or "-" for word in words]
