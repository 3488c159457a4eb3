"""How many of a user's terms are found where they are spoken, and how often one is heard where nobody said it. No model.

In an utterance a term is found as often as both the reference and the transcript hold it. What the reference holds more often is missed;
what the transcript holds more often is a false alarm. Its position in the utterance plays no role.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import msgspec

from lora.errors import ScoringError
from lora.scoring.counts import Score, UtteranceScore
from lora.scoring.significance import CONFIDENCE, Interval, ratio_interval
from lora.text.style import first_alternatives
from lora.text.terms import Terms

PER_WORDS = 1000
"""False alarms are reported per this many words of the references."""

Kind = Literal["missed", "false alarm"]


class TermEvent(msgspec.Struct, frozen=True):
    """An utterance in which a term is missed or heard falsely."""

    id: str
    term: str
    kind: Kind


class TermCount(msgspec.Struct, frozen=True, kw_only=True):
    """One term in one set."""

    term: str
    spoken: int = 0
    found: int = 0
    as_listed: int = 0
    """Found ones that are written with the case of the list."""
    false_alarms: int = 0

    @property
    def interval(self) -> Interval | None:
        """Wilson's interval of the recall (Journal of the American Statistical Association 22, 1927); None if nobody says it."""
        return wilson(self.found, self.spoken) if self.spoken else None


class TermScore(msgspec.Struct, frozen=True, kw_only=True):
    """A list of terms in one set of transcripts."""

    words: int
    """Words of the references."""
    counts: tuple[TermCount, ...]
    """One for each term of the list, in its order."""
    recall_interval: Interval | None
    """By resampling whole terms, for those who know a term know it everywhere. None if none is spoken."""
    alarms_interval: Interval | None
    """Of false alarms per word, by resampling utterances; None if the references hold no words or there is one utterance."""
    events: tuple[TermEvent, ...]

    @property
    def spoken(self) -> int:
        return sum(count.spoken for count in self.counts)

    @property
    def found(self) -> int:
        return sum(count.found for count in self.counts)

    @property
    def as_listed(self) -> int:
        return sum(count.as_listed for count in self.counts)

    @property
    def false_alarms(self) -> int:
        return sum(count.false_alarms for count in self.counts)

    @property
    def recall(self) -> float | None:
        """Found among spoken; None if none is spoken."""
        return self.found / self.spoken if self.spoken else None

    @property
    def alarms(self) -> float | None:
        """False alarms in `PER_WORDS` words; None if the references hold no words."""
        return PER_WORDS * self.false_alarms / self.words if self.words else None


class TermResult(msgspec.Struct, frozen=True, kw_only=True):
    """A list of terms in a test set before and after."""

    baseline: TermScore
    tuned: TermScore
    recall_change: Interval | None
    """Of the difference of the recalls, tuned minus baseline, by resampling whole terms; None if fewer than two are spoken."""


class TermsFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found of its terms."""

    path: str
    sha256: str
    domain: TermResult
    heldout: TermResult

    @property
    def untested(self) -> tuple[str, ...]:
        """Terms that occur in no test row, so nothing is known about them."""
        pairs = zip(self.domain.tuned.counts, self.heldout.tuned.counts, strict=True)
        return tuple(one.term for one, other in pairs if not one.spoken and not other.spoken)


def score_terms(terms: Terms, score: Score, seed: int) -> TermScore:
    """The terms in the references and transcripts of a score."""
    spoken, found, listed, alarms = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    events, alarms_of_rows = list[TermEvent](), list[int]()
    for row in score.utterances:
        said, heard, exact = _in_row(terms, row)
        both, missed, falsely = said & heard, said - heard, heard - said
        spoken += said
        found += both
        listed += both & exact
        alarms += falsely
        alarms_of_rows.append(falsely.total())
        events += [TermEvent(row.id, term, "missed") for term in missed.elements()]
        events += [TermEvent(row.id, term, "false alarm") for term in falsely.elements()]
    names = [term.written for term in terms]
    counts = tuple(
        TermCount(term=name, spoken=spoken[name], found=found[name], as_listed=listed[name], false_alarms=alarms[name]) for name in names
    )
    return TermScore(
        words=score.standard.reference_length,
        counts=counts,
        recall_interval=_recall_interval(counts, seed),
        alarms_interval=_alarms_interval(score, alarms_of_rows, seed),
        events=tuple(events),
    )


def compare_terms(terms: Terms, baseline: Score, tuned: Score, seed: int) -> TermResult:
    """The terms before and after, on the same utterances."""
    before, after = score_terms(terms, baseline, seed), score_terms(terms, tuned, seed)
    pairs = [(a.found - b.found, a.spoken) for b, a in zip(before.counts, after.counts, strict=True) if a.spoken]
    change = ratio_interval([gained for gained, _ in pairs], [spoken for _, spoken in pairs], seed) if len(pairs) > 1 else None
    return TermResult(baseline=before, tuned=after, recall_change=change)


def wilson(found: int, spoken: int) -> Interval:
    """Wilson's score interval of a share. Raises `ScoringError` for a share of nothing."""
    if spoken == 0:
        raise ScoringError("a share of nothing has no interval")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, weight = found / spoken, z * z / spoken
    half = z * math.sqrt(share * (1 - share) / spoken + weight / (4 * spoken))
    return Interval(max(0.0, (share + weight / 2 - half) / (1 + weight)), min(1.0, (share + weight / 2 + half) / (1 + weight)))


def _in_row(terms: Terms, row: UtteranceScore) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How often the reference and the transcript hold each term, and how often the transcript has it with the case of the list."""
    said = Counter(found.term for found in terms.found(first_alternatives(row.reference)))
    heard = terms.found(row.hypothesis)
    exact = Counter(found.term for found in heard if row.hypothesis[found.start : found.end - found.ending] == found.term)
    return said, Counter(found.term for found in heard), exact


def _recall_interval(counts: Sequence[TermCount], seed: int) -> Interval | None:
    known = [count for count in counts if count.spoken]
    if len(known) < 2:
        return known[0].interval if known else None
    found = ratio_interval([count.found for count in known], [count.spoken for count in known], seed)
    return Interval(max(0.0, found.low), min(1.0, found.high))


def _alarms_interval(score: Score, alarms: Sequence[int], seed: int) -> Interval | None:
    if len(alarms) < 2 or not score.standard.reference_length:
        return None
    found = ratio_interval(alarms, [row.standard.reference_length for row in score.utterances], seed)
    return Interval(max(0.0, found.low), found.high)
