"""`report.md`: the training report of docs/training.md, filled in."""

import shlex
from pathlib import Path

from lora.config import flat
from lora.language import traits
from lora.report import terms
from lora.report.escape import markdown_environment
from lora.runs.record import RunRecord
from lora.scoring.analysis import by_duration, by_speaker, by_vocabulary, error_tables, looped
from lora.scoring.counts import Score, UtteranceScore
from lora.system.files import write_text

MOST_BETTER, MOST_WORSE = 10, 5
"""How many utterances that changed are shown."""

MOST_COMMON = 5
"""How many errors of a kind are shown."""


def write_report(record: RunRecord, file: Path) -> None:
    """Writes the Markdown report of a completed run."""
    write_text(file, render(record))


def render(record: RunRecord) -> str:
    environment = markdown_environment()
    environment.filters |= {"command": shlex.join, "recall": terms.recall, "alarms": terms.alarms}
    template = environment.get_template("report.md.j2")
    assert record.domain is not None  # a completed run has its results
    before, after = record.domain.baseline.score, record.domain.tuned.score
    seen = [by_vocabulary(score, record.domain_unseen_words) for score in (before, after)]
    rendered: str = template.render(
        run=record,
        settings=flat(record.config).items(),
        spoken=traits(record.config.model.language),
        changed=_changed(before, after),
        looped=looped(after),
        groups=[
            pair
            for groups in (by_speaker, by_duration)
            for pair in zip(groups(before), groups(after), strict=True)
            if len(groups(after)) > 1
        ],
        vocabulary=[("seen", *(side.seen for side in seen)), ("not seen", *(side.unseen for side in seen))],
        tables=error_tables(after, MOST_COMMON),
        term_sets=terms.sets_of(record),
        term_lines=terms.lines(record),
        term_events=terms.events(record),
    )
    return rendered


def _changed(before: Score, after: Score) -> list[tuple[UtteranceScore, UtteranceScore]]:
    """Utterances before and after: those that gained most, then those that lost most."""
    pairs = [
        (one, other) for one, other in zip(before.utterances, after.utterances, strict=True) if one.standard.errors != other.standard.errors
    ]
    pairs.sort(key=lambda pair: pair[1].standard.errors - pair[0].standard.errors)
    better = [pair for pair in pairs if pair[1].standard.errors < pair[0].standard.errors]
    worse = [pair for pair in pairs if pair[1].standard.errors > pair[0].standard.errors]
    return better[:MOST_BETTER] + worse[-MOST_WORSE:]
