"""The flat metrics file that scripts read: `experiment_metrics.json` or `real_metrics.json`."""

from pathlib import Path
from typing import Any

from lora.runs.record import RunRecord, SetResult
from lora.scoring.terms import TermScore, TermsFound
from lora.system.files import write_json


def write_metrics(record: RunRecord, file: Path) -> None:
    """Writes the metrics of a run. Rates are ratios, losses nats per token, times seconds."""
    write_json(file, metrics(record))


def metrics(record: RunRecord) -> dict[str, Any]:
    """The metrics as a flat dictionary with the settings and provenance beside them; absent stages give None."""
    return {
        "status": record.status,
        "error": record.error,
        "accepted": record.verdict.accepted if record.verdict else None,
        "decision": record.verdict.decision if record.verdict else None,
        "verdict": record.verdict.sentence if record.verdict else None,
        "checks": record.verdict.checks if record.verdict else None,
        **_set("", record.domain),
        **_set("heldout_", record.heldout),
        "heldout_drift": record.heldout_drift,
        **_terms(record.terms),
        "best_step": record.training.best_step if record.training else None,
        "steps": record.training.steps if record.training else None,
        "train_audio_seconds": record.training.audio_seconds if record.training else None,
        "train_audio_seconds_per_second": record.training.speed if record.training else None,
        "runtime_seconds": record.stages,
        "device": record.environment.device,
        "model_id": record.checkpoint.model_id,
        "model_revision": record.checkpoint.revision,
        "model_sha256": record.checkpoint.sha256,
        "adapter": record.adapter,
        "text_style": record.text_style,
        "normaliser": record.domain.baseline.score.normaliser if record.domain else None,
        "reader": record.domain.baseline.score.reader if record.domain else None,
        "text_style_counts": record.text_style_counts,
        "settings": record.config,
        "manifests": record.manifests,
        "environment": record.environment,
        "command": record.command,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }


def _terms(terms: TermsFound | None) -> dict[str, Any]:
    """Shares of the terms that are found, and false alarms in 1,000 words; None without a list."""
    values: dict[str, Any] = {"terms_untested": terms.untested if terms else None}
    for name in ("domain", "heldout"):
        for when in ("baseline", "tuned"):
            score: TermScore | None = getattr(getattr(terms, name), when) if terms else None
            prefix = f"{'' if name == 'domain' else 'heldout_'}{when}"
            values[f"{prefix}_term_recall"] = score.recall if score else None
            values[f"{prefix}_term_recall_interval"] = score.recall_interval if score else None
            values[f"{prefix}_false_alarms"] = score.alarms if score else None
            values[f"{prefix}_false_alarms_interval"] = score.alarms_interval if score else None
            values[f"{prefix}_terms"] = [count for count in score.counts if count.spoken or count.false_alarms] if score else None
    return values


def _set(prefix: str, result: SetResult | None) -> dict[str, Any]:
    names = (
        "wer",
        "cer",
        "raw_wer",
        "raw_cer",
        "eval_loss",
        "wer_interval",
        "words",
        "capped",
        "reader_wer",
        "reader_words",
        "tags",
        "freed",
    )
    if result is None:
        return {f"{prefix}{when}_{name}": None for when in ("baseline", "tuned") for name in names} | {f"{prefix}wer_change": None}
    sides = {"baseline": (result.baseline, result.baseline_interval), "tuned": (result.tuned, result.tuned_interval)}
    values: dict[str, Any] = {}
    for when, (evaluation, interval) in sides.items():
        score = evaluation.score
        values[f"{prefix}{when}_wer"] = score.wer
        values[f"{prefix}{when}_cer"] = score.cer
        values[f"{prefix}{when}_raw_wer"] = score.raw_wer
        values[f"{prefix}{when}_raw_cer"] = score.raw_cer
        values[f"{prefix}{when}_eval_loss"] = evaluation.loss
        values[f"{prefix}{when}_wer_interval"] = [interval.low, interval.high]
        values[f"{prefix}{when}_words"] = score.standard
        values[f"{prefix}{when}_capped"] = score.capped
        values[f"{prefix}{when}_reader_wer"] = score.reader_wer
        values[f"{prefix}{when}_reader_words"] = score.words
        values[f"{prefix}{when}_tags"] = score.tags
        values[f"{prefix}{when}_freed"] = score.freed
    values[f"{prefix}wer_change"] = result.comparison
    return values
