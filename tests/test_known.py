"""What the base model says is asked once, and again whenever anything that decides it is another."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lora.audio.loading import AudioSettings
from lora.dataset.manifest import Utterance
from lora.evaluation.base_scores import BaseScores
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings, Transcript
from lora.runs.outcomes import Evaluation
from lora.system.cache import Kept, prune
from lora.units import Seconds

AUDIO = AudioSettings()
SETTINGS = DecodeSettings(tokens_per_second=1.0)


@pytest.fixture
def part(random_v1: LoadedModel, clips: Sequence[Utterance]) -> list[Example]:
    return [Example(clip, Seconds(2.0), tuple(random_v1.labels(clip.text or ""))) for clip in clips[:2]]


def scores(
    speech: LoadedModel, part: Sequence[Example], folder: Path, settings: DecodeSettings = SETTINGS, audio: AudioSettings = AUDIO
) -> tuple[Evaluation, bool]:
    evaluator = Evaluator(speech, LiveFeatures(speech, audio), settings, 2)
    return BaseScores(audio, Kept(folder)).known(Evaluation, evaluator, part, lambda: evaluator.evaluate(part))


def test_the_second_time_gives_the_same_without_computing(random_v1: LoadedModel, part: list[Example], tmp_path: Path) -> None:
    first = scores(random_v1, part, tmp_path)
    assert scores(random_v1, part, tmp_path) == (first[0], True)
    assert not first[1]
    assert len(list(tmp_path.glob("*/*.json"))) == 1


def test_anything_that_decides_it_is_part_of_the_key(
    random_v1: LoadedModel, random_v2: LoadedModel, part: list[Example], tmp_path: Path
) -> None:
    scores(random_v1, part, tmp_path)
    other_text = [replace(part[0], utterance=replace(part[0].utterance, text="something else")), part[1]]
    assert not scores(random_v2, part, tmp_path)[1]
    assert not scores(replace(random_v1, precision="bfloat16"), part, tmp_path)[1]
    assert not scores(random_v1, part[:1], tmp_path)[1]
    assert not scores(random_v1, part[::-1], tmp_path)[1]
    assert not scores(random_v1, other_text, tmp_path)[1]
    assert not scores(random_v1, part, tmp_path, DecodeSettings(tokens_per_second=2.0))[1]
    assert not scores(random_v1, part, tmp_path, audio=AudioSettings(rms_dbfs=-20.0))[1]
    assert scores(random_v1, part, tmp_path)[1]


def test_labels_are_part_of_the_key_also_where_the_text_is_the_same(random_v1: LoadedModel, part: list[Example], tmp_path: Path) -> None:
    """Another text style teaches other tokens, and gives another loss."""
    loss = scores(random_v1, part, tmp_path)[0].loss
    others = [replace(one, labels=tuple(random_v1.labels((one.utterance.text or "").lower()))) for one in part]
    assert others != part
    found, again = scores(random_v1, others, tmp_path)
    assert not again
    assert found.loss != loss


def test_speakers_are_part_of_the_key(random_v1: LoadedModel, part: list[Example], tmp_path: Path) -> None:
    """Kept scores hold them, and intervals are drawn by speaker."""
    for names in ((None, None), ("a", "b"), ("a", "a")):
        told = [replace(one, utterance=replace(one.utterance, speaker_id=name)) for one, name in zip(part, names, strict=True)]
        found, again = scores(random_v1, told, tmp_path)
        assert not again
        assert tuple(row.speaker_id for row in found.score.utterances) == names


def test_another_normaliser_scores_anew(
    random_v1: LoadedModel, part: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another language's, and another version of the package."""
    cache = tmp_path / "cache"
    first = scores(random_v1, part, cache)[0]
    spanish, again = scores(replace(random_v1, language="es"), part, cache)
    assert not again
    assert spanish.score.normaliser != first.score.normaliser
    installed = tmp_path / "whisper_normalizer-99.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: whisper-normalizer\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    newer, again = scores(random_v1, part, cache)
    assert not again
    assert newer.score.normaliser.endswith("(99.0)")


def test_transcripts_are_kept_apart_from_scores(random_v1: LoadedModel, part: list[Example], tmp_path: Path) -> None:
    scores(random_v1, part, tmp_path)

    evaluator, kept = Evaluator(random_v1, LiveFeatures(random_v1, AUDIO), SETTINGS, 2), BaseScores(AUDIO, Kept(tmp_path))

    def transcribe() -> list[Transcript]:
        return evaluator.transcribe(part)

    first, again = (kept.known(list[Transcript], evaluator, part, transcribe) for _ in range(2))
    assert (first[1], again[1]) == (False, True)
    assert first[0] == again[0] == transcribe()


@pytest.mark.parametrize("place", [0, 20, 43, 60, -1])
def test_a_damaged_file_is_made_again_and_named(random_v1: LoadedModel, part: list[Example], tmp_path: Path, place: int) -> None:
    first, _ = scores(random_v1, part, tmp_path)
    (file,) = tmp_path.glob("*/*.json")
    whole = bytearray(file.read_bytes())
    damaged = bytearray(whole)
    damaged[place] ^= 4
    file.write_bytes(damaged)
    kept = Kept(tmp_path)

    evaluator = Evaluator(random_v1, LiveFeatures(random_v1, AUDIO), SETTINGS, 2)
    again = BaseScores(AUDIO, kept).known(Evaluation, evaluator, part, lambda: evaluator.evaluate(part))
    assert again == (first, False)
    assert kept.damaged == [file]
    assert file.read_bytes() == whole


def test_what_is_kept_counts_and_goes_with_the_encoder_outputs(random_v1: LoadedModel, part: list[Example], tmp_path: Path) -> None:
    scores(random_v1, part, tmp_path)
    assert prune(0, tmp_path) > 0
    assert not list(tmp_path.glob("*/*"))
