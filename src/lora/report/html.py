"""`report.html`: the whole run on one page that opens from disk, without a network and without another file."""

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lora.config import flat
from lora.language import traits
from lora.report import charts, pages, terms
from lora.report.clips import EMBEDDED, Clip, Clips, Wanted, megabytes
from lora.report.diff import Piece, pieces
from lora.runs.record import RunRecord, SetResult
from lora.scoring.analysis import (
    ErrorTables,
    Group,
    Remaining,
    Vocabulary,
    by_duration,
    by_speaker,
    by_vocabulary,
    error_tables,
    looped,
    remaining,
)
from lora.scoring.counts import Counts, Score, UtteranceScore
from lora.system.files import write_text

AUDIO_MB = 20.0
"""How much of the page embedded recordings may take, in 10^6 bytes: an hour of speech, and a phone still opens it."""

LONG_WORDS = 80
"""Texts of more words than this are folded away."""

MOST_COMMON = 15
"""How many confusions, missed and added words are listed."""

SPLIT_NAMES = {"domain": "domain", "heldout": "held-out"}
"""The test sets as the record's fields and manifests name them, and as a person reads them."""


@dataclass(frozen=True, slots=True)
class UtteranceRow:
    """One line of the table of utterances."""

    split: str
    before: UtteranceScore
    after: UtteranceScore
    before_pieces: tuple[Piece, ...]
    after_pieces: tuple[Piece, ...]
    clip: Clip

    @property
    def change(self) -> int:
        return self.after.standard.errors - self.before.standard.errors

    @property
    def outcome(self) -> str:
        return "better" if self.change < 0 else "worse" if self.change > 0 else "same"

    @property
    def words(self) -> int:
        """Of the longest of its three texts."""
        return max(len(text.split()) for text in (self.before.reference, self.before.hypothesis, self.after.hypothesis))


@dataclass(frozen=True, slots=True)
class SpeakerRow:
    """A speaker's errors before and after in one test set."""

    split: str
    speaker: str
    utterances: int
    before: Counts
    after: Counts


def write_html(record: RunRecord, file: Path, audio_mb: float | None = AUDIO_MB) -> None:
    """Writes the page of a completed run. Recordings come from the manifests that the record names, where those are unchanged.

    `audio_mb` limits how much of the page they take; None leaves out all sound, links too.
    """
    write_text(file, render(record, file, audio_mb))


def render(record: RunRecord, page: Path, audio_mb: float | None = AUDIO_MB) -> str:
    """The page that will lie at `page`: links to recordings that are not embedded are relative to it."""
    from markupsafe import Markup

    environment = pages.environment()
    environment.filters |= {"percent": _percent, "points": lambda ratio: f"{100 * ratio:+.2f}", "command": shlex.join}
    environment.filters |= {"recall": terms.recall, "alarms": terms.alarms}
    clips = Clips(record.config.data, page, None if audio_mb is None else int(audio_mb * 1e6))
    silent = {split: why for split in SPLIT_NAMES if (why := clips.add_set(split, record.manifests.get(split)))}
    rows = _utterances(record, clips)
    style, script = _own("report.css"), _own("report.js")
    return environment.get_template("report.html.j2").render(
        run=record,
        results=_results(record),
        names=SPLIT_NAMES,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        intervals=_intervals(record),
        losses=_losses(record),
        rates=_rates(record),
        sweep=_sweep(record),
        speakers=(speakers := list(_speakers(record))),
        speaker_chart=_speaker_chart(record, speakers),
        errors=_errors(record),
        vocabulary=_vocabulary(record),
        rows=rows,
        silent=silent,
        embedded=megabytes(row.clip.source for row in rows),
        linked=sum(1 for row in rows if row.clip.source and not row.clip.source.startswith(EMBEDDED)),
        long_words=LONG_WORDS,
        settings=flat(record.config).items(),
        spoken=traits(record.config.model.language),
        term_sets=terms.sets_of(record),
        term_lines=terms.lines(record),
        term_events=terms.events(record),
        places={(row.split, row.before.id): place for place, row in enumerate(rows, start=1)},
    )


def _own(name: str) -> str:
    return files("lora.report").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded but the recordings, and nothing runs but the page's own script, which is known by its hash."""
    style_hash, script_hash = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{script_hash}'",
            f"style-src 'sha256-{style_hash}'",
            "img-src data:",
            "media-src data: file: 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2f}\N{NO-BREAK SPACE}%"


def _short_percent(ratio: float) -> str:
    return f"{100 * ratio:.3g}\N{NO-BREAK SPACE}%"


def _results(record: RunRecord) -> dict[str, SetResult]:
    found = {"domain": record.domain, "heldout": record.heldout}
    return {split: result for split, result in found.items() if result is not None}


def _utterances(record: RunRecord, clips: Clips) -> list[UtteranceRow]:
    """Largest changes first, worse before better: the order for reading, and for embedding sound."""
    pairs = [
        (split, before, after)
        for split, result in _results(record).items()
        for before, after in zip(result.baseline.score.utterances, result.tuned.score.utterances, strict=True)
    ]
    pairs.sort(key=lambda pair: (-abs(d := pair[2].standard.errors - pair[1].standard.errors), -d, -pair[2].standard.errors))
    players = clips.clips([Wanted(split, before.id, before.seconds) for split, before, _ in pairs])
    return [
        UtteranceRow(
            split=split,
            before=before,
            after=after,
            before_pieces=pieces(before, record.config.model.language),
            after_pieces=pieces(after, record.config.model.language),
            clip=clip,
        )
        for (split, before, after), clip in zip(pairs, players, strict=True)
    ]


def _groups(result: SetResult, divide: Callable[[Score], tuple[Group, ...]]) -> list[tuple[Group, Group]]:
    """A set's groups before and after, without those whose references hold no words."""
    pairs = zip(divide(result.baseline.score), divide(result.tuned.score), strict=True)
    return [(before, after) for before, after in pairs if before.words.reference_length]


def _speakers(record: RunRecord) -> Iterator[SpeakerRow]:
    """The speakers of the test sets that name any."""
    for split, result in _results(record).items():
        if any(row.speaker_id is not None for row in result.baseline.score.utterances):
            for before, after in _groups(result, by_speaker):
                yield SpeakerRow(split, before.name, before.utterances, before.words, after.words)


@dataclass(frozen=True, slots=True)
class ErrorsOf:
    """Where the errors of one test set are."""

    before: ErrorTables
    after: ErrorTables
    durations: list[tuple[Group, Group]]
    loops_before: tuple[str, ...]
    loops_after: tuple[str, ...]
    left: Remaining


def _errors(record: RunRecord) -> dict[str, ErrorsOf]:
    return {
        split: ErrorsOf(
            before=error_tables(result.baseline.score, MOST_COMMON),
            after=error_tables(result.tuned.score, MOST_COMMON),
            durations=_groups(result, by_duration),
            loops_before=looped(result.baseline.score),
            loops_after=looped(result.tuned.score),
            left=remaining(result.tuned.score, [result.baseline.score]),
        )
        for split, result in _results(record).items()
    }


def _vocabulary(record: RunRecord) -> tuple[Vocabulary, Vocabulary] | None:
    """Domain words that training held and did not hold, before and after; None if it held all."""
    if record.domain is None or not record.domain_unseen_words:
        return None
    before, after = (by_vocabulary(side.score, record.domain_unseen_words) for side in (record.domain.baseline, record.domain.tuned))
    return before, after


def _speaker_chart(record: RunRecord, speakers: list[SpeakerRow]) -> charts.Plot | None:
    points = [(row.speaker, f"set-{row.split}", SPLIT_NAMES[row.split], row.before.rate, row.after.rate) for row in speakers]
    if not points:
        return None
    rate = traits(record.config.model.language).metric
    return charts.before_after(points, x_title=f"baseline {rate}", y_title=f"tuned {rate}", label=_short_percent)


def _intervals(record: RunRecord) -> charts.Whiskers:
    groups, told = [], []
    for split, result in _results(record).items():
        sides = (
            ("baseline", result.baseline.score.wer, result.baseline_interval),
            ("tuned", result.tuned.score.wer, result.tuned_interval),
        )
        groups.append((SPLIT_NAMES[split], [(name, name, interval.low, wer, interval.high) for name, wer, interval in sides]))
        told += [f"{SPLIT_NAMES[split]} {name} {_percent(wer)}" for name, wer, _ in sides]
    summary = f"{_rate_name(record).capitalize()}s with 95 % intervals: {', '.join(told)}."
    return charts.whiskers(groups, label=_short_percent, exact=_percent, summary=summary)


def _losses(record: RunRecord) -> charts.Plot | None:
    history = record.training.history if record.training else ()
    series = (
        ("training", "series-train", [(step.step, step.train_loss) for step in history if step.train_loss is not None]),
        ("dev (domain)", "series-dev", [(step.step, step.dev_loss) for step in history]),
        ("guard (general)", "series-guard", [(step.step, step.guard_loss) for step in history if step.guard_loss is not None]),
    )
    return _curves(record, series, "loss, nats per token", lambda value: f"{value:.3g}")


def _rates(record: RunRecord) -> charts.Plot | None:
    history = record.training.history if record.training else ()
    series = (
        ("dev (domain)", "series-dev", [(step.step, step.dev_wer) for step in history]),
        ("guard (general)", "series-guard", [(step.step, step.guard_wer) for step in history if step.guard_wer is not None]),
    )
    return _curves(record, series, _rate_name(record), _short_percent)


def _rate_name(record: RunRecord) -> str:
    return f"{traits(record.config.model.language).unit} error rate"


def _curves(
    record: RunRecord, series: tuple[tuple[str, str, Sequence[tuple[float, float]]], ...], y_title: str, label: charts.Label
) -> charts.Plot | None:
    given = [one for one in series if one[2]]
    if record.training is None or not given:
        return None
    best = record.training.best_step
    return charts.curves(given, x_title="step", y_title=y_title, label=label, highlight=(best, f"best step {best}"))


def _sweep(record: RunRecord) -> charts.Plot | None:
    if record.strength is None:
        return None
    series = (
        ("dev (domain)", "series-dev", [(one.strength, one.dev_wer) for one in record.strengths]),
        ("guard (general)", "series-guard", [(one.strength, one.guard_wer) for one in record.strengths]),
    )
    saved = (record.strength, f"saved {record.strength:g}")
    return charts.curves(series, x_title="strength", y_title=_rate_name(record), label=_short_percent, highlight=saved)
