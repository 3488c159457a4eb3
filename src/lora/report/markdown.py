"""`report.md`: the training report of docs/training.md, filled in."""

import html
from importlib.resources import files
from pathlib import Path

from lora.files import write_text
from lora.record import RunRecord

MOST_BETTER, MOST_WORSE = 10, 5
"""How many utterances that changed are shown."""


def write_report(record: RunRecord, file: Path) -> None:
    """Writes the Markdown report of a completed run."""
    write_text(file, render(record))


def render(record: RunRecord) -> str:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["percent"] = lambda ratio: f"{100 * ratio:.2f} %"
    environment.filters["points"] = lambda ratio: f"{100 * ratio:+.2f}"
    environment.filters["cell"] = _cell
    template = environment.from_string(files("lora.report").joinpath("report.md.j2").read_text(encoding="utf-8"))
    changed = (
        [
            (before, after)
            for before, after in zip(record.domain.baseline.score.utterances, record.domain.tuned.score.utterances, strict=True)
            if before.words.errors != after.words.errors
        ]
        if record.domain
        else []
    )
    changed.sort(key=lambda pair: pair[1].words.errors - pair[0].words.errors)
    better = [pair for pair in changed if pair[1].words.errors < pair[0].words.errors]
    worse = [pair for pair in changed if pair[1].words.errors > pair[0].words.errors]
    return template.render(run=record, settings=_settings(record), changed=better[:MOST_BETTER] + worse[-MOST_WORSE:])


def _cell(text: object) -> str:
    """Text for a table's cell: on one line, no border and no HTML, which Markdown would pass on."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def _settings(record: RunRecord) -> list[tuple[str, str]]:
    return [
        (f"{section}.{name}", str(getattr(getattr(record.config, section), name)))
        for section in record.config.__struct_fields__
        for name in getattr(record.config, section).__struct_fields__
    ]
