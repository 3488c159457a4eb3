"""What the reports show of a run's terms: totals, a line for each term, and every miss and false alarm with its texts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lora.runs.record import RunRecord
from lora.scoring.counts import UtteranceScore
from lora.scoring.significance import Interval
from lora.scoring.terms import PER_WORDS, Kind, TermCount, TermResult, TermScore


@dataclass(frozen=True, slots=True)
class TermLine:
    """A term in the domain before and after, and its false alarms in both test sets when tuned."""

    before: TermCount
    after: TermCount
    heldout: TermCount


@dataclass(frozen=True, slots=True)
class EventLine:
    """A term that the tuned model missed or heard falsely in an utterance."""

    split: str
    term: str
    kind: Kind
    times: int
    before: UtteranceScore
    after: UtteranceScore


def sets_of(record: RunRecord) -> dict[str, TermResult]:
    """The results by test set; empty for a run without a list."""
    return {"domain": record.terms.domain, "heldout": record.terms.heldout} if record.terms is not None else {}


def lines(record: RunRecord) -> list[TermLine]:
    """A line for each term that a test row says or a model heard, those that are missed most first."""
    if record.terms is None:
        return []
    domain, heldout = record.terms.domain, record.terms.heldout
    found = [TermLine(*counts) for counts in zip(domain.baseline.counts, domain.tuned.counts, heldout.tuned.counts, strict=True)]
    told = [line for line in found if line.after.spoken or line.after.false_alarms or line.heldout.spoken or line.heldout.false_alarms]
    return sorted(told, key=lambda line: (line.after.found - line.after.spoken, -line.heldout.false_alarms, line.after.term.casefold()))


def events(record: RunRecord) -> list[EventLine]:
    """Every miss and false alarm of the tuned model, false alarms first, held-out before domain."""
    return sorted(_events(record), key=lambda line: (line.kind != "false alarm", line.split != "heldout", line.term.casefold()))


def _events(record: RunRecord) -> Iterator[EventLine]:
    results = {"domain": record.domain, "heldout": record.heldout}
    for split, terms in sets_of(record).items():
        result = results[split]
        if result is None:
            continue
        before = {row.id: row for row in result.baseline.score.utterances}
        after: Mapping[str, UtteranceScore] = {row.id: row for row in result.tuned.score.utterances}
        for event, times in Counter(terms.tuned.events).items():
            yield EventLine(split, event.term, event.kind, times, before[event.id], after[event.id])


def recall(score: TermScore) -> str:
    """Recall with its counts and interval, for a person."""
    if score.recall is None:
        return "none spoken"
    return f"{100 * score.recall:.1f} % ({score.found} of {score.spoken}{_range(score.recall_interval, 100, ' %')})"


def alarms(score: TermScore) -> str:
    """False alarms in 1,000 words with their count and interval, for a person."""
    if score.alarms is None:
        return "no words"
    return f"{score.alarms:.2f} ({score.false_alarms} in {score.words} words{_range(score.alarms_interval, PER_WORDS, '')})"


def _range(interval: Interval | None, scale: int, unit: str) -> str:
    digits = 1 if unit else 2
    return f"; {scale * interval.low:.{digits}f} to {scale * interval.high:.{digits}f}{unit}" if interval is not None else ""
