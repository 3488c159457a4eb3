"""Error counts against hand-made alignments, against jiwer, and against the examples of NIST's scorer."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lora.errors import ScoringError
from lora.scoring.counts import Counts, Score, UtteranceScore, count_edits, score_utterance, total
from lora.text.normaliser import normaliser_version
from lora.units import Seconds

WORDS = st.lists(st.sampled_from(["a", "b", "c", "go", "stop"]), max_size=8)


def row(reference: str, hypothesis: str, *, id: str = "u", speaker: str | None = None) -> UtteranceScore:
    return score_utterance(id=id, speaker_id=speaker, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis)


def score(pairs: Sequence[tuple[str, str]], speakers: Sequence[str | None] | None = None) -> Score:
    names = speakers or [None] * len(pairs)
    return total([row(*pair, id=str(index), speaker=name) for index, (pair, name) in enumerate(zip(pairs, names, strict=True))])


@dataclass(frozen=True)
class Case:
    reference: str
    hypothesis: str
    counts: Counts


@pytest.mark.parametrize(
    "case",
    [
        Case("the cat sat", "the cat sat", Counts(hits=3)),
        Case("the cat sat", "the dog sat", Counts(hits=2, substitutions=1)),
        Case("the cat sat", "the sat", Counts(hits=2, deletions=1)),
        Case("the cat sat", "the big cat sat", Counts(hits=3, insertions=1)),
        Case("the cat sat", "", Counts(deletions=3)),
        Case("", "you", Counts(insertions=1)),
        Case("", "", Counts()),
        Case("a b c d", "b c d e f", Counts(hits=3, deletions=1, insertions=2)),
        Case("go", "stop stop", Counts(substitutions=1, insertions=1)),
    ],
)
def test_counts_are_those_of_the_best_alignment(case: Case) -> None:
    assert count_edits(case.reference.split(), case.hypothesis.split()) == case.counts


@given(reference=WORDS.filter(bool), hypothesis=WORDS)
def test_word_counts_equal_those_of_jiwer(reference: list[str], hypothesis: list[str]) -> None:
    expected = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    found = count_edits(reference, hypothesis)
    assert found == Counts(expected.hits, expected.substitutions, expected.deletions, expected.insertions)


@given(reference=st.text(alphabet="ab c", min_size=1, max_size=12), hypothesis=st.text(alphabet="ab c", max_size=12))
def test_character_counts_equal_those_of_jiwer(reference: str, hypothesis: str) -> None:
    assume(reference == reference.strip())
    assume(hypothesis == hypothesis.strip())
    expected = jiwer.process_characters(reference, hypothesis)
    found = count_edits(list(reference), list(hypothesis))
    assert found == Counts(expected.hits, expected.substitutions, expected.deletions, expected.insertions)


@given(reference=WORDS, hypothesis=WORDS)
def test_counts_add_up_to_both_lengths(reference: list[str], hypothesis: list[str]) -> None:
    counts = count_edits(reference, hypothesis)
    assert counts.reference_length == len(reference)
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis)
    assert max(len(reference), len(hypothesis)) >= counts.errors >= abs(len(reference) - len(hypothesis))


def test_words_are_scored_normalised_and_raw_words_as_written() -> None:
    found = row("Mr. Smith's COLOUR is twenty five", "mister smith's color is 25.")
    assert found.words.errors == 0
    assert found.characters.errors == 0
    assert found.raw_words == Counts(hits=1, substitutions=4, deletions=1)
    assert found.raw_characters.reference_length == len("Mr. Smith's COLOUR is twenty five")
    assert found.raw_characters.errors > found.raw_words.errors


def test_rates_are_over_all_words_and_not_a_mean_of_rates() -> None:
    found = score([("a b c d", "a b c d"), ("go", "stop")])
    assert found.wer == 1 / 5
    assert found.cer == 3 / 9  # "a b c d" has 7 characters, "go" has 2, and "go" to "stop" takes 3 edits
    assert found.normaliser == normaliser_version()


def test_words_said_over_silence_count_against_the_score() -> None:
    found = score([("a b c d", "a b c d"), ("", "thank you")])
    assert found.words.insertions == 2
    assert found.wer == 2 / 4


def test_nothing_to_score_is_refused_and_never_perfect() -> None:
    with pytest.raises(ScoringError, match="no utterances"):
        total([])
    silence = score([("", ""), ("", "you")])
    with pytest.raises(ScoringError, match="no words"):
        _ = silence.wer


def test_capped_utterances_are_named() -> None:
    rows = [msgspec.structs.replace(row("a", "a", id=name), capped=name == "loop") for name in ("fine", "loop")]
    assert total(rows).capped == ("loop",)


def test_a_score_comes_back_from_json_as_it_was() -> None:
    found = score([("a b", "a"), ("go", "go")], ["x", "y"])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Score) == found


@dataclass(frozen=True)
class Nist:
    """An alignment as `sclite -o pralign` and `-o prf` print it: `*` stands for no word."""

    id: str
    reference: str
    hypothesis: str
    scores: tuple[int, int, int, int]
    """#C #S #D #I"""


NIST = (
    Nist(
        "4t0c0202",
        "FOR A TWO TRILLION DOLLAR business built on public confidence this trend is **** DISHEARTENING AT best and downright dangerous "
        "at worst",
        "FREED TO TRYING TO LURE business built on public confidence this trend is THIS TIGHTENING AND best and downright dangerous "
        "at worst",
        (14, 7, 0, 1),
    ),
    Nist(
        "4t0c0203",
        "so far this year the industry slide has been apparent in allegations of insider trading by fund managers *** UNSAVORY FUND sales "
        "practices at banks and THE use of high risk derivative securities in NORMALLY conservative money market funds",
        "so far this year the industry slide has been apparent in allegations of insider trading by fund managers AND SAVE REFUND sales "
        "practices at banks and *** use of high risk derivative securities in EARLY conservative money market funds",
        (34, 3, 1, 1),
    ),
    Nist("2347-a-000", "**** I'VE UM as far as i'm CONCERNED", "THEY PRIDE ABOUT as far as i'm I", (4, 3, 0, 1)),
    Nist(
        "2347-a-001",
        "I FIND THAT the young women have lost so much *** because they have become more aggressive and more **** DOMINATING",
        "ARE FINE BUT the young women have lost so much TOO because they have become more aggressive and more JOBS NEEDING",
        (15, 4, 0, 2),
    ),
    Nist("2347-a-002", "** *** * *****", "IT AND I THINK", (0, 0, 0, 4)),
)
"""Published examples of the NIST scoring toolkit, SCTK doc/outputs.htm, sections `pralign` and `prf`; of the last the first four words,
an insertion like the thirteen after them."""


def tokens(line: str) -> list[str]:
    return [word for word in line.lower().split() if set(word) != {"*"}]


@pytest.mark.parametrize("example", NIST, ids=lambda example: example.id)
def test_counts_are_those_of_the_nist_scorer(example: Nist) -> None:
    found = count_edits(tokens(example.reference), tokens(example.hypothesis))
    assert (found.hits, found.substitutions, found.deletions, found.insertions) == example.scores


def test_corpus_counts_are_those_of_the_nist_scorer() -> None:
    """Running totals of SCTK doc/outputs.htm, section `snt`: 73 of 84 words right, 10 substitutions, 1 deletion, 2 insertions."""
    errorless = Counts(hits=25)  # 4t0c0201
    found = sum((count_edits(tokens(one.reference), tokens(one.hypothesis)) for one in NIST[:2]), errorless)
    assert found == Counts(hits=73, substitutions=10, deletions=1, insertions=2)
    assert (found.reference_length, found.errors) == (84, 13)


def sclite_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest errors among the alignments that sclite prefers: costs of 4 and 3 (SCTK, doc/sclite.htm). (cost, errors) are minimised."""
    row = [(3 * n, n) for n in range(len(hypothesis) + 1)]
    for word in reference:
        previous, row = row, [(row[0][0] + 3, row[0][1] + 1)]
        for place, said in enumerate(hypothesis):
            wrong = word != said
            row.append(
                min(
                    (previous[place][0] + 4 * wrong, previous[place][1] + wrong),
                    (previous[place + 1][0] + 3, previous[place + 1][1] + 1),
                    (row[-1][0] + 3, row[-1][1] + 1),
                )
            )
    return row[-1][1]


@given(reference=WORDS, hypothesis=WORDS)
def test_errors_are_never_more_than_with_the_costs_of_the_nist_scorer(reference: list[str], hypothesis: list[str]) -> None:
    assert count_edits(reference, hypothesis).errors <= sclite_errors(reference, hypothesis)


def test_the_package_gives_the_function_that_scripts_use() -> None:
    from lora import scoring

    assert scoring.score_utterance is score_utterance
