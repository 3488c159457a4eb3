"""Clips in which nobody speaks, with an empty text: taken in training and in test sets where that is said, learned, and scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from running import ANY_VERDICT, QUICK, Manifests, RunFolder, moonshine_lora, refusal, write_rows

from lora.audio.loading import AudioSettings, load
from lora.dataset.manifest import Rules, read
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.loading import LoadedModel, pad_labels
from lora.units import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def quiet(sets: Manifests) -> Manifests:
    """`sets` with two clips of faint noise behind train, and one behind dev and domain."""
    drawn = np.random.default_rng(1)

    def with_noise(name: str, count: int) -> Path:
        rows: list[dict[str, Any]] = [json.loads(line) for line in getattr(sets, name).read_text().splitlines()]
        for number in range(count):
            file = f"noise-{name}-{number}.wav"
            soundfile.write(sets.train.parent / file, 0.003 * drawn.standard_normal(2 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
            rows.insert(0, {"audio": file, "text": "", "speaker_id": "nobody", "id": file})
        return write_rows(sets.train.parent / f"quiet-{name}.jsonl", rows)

    return Manifests(with_noise("train", 2), with_noise("dev", 1), with_noise("domain", 1), sets.heldout, sets.replay)


def test_silence_is_refused_with_the_flag_that_takes_it(random_v1: LoadedModel, quiet: Manifests, tmp_path: Path) -> None:
    arguments = ("experiment", "--model-id", random_v1.checkpoint.folder, *quiet.flags(), *QUICK, "--output-dir", tmp_path / "run")
    assert "2 problems: lines 1, 2: text: is empty; write the transcript or drop the line (where nobody speaks: --allow-empty-text)" in (
        refusal(*arguments)
    )


def test_silence_is_trained_on_and_scored(random_v1: LoadedModel, quiet: Manifests, tmp_path: Path) -> None:
    arguments = ("--model-id", random_v1.checkpoint.folder, *quiet.flags(), *QUICK, *ANY_VERDICT, "--allow-empty-text")
    result = moonshine_lora("experiment", *arguments, "--output-dir", tmp_path / "run")
    assert result.code == 0, result.err
    run = RunFolder(tmp_path / "run", result.code)
    assert run.record.manifests["train"].utterances == 7
    assert run.record.domain is not None
    for evaluation in (run.record.domain.baseline, run.record.domain.tuned):
        silent = evaluation.score.utterances[0]
        assert silent.reference == ""
        assert silent.words.insertions > 0
        assert (silent.words.hits, silent.words.substitutions, silent.words.deletions) == (0, 0, 0)


def test_silence_teaches_to_say_nothing(random_v1: LoadedModel, quiet: Manifests) -> None:
    """Its only label is the end token, the first thing that the decoder says after its start token."""
    silent = read(quiet.train, Rules(allow_empty_text=True)).utterances[0]
    assert random_v1.labels(silent.text or "") == [random_v1.end_id]
    with torch.inference_mode():
        encoded = Encoder(random_v1)([load(silent.audio, AudioSettings())])
        decoder = Decoder(random_v1)
        loss = decoder.loss_sum(encoded, pad_labels([[random_v1.end_id]], random_v1.device)).item()
    assert loss > 0


def test_a_set_of_silence_alone_is_refused_before_anything_is_made(random_v1: LoadedModel, quiet: Manifests, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in quiet.train.read_text().splitlines()]
    only = write_rows(quiet.train.parent / "only.jsonl", rows[:2])
    train = write_rows(quiet.train.parent / "train-only.jsonl", rows[2:])
    arguments = ("--model-id", random_v1.checkpoint.folder, *quiet.flags(train=train, domain=only), *QUICK, "--allow-empty-text")
    message = refusal("experiment", *arguments, "--output-dir", tmp_path / "run")
    assert "only.jsonl: nobody says a word in the domain set, so it has no error rate; add clips with speech" in message
    assert not (tmp_path / "run").exists()
