"""Word and character error rates as counts. No model.

In a language that does not separate words a word is a single character, so that its word error rate is the character error rate.

A rate is a ratio; percent and points appear only where a person reads them. Every edit costs 1, so that the counted errors are the fewest
that turn reference into hypothesis. NIST's `sclite` aligns with costs of 4 for a substitution and 3 for a deletion or an insertion
(SCTK, doc/sclite.htm), so that three deletions with three insertions (18) win over five substitutions (20) although they are one
error more. No alignment has fewer errors than the fewest: jiwer's total is the same as sclite's or lower, and its kinds may differ.
"""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from lora.errors import ScoringError
from lora.language import Language, Metric, metric
from lora.scoring.reader_errors import VERSION, edits
from lora.text.equivalents import Equivalents
from lora.text.normaliser import as_written, normalise, normaliser_version
from lora.text.style import composed, first_alternatives
from lora.text.tags import tags_in
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


class Freed(msgspec.Struct, frozen=True):
    """Errors that the user's own rules remove from the reader's count."""

    by_alternatives: int = 0
    """By alternatives in references, `{a / b}`, compared with taking the first."""
    by_equivalents: int = 0
    """By the table of equivalents, compared with scoring without it."""

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.by_alternatives + other.by_alternatives, self.by_equivalents + other.by_equivalents)


class Tags(msgspec.Struct, frozen=True):
    """Tags such as `<COMMA>` in the references, and in what the model wrote. The standard normaliser sees neither."""

    written: int = 0
    said: int = 0


class UtteranceScore(msgspec.Struct, frozen=True, kw_only=True):
    """One utterance's reference, hypothesis and counts: of words as a reader counts, normalised, and (raw) as written; of characters."""

    id: str
    speaker_id: str | None
    seconds: Seconds
    reference: str
    hypothesis: str
    words: Counts
    """As a reader counts: what is said the same way is the same, and tags count (`lora.scoring.reader_errors`)."""
    standard: Counts
    """As published rates count: words of the standard normaliser. The gate, intervals and tables rest on these."""
    characters: Counts
    raw_words: Counts
    raw_characters: Counts
    freed: Freed = Freed()
    capped: bool = False
    """Whether decoding stopped at the token cap: usually a loop, a hallucination."""


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A set's error counts with its rows."""

    words: Counts
    standard: Counts
    characters: Counts
    raw_words: Counts
    raw_characters: Counts
    normaliser: str
    utterances: tuple[UtteranceScore, ...]
    language: Language = "en"
    reader: str = VERSION
    """Rules of the reader's count, with the hash of a table of equivalents."""
    freed: Freed = Freed()
    tags: Tags = Tags()

    @property
    def metric(self) -> Metric:
        """What `wer` is called in this language."""
        return metric(self.language)

    @property
    def wer(self) -> float:
        """The standard rate."""
        return self.standard.rate

    @property
    def reader_wer(self) -> float:
        """The rate as a reader counts."""
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
    equivalents: Equivalents | None = None,
) -> UtteranceScore:
    """Counts of one utterance. An empty reference is legal: every word said is then an insertion.

    Eight parameters, by name: six are fields of the row, two say how it is counted.
    """
    clean_reference, clean_hypothesis = normalise(reference, language), normalise(hypothesis, language)
    standard = count_edits(clean_reference.split(), clean_hypothesis.split())
    words, freed = _as_read(reference, hypothesis, language, equivalents, standard)
    raw_words = count_edits(as_written(reference, language), as_written(hypothesis, language))
    separated = metric(language) == "WER"
    return UtteranceScore(
        id=id,
        speaker_id=speaker_id,
        seconds=seconds,
        reference=reference,
        hypothesis=hypothesis,
        words=words,
        standard=standard,
        freed=freed,
        characters=count_edits(list(clean_reference), list(clean_hypothesis)) if separated else standard,
        raw_words=raw_words,
        raw_characters=count_edits(list(composed(first_alternatives(reference))), list(composed(hypothesis))) if separated else raw_words,
        capped=capped,
    )


def _as_read(
    reference: str, hypothesis: str, language: Language, equivalents: Equivalents | None, standard: Counts
) -> tuple[Counts, Freed]:
    """The reader's counts, and what they owe to alternatives and equivalents."""
    first = first_alternatives(reference)
    ways: list[tuple[str, Equivalents | None]] = [(first, None)]
    if first != reference:
        ways.append((reference, None))
    if equivalents is not None and equivalents.concerns(reference, hypothesis):
        ways.append((reference, equivalents))
    found = [edits(text, hypothesis, language, table) for text, table in ways]
    counts = [Counts(*one) if one is not None else standard for one in found]
    by_alternatives = counts[0].errors - counts[1].errors if first != reference else 0
    return counts[-1], Freed(by_alternatives, counts[0].errors - counts[-1].errors - by_alternatives)


def read_again(score: Score, equivalents: Equivalents) -> Score:
    """The score with the user's equivalents in the reader's count; everything else is unchanged."""
    rows: list[UtteranceScore] = []
    for row in score.utterances:
        words, freed = _as_read(row.reference, row.hypothesis, score.language, equivalents, row.standard)
        rows.append(msgspec.structs.replace(row, words=words, freed=freed))
    return total(rows, score.language, equivalents)


def total(rows: Sequence[UtteranceScore], language: Language = "en", equivalents: Equivalents | None = None) -> Score:
    """The corpus score of rows that were scored with these equivalents. Raises `ScoringError` when there is nothing to score."""
    if not rows:
        raise ScoringError("no utterances to score")
    return Score(
        words=sum((row.words for row in rows), Counts()),
        standard=sum((row.standard for row in rows), Counts()),
        freed=sum((row.freed for row in rows), Freed()),
        tags=Tags(sum(len(tags_in(row.reference)) for row in rows), sum(len(tags_in(row.hypothesis)) for row in rows)),
        characters=sum((row.characters for row in rows), Counts()),
        raw_words=sum((row.raw_words for row in rows), Counts()),
        raw_characters=sum((row.raw_characters for row in rows), Counts()),
        normaliser=normaliser_version(language),
        reader=VERSION if equivalents is None else f"{VERSION}, equivalents {equivalents.sha256[:12]}",
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
