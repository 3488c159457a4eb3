"""Where the errors of a score are: aligned words, error tables, groups, loops, and what could still be gained. No model.

Everything is recounted from the transcripts in a record, so nothing here has to be stored.
"""

import bisect
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple, cast

import msgspec

from lora.language import Language
from lora.scoring.counts import Counts, Score, UtteranceScore, by_jiwer
from lora.text.normaliser import normalise

LOOP_REPEATS = 4
LOOP_WORDS = 8
"""A loop is a phrase said at least 4 times in a row and over at least 8 words. People say "no, no, no", spell "0 0 0 0" and thank
twice; a decoder that has lost the audio repeats itself until it is stopped."""

LOOP_PHRASE_WORDS = 24
"""Longest repeated phrase that is searched for, in words: a decoder repeats a clause at most."""

BANDS_S = (2.0, 5.0, 10.0, 20.0)
"""Edges of the duration bands, in seconds."""

Kind = Literal["equal", "substitute", "delete", "insert"]


class Edit(NamedTuple):
    """One step of an alignment: a reference word, the hypothesis word in its place, or both."""

    kind: Kind
    reference: str | None
    hypothesis: str | None


class WordCount(msgspec.Struct, frozen=True):
    word: str
    count: int


class Confusion(msgspec.Struct, frozen=True):
    reference: str
    hypothesis: str
    count: int


class ErrorTables(msgspec.Struct, frozen=True, kw_only=True):
    """Words by how often they went wrong, most often first, then by the alphabet."""

    confused: tuple[Confusion, ...]
    inserted: tuple[WordCount, ...]
    deleted: tuple[WordCount, ...]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Some utterances of a score. Their rate is `words.rate`, where the references hold words."""

    name: str
    utterances: int
    words: Counts


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Reference words by whether the training transcripts hold them. Insertions belong to no reference word and are left out."""

    seen: Counts
    unseen: Counts


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """A score's errors by kind, each counted once, in this order. Only an estimate of what training could still fix."""

    format: int
    """Vanish when spaces, hyphens and other marks are ignored: "check in", "check-in", "checkin"; "4 11", "411"."""
    loops: int
    """In clips that loop or ran into the token cap."""
    shared: int
    """The same words in place of the same words as in every other score of the utterances: wrong transcripts are among these, and
    what the model cannot learn."""
    other: int

    @property
    def floor_errors(self) -> int:
        """Errors that more training is not expected to fix: format and shared. An estimate, not a bound."""
        return self.format + self.shared


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[Edit, ...]:
    """The alignment with the fewest edits, by jiwer; of several that are as good it takes one."""
    if not reference:
        return tuple(Edit("insert", None, word) for word in hypothesis)
    if not hypothesis:
        return tuple(Edit("delete", word, None) for word in reference)
    edits: list[Edit] = []
    for chunk in by_jiwer(reference, hypothesis).alignments[0]:
        kind = cast(Kind, chunk.type)
        left: Sequence[str | None] = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right: Sequence[str | None] = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if kind == "insert":
            left = [None] * len(right)
        elif kind == "delete":
            right = [None] * len(left)
        edits += [Edit(kind, a, b) for a, b in zip(left, right, strict=True)]
    return tuple(edits)


def align_words(row: UtteranceScore, language: Language = "en") -> tuple[Edit, ...]:
    """The alignment of an utterance's normalised words."""
    return _aligned(normalise(row.reference, language), normalise(row.hypothesis, language))


@functools.lru_cache(maxsize=2**14)  # cached: several tables count the same edits
def _aligned(reference: str, hypothesis: str) -> tuple[Edit, ...]:
    return align(reference.split(), hypothesis.split())


def error_tables(score: Score, most: int) -> ErrorTables:
    """The `most` common errors of each kind."""
    edits = Counter(edit for row in score.utterances for edit in align_words(row, score.language) if edit.kind != "equal")
    ordered = sorted(edits.items(), key=lambda item: (-item[1], item[0].reference or "", item[0].hypothesis or ""))

    def of(kind: Kind) -> list[tuple[Edit, int]]:
        return [(edit, count) for edit, count in ordered if edit.kind == kind][:most]

    return ErrorTables(
        confused=tuple(Confusion(edit.reference or "", edit.hypothesis or "", count) for edit, count in of("substitute")),
        inserted=tuple(WordCount(edit.hypothesis or "", count) for edit, count in of("insert")),
        deleted=tuple(WordCount(edit.reference or "", count) for edit, count in of("delete")),
    )


def by_speaker(score: Score) -> tuple[Group, ...]:
    """A group for each speaker, by name; utterances without a speaker are in `unknown speaker`."""
    return _groups(score.utterances, lambda row: row.speaker_id or "unknown speaker")


def by_duration(score: Score) -> tuple[Group, ...]:
    """A group for each duration band that holds an utterance, shortest first; a band holds its lower edge."""
    inner = [f"{low:g} to {high:g} s" for low, high in itertools.pairwise(BANDS_S)]
    names = [f"under {BANDS_S[0]:g} s", *inner, f"{BANDS_S[-1]:g} s or more"]
    groups = _groups(score.utterances, lambda row: names[bisect.bisect_right(BANDS_S, row.seconds)])
    return tuple(sorted(groups, key=lambda group: names.index(group.name)))


def _groups(rows: Iterable[UtteranceScore], name: Callable[[UtteranceScore], str]) -> tuple[Group, ...]:
    found: dict[str, list[Counts]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(row.standard)
    return tuple(Group(name=key, utterances=len(words), words=sum(words, Counts())) for key, words in sorted(found.items()))


def unseen_words(training: Iterable[str], references: Iterable[str], language: Language = "en") -> tuple[str, ...]:
    """Normalised reference words that no training transcript holds, by the alphabet."""
    seen = {word for text in training for word in normalise(text, language).split()}
    return tuple(sorted({word for text in references for word in normalise(text, language).split()} - seen))


def by_vocabulary(score: Score, unseen: Collection[str]) -> Vocabulary:
    """Counts of the words that training never saw, and of the others."""
    tallies = {True: Counter[Kind](), False: Counter[Kind]()}
    rare = frozenset(unseen)
    for row in score.utterances:
        for edit in align_words(row, score.language):
            if edit.reference is not None:
                tallies[edit.reference in rare][edit.kind] += 1
    counts = {key: Counts(tally["equal"], tally["substitute"], tally["delete"]) for key, tally in tallies.items()}
    return Vocabulary(seen=counts[False], unseen=counts[True])


def is_loop(text: str, language: Language = "en") -> bool:
    """Whether normalised words hold a phrase that is repeated as `LOOP_REPEATS` and `LOOP_WORDS` say."""
    words = normalise(text, language).split()
    for size in range(1, min(len(words) // LOOP_REPEATS, LOOP_PHRASE_WORDS) + 1):
        run = size  # words up to here that continue a repetition of the last `size` ones
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else size
            if run >= max(LOOP_REPEATS * size, LOOP_WORDS):
                return True
    return False


def looped(score: Score) -> tuple[str, ...]:
    """Ids of the utterances whose hypothesis loops although the reference does not."""
    spoken = score.language
    return tuple(row.id for row in score.utterances if is_loop(row.hypothesis, spoken) and not is_loop(row.reference, spoken))


def remaining(score: Score, others: Sequence[Score]) -> Remaining:
    """The errors of a score by kind. `others` scored the same utterances, in the same order: the baseline, other runs."""
    broken = {*looped(score), *score.capped}
    tally = Counter[str]()
    for index, row in enumerate(score.utterances):
        if row.standard.errors == 0:
            continue
        spans = _spans(row, score.language)
        elsewhere = [frozenset(_spans(other.utterances[index], score.language)) for other in others]
        common = frozenset.intersection(*elsewhere) if elsewhere else frozenset()
        for span in spans:
            if _letters(span.reference) == _letters(span.hypothesis):
                tally["format"] += span.errors
            elif row.id in broken:
                tally["loops"] += span.errors
            elif span in common:
                tally["shared"] += span.errors
            else:
                tally["other"] += span.errors
    return Remaining(format=tally["format"], loops=tally["loops"], shared=tally["shared"], other=tally["other"])


class _Span(NamedTuple):
    """Neighbouring edits, as the words that they take from the reference and put into the hypothesis."""

    start: int
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    errors: int


def _spans(row: UtteranceScore, language: Language) -> list[_Span]:
    spans: list[_Span] = []
    position, open_edits = 0, list[Edit]()
    for edit in (*align_words(row, language), Edit("equal", None, None)):
        if edit.kind != "equal":
            open_edits.append(edit)
        elif open_edits:
            left = tuple(e.reference for e in open_edits if e.reference is not None)
            right = tuple(e.hypothesis for e in open_edits if e.hypothesis is not None)
            spans.append(_Span(position - len(left), left, right, len(open_edits)))
            open_edits = []
        position += edit.reference is not None
    return spans


def _letters(words: Iterable[str]) -> str:
    return "".join(character for word in words for character in word if character.isalnum())
