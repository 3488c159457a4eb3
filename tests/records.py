"""A finished run's record, made from transcripts and without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, Origin, write_sealed
from lora.config import build
from lora.runs.outcomes import Evaluation, Step, TrainOutcome
from lora.runs.record import AdapterInfo, CheckpointInfo, ManifestInfo, RunRecord, SetResult, environment
from lora.scoring.counts import score_utterance, total
from lora.scoring.gate import judge
from lora.scoring.significance import compare, drift, interval
from lora.system.files import sha256_file
from lora.units import Seconds

Row = tuple[str, str, str]
"""Reference, what the base model says, what the tuned one says."""

REQUIRED = {
    "model.model_id": "packaged:moonshine-tiny",
    "data.train_manifest": "data/train.jsonl",
    "data.domain_manifest": "data/test.jsonl",
    "data.heldout_manifest": "data/heldout.jsonl",
    "output.output_dir": "outputs/run",
    "gate.rule": "point",
}

DOMAIN: Sequence[Row] = (
    ("press the pound key", "press the town key", "press the pound key"),
    ("your call is important", "your call is important", "your call is import"),
    ("please hold the line", "please fold the lime", "please hold the line"),
)
HELDOUT: Sequence[Row] = (
    ("it was the best of times", "it was the best of times", "it was the best of times"),
    ("it was the worst of times", "it was the worst of times", "it was the worst of times"),
)


def completed(domain: Sequence[Row] = DOMAIN, heldout: Sequence[Row] = HELDOUT, **changes: Any) -> RunRecord:
    """The record of a completed run with these transcripts; `changes` replaces fields."""
    results = {name: _result(part) for name, part in (("domain", domain), ("heldout", heldout))}
    config = build(REQUIRED, None)
    comparisons = {name: result.comparison for name, result in results.items()}
    moved = drift(results["heldout"].baseline.score, results["heldout"].tuned.score, 0)
    manifest = ManifestInfo(path="data/train.jsonl", sha256="a" * 64, utterances=3, seconds=Seconds(90.0), speakers=1)
    step = Step(step=0, epoch=0.0, train_loss=None, dev_loss=1.5, dev_wer=0.25)
    record = RunRecord(
        status="completed",
        command=("moonshine-lora", "experiment"),
        started_at="2025-01-01T00:00:00+00:00",
        finished_at="2025-01-01T00:01:00+00:00",
        config=config,
        checkpoint=CheckpointInfo(model_id="packaged:moonshine-tiny", kind="packaged", revision=None, sha256="b" * 64),
        manifests={"train": manifest},
        environment=environment("cpu", "x86_64 cpu", 2, "float32"),
        text_style="none",
        adapter=AdapterInfo(sites=("model.decoder.layers.0.self_attn.q_proj",), parameters=5120, sha256="c" * 64),
        training=TrainOutcome(
            status="finished",
            best_step=10,
            steps=20,
            history=(step, Step(step=10, epoch=1.0, train_loss=0.9, dev_loss=0.8, dev_wer=0.125, guard_loss=0.1, guard_wer=0.05)),
            audio_seconds=Seconds(200.0),
            seconds=Seconds(10.0),
        ),
        domain=results["domain"],
        heldout=results["heldout"],
        heldout_drift=moved,
        verdict=judge(**comparisons, drift=moved, rules=config.gate),
        stages={"read": Seconds(0.5), "train": Seconds(12.0)},
    )
    return msgspec.structs.replace(record, **changes)


def with_adapter(record: RunRecord, folder: Path) -> RunRecord:
    """Puts a small adapter with its provenance into the run's folder; the record knows it then."""
    made = folder / "lora_adapter"
    made.mkdir(parents=True, exist_ok=True)
    save_file({"base_model.model.proj.lora_A.weight": np.ones((1, 2), dtype=np.float32)}, made / ADAPTER_WEIGHTS)
    (made / ADAPTER_SETTINGS).write_text("{}")
    write_sealed(
        made, Origin(base_model_id="packaged:moonshine-tiny", base_revision=None, base_sha256="b" * 64), ADAPTER_WEIGHTS, ADAPTER_SETTINGS
    )
    assert record.adapter is not None
    return msgspec.structs.replace(record, adapter=msgspec.structs.replace(record.adapter, sha256=sha256_file(made / ADAPTER_WEIGHTS)))


def _result(rows: Sequence[Row]) -> SetResult:
    baseline, tuned = (
        total(
            [
                score_utterance(id=f"u{number}", speaker_id=None, seconds=Seconds(2.0), reference=row[0], hypothesis=row[side])
                for number, row in enumerate(rows)
            ]
        )
        for side in (1, 2)
    )
    return SetResult(
        baseline=Evaluation(score=baseline, loss=1.25),
        baseline_interval=interval(baseline, 0),
        tuned=Evaluation(score=tuned, loss=0.5),
        tuned_interval=interval(tuned, 0),
        comparison=compare(baseline, tuned, 0),
    )
