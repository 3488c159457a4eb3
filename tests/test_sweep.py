"""`moonshine-lora sweep`: what is tried, what is kept, who may work on a study, and which trial wins. Optuna and the model are real."""

import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from forked import fork
from records import REQUIRED, completed
from running import ANY_VERDICT, ROOT, Manifests, moonshine_lora, refusal

from lora.config import RunConfig, build, changed
from lora.display import Display
from lora.errors import ConfigError
from lora.model.loading import LoadedModel
from lora.pipeline.fitting import fit
from lora.pipeline.preparation import ready
from lora.pipeline.reporting import Reporter
from lora.report.sweep import write_page
from lora.runs.folder import RunLog
from lora.runs.outcomes import Step
from lora.runs.record import read as read_record
from lora.runs.tracking import Trackers
from lora.runs.trials import Trial
from lora.scoring.counts import Score, score_utterance, total
from lora.sweep.results import Scores, chosen, keep_scores, summary, table, write_results
from lora.sweep.space import Choice, Range, Values, given_values, read_space, settings_of, usual_space, with_values
from lora.sweep.study import Opening, Study, create, read_opening
from lora.system.cache import Kept
from lora.system.locking import Hold
from lora.training.loop import Progress

CONFIG = build(REQUIRED, None)
SPACE = """
[lora_r]
choices = [4, 8]

[learning_rate]
low = 5e-4
high = 2e-3
log = true
"""


def write(folder: Path, text: str = SPACE) -> Path:
    file = folder / "space.toml"
    file.write_text(text)
    return file


# --- what is tried -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no setting to try; write a table for each, such as [learning_rate] with low and high"),
        ("learning_rate = 1e-3", "learning_rate must be a table, written [learning_rate], with low and high, or with choices"),
        ("[learning_rat]\nlow = 1\nhigh = 2", "[learning_rat]: unknown setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("[learning_rate]\nlow = 1e-4", "[learning_rate]: missing required field high; a range has low, high and perhaps log"),
        ("[learning_rate]\nlow = 'a'\nhigh = 1", "[learning_rate]: must be float, got str: low; a range has"),
        ("[learning_rate]\nlow = 1e-4\nhgh = 1", "contains unknown field hgh"),
        ("[learning_rate]\nlow = 2e-3\nhigh = 1e-3", "[learning_rate]: low 0.002 is not below high 0.001, so there is nothing to try"),
        ("[learning_rate]\nlow = 1e-3\nhigh = inf", "low 0.001 is not below high inf"),
        ("[lora_dropout]\nlow = 0.0\nhigh = 0.2\nlog = true", "[lora_dropout]: log needs a low above 0, not 0"),
        ("[lora_dropout]\nlow = 0.0\nhigh = 1.5", "[lora_dropout]: --lora-dropout 1.5: must be float < 1.0"),
        ("[lora_r]\nlow = 4.5\nhigh = 8", "[lora_r]: low and high must be whole numbers"),
        ("[lora_targets]\nlow = 1\nhigh = 2", "[lora_targets]: is no number, so it has no range; give choices = [...]"),
        ("[lora_r]\nchoices = [8]", "[lora_r]: has 1 choices, so there is nothing to try; give two or more"),
        ("[lora_r]\nchoices = [8, 8]", "[lora_r]: has a choice twice; leave one of them out"),
        ("[lora_r]\nchoices = 8", "[lora_r]: choices = [...] stands alone, with a list of values, or of tables of settings"),
        ("[lora_r]\nchoices = [8, 'many']", "[lora_r]: --lora-r many: must be int"),
        ("[lora_r]\nchoices = [4, 16]", "[lora_r]: the settings as given are none of the choices (4; 16); add them"),
        ("[learning_rate]\nlow = 2e-3\nhigh = 3e-3", "[learning_rate]: the config has 0.001, outside 0.002 to 0.003; widen the range"),
        ("[seed]\nchoices = [0, 1]", "[seed]: seed is the same for all trials, or they could not be compared"),
        ("[dev_fraction]\nlow = 0.1\nhigh = 0.2", "[dev_fraction]: dev_fraction is the same for all trials"),
        ("[copies]\nchoices = [{}, {augment_copies = 1}]", "[copies]: --augment-copies 1 without an effect only repeats the speech"),
        ("[a]\nchoices = [{lora_r = 8}, {lora_r = 4}]\n[lora_r]\nchoices = [8, 4]", "lora_r is in [a] and in [lora_r]; keep one of them"),
        ("[lora_r\n", "line 1"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_space(write(tmp_path, text), CONFIG)
    assert str(refused.value).startswith(f"{tmp_path / 'space.toml'}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_space_that_the_guide_shows_is_one(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "sweep.md").read_text(), re.S | re.M)
    sound = read_space(write(tmp_path, shown), CONFIG)[-1]
    assert isinstance(sound, Choice)
    assert len(sound.options) == 3


def test_epochs_are_not_tried_where_a_number_of_steps_is_set(tmp_path: Path) -> None:
    config = changed(CONFIG, {"train.max_steps": 5}, "")
    with pytest.raises(ConfigError, match="epochs changes nothing where max_steps is set"):
        read_space(write(tmp_path, "[epochs]\nlow = 2\nhigh = 4"), config)
    assert "train.epochs" not in [one.name for one in usual_space(config)]


def test_the_usual_space_holds_the_settings_as_given_and_only_what_does_something() -> None:
    given = {"data.replay_manifest": "replay.jsonl"}
    for change in ({}, {"adapter.lora_targets": "all"}, {"augment.augment_copies": 1, "augment.speed_min": 0.8}, {"adapter.lora_r": 96}):
        config = build(REQUIRED | given | change, None)
        space = usual_space(config)
        values = given_values(space, config, "")
        assert with_values(config, settings_of(space, values), "") == config, "rounding leaves these as they are"
        assert ("train.encoder_learning_rate" in values) == ("adapter.lora_targets" in change)
        assert ("copies" in values) == ("augment.augment_copies" not in change)
    names = {one.name for one in usual_space(build(REQUIRED | {"adapter.method": "full"}, None))}
    assert names == {"train.full_learning_rate", "train.epochs", "copies"}


def test_drawn_values_become_settings_and_alpha_follows_the_rank(tmp_path: Path) -> None:
    text = f"{SPACE}\n[sound]\nchoices = [{{}}, {{augment_copies = 1, speed_min = 0.9}}]"
    space = read_space(write(tmp_path, text), CONFIG)
    settings = settings_of(space, {"adapter.lora_r": "4", "train.learning_rate": 0.00123456, "sound": "augment_copies 1, speed_min 0.9"})
    assert settings == {"adapter.lora_r": 4, "train.learning_rate": 0.00123, "augment.augment_copies": 1, "augment.speed_min": 0.9}
    config = with_values(CONFIG, settings, "")
    assert config.adapter.lora_alpha / config.adapter.lora_r == CONFIG.adapter.lora_alpha / CONFIG.adapter.lora_r
    assert with_values(CONFIG, settings | {"adapter.lora_alpha": 3.0}, "").adapter.lora_alpha == 3.0


# --- a study on disk, with trials that nobody trained -------------------------------------------------------------------------------------


def study_in(folder: Path, trials: int = 20) -> Study:
    space = (Choice(name="adapter.lora_r", options={"4": {"adapter.lora_r": 4}, "8": {"adapter.lora_r": 8}}), RATE)
    create(folder, Opening(opened=completed(), space=space), {"adapter.lora_r": "8", "train.learning_rate": 1e-3}, trials)
    return Study(folder, space, 0)


RATE = Range(name="train.learning_rate", low=1e-4, high=1e-2, log=True)


def again(study: Study) -> Study:
    """As another process opens it."""
    return Study(study.folder, read_opening(study.folder).space, 0)


@contextmanager
def claimed(study: Study) -> Iterator[tuple[object, Values]]:
    found = study.claim(lambda draw: {one.name: draw(one) for one in study._space})
    assert found is not None
    yield found


def made_up(number: int, rate: float, *, given: bool = False) -> Trial:
    """Whose error follows the rate alone: the nearer to 2e-3, the better."""
    base, wer = Step(step=0, epoch=0.0, train_loss=None, dev_loss=1.0, dev_wer=0.5), 0.05 + abs(rate - 2e-3) * 20
    best = Step(step=9, epoch=1.0, train_loss=0.5, dev_loss=wer, dev_wer=wer)
    settings = {"train.learning_rate": rate}
    return Trial(number=number, state="finished", given=given, settings=settings, base=base, best=best, cost=wer, steps=9)


def tried(study: Study, count: int) -> list[Values]:
    """Values of that many trials, each finished."""
    found = []
    for _ in range(count):
        with claimed(study) as (asked, values):
            found.append(values)
            asked.set_user_attr("settings", {})
            study.finish(asked, made_up(asked.number, float(values["train.learning_rate"]), given=asked.number == 0))
    return found


def score(errors: int) -> Score:
    """Of forty words by four speakers, so many of them wrong."""
    rows = []
    for number in range(10):
        wrong = [f"x{word}" if 4 * number + word < errors else "word" for word in range(4)]
        rows.append(
            score_utterance(id=str(number), speaker_id=None, seconds=1.0, reference="word word word word", hypothesis=" ".join(wrong))
        )
    return total(rows, "en")


def test_the_first_trial_is_of_the_settings_as_given_and_proposals_follow_from_the_seed(tmp_path: Path) -> None:
    one, other = study_in(tmp_path / "one"), study_in(tmp_path / "other")
    with one.at_work(), other.at_work():
        first = tried(one, 10)
        assert first[0] == {"adapter.lora_r": "8", "train.learning_rate": 1e-3}
        assert first[:4] == tried(other, 4)
    with (other.folder / "study.jsonl").open("a") as journal:
        journal.write('{"op_code":5,')  # as a power failure leaves it
    reopened = again(other)
    with reopened.at_work():
        assert first[4:] == tried(reopened, 6), "whoever goes on"


def test_a_trial_whose_process_is_gone_is_run_again_and_one_at_work_is_left_alone(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", trials=4)
    with study.at_work():
        tried(study, 1)
        with claimed(study) as (_, lost):
            other = again(study)
            with other.at_work():
                assert other.others_at_work()
                with claimed(other) as (asked, values):
                    assert values != lost
                    assert not other.may_end()
                    other.finish(asked, made_up(asked.number, 1e-3))
    last = again(study)
    with last.at_work():
        assert not last.others_at_work()
        with claimed(last) as (asked, values):
            assert values == lost
            assert [trial.state for trial in last.trials()] == ["finished", "interrupted", "finished", "running"]
            last.finish(asked, made_up(asked.number, 1e-3))
        tried(last, 1)
        assert last.claim(lambda _draw: {}) is None, "four are done"
        assert last.may_end()
        assert not again(study).may_end(), "one process ends a study"


def test_what_mattered_is_reported_once_enough_trials_have_finished(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", trials=24)
    with study.at_work():
        tried(study, 5)
        assert study.importances() == {}
        tried(study, 19)
    found = study.importances()
    assert found["train.learning_rate"] > 0.8 > found["adapter.lora_r"]
    keep_scores(study.folder, 0, Scores(dev=score(30), guard=None))
    best = min(study.trials(), key=lambda trial: trial.cost or 1.0)
    keep_scores(study.folder, best.number, Scores(dev=score(2), guard=None))
    shown = summary(study, CONFIG)
    assert shown.winner == best.number
    assert f"trial {best.number} is chosen among 24 trials" in shown.sentence
    assert not shown.sentence.endswith("beyond chance")
    write_results(shown, CONFIG, study.folder)
    page = (study.folder / "report.html").read_text()
    assert "PED-ANOVA" in page
    assert "Cost by learning_rate" in page
    assert not [word for word in ("http://", "https://", "<script", "url(") if word in page]
    rows = list(csv.DictReader((study.folder / "trials.tsv").open(), dialect="excel-tab"))
    assert [int(row["trial"]) for row in rows] == list(range(24))
    assert build({}, study.folder / "best.toml").train.learning_rate == best.settings["train.learning_rate"]


def test_a_winner_within_chance_of_the_settings_as_given_is_said_to_be_so(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    with study.at_work():
        for number, rate in enumerate((1e-3, 2e-3)):
            with claimed(study) as (asked, _):
                study.finish(asked, made_up(number, rate, given=number == 0))
            keep_scores(study.folder, number, Scores(dev=score(5 - number), guard=None))
    assert summary(study, CONFIG).sentence.endswith("no better than those beyond chance")


def test_the_winner_is_chosen_by_the_rule_that_chooses_a_step() -> None:
    near, far, harmful = (made_up(number, rate) for number, rate in enumerate((2e-3, 3e-3, 2e-3)))

    def with_step(trial: Trial, **values: float) -> Trial:
        return Trial(**{**{name: getattr(trial, name) for name in trial.__struct_fields__}, "best": step(**values)})

    def step(loss: float, wer: float, guard: float) -> Step:
        return Step(step=5, epoch=1.0, train_loss=None, dev_loss=loss, dev_wer=wer, guard_wer=guard)

    base = Step(step=0, epoch=0.0, train_loss=None, dev_loss=1.0, dev_wer=0.5, guard_wer=0.05)
    given = [Trial(**{**{n: getattr(t, n) for n in t.__struct_fields__}, "base": base}) for t in (near, far, harmful)]
    lucky, sound = with_step(given[0], loss=0.30, wer=0.10, guard=0.05), with_step(given[1], loss=0.20, wer=0.11, guard=0.05)
    spoils = with_step(given[2], loss=0.10, wer=0.10, guard=0.30)
    assert chosen([lucky, sound, spoils], 300, 500) == sound, "one word more is chance, the loss is not, and the guard counts"
    worse = with_step(given[0], loss=2.0, wer=0.9, guard=0.05)
    assert chosen([worse], 300, 500) == worse


def test_a_study_whose_trials_all_fail_has_a_page_and_a_table(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study")
    with study.at_work(), claimed(study) as (asked, _):
        study.finish(asked, Trial(number=0, state="diverged", given=True, settings={"train.learning_rate": 9.0}, error="=the loss is nan"))
    found = summary(study, CONFIG)
    assert (found.winner, found.done) == (None, 1)
    write_page(found, tmp_path / "report.html")
    assert "No trial is finished yet." in (tmp_path / "report.html").read_text()
    assert "'=the loss is nan" in table(found), "no formula in a spreadsheet"


# --- the command -------------------------------------------------------------------------------------------------------------------------


def test_refusals_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ("sweep", "domain", "--study-dir", tmp_path / "study")
    assert "argument --trials: must be at least 1, not 0; see --help" in moonshine_lora(*sweep, "--trials", 0).err
    assert "not allowed with argument" in moonshine_lora(*sweep, "--resume", "--join").err
    assert "not allowed with argument" in moonshine_lora(*sweep, "--resume", "--dry-run").err
    assert refusal(*sweep, "--resume").startswith(f"error: {tmp_path / 'study'}: holds no study (no sweep.json)")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes").write_text("mine")
    assert "is not empty and holds no study; choose another --study-dir" in refusal(*sweep)
    assert "no such config file" in refusal("sweep", tmp_path / "none.toml")
    assert "space.toml: no such file" in refusal(*sweep, "--space", tmp_path / "space.toml")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "a sweep needs Optuna; install it with pip install 'moonshine-lora[sweep]'" in refusal(*sweep)


@pytest.fixture(scope="module")
def command(sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    place = tmp_path_factory.mktemp("sweep")
    config = place / "config.toml"
    config.write_text('[model]\nmodel_id = "packaged:moonshine-tiny"\n')
    short = ("--max-steps", 2, "--eval-interval", 1, "--batch-size", 2, "--split-by", "utterance", "--device", "cpu")
    flags = (*sets.flags(), *short, *ANY_VERDICT, "--output-dir", place / "run", "--space", write(place))
    return ("sweep", config, *flags)


@pytest.fixture(scope="module")
def finished(command: tuple[object, ...]) -> Path:
    """A study of two trials and the run of its winner."""
    result = moonshine_lora(*command, "--trials", 2)
    assert result.code == 0, result.err
    folder = Path(str(command[command.index("--output-dir") + 1])).with_name("run-sweep")
    assert f"{folder}: report.html, trials.tsv, best.toml" in result.out
    assert " 2 trials: dev WER" in result.out
    return folder


def test_a_dry_run_lists_what_would_be_tried_and_writes_nothing(command: tuple[object, ...], tmp_path: Path) -> None:
    result = moonshine_lora(*command, "--study-dir", tmp_path / "study", "--dry-run")
    listed = result.out.splitlines()
    assert (result.code, listed[-1]) == (0, f"ready: {len(listed) - 1} settings to try, nothing was trained or written")
    assert len({re.match(r"[a-z_]+ +", line).end() for line in listed[:-1]}) == 1, "names and values stand in columns"  # type: ignore[union-attr]
    assert not list(tmp_path.iterdir())


def test_two_trials_and_the_run_of_the_winner(finished: Path, tiny: LoadedModel) -> None:
    rows = list(csv.DictReader((finished / "trials.tsv").open(), dialect="excel-tab"))
    assert [(row["trial"], row["state"], row["given"]) for row in rows] == [("0", "finished", "True"), ("1", "finished", "False")]
    record = read_record(finished / "winner")
    assert record.status == "completed"
    assert record.checkpoint.model_id == tiny.checkpoint.model_id
    best = build({}, finished / "best.toml")
    same = {"output.output_dir": str(finished / "winner")}
    assert changed(best, same, "") == record.config, "best.toml makes the run that was judged"
    won = next(row for row in rows if float(row["learning_rate"]) == best.train.learning_rate)
    assert record.training is not None
    chosen_step = record.training.history[int(won["best_step"])]
    assert (chosen_step.dev_wer, chosen_step.guard_wer) == (float(won["dev_wer"]), float(won["guard_wer"]))
    assert "Trials" in (finished / "report.html").read_text()


def test_a_study_is_only_gone_on_with_as_it_was_begun(finished: Path, command: tuple[object, ...], tmp_path: Path) -> None:
    assert "holds a study; --resume continues it" in refusal(*command)
    for flag in ("--resume", "--join"):
        assert "the study is finished, the run of its winner is in winner/" in refusal(*command, flag)
    study = Path(shutil.copytree(finished, tmp_path / "study", ignore=shutil.ignore_patterns("winner")))
    there = (*command, "--study-dir", study, "--resume")
    assert "of other settings: train.batch_size was 2, is 3; set them back" in refusal(*there, "--batch-size", 3)
    other = write(tmp_path, SPACE.replace("2e-3", "3e-3"))
    assert "of another search space: learning_rate; give the same --space" in refusal(*there, "--space", other)
    assert "--trials 1: 2 are done already; give as many or more" in refusal(*there, "--trials", 1)
    with (study / "study.jsonl").open("a") as journal:
        journal.write("{}\nnot JSON\n{}\n")
    assert "study.jsonl: is damaged" in refusal(*there)
    (study / "sweep.json").write_text(json.dumps({"schema": 99}))
    assert "was written by another version" in refusal(*there)


def test_a_trial_never_looks_at_the_test_sets(sets: Manifests, tmp_path: Path) -> None:
    """Their recordings are gone once they have been checked, and the training does not miss them."""
    given = {f"data.{name}_manifest": str(shutil.copy(file, tmp_path)) for name, file in vars(sets).items()}
    for sound in sets.train.parent.iterdir():
        if sound.suffix not in (".jsonl",):
            shutil.copy(sound, tmp_path)
    short = {"train.max_steps": 1, "train.batch_size": 2, "data.split_by": "utterance", "output.output_dir": str(tmp_path / "run")}
    config: RunConfig = build(given | short | {"model.model_id": "packaged:moonshine-tiny"}, None)
    prepared = replace(ready(config, display := Display(quiet=True)), kept=Kept(tmp_path / "kept"))
    for part in (prepared.sets.domain, prepared.sets.heldout):
        for utterance in part.manifest:
            Path(utterance.audio.path).unlink()
    fitted = fit(prepared, Reporter(RunLog(None, Hold()), Trackers((), tmp_path, print), display, "WER"), lambda _advance: Progress())
    assert [row.id for row in fitted.dev.score.utterances] == [utterance.id for utterance in prepared.sets.dev.manifest]
    assert fitted.outcome.steps == 1


# --- kills, and several processes --------------------------------------------------------------------------------------------------------


def trials_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.tsv").open(), dialect="excel-tab"))


def found_by(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    """Settings and results of the finished trials, in their order."""
    return [
        tuple(row[name] for name in ("learning_rate", "lora_r", "dev_loss", "guard_loss")) for row in rows if row["state"] == "finished"
    ]


@pytest.mark.slow
def test_a_killed_study_keeps_its_finished_trials_and_runs_the_other_again(command: tuple[object, ...], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert moonshine_lora(*command, "--trials", 3, "--study-dir", whole).code == 0
    process = fork(*command, "--trials", 3, "--study-dir", killed, output=tmp_path / "output")
    process.wait_for('"worker"', killed / "study.jsonl")
    process.wait_for("finished", killed / "trials.tsv")
    before = (killed / "study.jsonl").read_text()
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {file.name: file.stat().st_mtime_ns for file in (killed / "trials").iterdir() if not file.name.startswith(".")}
    assert done
    result = moonshine_lora(*command, "--resume", "--study-dir", killed)
    assert result.code == 0, result.err
    assert (killed / "study.jsonl").read_text().startswith(before[: before.rindex("\n")])
    assert all((killed / "trials" / name).stat().st_mtime_ns == when for name, when in done.items()), "none is trained twice"
    assert found_by(trials_of(killed)) == found_by(trials_of(whole))
    assert sum(row["state"] == "interrupted" for row in trials_of(killed)) <= 1
    assert read_record(killed / "winner").status == "completed"


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_of_them_runs_the_winner(command: tuple[object, ...], tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = fork(*command, "--trials", 6, "--study-dir", study, output=tmp_path / "first")
    first.wait_for('"worker"', study / "study.jsonl")
    assert "another process works on this study; --join works beside it" in refusal(*command, "--study-dir", study, "--resume")
    second = fork(*command, "--study-dir", study, "--join", output=tmp_path / "second")
    assert (first.wait(), second.wait()) == (0, 0), (tmp_path / "first").read_text() + (tmp_path / "second").read_text()
    said = [(tmp_path / name).read_text() for name in ("first", "second")]
    assert sorted(" 6 trials: dev WER" in text for text in said) == [False, True]
    assert sorted("the one that ends last runs the winner" in text for text in said) == [False, True]
    rows = trials_of(study)
    assert [row["state"] for row in rows] == ["finished"] * len(rows)
    assert len(rows) == 6
    workers = set(re.findall(r'"worker":"([^"]+)"', (study / "study.jsonl").read_text()))
    assert len(workers) == 2
    assert read_record(study / "winner").status == "completed"
