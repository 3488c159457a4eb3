"""What people read does not depend on how products are computed: transcripts, error rates, verdict; nor on threads that share the work."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from running import Manifests

from lora.audio.loading import AudioSettings
from lora.dataset.manifest import Utterance
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import StoredFeatures
from lora.model.loading import LoadedModel, load_model
from lora.model.products import has_bfloat16
from lora.model.transcript import DecodeSettings
from lora.system.cache import Kept
from lora.system.parallel import spread
from lora.units import Seconds

AUDIO, DECODE = AudioSettings(), DecodeSettings(tokens_per_second=6.5)


def examples(speech: LoadedModel, clips: Sequence[Utterance]) -> list[Example]:
    return [Example(clip, Seconds(6.0), tuple(speech.labels(clip.text or ""))) for clip in clips]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_and_plain_products_give_the_same_transcripts(
    tiny: LoadedModel, clips: Sequence[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """In bfloat16 both round, so there only most are the same."""
    if precision == "bfloat16" and not has_bfloat16():
        pytest.skip("this processor multiplies no bfloat16: it would take minutes")
    scores = []
    for kind in (None, "plain"):
        monkeypatch.delenv("MOONSHINE_LORA_PRODUCTS", raising=False)
        if kind is not None:
            monkeypatch.setenv("MOONSHINE_LORA_PRODUCTS", kind)
        speech = load_model(tiny.checkpoint, tiny.device, precision)  # type: ignore[arg-type]
        features = StoredFeatures(speech, AUDIO, Kept(tmp_path))
        scores.append(Evaluator(speech, features, DECODE, 8).evaluate(examples(speech, clips)))
    texts = [[row.hypothesis for row in one.score.utterances] for one in scores]
    same = sum(one == other for one, other in zip(*texts, strict=True))
    assert same == len(clips) if precision == "float32" else same >= len(clips) - 2
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-4 if precision == "float32" else 2e-2)
    if precision == "float32":
        assert scores[0].score == scores[1].score


def test_two_batches_at_a_time_give_what_one_gives(tiny: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    """Through the threads that share the cores: encoded, scored and decoded."""
    before, scores = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert _threads_at_work() == threads
            features = StoredFeatures(tiny, AUDIO, Kept(tmp_path / str(threads)))
            features.prepare(clips)
            scores.append(Evaluator(tiny, features, DECODE, 4).evaluate(examples(tiny, clips)))
    finally:
        torch.set_num_threads(before)
    assert scores[0].score == scores[1].score
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-5)


def _threads_at_work() -> int:
    """Pieces that `spread` has under way at a time."""
    from threading import Barrier, BrokenBarrierError

    barrier = Barrier(2)

    def meet(_piece: int) -> bool:
        try:
            barrier.wait(timeout=5 if torch.get_num_threads() > 1 else 0.2)
        except BrokenBarrierError:
            return False
        return True

    return 2 if all(spread([0, 1], meet, torch.device("cpu"), lambda _piece: None)) else 1


@pytest.mark.slow
def test_the_verdict_is_the_same_with_packed_and_plain_products(sets: Manifests, tmp_path: Path) -> None:
    """A whole run of four updates each: transcripts, rates and verdict, from an empty cache each."""
    found = [_run(sets, tmp_path / name, kind) for name, kind in (("packed", None), ("plain", "plain"))]
    computing = [record["environment"]["computing"] for record in found]
    assert computing[1].endswith("products plain (MOONSHINE_LORA_PRODUCTS)")
    assert computing[0] != computing[1] or "MOONSHINE_LORA_PRODUCTS" in os.environ
    for side in ("baseline", "tuned"):
        for part in ("domain", "heldout"):
            one, other = (record[part][side]["score"] for record in found)
            assert one == other, (part, side)
    assert found[0]["verdict"] == found[1]["verdict"]


def _run(sets: Manifests, folder: Path, kind: str | None) -> Mapping[str, dict[str, object]]:
    """The record of a short run."""
    cache = Path(os.environ.get("MOONSHINE_LORA_CACHE", Path.home() / ".cache" / "moonshine-lora"))
    folder.mkdir()
    (folder / "cache").mkdir()
    for name in ("checkpoints", "wheels"):
        if (cache / name).is_dir():
            (folder / "cache" / name).symlink_to(cache / name)
    forced = {} if kind is None else {"MOONSHINE_LORA_PRODUCTS": kind}
    settings = [
        "--model-id",
        "packaged:moonshine-tiny",
        "--split-by",
        "utterance",
        "--batch-size",
        "2",
        "--max-steps",
        "4",
        "--rule",
        "point",
    ]
    command = [
        sys.executable,
        "-m",
        "lora.runners.experiment",
        *sets.flags(),
        *settings,
        "--rule",
        "point",
        "--output-dir",
        str(folder / "run"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "MOONSHINE_LORA_CACHE": str(folder / "cache")} | forced
    )
    assert done.returncode in (0, 3, 4), done.stderr
    record: Mapping[str, dict[str, object]] = json.loads((folder / "run" / "record.json").read_text())
    return record
