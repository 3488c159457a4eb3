"""Word and character error rates as counts. No model.

In a language that does not separate words a word is a single character, so that its word error rate is the character error rate.

A rate is a ratio; percent and points appear only where a person reads. Every edit costs 1, so that the counted errors are the fewest
that turn reference into hypothesis. NIST's `sclite` aligns with costs of 4 for a substitution and 3 for a deletion or an insertion
(SCTK, doc/sclite.htm), so that three deletions with three insertions (18) win over five substitutions (20) although they are one
error more. No alignment has fewer errors than the fewest: jiwer's total is the same as sclite's or lower, and its kinds may differ.
"""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from lora.errors import ScoringError
from lora.language import Language, Metric, metric
from lora.text import as_written, composed, normalise, normaliser_version
from lora.units import Seconds

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
    """One utterance's reference, hypothesis and counts: words and characters, normalised and (raw) as written."""

    id: str
    speaker_id: str | None
    seconds: Seconds
    reference: str
    hypothesis: str
    words: Counts
    characters: Counts
    raw_words: Counts
    raw_characters: Counts
    capped: bool = False
    """Whether decoding stopped at the token cap: usually a loop, a hallucination."""


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A set's error counts with its rows."""

    words: Counts
    characters: Counts
    raw_words: Counts
    raw_characters: Counts
    normaliser: str
    utterances: tuple[UtteranceScore, ...]
    language: Language = "en"

    @property
    def metric(self) -> Metric:
        """What `wer` is called in this language."""
        return metric(self.language)

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
    def raw_cer(self) -> float:
        """Character error rate of the text as written."""
        return self.raw_characters.rate

    @property
    def capped(self) -> tuple[str, ...]:
        """Ids of the utterances whose decoding ran into the token cap."""
        return tuple(row.id for row in self.utterances if row.capped)


def score_utterance(
    *,
    id: str,
    speaker_id: str | None,
    seconds: Seconds,
    reference: str,
    hypothesis: str,
    capped: bool = False,
    language: Language = "en",
) -> UtteranceScore:
    """Counts of one utterance. An empty reference is legal: every word said is then an insertion."""
    clean_reference, clean_hypothesis = normalise(reference, language), normalise(hypothesis, language)
    words = count_edits(clean_reference.split(), clean_hypothesis.split())
    raw_words = count_edits(as_written(reference, language), as_written(hypothesis, language))
    separated = metric(language) == "WER"
    return UtteranceScore(
        id=id,
        speaker_id=speaker_id,
        seconds=seconds,
        reference=reference,
        hypothesis=hypothesis,
        words=words,
        characters=count_edits(list(clean_reference), list(clean_hypothesis)) if separated else words,
        raw_words=raw_words,
        raw_characters=count_edits(list(composed(reference)), list(composed(hypothesis))) if separated else raw_words,
        capped=capped,
    )


def total(rows: Sequence[UtteranceScore], language: Language = "en") -> Score:
    """The corpus score. Raises `ScoringError` when there is nothing to score."""
    if not rows:
        raise ScoringError("no utterances to score")
    return Score(
        words=sum((row.words for row in rows), Counts()),
        characters=sum((row.characters for row in rows), Counts()),
        raw_words=sum((row.raw_words for row in rows), Counts()),
        raw_characters=sum((row.raw_characters for row in rows), Counts()),
        normaliser=normaliser_version(language),
        utterances=tuple(rows),
        language=language,
    )


def count_edits(reference: list[str], hypothesis: list[str]) -> Counts:
    """Minimal edits between two token lists, by jiwer."""
    if not reference:
        return Counts(insertions=len(hypothesis))
    if not hypothesis:
        return Counts(deletions=len(reference))
    result = by_jiwer(reference, hypothesis)
    return Counts(result.hits, result.substitutions, result.deletions, result.insertions)


def by_jiwer(reference: Sequence[str], hypothesis: Sequence[str]) -> Any:
    """jiwer's `WordOutput` of two lists of tokens, neither of them empty: counts and one of the best alignments."""
    import jiwer

    as_they_are: Any = _as_they_are  # jiwer's default transforms would split and strip the tokens again
    one, other = cast(list[str], [list(reference)]), cast(list[str], [list(hypothesis)])
    return jiwer.process_words(one, other, reference_transform=as_they_are, hypothesis_transform=as_they_are)


def _as_they_are(sentences: list[list[str]]) -> list[list[str]]:
    return sentences
