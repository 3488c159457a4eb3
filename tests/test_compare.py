"""Runs side by side: what is shown, in which formats, and what is refused."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records import DOMAIN, HELDOUT, REQUIRED, completed, with_adapter
from running import moonshine_lora, the_error

from lora.config import build
from lora.report.compare import overview
from lora.runs.record import SCHEMA, ManifestInfo, RunRecord, write
from lora.system.artifacts import RECORD_FILE
from lora.units import Seconds

NOTHING_LEARNT = tuple((reference, said, said) for reference, said, _ in DOMAIN)
SETS = ("train", "dev", "domain", "heldout")


def manifests(**changed: str) -> dict[str, ManifestInfo]:
    hashes = {name: name[0] * 64 for name in SETS} | changed
    return {
        name: ManifestInfo(path=f"data/{name}.jsonl", sha256=sha256, utterances=3, seconds=Seconds(60.0), speakers=1)
        for name, sha256 in hashes.items()
    }


def record(settings: dict[str, Any] | None = None, **changes: Any) -> RunRecord:
    config = build(REQUIRED | (settings or {}), None)
    return completed(**{"manifests": manifests(), "config": config, **changes})


def failed(error: str) -> RunRecord:
    return msgspec.structs.replace(record(), status="failed", error=error, domain=None, heldout=None, verdict=None)


def saved(folder: Path, made: RunRecord) -> Path:
    folder.mkdir(parents=True)
    write(made, folder)
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two completed runs, one that failed, and a folder that is no run."""
    saved(tmp_path / "idle", record({"train.epochs": "1", "output.output_dir": "outputs/idle"}, domain=NOTHING_LEARNT))
    saved(tmp_path / "good", record({"train.epochs": "4"}))
    saved(tmp_path / "broken", failed("the loss is nan | stop"))
    (tmp_path / "background").mkdir()
    return tmp_path


def folders(outputs: Path) -> list[Path]:
    return sorted(outputs.iterdir())


def test_runs_stand_in_the_order_of_their_domain_wer(outputs: Path) -> None:
    found = overview(folders(outputs))
    assert [Path(run.name).name for run in found.completed] == ["good", "idle"]
    assert [Path(run.name).name for run in found.others] == ["broken"]
    assert [Path(name).name for name in found.skipped] == ["background"]


def test_only_what_differs_is_shown(outputs: Path) -> None:
    assert overview(folders(outputs)).settings == {"train.epochs": ("4.0", "1.0")}


def test_another_training_set_is_a_setting_that_differs(outputs: Path) -> None:
    saved(outputs / "more", record({"train.epochs": "4"}, manifests=manifests(train="f" * 64)))
    assert set(overview(folders(outputs)).settings) == {"train.epochs", "train set"}


def test_the_best_run_for_each_question(outputs: Path) -> None:
    assert {what: name and Path(name).name for what, name in overview(folders(outputs)).best.items()} == {
        "lowest domain WER": "good",
        "lowest domain WER within the guardrail": "good",
        "lowest domain WER that was accepted": "good",
        "lowest held-out WER": "good",
    }
    forgot = tuple((reference, said, "lost") for reference, said, _ in HELDOUT)
    saved(outputs / "forgot", record(domain=tuple((reference, said, reference) for reference, said, _ in DOMAIN), heldout=forgot))
    best = overview(folders(outputs)).best
    assert Path(str(best["lowest domain WER"])).name == "forgot"
    assert Path(str(best["lowest domain WER within the guardrail"])).name == "good"
    lone = overview([outputs / "forgot"])
    assert lone.best["lowest domain WER that was accepted"] is None
    assert lone.next_best is None


def test_the_best_run_is_held_against_the_second(outputs: Path) -> None:
    found = overview(folders(outputs)).next_best
    assert found is not None
    assert found.difference == 1 / 12 - 3 / 12
    assert found.interval.low < found.difference < found.interval.high


def test_headroom_counts_what_every_run_gets_wrong(tmp_path: Path) -> None:
    rows = (("press pound now", "press town now", "press town now"), ("check in please", "checkin please", "checkin please"), *DOMAIN)
    saved(tmp_path / "a", record(domain=rows))
    found = overview([tmp_path / "a"]).headroom
    assert (found.kinds.format, found.kinds.shared, found.kinds.other) == (2, 1, 1)
    assert (found.baseline, found.best, found.floor, found.words) == (6 / 18, 4 / 18, 3 / 18, 18)


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_headroom_of_a_single_run_says_what_it_is_compared_with(outputs: Path, tmp_path: Path, suffix: str) -> None:
    for runs, said in (([outputs / "good"], "in the baseline"), (folders(outputs), "in every baseline and run")):
        assert moonshine_lora("compare", *runs, "--output", tmp_path / f"runs{suffix}").code == 0
        text = (tmp_path / f"runs{suffix}").read_text()
        assert f"the same wrong words {said}" in text
        assert ("the floor is too high" in text) == (said == "in the baseline")


# --- formats ---------------------------------------------------------------------------------------------------------------------------


def test_markdown_goes_to_standard_output(outputs: Path) -> None:
    result = moonshine_lora("compare", *folders(outputs))
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "# Comparison of runs"
    widths = {line.replace("\\|", "").count("|") for line in lines[2:6]}
    assert len(widths) == 1, lines[2:6]
    assert any("good" in line and "8.33 %" in line and line.endswith("| accepted |") for line in lines)
    assert any(line.endswith("| failed: the loss is nan \\| stop |") for line in lines)
    assert any(line.endswith("background | holds no run |") for line in lines)


def test_csv_holds_ratios_and_a_row_for_each_run(outputs: Path, tmp_path: Path) -> None:
    assert (
        moonshine_lora(
            "compare", *(word for folder in folders(outputs) for word in ("--run", folder)), "--output", tmp_path / "runs.csv"
        ).code
        == 0
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert [(Path(row["run"]).name, row["status"], row["decision"]) for row in rows] == [
        ("good", "completed", "accepted"),
        ("idle", "completed", "rejected"),
        ("broken", "failed", ""),
    ]
    assert float(rows[0]["domain_tuned_wer"]) == 1 / 12
    assert float(rows[0]["domain_tuned_wer_low"]) <= 1 / 12 <= float(rows[0]["domain_tuned_wer_high"])
    assert (rows[0]["train.epochs"], rows[0]["runtime_seconds"], rows[0]["heldout_drift"]) == ("4.0", "12.5", "0.0")
    assert rows[2]["error"] == "the loss is nan | stop"


class _Page(HTMLParser):
    """What a page holds: its tags, and the addresses that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def test_html_needs_nothing_else_and_passes_no_text_as_markup(outputs: Path, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script><img src=x>"
    saved(outputs / "nasty", failed(nasty))
    assert moonshine_lora("compare", *folders(outputs), "--output", tmp_path / "runs.html").code == 0
    text = (tmp_path / "runs.html").read_text()
    found = _Page()
    found.feed(text)
    assert not {"script", "img", "link", "iframe"} & set(found.tags)
    assert found.addresses == []
    assert "&lt;script&gt;" in text
    assert 'name="viewport"' in text
    assert "color-scheme: light dark" in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_every_page_shows_what_a_reader_counts_beside_the_standard_rate(tmp_path: Path, suffix: str) -> None:
    saved(tmp_path / "run", record(domain=(("3 0 2 1", "three zero", "Three, zero, two, one. <COMMA>"), *DOMAIN)))
    (found,) = overview([tmp_path / "run"]).completed
    sides = (found.domain.baseline, found.domain.tuned, found.heldout.baseline, found.heldout.tuned)
    cells = [*(f"{100 * side.score.reader_wer:.2f} %" for side in sides), "1"]
    assert cells[1] != f"{100 * found.domain.tuned.score.wer:.2f} %"
    assert moonshine_lora("compare", tmp_path / "run", "--output", tmp_path / f"runs{suffix}").code == 0
    text = re.sub(r"(</?t[dhr][^>]*>| *\| *)+", "|", (tmp_path / f"runs{suffix}").read_text())
    assert f"|{'|'.join(cells)}|" in text


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["domain", "heldout"])
def test_runs_of_other_test_sets_are_not_compared(outputs: Path, name: str) -> None:
    saved(outputs / "other", record(manifests=manifests(**{name: "f" * 64})))
    message = the_error(moonshine_lora("compare", *folders(outputs)))
    what = {"domain": "domain manifest", "heldout": "held-out manifest"}[name]
    assert f"{outputs / 'good'} and {outputs / 'other'}: their {what} differs (data/{name}.jsonl, SHA-256 {name[0] * 12} and" in message


def test_a_test_set_that_was_moved_is_still_the_same(outputs: Path) -> None:
    moved = {name: msgspec.structs.replace(info, path=f"elsewhere/{name}.jsonl") for name, info in manifests().items()}
    saved(outputs / "moved", record({"train.epochs": "4"}, manifests=moved))
    assert len(overview(folders(outputs)).completed) == 3


def test_runs_of_other_normalisers_are_not_compared(outputs: Path) -> None:
    made = record()
    assert made.domain is not None
    tuned = msgspec.structs.replace(made.domain.tuned, score=msgspec.structs.replace(made.domain.tuned.score, normaliser="another (1.0)"))
    saved(outputs / "other", msgspec.structs.replace(made, domain=msgspec.structs.replace(made.domain, tuned=tuned)))
    assert "their normaliser differs (" in the_error(moonshine_lora("compare", *folders(outputs)))


def test_runs_of_other_guardrails_are_not_compared(outputs: Path) -> None:
    saved(outputs / "other", record({"gate.guardrail": "drift", "gate.max_drift_points": "2"}))
    assert "their guardrail differs (wer and drift)" in the_error(moonshine_lora("compare", *folders(outputs)))


def test_a_record_of_an_older_schema_is_refused(outputs: Path) -> None:
    file = outputs / "idle" / RECORD_FILE
    file.write_text(file.read_text().replace(f'"schema": {SCHEMA}', '"schema": 1'))
    message = the_error(moonshine_lora("compare", *folders(outputs)))
    assert f"{file}: has schema 1, this version reads {SCHEMA}; make the run again with its config.toml" in message


def test_nothing_completed_is_refused(outputs: Path) -> None:
    message = the_error(moonshine_lora("compare", outputs / "broken", outputs / "background"))
    assert message.startswith("error: no completed run in ")


def test_a_path_that_is_not_there_is_refused(outputs: Path) -> None:
    assert the_error(moonshine_lora("compare", outputs / "god")) == f"error: {outputs / 'god'}: no such run folder"


def test_another_format_is_refused_before_the_work(outputs: Path) -> None:
    message = the_error(moonshine_lora("compare", outputs / "absent", "--output", "runs.pdf"))
    assert message == "error: --output runs.pdf: name it .md, .csv or .html"


@pytest.mark.parametrize("command", [("compare", "{run}"), ("report", "{run}"), ("push", "{run}", "--repo-id", "anna/tuned", "--dry-run")])
def test_what_is_made_of_a_record_starts_without_torch(tmp_path: Path, command: Sequence[str]) -> None:
    run = saved(tmp_path / "run", record())
    write(with_adapter(record(), run), run)
    (run / "processor").mkdir()
    code = "import sys, lora.main as m; code = m.main(); assert not {'torch', 'transformers', 'peft'} & sys.modules.keys(); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *(word.format(run=run) for word in command)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
