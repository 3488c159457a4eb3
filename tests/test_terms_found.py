"""Terms measured: what counts as found, missed and heard falsely, the gate's limits, and every place that tells of it."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import completed
from running import QUICK, Manifests, RunFolder, moonshine_lora, refusal
from test_gate import GAIN, STILL

from lora.dataset.manifest import Utterance
from lora.errors import ScoringError
from lora.model.loading import LoadedModel
from lora.report import html, markdown
from lora.report.terms import events, lines
from lora.runs.record import RunRecord, write
from lora.scoring.counts import Score, score_utterance, total
from lora.scoring.gate import Verdict, judge
from lora.scoring.rules import GateConfig
from lora.scoring.terms import TermEvent, TermsFound, compare_terms, score_terms, wilson
from lora.text.terms import Term, Terms
from lora.units import Seconds

TERMS = Terms("terms.txt", "0" * 64, (Term("kubectl"), Term("Postgres"), Term("GitHub Actions"), Term("Xarelto")))


def scored(*pairs: tuple[str, str]) -> Score:
    return total(
        [
            score_utterance(id=str(place), speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=said)
            for place, (reference, said) in enumerate(pairs)
        ]
    )


SAID = (
    ("Run kubectl and kubectl again.", "Run Kubectl and cube control again."),
    ("Postgres's index is on Postgres.", "Postgres index is on Postgres"),
    ("There is no term here at all.", "There is no kubectl here at all."),
    ("GitHub Actions failed.", "Get hub actions failed."),
)


def test_found_missed_and_false_alarms_are_counted_in_each_utterance() -> None:
    found = score_terms(TERMS, scored(*SAID), 0)
    assert [(one.term, one.spoken, one.found, one.as_listed, one.false_alarms) for one in found.counts] == [
        ("kubectl", 2, 1, 0, 1),
        ("Postgres", 2, 2, 2, 0),
        ("GitHub Actions", 1, 0, 0, 0),
        ("Xarelto", 0, 0, 0, 0),
    ]
    assert (found.spoken, found.found, found.recall) == (5, 3, 0.6)
    assert found.alarms == pytest.approx(1000 / found.words)
    assert set(found.events) == {
        TermEvent("0", "kubectl", "missed"),
        TermEvent("2", "kubectl", "false alarm"),
        TermEvent("3", "GitHub Actions", "missed"),
    }


def test_without_a_spoken_term_there_is_no_recall() -> None:
    found = score_terms(TERMS, scored(("Nothing here.", "Nothing here."), ("Nor here.", "Xarelto here.")), 0)
    assert (found.recall, found.recall_interval, found.false_alarms) == (None, None, 1)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilsons_interval_holds_the_share(found: int, spoken: int) -> None:
    found = min(found, spoken)
    interval = wilson(found, spoken)
    assert 0 <= interval.low <= found / spoken + 1e-12
    assert found / spoken - 1e-12 <= interval.high <= 1


def test_wilsons_interval_is_that_of_the_book() -> None:
    """Newcombe, Statistics in Medicine 17, 1998, table I, method 3: 81 of 263 and 0 of 20."""
    for found, spoken, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert (wilson(found, spoken).low, wilson(found, spoken).high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_intervals_hold_the_estimates_and_narrow_with_more_terms() -> None:
    few = score_terms(TERMS, scored(*SAID), 0)
    many = Terms("t", "", tuple(Term(f"term{number}") for number in range(60)))
    pairs = [(f"Say term{number} now.", f"Say {'term' if number % 4 else 'turn'}{number} now.") for number in range(60)]
    most = score_terms(many, scored(*pairs), 0)
    for one in (few, most):
        assert one.recall is not None
        assert one.recall_interval is not None
        assert one.recall_interval.low <= one.recall <= one.recall_interval.high
    assert most.recall == 0.75
    assert most.recall_interval.high - most.recall_interval.low < 0.3
    assert few.recall_interval.high - few.recall_interval.low > 0.3


def test_one_term_has_the_interval_of_its_own_counts() -> None:
    one = Terms("t", "", (Term("kubectl"),))
    found = score_terms(one, scored(("a kubectl", "a kubectl"), ("b kubectl", "b cattle")), 0)
    assert found.recall_interval == wilson(1, 2)


def terms_found(recall: float, alarms: int) -> TermsFound:
    """Of 100 spoken terms in the domain, and so many false alarms in 4,000 held-out words."""
    names = Terms("t", "", tuple(Term(f"term{number}") for number in range(100)))
    before = scored(*[(f"say term{number}", "say turn") for number in range(100)])
    after = scored(*[(f"say term{number}", f"say term{number}" if number < 100 * recall else "say turn") for number in range(100)])
    plain = [("it was very cold " * 10, "it was very cold " * 10)] * (100 - alarms)
    heard = [("it was very cold " * 10, "it was very cold " * 10 + "term1")] * alarms
    heldout = scored(*plain, *heard)
    domain = compare_terms(names, before, after, 0)
    return TermsFound(path="t", sha256="", domain=domain, heldout=compare_terms(names, heldout, heldout, 0))


def judged(terms: TermsFound | None, **rules: float) -> Verdict:
    return judge(domain=GAIN, heldout=STILL, drift=None, rules=GateConfig(**rules), terms=terms)


@pytest.mark.parametrize(
    ("recall", "alarms", "rules", "decision"),
    [
        (0.75, 0, {"min_term_recall": 75}, "accepted"),
        (0.74, 0, {"min_term_recall": 75}, "rejected"),
        (0.5, 2, {"max_false_alarms": 0.5}, "accepted"),
        (0.5, 3, {"max_false_alarms": 0.5}, "rejected"),
        (0.9, 3, {"max_false_alarms": 0.5, "min_term_recall": 75}, "rejected"),
        (0.0, 50, {}, "accepted"),
    ],
)
def test_the_limits_of_the_gate(recall: float, alarms: int, rules: dict[str, float], decision: str) -> None:
    found = judged(terms_found(recall, alarms), **rules)
    assert found.decision == decision
    assert len(found.checks) == 2 + len(rules)


def test_a_rejection_says_what_was_counted() -> None:
    found = judged(terms_found(0.6, 4), max_false_alarms=0.5, min_term_recall=75)
    assert found.sentence == (
        "rejected: terms found 0.0 % -> 60.0 % (60 of 100, and at least 75 % must be); "
        "held-out false alarms 1.00 in 1,000 words (4 in 4000, and there may be at most 0.5)"
    )


def test_a_limit_for_terms_that_nobody_says_is_refused() -> None:
    nobody = scored(("Nothing here.", "Nothing here."), ("Nor here.", "Nor here."))
    silent = compare_terms(TERMS, nobody, nobody, 0)
    with pytest.raises(ScoringError, match="no row of the domain test set says any of the terms"):
        judged(TermsFound(path="t", sha256="", domain=silent, heldout=silent), min_term_recall=10)


# --- where it is told ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> RunRecord:
    """A run whose tuned model misses a term and hears another falsely."""
    domain = [(reference, "", said) for reference, said in SAID]
    heldout = [("There was rain.", "There was rain.", "There was Xarelto."), ("And sun.", "And sun.", "And sun.")]
    record = completed(domain, heldout)
    assert record.domain is not None
    assert record.heldout is not None
    pairs = [(part.baseline.score, part.tuned.score) for part in (record.domain, record.heldout)]
    results = [compare_terms(TERMS, before, after, 0) for before, after in pairs]
    terms = TermsFound(path="jargon | list.txt", sha256="a" * 64, domain=results[0], heldout=results[1])
    return completed(domain, heldout, terms=terms)


def test_reports_list_every_term_and_every_miss_and_false_alarm(told: RunRecord, tmp_path: Path) -> None:
    assert [(line.after.term, line.after.spoken) for line in lines(told)][:2] == [("GitHub Actions", 1), ("kubectl", 2)]
    assert [(line.split, line.term, line.kind) for line in events(told)] == [
        ("heldout", "Xarelto", "false alarm"),
        ("domain", "kubectl", "false alarm"),
        ("domain", "GitHub Actions", "missed"),
        ("domain", "kubectl", "missed"),
    ]
    for text in (markdown.render(told), html.render(told, tmp_path / "report.html")):
        for part in ("60.0", "3 of 5", "Xarelto", "GitHub Actions", "There was Xarelto."):
            assert part in text


def test_the_page_leads_from_a_term_to_its_sound(told: RunRecord, tmp_path: Path) -> None:
    page = html.render(told, tmp_path / "report.html")
    rows = page.split('<tr role="row" id="row-')[1:]
    places = {row.split('"')[0] for row in rows if "There was Xarelto." in row}
    assert len(places) == 1
    assert f'href="#row-{places.pop()}"' in page


def test_terms_that_no_test_row_says_are_named(told: RunRecord, tmp_path: Path) -> None:
    assert told.terms is not None
    assert told.terms.untested == ("Xarelto",)
    assert "**No test row says** Xarelto" in markdown.render(told)
    assert "No test row says</strong> Xarelto" in html.render(told, tmp_path / "report.html")


def test_runs_without_a_list_say_nothing_of_terms(tmp_path: Path) -> None:
    for text in (markdown.render(completed()), html.render(completed(), tmp_path / "report.html")):
        assert "False alarms" not in text
        assert 'id="terms"' not in text


def test_a_comparison_of_runs_shows_terms_where_a_run_has_them(told: RunRecord, tmp_path: Path) -> None:
    write(told, _folder(tmp_path / "one"))
    shown = moonshine_lora("compare", tmp_path / "one")
    assert shown.code == 0, shown.err
    assert "60.0 % (3 of 5" in shown.out
    assert moonshine_lora("compare", tmp_path / "one", "--output", tmp_path / "all.csv").code == 0
    (row,) = csv.DictReader((tmp_path / "all.csv").read_text().splitlines())
    assert row["domain_tuned_term_recall"] == "0.6"
    assert moonshine_lora("compare", tmp_path / "one", "--output", tmp_path / "all.html").code == 0
    assert "60.0 % (3 of 5" in (tmp_path / "all.html").read_text()


@pytest.mark.parametrize(("part", "old"), [("events", "u0"), ("counts", "GitHub Actions")])
def test_a_record_whose_terms_were_changed_by_hand_is_refused(told: RunRecord, tmp_path: Path, part: str, old: str) -> None:
    folder = _folder(tmp_path / "run")
    write(told, folder)
    content = json.loads((folder / "record.json").read_text())
    tuned = content["terms"]["domain"]["tuned"]
    tuned[part] = json.loads(json.dumps(tuned[part]).replace(old, "other"))
    (folder / "record.json").write_text(json.dumps(content))
    assert "terms: counted for another list or other utterances" in refusal("report", folder)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_run_measures_its_terms_before_and_after(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    list_of_terms = tmp_path / "terms.txt"
    list_of_terms.write_text("the\nzzyzx\n")
    arguments = ("--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / "run")
    result = moonshine_lora("experiment", *arguments, "--terms", list_of_terms, "--max-false-alarms", 1000, "--min-term-recall", 0)
    run = RunFolder(tmp_path / "run", result.code)
    assert result.code in (0, 3, 4), result.err
    terms = run.record.terms
    assert terms is not None
    assert terms.untested == ("zzyzx",)
    assert terms.domain.tuned.spoken > 0
    assert [check.name for check in run.record.verdict.checks] == ["domain", "held-out", "terms found", "false alarms"]  # type: ignore[union-attr]
    assert run.metrics["baseline_term_recall"] == terms.domain.baseline.recall
    assert run.metrics["heldout_tuned_false_alarms"] == terms.heldout.tuned.alarms
    assert run.metrics["terms_untested"] == ["zzyzx"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<s>kube", "cannot write '<s>kube', it gives 'kube'"),
        ("", "holds no term"),
        ("kubectl\nkubectl", "stands on line 1 already"),
        ("пример", "is in Cyrillic letters"),
    ],
)
def test_a_list_that_the_model_cannot_be_held_to_is_refused(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "terms.txt").write_text(text)
    arguments = ("--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / "run")
    assert says in refusal("experiment", *arguments, "--terms", tmp_path / "terms.txt")
    assert not (tmp_path / "run").exists()


def test_limits_without_a_list_are_refused(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    arguments = ("--model-id", random_v1.checkpoint.folder, *sets.flags(), "--output-dir", tmp_path / "run")
    for flag in ("--max-false-alarms", "--min-term-recall"):
        assert f"{flag} is about terms; give --terms too" in refusal("experiment", *arguments, flag, 1)


def test_transcribe_says_which_terms_are_heard_and_found(
    tiny: LoadedModel, clips: Sequence[Utterance], sets: Manifests, tmp_path: Path
) -> None:
    (tmp_path / "terms.txt").write_text("best\nzzyzx\n")
    manifest = sets.train.with_name("best.jsonl")
    rows = [json.loads(line) for path in (sets.train, sets.heldout) for line in path.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("transcribe", "--model-id", tiny.checkpoint.folder, "--manifest", manifest, "--output", tmp_path / "out.json")
    result = moonshine_lora(*arguments, "--terms", tmp_path / "terms.txt")
    assert result.code == 0, result.err
    assert "terms found: " in result.err
    made = json.loads((tmp_path / "out.json").read_text())
    spoken = sum(one["spoken"] for one in made["terms"]["counts"])
    assert spoken == sum(row["text"].lower().count("best") for row in rows) > 0
    assert all(("best" in row["text"].lower()) == ("best" in row.get("terms", [])) for row in made["utterances"])
    assert len(clips) == 20
