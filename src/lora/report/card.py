"""The model card of an adapter, for the hub and its readers, from the run's record alone."""

from importlib.resources import files
from pathlib import Path

from lora.checkpoints.licences import licence
from lora.language import code, metric, traits
from lora.runs.record import RunRecord, SetResult
from lora.system.files import write_text

CARD_FILE = "README.md"


def write_card(record: RunRecord, file: Path) -> None:
    """Writes the card of a completed run."""
    write_text(file, render_card(record))


def render_card(record: RunRecord) -> str:
    """The card as Markdown with its YAML head.

    Only facts of the record are claimed: the base model is named to the hub if it is from there, datasets if the
    settings name them. The licence is the settings', or that of a published base model.
    """
    from huggingface_hub import ModelCardData

    from lora.report.escape import markdown_environment

    base = licence(record.checkpoint.model_id)
    own = base if record.config.output.card_license is None else None
    named = own.name if own is not None and own.link is None else "other" if own is not None else record.config.output.card_license
    full = record.config.adapter.method == "full"
    data = ModelCardData(
        base_model=record.checkpoint.model_id if record.checkpoint.kind == "hub" else None,
        license=named,
        license_name=own.name if own is not None and own.link is not None else None,
        license_link=own.link if own is not None else None,
        datasets=record.config.output.datasets() or None,
        language=code(record.config.model.language),
        library_name="transformers" if full else "peft",
        pipeline_tag="automatic-speech-recognition",
        tags=[*([] if full else ["lora"]), "moonshine", "moonshine-lora"],
        metrics=[metric(record.config.model.language).lower()],
        model_name=Path(record.config.output.output_dir).name,
        eval_results=[
            result
            for name, part in (("domain", record.domain), ("heldout", record.heldout))
            if part is not None
            for result in _results(record, name, part)
        ],
    )
    template = markdown_environment().from_string(files("lora.report").joinpath("card.md.j2").read_text(encoding="utf-8"))
    return f"---\n{data.to_yaml()}\n---\n\n{template.render(run=record, spoken=traits(record.config.model.language), full=full, base=base)}"


def _results(record: RunRecord, name: str, part: SetResult):  # type: ignore[no-untyped-def]  # huggingface_hub is imported when it is needed
    """Word and character error rate of the tuned model in percent, as the hub's tables have them; without words only the latter."""
    from huggingface_hub import EvalResult

    info = record.manifests.get(name)
    score = part.tuned.score
    for name_of_rate, rate in (("wer", score.wer), ("cer", score.cer))[score.metric == "CER" :]:
        yield EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type="manifest",
            dataset_name=name,
            dataset_config=name,  # without it the hub's library takes results of different sets for those of one
            dataset_revision=info.sha256 if info else None,
            metric_type=name_of_rate,
            metric_name=f"{name_of_rate.upper()}, normalised",
            metric_value=round(100 * rate, 2),
        )
