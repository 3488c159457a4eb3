"""Word and character error rates as counts, and what is certain about them. No model.

A rate is a ratio; percent and points appear only where a person reads.
"""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from lora.errors import ScoringError
from lora.text import normalise, normaliser_version
from lora.units import Seconds

RESAMPLES = 10_000
CONFIDENCE = 0.95
NO_WORDS = "the references hold no words, so there is no error rate; score at least one utterance with speech"


class Counts(msgspec.Struct, frozen=True):
    """Edit operations that turn references into hypotheses, as NIST counts them."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference token. Raises `ScoringError` without a single reference token: there is no rate then."""
        if self.reference_length == 0:
            raise ScoringError(NO_WORDS)
        return self.errors / self.reference_length

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))


class UtteranceScore(msgspec.Struct, frozen=True, kw_only=True):
    """One utterance's reference, hypothesis and counts: normalised words, normalised characters, words as written."""

    id: str
    speaker_id: str | None
    seconds: Seconds
    reference: str
    hypothesis: str
    words: Counts
    characters: Counts
    raw_words: Counts
    capped: bool = False
    """Whether decoding stopped at the token cap: usually a loop, a hallucination."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A set's error counts with its rows."""

    words: Counts
    characters: Counts
    raw_words: Counts
    normaliser: str
    utterances: tuple[UtteranceScore, ...]

    @property
    def wer(self) -> float:
        return self.words.rate

    @property
    def cer(self) -> float:
        return self.characters.rate

    @property
    def raw_wer(self) -> float:
        """Word error rate of the text as written: case and punctuation count."""
        return self.raw_words.rate

    @property
    def capped(self) -> tuple[str, ...]:
        """Ids of the utterances whose decoding ran into the token cap."""
        return tuple(row.id for row in self.utterances if row.capped)


class Interval(msgspec.Struct, frozen=True):
    """A central confidence interval of a ratio."""

    low: float
    high: float
    confidence: float = CONFIDENCE


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Tuned against baseline on the same utterances; a negative difference is an improvement."""

    difference: float
    interval: Interval
    probability_of_improvement: float
    resampled_by: str
    clusters: int


def score_utterance(
    *, id: str, speaker_id: str | None, seconds: Seconds, reference: str, hypothesis: str, capped: bool = False
) -> UtteranceScore:
    """Counts of one utterance. An empty reference is legal: every word said is then an insertion."""
    clean_reference, clean_hypothesis = normalise(reference), normalise(hypothesis)
    return UtteranceScore(
        id=id,
        speaker_id=speaker_id,
        seconds=seconds,
        reference=reference,
        hypothesis=hypothesis,
        words=count_edits(clean_reference.split(), clean_hypothesis.split()),
        characters=count_edits(list(clean_reference), list(clean_hypothesis)),
        raw_words=count_edits(reference.split(), hypothesis.split()),
        capped=capped,
    )


def total(rows: Sequence[UtteranceScore]) -> Score:
    """The corpus score. Raises `ScoringError` when there is nothing to score."""
    if not rows:
        raise ScoringError("no utterances to score")
    return Score(
        words=sum((row.words for row in rows), Counts()),
        characters=sum((row.characters for row in rows), Counts()),
        raw_words=sum((row.raw_words for row in rows), Counts()),
        normaliser=normaliser_version(),
        utterances=tuple(rows),
    )


def count_edits(reference: list[str], hypothesis: list[str]) -> Counts:
    """Minimal edits between two token lists, by jiwer."""
    if not reference:
        return Counts(insertions=len(hypothesis))
    if not hypothesis:
        return Counts(deletions=len(reference))
    import jiwer

    as_tokens: Any = _as_they_are  # jiwer's default transforms would split and strip the tokens again
    one, other = cast(list[str], [reference]), cast(list[str], [hypothesis])
    result = jiwer.process_words(one, other, reference_transform=as_tokens, hypothesis_transform=as_tokens)
    return Counts(result.hits, result.substitutions, result.deletions, result.insertions)


def interval(score: Score, seed: int) -> Interval:
    """Bootstrap interval of the WER, resampled by speaker where every utterance has one, else by utterance.

    Raises `ScoringError` where the references hold no words.
    """
    errors, lengths, _ = _clusters(score)
    rates = _resampled(errors[:, None], lengths, seed)[:, 0]
    return _central(rates)


def compare(baseline: Score, tuned: Score, seed: int) -> Comparison:
    """Paired bootstrap of the WER difference, tuned minus baseline.

    Raises `ScoringError` when the two did not score the same utterances with the same normaliser.
    """
    if [(u.id, u.reference) for u in baseline.utterances] != [(u.id, u.reference) for u in tuned.utterances]:
        raise ScoringError("baseline and tuned scores are of different utterances and cannot be compared")
    if baseline.normaliser != tuned.normaliser:
        raise ScoringError(f"scores were normalised by {baseline.normaliser} and {tuned.normaliser} and cannot be compared")
    before, lengths, names = _clusters(baseline)
    after, _, _ = _clusters(tuned)
    rates = _resampled(np.stack([before, after], axis=1), lengths, seed)
    differences = rates[:, 1] - rates[:, 0]
    return Comparison(
        difference=tuned.wer - baseline.wer,
        interval=_central(differences),
        probability_of_improvement=float((differences < 0).mean() + (differences == 0).mean() / 2),
        resampled_by=names,
        clusters=len(lengths),
    )


def _clusters(score: Score) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
    """Errors and reference words of each independent unit: a speaker, or an utterance when there are not two speakers."""
    speakers = [row.speaker_id for row in score.utterances]
    by_speaker = None not in speakers and len(set(speakers)) > 1
    keys = [str(row.speaker_id) if by_speaker else str(index) for index, row in enumerate(score.utterances)]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    errors, lengths = np.zeros(len(order)), np.zeros(len(order))
    for key, row in zip(keys, score.utterances, strict=True):
        errors[order[key]] += row.words.errors
        lengths[order[key]] += row.words.reference_length
    if not lengths.any():
        raise ScoringError(NO_WORDS)
    return errors, lengths, "speaker" if by_speaker else "utterance"


def _resampled(errors: npt.NDArray[np.float64], lengths: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """Rates `[resamples, columns]` of clusters drawn with replacement; `errors` is `[clusters, columns]`."""
    generator = np.random.default_rng(seed)
    values = np.concatenate([errors, lengths[:, None]], axis=1)
    chunk = max(1, 4_000_000 // len(lengths))  # bounds the memory of the drawn indices
    sums = []
    for start in range(0, RESAMPLES, chunk):
        drawn = generator.integers(0, len(lengths), size=(min(chunk, RESAMPLES - start), len(lengths)), dtype=np.int32)
        sums.append(np.stack([column[drawn].sum(axis=1) for column in values.T], axis=1))
    table = np.concatenate(sums)
    table = table[table[:, -1] > 0]  # a draw of empty references only has no rate
    rates: npt.NDArray[np.float64] = table[:, :-1] / table[:, -1:]
    return rates


def _central(values: npt.NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _as_they_are(sentences: list[list[str]]) -> list[list[str]]:
    return sentences
