"""How much of an update is kept: the rule, the weights it leaves behind, whole runs, and what reports say of it."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from records import completed
from running import ANY_VERDICT, QUICK, Manifests, moonshine_lora, refusal
from safetensors.torch import load_file
from torch import Tensor

from lora.audio.loading import AudioSettings, Waveform, duration
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.report.html import render as render_html
from lora.report.markdown import render as render_markdown
from lora.runs.outcomes import Evaluation, Strength
from lora.runs.record import RunRecord, read
from lora.scoring.counts import score_utterance, total
from lora.system.cache import Kept
from lora.text.normaliser import normalise
from lora.training import strength as strengths
from lora.training.adapter import Adapted, attach, merged, state
from lora.training.loop import allowed_rise
from lora.training.sets import read_sets
from lora.training.strength import STRENGTHS, strongest, sweep
from lora.units import Seconds

BRIEF = DecodeSettings(tokens_per_second=0.5)
"""Random weights never end a transcript; there is no point in waiting for them."""

DEFAULT = AdapterConfig()

WORDS = 1_000
"""Of each evaluation that is made up here: a WER of 0.123 is 123 errors."""


def tried(strength: float, guard_wer: float) -> Strength:
    return Strength(strength=strength, dev_wer=0.1, dev_loss=1.0, guard_wer=guard_wer, guard_loss=1.0)


def evaluation(wer: float) -> Evaluation:
    """A score with that share of wrong words."""
    wrong = round(wer * WORDS)
    words = ["wrong"] * wrong + ["right"] * (WORDS - wrong)
    row = score_utterance(id="u", speaker_id=None, seconds=Seconds(1.0), reference="right " * WORDS, hypothesis=" ".join(words))
    return Evaluation(score=total([row]), loss=10 * wer)


# --- the rule -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guard_wers", "chosen"),
    [
        ({1.0: 0.10, 0.5: 0.10, 0.2: 0.10}, 1.0),
        ({1.0: 0.13, 0.5: 0.12, 0.2: 0.10}, 0.5),
        ({1.0: 0.13, 0.5: 0.13, 0.2: 0.12}, 0.2),
        ({1.0: 0.10, 0.5: 0.13, 0.2: 0.10}, 1.0),
        ({0.2: 0.10, 1.0: 0.10}, 1.0),
        ({1.0: 0.13, 0.5: 0.1201}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_strongest_that_spares_the_guard_is_taken(guard_wers: dict[float, float], chosen: float) -> None:
    assert strongest([tried(*pair) for pair in guard_wers.items()], limit=0.12) == chosen


@given(st.lists(st.tuples(st.sampled_from(STRENGTHS), st.floats(0, 1)), unique_by=lambda pair: pair[0]), st.floats(0, 1))
def test_nothing_stronger_would_spare_it(pairs: list[tuple[float, float]], limit: float) -> None:
    chosen = strongest([tried(*pair) for pair in pairs], limit)
    assert all(wer > limit for strength, wer in pairs if strength > chosen)
    assert chosen == 0.0 or dict(pairs)[chosen] <= limit


def test_the_whole_update_is_tried_first_and_none_of_it_never() -> None:
    assert STRENGTHS[0] == 1.0
    assert list(STRENGTHS) == sorted(set(STRENGTHS), reverse=True)
    assert STRENGTHS[-1] > 0


# --- the weights --------------------------------------------------------------------------------------------------------------------------


def adapted_by(speech: LoadedModel, config: AdapterConfig = DEFAULT) -> Adapted:
    """A copy of the model with an update that changes what it says."""
    adapted = attach(replace(speech, model=deepcopy(speech.model)), config, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in adapted.peft.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    return adapted


@dataclass
class Scores:
    """Made-up guard WERs, one for each strength, and the weights that each was asked for."""

    adapted: Adapted
    guard_wers: Sequence[float]

    def __post_init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self) -> tuple[Evaluation, Evaluation]:
        self.seen.append(state(self.adapted))
        return evaluation(0.3 - 0.01 * len(self.seen)), evaluation(self.guard_wers[len(self.seen) - 1])


def assert_scaled(found: dict[str, Tensor], full: dict[str, Tensor], strength: float) -> None:
    assert found.keys() == full.keys()
    assert any(".lora_A." in name for name in full)
    for name, weight in full.items():
        wanted = weight * strength if ".lora_B." in name else weight
        assert torch.equal(found[name], wanted), name


@pytest.mark.parametrize(
    ("base", "guard_wers", "chosen"),
    [
        (0.1, [0.2, 0.15, 0.12, 0.102, 0.101, 0.1, 0.1], 0.5),
        (0.1, [0.1] * 7, 1.0),
        (0.1, [0.2] * 6 + [0.103], 0.0),
    ],
)
def test_what_is_left_is_the_chosen_share_exactly(
    random_speech: LoadedModel, base: float, guard_wers: Sequence[float], chosen: float
) -> None:
    adapted = adapted_by(random_speech)
    full, scores = state(adapted), Scores(adapted, guard_wers)
    found, measured = sweep(adapted, base, scores)
    assert found == chosen
    assert_scaled(state(adapted), full, chosen)
    for strength, seen in zip(STRENGTHS, scores.seen, strict=True):
        assert_scaled(seen, full, strength)
    assert [one.strength for one in measured] == list(STRENGTHS)
    assert [one.guard_wer for one in measured] == list(guard_wers)
    assert [one.guard_loss for one in measured] == [10 * wer for wer in guard_wers]
    assert [round(one.dev_wer, 6) for one in measured] == [0.29, 0.28, 0.27, 0.26, 0.25, 0.24, 0.23]


def test_a_rise_is_allowed_as_in_training(random_v1: LoadedModel) -> None:
    """Two words in a thousand, where the base model has a hundred errors."""
    assert allowed_rise(WORDS) == pytest.approx(0.002)
    for errors, chosen in ((102, 1.0), (103, 0.8)):
        adapted = adapted_by(random_v1)
        found, _ = sweep(adapted, 0.1, Scores(adapted, [errors / WORDS] + [0.1] * 6))
        assert found == chosen


@pytest.mark.parametrize("config", [DEFAULT, AdapterConfig(lora_targets="all", use_rslora=True)], ids=["decoder", "all-rslora"])
def test_none_of_the_update_is_the_base_model(
    any_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], config: AdapterConfig
) -> None:
    chosen = [Example(clips[n], duration(waveforms[n]), tuple(any_speech.labels(clips[n].text or ""))) for n in (3, 15)]

    def measured(speech: LoadedModel) -> Evaluation:
        return Evaluator(speech, LiveFeatures(speech, AudioSettings()), BRIEF, 2).evaluate(chosen)

    before = measured(any_speech)
    adapted = adapted_by(any_speech, config)
    with merged(adapted) as speech:
        assert measured(speech) != before, "the update does nothing"
    sweep(adapted, 0.1, Scores(adapted, [0.5] * 7))
    with merged(adapted) as speech:
        assert measured(speech) == before


# --- whole runs ---------------------------------------------------------------------------------------------------------------------------


def run(model: LoadedModel, sets: Manifests, folder: Path, *options: object) -> RunRecord:
    arguments = ("--model-id", model.checkpoint.folder, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", folder, *options)
    result = moonshine_lora("experiment", *arguments)
    assert result.code == 0, result.err
    return read(folder)


def saved(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "lora_adapter" / "adapter_model.safetensors")


NEEDS_A_GUARD = "--strength-sweep needs general speech to guard: give --replay-manifest, with --replay-ratio 0 to keep it out of training"


@pytest.mark.parametrize(
    ("options", "replay", "message"),
    [
        ((), False, NEEDS_A_GUARD),
        (("--use-dora",), True, "--strength-sweep: DoRA changes the base weights too, so its update cannot be scaled"),
        (("--init-lora-weights", "pissa"), True, "--strength-sweep: PiSSA changes the base weights too"),
        (("--init-lora-weights", "pissa", "--use-dora"), True, "--strength-sweep: DoRA changes the base weights too"),
    ],
)
def test_what_cannot_be_scaled_or_guarded_is_refused_and_nothing_is_written(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, options: Sequence[str], replay: bool, message: str
) -> None:
    flags = sets.flags()
    if not replay:
        place = flags.index("--replay-manifest")
        del flags[place : place + 2]
    command = ("experiment", "--model-id", random_v1.checkpoint.folder, *flags, *QUICK, "--output-dir", tmp_path / "run")
    for more in ((), ("--dry-run",)):
        assert message in refusal(*command, "--strength-sweep", *options, *more)
    assert list(tmp_path.iterdir()) == []


def test_replay_speech_may_guard_without_being_trained_on(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    record = run(random_v1, sets, tmp_path / "run", "--strength-sweep", "--replay-ratio", 0, "--max-steps", 1)
    assert len(record.strengths) == len(STRENGTHS)


def test_a_run_without_the_sweep_saves_all_and_says_nothing_of_it(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    record = run(random_v1, sets, tmp_path / "run")
    assert (record.strength, record.strengths) == (None, ())
    assert "sweep" not in record.stages
    assert "## Strength" not in (tmp_path / "run" / "report.md").read_text()
    assert "Strength</h3>" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_saved_adapter_is_the_chosen_share_of_the_trained_one(random_speech: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    run(random_speech, sets, tmp_path / "all")
    record = run(random_speech, sets, tmp_path / "share", "--strength-sweep")
    assert [one.strength for one in record.strengths] == list(STRENGTHS)
    assert record.training is not None
    base, best = record.training.history[0], record.training.history[record.training.best_step]
    assert base.guard_wer is not None
    guard = read_sets(record.config, Kept()).guard
    assert guard is not None
    words = sum(len(normalise(utterance.text or "").split()) for utterance in guard.manifest)
    assert record.strength == strongest(record.strengths, base.guard_wer + allowed_rise(words))
    assert (record.strengths[0].dev_wer, record.strengths[0].guard_wer) == (best.dev_wer, best.guard_wer), "all of it is the best step"
    assert_scaled(_named(saved(tmp_path / "share")), _named(saved(tmp_path / "all")), record.strength or 0.0)
    assert record.stages["sweep"] > 0


@pytest.mark.parametrize(("allowed", "chosen"), [pytest.param(1.0, 0.5, marks=pytest.mark.slow), (-10.0, 0.0)])
def test_half_or_nothing_of_the_update_is_saved_scored_and_reported(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: float, chosen: float
) -> None:
    rate = ("--learning-rate", "0.02")
    run(random_v1, sets, tmp_path / "all", *rate)
    monkeypatch.setattr(strengths, "STRENGTHS", (0.5,))
    monkeypatch.setattr(strengths, "allowed_rise", lambda _words: allowed)
    record = run(random_v1, sets, tmp_path / "share", *rate, "--strength-sweep")
    assert record.strength == chosen
    full, share = _named(saved(tmp_path / "all")), _named(saved(tmp_path / "share"))
    assert any(weight.any() for name, weight in full.items() if ".lora_B." in name), "training changed nothing"
    assert_scaled(share, full, chosen)
    assert record.domain is not None
    assert (record.domain.tuned == record.domain.baseline) is (chosen == 0.0)
    report = (tmp_path / "share" / "report.md").read_text()
    said = "A share of 0.5 of the trained update was saved" if chosen else "For no share of the trained update"
    assert said in report
    assert said in (tmp_path / "share" / "report.html").read_text()


def _named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Saved names as PEFT's modules have them, with a dot on both sides."""
    return {name.replace(".weight", ".saved.weight"): weight for name, weight in weights.items()}


# --- reports ------------------------------------------------------------------------------------------------------------------------------

SWEPT = (
    Strength(strength=1.0, dev_wer=0.08, dev_loss=0.5, guard_wer=0.07, guard_loss=0.3),
    Strength(strength=0.6, dev_wer=0.1, dev_loss=0.6, guard_wer=0.05, guard_loss=0.2),
    Strength(strength=0.2, dev_wer=0.2, dev_loss=0.9, guard_wer=0.04, guard_loss=0.1),
)
ROWS = [("1.0", "8.00 %", "7.00 %"), ("0.6 (saved)", "10.00 %", "5.00 %"), ("0.2", "20.00 %", "4.00 %")]


def test_the_report_shows_what_was_tried_and_what_was_saved() -> None:
    report = render_markdown(completed(strength=0.6, strengths=SWEPT))
    _, section = report.split("\n## Strength\n")
    section, _ = section.split("\n## ", 1)
    assert "share of 0.6 of the trained update was saved" in section
    head, line, *rows = re.findall(r"^\|.*\|$", section, re.M)
    assert head == "| strength | dev WER | guard WER |"
    assert set(line) == {"|", "-"}
    assert rows == [f"| {' | '.join(row)} |" for row in ROWS]
    assert report.index("## Training") < report.index("## Strength") < report.index("## Utterances that changed most")


def test_the_page_shows_the_same_as_a_table_and_as_a_chart_with_its_text(tmp_path: Path) -> None:
    page = render_html(completed(strength=0.6, strengths=SWEPT), tmp_path / "report.html").replace("\xa0", " ")
    (section,) = re.findall(r"<h3>Strength</h3>(.*?)</section>", page, re.S)
    assert "share of 0.6 of the trained update was saved" in section
    (table,) = re.findall(r"<tbody>(.*?)</tbody>", section, re.S)
    assert re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>', table) == ROWS
    (chart,) = re.findall(r'<svg class="chart" role="img" aria-label="(.*?)"', section)
    assert chart.startswith("word error rate by strength: dev (domain) from 8")
    assert "guard (general) from 7" in chart
    assert chart.endswith("; saved 0.6.")
    marks = re.findall(r"<title>(.*?)</title>", section)
    assert len(marks) == 2 * len(SWEPT)
    assert all(", strength " in mark for mark in marks)


def test_the_reports_say_when_nothing_was_saved(tmp_path: Path) -> None:
    record = completed(strength=0.0, strengths=SWEPT)
    for text in (render_markdown(record), render_html(record, tmp_path / "report.html")):
        assert "For no share of the trained update" in text
        assert "(saved)" not in text
