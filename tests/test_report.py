"""The report and the metrics file: made from the record alone, whatever is in it."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from records import DOMAIN, HELDOUT, completed

from lora.audio.loading import AudioSettings
from lora.display import export_table
from lora.report import html
from lora.report.markdown import render, write_report
from lora.report.metrics import metrics, write_metrics
from lora.runs.export_record import Exported, TargetExport
from lora.runs.record import ManifestInfo, RunRecord, read, write
from lora.system.artifacts import HTML_FILE
from lora.units import Seconds

HEADINGS = ["Data", "Training", "Utterances that changed most", "Where the domain's errors are", "Reproduce"]

NASTY = (
    "a | b",
    "a \\| b",
    "two\nlines and\ttabs",
    "<script>alert('x')</script> <b>bold</b> &amp;",
    "`code` *stars* _under_ # no heading",
    "{{ run.verdict }} {% raw %}",
    "Zürich “quoted” 東京 🎤",
    "|",
)


def tables(report: str) -> Iterator[list[list[str]]]:
    """Each table's rows, cut at the pipes that Markdown takes for borders."""
    for block in re.findall(r"(?:^\|.*\n)+", report, re.M):
        yield [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]


def test_the_parts_stand_in_their_order() -> None:
    report = render(completed())
    assert re.findall(r"^## (.*)$", report, re.M) == HEADINGS
    assert report.startswith(f"# Training report\n\n**{completed().verdict.sentence}**\n")  # type: ignore[union-attr]  # it is completed


def test_the_numbers_are_the_records() -> None:
    report = render(completed())
    (_, _, domain, heldout) = next(tables(report))
    assert [cell.strip() for cell in domain][:4] == ["domain", "25.00 %", "8.33 %", "-16.67"]
    assert [cell.strip() for cell in domain][6:] == ["1.250", "0.500"]
    assert [cell.strip() for cell in heldout][:4] == ["held-out", "0.00 %", "0.00 %", "+0.00"]
    assert "best step 10 of 20 (finished); 20 seconds of audio per second" in report
    assert "| 10 (best) | 1.00 | 0.900 | 0.800 | 12.50 % | 5.00 % |" in report
    assert f"| train | 3 | 1.5 | 1 | data/train.jsonl | `{'a' * 12}` |" in report
    assert "| train.epochs | 3.0 |" in report


def test_utterances_that_did_not_change_are_left_out_and_worse_ones_are_reported() -> None:
    report = render(completed(domain=(*DOMAIN, ("nothing new here", "nothing new here", "nothing new here"))))
    (changed,) = (rows for rows in tables(report) if "reference" in rows[0][1])
    verdicts = {row[1].strip(): (row[0].strip(), row[4].strip()) for row in changed[2:]}
    assert verdicts == {
        "please hold the line": ("better", "2 to 0"),
        "press the pound key": ("better", "1 to 0"),
        "your call is important": ("worse", "0 to 1"),
    }


def test_the_errors_are_reported_by_word_and_by_vocabulary() -> None:
    report = render(completed(domain_unseen_words=("important", "pound")))
    assert "| important heard as import | 1 |" in report
    assert "| words seen in training | | 10 | 2 | 0 |" in report
    assert "| words not seen in training | | 2 | 1 | 1 |" in report
    assert "On the held-out speech 0.00 % of the base model's words changed (0.00 % to 30.74 %); 100 % of its transcripts" in report


def test_clips_that_loop_are_named() -> None:
    assert "and loop on u3." in render(completed(domain=(*DOMAIN, ("press one", "press one", "press one " * 4))))


def test_many_better_utterances_do_not_hide_the_worst() -> None:
    better = [(f"number {n} please", "wrong", f"number {n} please") for n in range(30)]
    worse = [(f"the letter {n} comes next", f"the letter {n} comes next", "lost") for n in range(7)]
    report = render(completed(domain=(*better, *worse)))
    (changed,) = (rows for rows in tables(report) if "reference" in rows[0][1])
    assert [row[0].strip() for row in changed[2:]] == ["better"] * 10 + ["worse"] * 5


@pytest.mark.parametrize("text", NASTY)
def test_no_text_breaks_a_table(text: str) -> None:
    row = (f"{text} pound", f"{text} town", f"{text} pound")
    info = ManifestInfo(path=f"data/{text}.jsonl", sha256="a" * 64, utterances=1, seconds=Seconds(1), speakers=0)
    report = render(completed(domain=(row, *DOMAIN), manifests={"train": info}, replay_left_out=("a|b",)))
    assert re.findall(r"^## (.*)$", report, re.M) == HEADINGS
    for rows in tables(report):
        assert len({len(cells) for cells in rows}) == 1, rows
        assert set("".join(rows[1])) == {"-"}


def test_html_in_a_transcript_stays_text() -> None:
    report = render(completed(domain=(("<script>alert(1)</script> pound", "<img src=x> town", "<b>pound"), *DOMAIN)))
    assert not re.search(r"(?<!`)<(script|img|b)\b", report), "Markdown passes HTML on"


def test_the_report_needs_the_record_only(tmp_path: Path) -> None:
    write(completed(), tmp_path)
    assert render(read(tmp_path)) == render(completed())
    write_report(read(tmp_path), tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == render(completed())


def test_metrics_of_a_run_that_broke_off_have_the_same_names(tmp_path: Path) -> None:
    def names(record: RunRecord) -> set[str]:
        write_metrics(record, tmp_path / "metrics.json")
        return set(json.loads((tmp_path / "metrics.json").read_text()))

    absent = {"adapter": None, "training": None, "domain": None, "heldout": None, "verdict": None}
    broken = msgspec.structs.replace(completed(status="failed", error="the loss is nan"), **absent)
    values = metrics(broken)
    assert (values["status"], values["error"], values["accepted"], values["tuned_wer"]) == ("failed", "the loss is nan", None, None)
    assert names(completed()) == names(broken)


def test_metrics_are_ratios() -> None:
    values = metrics(completed(heldout=HELDOUT))
    assert (values["baseline_wer"], values["tuned_wer"], values["heldout_tuned_wer"]) == (3 / 12, 1 / 12, 0)
    assert values["wer_change"].difference == 1 / 12 - 3 / 12
    assert values["train_audio_seconds_per_second"] == 20


def test_the_command_to_reproduce_is_quoted_for_a_shell() -> None:
    command = ("moonshine-lora", "experiment", "--output-dir", "my runs/it's one")
    record = completed(command=command)
    output = msgspec.structs.replace(record.config.output, output_dir="my runs")
    report = render(msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, output=output)))
    (first,) = re.findall(r"`(moonshine-lora experiment --output[^`]*)`", report)
    (second,) = re.findall(r"`(moonshine-lora experiment --config[^`]*)`", report)
    assert tuple(shlex.split(first)) == command
    assert shlex.split(second) == ["moonshine-lora", "experiment", "--config", "my runs/config.toml"]


def test_the_export_of_a_japanese_model_is_scored_in_characters(tmp_path: Path) -> None:
    record = completed()
    model = msgspec.structs.replace(record.config.model, language="ja")
    exported = Exported(
        made_at="2025-01-01T00:00:00+00:00",
        command=("moonshine-lora", "export"),
        folder="export",
        run="run",
        gate=None,
        gate_accepted=True,
        model_id="moonshine-ai/moonshine-tiny-ja",
        base_sha256="b" * 64,
        adapter_sha256=None,
        architecture=None,
        tokens_per_second=13.0,
        audio=AudioSettings(),
        language="ja",
        targets={"merged": TargetExport(precision="fp32", files=(), seconds=Seconds(1.0))},
        speech={},
        seconds={},
        peak_bytes=0,
        versions={},
    )
    verdict = msgspec.structs.replace(completed().verdict, checks=())  # type: ignore[type-var]  # it is completed
    run = msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, model=model), exports=(exported,), verdict=verdict)
    for text in (render(run), html.render(run, tmp_path / HTML_FILE)):
        assert "CER in the runtime" in text
        assert not re.search(r"\bWER\b", text)
    assert export_table(exported).title == "moonshine-ai/moonshine-tiny-ja: character error rate in PyTorch and in the runtime"
