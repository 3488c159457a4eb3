"""Alignments against jiwer's counts, error tables by hand, and what counts as a loop or as a disagreement of formats."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.scoring.analysis import (
    LOOP_PHRASE_WORDS,
    LOOP_REPEATS,
    Confusion,
    Remaining,
    WordCount,
    align,
    align_words,
    by_duration,
    by_speaker,
    by_vocabulary,
    error_tables,
    is_loop,
    looped,
    remaining,
    unseen_words,
)
from lora.scoring.counts import Counts, Score, count_edits, score_utterance, total
from lora.units import Seconds

WORDS = st.lists(st.sampled_from(["a", "b", "c", "go", "stop"]), max_size=8)


def score(pairs: Sequence[tuple[str, str]], speakers: Sequence[str | None] | None = None, seconds: Sequence[float] | None = None) -> Score:
    names, lengths = speakers or [None] * len(pairs), seconds or [1.0] * len(pairs)
    return total(
        [
            score_utterance(id=f"u{n}", speaker_id=name, seconds=Seconds(length), reference=pair[0], hypothesis=pair[1])
            for n, (pair, name, length) in enumerate(zip(pairs, names, lengths, strict=True))
        ]
    )


@given(reference=WORDS, hypothesis=WORDS)
def test_an_alignment_holds_both_texts_and_the_counted_edits(reference: list[str], hypothesis: list[str]) -> None:
    edits = align(reference, hypothesis)
    assert [edit.reference for edit in edits if edit.reference is not None] == reference
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == hypothesis
    kinds = Counter(edit.kind for edit in edits)
    assert Counts(kinds["equal"], kinds["substitute"], kinds["delete"], kinds["insert"]) == count_edits(reference, hypothesis)
    for edit in edits:
        assert (edit.kind == "equal") is (edit.reference == edit.hypothesis)


@given(pairs=st.lists(st.tuples(WORDS.map(" ".join), WORDS.map(" ".join)), min_size=1, max_size=6))
def test_tables_groups_and_vocabulary_add_up_to_the_score(pairs: list[tuple[str, str]]) -> None:
    found = score(pairs, [("x", "y", None)[n % 3] for n in range(len(pairs))], [3.0 * n for n in range(len(pairs))])
    tables = error_tables(found, most=1000)
    assert sum(row.count for row in tables.confused) == found.words.substitutions
    assert sum(row.count for row in tables.inserted) == found.words.insertions
    assert sum(row.count for row in tables.deleted) == found.words.deletions
    for groups in (by_speaker(found), by_duration(found)):
        assert sum((group.words for group in groups), Counts()) == found.words
        assert sum(group.utterances for group in groups) == len(pairs)
    vocabulary = by_vocabulary(found, {"a", "go"})
    assert vocabulary.seen + vocabulary.unseen == msgspec.structs.replace(found.words, insertions=0)
    kinds = remaining(found, [found])
    assert kinds.format + kinds.loops + kinds.shared + kinds.other == found.words.errors
    assert kinds.other == 0, "what the other score has too is shared"


def test_words_are_aligned_as_they_are_scored() -> None:
    (row,) = score([("Mr. Smith's COLOUR", "mister smith's, color!")]).utterances
    assert {edit.kind for edit in align_words(row)} == {"equal"}


def test_tables_name_the_commonest_errors_first() -> None:
    found = score([("press pound", "press town"), ("pound", "town"), ("press star", "stress star"), ("go on", "go"), ("go", "go now now")])
    tables = error_tables(found, most=10)
    assert tables.confused == (Confusion("pound", "town", 2), Confusion("press", "stress", 1))
    assert tables.inserted == (WordCount("now", 2),)
    assert tables.deleted == (WordCount("on", 1),)
    assert error_tables(found, most=1).confused == (Confusion("pound", "town", 2),)


def test_speakers_by_name_and_those_unnamed() -> None:
    found = by_speaker(score([("a b", "a x"), ("a", "a"), ("go", "go")], ["zoe", None, "anna"]))
    assert [(group.name, group.utterances, group.words.errors) for group in found] == [
        ("anna", 1, 0),
        ("unknown speaker", 1, 0),
        ("zoe", 1, 1),
    ]


def test_durations_fall_into_bands_that_hold_their_lower_edge() -> None:
    found = by_duration(score([("a", "a")] * 5, seconds=[25.0, 1.9, 2.0, 4.9, 5.0]))
    assert [(group.name, group.utterances) for group in found] == [("under 2 s", 1), ("2 to 5 s", 2), ("5 to 10 s", 1), ("20 s or more", 1)]


def test_words_that_training_never_saw() -> None:
    unseen = unseen_words(["Press the Pound key."], ["press the colour key", "pound 25"])
    assert unseen == ("25", "color")
    found = by_vocabulary(score([("press the colour key", "press the caller key"), ("pound 25", "pound")]), unseen)
    assert (found.seen, found.unseen) == (Counts(hits=4), Counts(substitutions=1, deletions=1))


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("thank you " * 4, True),
        ("thank you " * 3, False),
        ("no no no no", False),
        ("no " * 8, True),
        ("so I said " + "the door and " * 4, True),
        ("the door and then the door and later the door and again the door and", False),
        ("zero zero zero zero", False),
        ("", False),
        ("one two three four five six seven eight nine", False),
        ("thank you, Thank you. thank you! THANK YOU", True),
    ],
)
def test_what_is_a_loop(text: str, loops: bool) -> None:
    assert is_loop(text) is loops


@given(phrase=st.lists(st.sampled_from(["a", "b", "go"]), min_size=1, max_size=4), before=WORDS, after=WORDS)
def test_a_phrase_said_eight_times_is_a_loop_wherever_it_stands(phrase: list[str], before: list[str], after: list[str]) -> None:
    assert is_loop(" ".join([*before, *phrase * 8, *after]))


def test_the_longest_phrase_that_counts_is_a_clause() -> None:
    """A text that is read out four times is no loop of the decoder, and looking for longer phrases would take quadratic time."""
    words = [f"{first}{second}ird" for first in "bdlmn" for second in "aeiou"][: LOOP_PHRASE_WORDS + 1]
    assert len(words) == LOOP_PHRASE_WORDS + 1
    assert is_loop(" ".join(words[:LOOP_PHRASE_WORDS] * LOOP_REPEATS))
    assert not is_loop(" ".join(words[:LOOP_PHRASE_WORDS] * (LOOP_REPEATS - 1)))
    assert not is_loop(" ".join(words * LOOP_REPEATS))


def test_a_long_transcript_is_looked_through_in_linear_time() -> None:
    def steps(words: int) -> int:
        """Lines that run: time itself depends on the machine."""
        text, count = " ".join(f"word{n}" for n in range(words)), 0

        def trace(_frame: FrameType, event: str, _argument: object) -> Callable[..., object]:
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(lambda frame, event, argument: trace(frame, event, argument) if frame.f_code is is_loop.__code__ else None)
        try:
            assert not is_loop(text)
        finally:
            sys.settrace(None)
        return count

    assert steps(2_000) < 2.1 * steps(1_000)


def test_a_reference_that_repeats_itself_is_no_loop() -> None:
    chant = "we will win " * 4
    assert looped(score([(chant, chant), ("we will win", chant), ("a", "a")])) == ("u1",)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "kinds"),
    [
        ("please check in now", "please checkin now", Remaining(format=2, loops=0, shared=0, other=0)),
        ("the hold er", "the holder", Remaining(format=2, loops=0, shared=0, other=0)),
        ("call 4 11 now", "call 411 now", Remaining(format=2, loops=0, shared=0, other=0)),
        ("press pound", "press town", Remaining(format=0, loops=0, shared=0, other=1)),
        ("the check in is by the door", "a checkin is by door", Remaining(format=0, loops=0, shared=0, other=4)),
        ("we will win", "we will win " * 4, Remaining(format=0, loops=9, shared=0, other=0)),
    ],
)
def test_kinds_of_errors(reference: str, hypothesis: str, kinds: Remaining) -> None:
    assert remaining(score([(reference, hypothesis)]), []) == kinds


def test_shared_errors_are_the_same_words_at_the_same_place_in_every_score() -> None:
    best = score([("press the pound key", "press a town key"), ("go", "stop")])
    same = score([("press the pound key", "press a town key"), ("go", "go")])
    assert remaining(best, [same]) == Remaining(format=0, loops=0, shared=2, other=1)
    assert remaining(best, [same]).floor_errors == 2
    another = score([("press the pound key", "press the key"), ("go", "stop")])
    assert remaining(best, [same, another]).shared == 0


def test_errors_of_capped_clips_are_loops() -> None:
    found = score([("press pound", "press town")])
    capped = total([msgspec.structs.replace(found.utterances[0], capped=True)])
    assert remaining(capped, []).loops == 1
