"""Texts of other recordings are found by the loss of the real model; right ones pass."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from running import Manifests, refusal, rows_of, write_rows

from lora.audio.loading import AudioSettings
from lora.dataset.manifest import Rules, Utterance, read
from lora.evaluation.evaluate import Example
from lora.evaluation.text_check import foreign_texts
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel
from lora.units import Seconds

DATA = Path(__file__).parents[2] / "shared" / "data"


def foreign(speech: LoadedModel, utterances: Sequence[Utterance]) -> list[int]:
    examples = [Example(one, Seconds(1.0), ()) for one in utterances]
    return foreign_texts(speech, examples, LiveFeatures(speech, AudioSettings()), 0, lambda: None)


def shifted(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [replace(one, text=other.text) for one, other in zip(utterances, [*utterances[1:], utterances[0]], strict=True)]


def test_right_texts_pass_and_shifted_ones_are_found(tiny: LoadedModel, clips: Sequence[Utterance]) -> None:
    assert foreign(tiny, clips[:10]) == []
    assert len(foreign(tiny, shifted(clips[:10]))) >= 7
    mixed = [*clips[:8], replace(clips[8], text=clips[2].text), replace(clips[9], text="")]
    assert foreign(tiny, mixed) == [8]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the speech of `../shared`")
def test_spelled_letters_in_capitals_pass_and_shifted_ones_are_found(tiny: LoadedModel) -> None:
    utterances = read(DATA / "an4" / "test.jsonl", Rules()).utterances[::9]
    assert foreign(tiny, utterances) == []
    assert len(foreign(tiny, shifted(utterances))) >= len(utterances) // 2


def test_a_run_names_the_rows(tiny: LoadedModel, sets: Manifests, clips: Sequence[Utterance], tmp_path: Path) -> None:
    train = write_rows(sets.train.parent / "shifted.jsonl", rows_of(shifted(clips[:5]), sets.train.parent))
    arguments = ("--model-id", tiny.checkpoint.model_id, *sets.flags(train=train), "--split-by", "utterance", "--device", "cpu")
    message = refusal("experiment", *arguments, "--check-texts", "--output-dir", tmp_path / "run")
    assert "shifted.jsonl: " in message
    assert "of 5 texts fit their audio no better than the texts of other clips do; listen to them and fix the rows" in message
    assert f"({clips[0].id})" in message or f"({clips[1].id})" in message
