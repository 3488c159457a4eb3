"""The page: made from the record and the recordings it names, whatever is in them, and always the same."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from records import DOMAIN, HELDOUT, Row, completed
from running import moonshine_lora, the_error

from lora.dataset.manifest import Rules
from lora.dataset.speech_rate import too_much
from lora.report.charts import steps_to
from lora.report.diff import pieces
from lora.report.html import AUDIO_MB, render, write_html
from lora.report.rebuild import rebuild
from lora.runs.record import ManifestInfo, RunRecord, write
from lora.scoring.counts import count_edits, score_utterance
from lora.system.artifacts import HTML_FILE, MARKDOWN_FILE
from lora.system.files import sha256_file
from lora.text.normaliser import normalise
from lora.text.tags import tags_in
from lora.units import Seconds

LENGTH_S = 2.0
"""Of every utterance in `records`."""

HOSTILE = (
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus='alert(1)",
    "<!-- <b> ]]> &amp; &lt;",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "\u202eright to left\u202c 東京 🎤",
    "null \x00 bell \x07",
)


class Page(HTMLParser):
    """The elements of a page, with their attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def recorded(folder: Path, *, domain: Sequence[Row] = DOMAIN, heldout: Sequence[Row] = HELDOUT, inline: bool = False) -> RunRecord:
    """A completed run whose manifests and recordings, a tone for each utterance, lie in `folder`."""
    manifests = {}
    for name, rows in (("domain", domain), ("heldout", heldout)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        lines = []
        for number, row in enumerate(rows):
            tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * np.arange(int(LENGTH_S * 16_000)) / 16_000)
            soundfile.write(folder / name / f"clip {number}.wav", tone, 16_000)
            audio = [round(float(sample), 4) for sample in tone] if inline else f"clip {number}.wav"
            lines.append(json.dumps({"audio": audio, "text": row[0], "id": f"u{number}"}))
        file = folder / name / "test.jsonl"
        file.write_text("\n".join(lines) + "\n")
        manifests[name] = ManifestInfo(
            path=str(file), sha256=sha256_file(file), utterances=len(rows), seconds=Seconds(LENGTH_S * len(rows)), speakers=0
        )
    return completed(domain=domain, heldout=heldout, manifests=manifests)


def with_speakers(record: RunRecord, names: Sequence[str]) -> RunRecord:
    """The same run with domain utterances by these speakers in turn."""
    assert record.domain is not None

    def named(side: object) -> object:
        score = side.score  # type: ignore[attr-defined]
        rows = tuple(msgspec.structs.replace(row, speaker_id=names[n % len(names)]) for n, row in enumerate(score.utterances))
        return msgspec.structs.replace(side, score=msgspec.structs.replace(score, utterances=rows))  # type: ignore[type-var]

    domain = msgspec.structs.replace(record.domain, baseline=named(record.domain.baseline), tuned=named(record.domain.tuned))
    return msgspec.structs.replace(record, domain=domain)


def body_text(html: str) -> str:
    return " ".join(" ".join(Page(html).text).split())


# --- content ---------------------------------------------------------------------------------------------------------------------------


def test_the_verdict_and_the_numbers_are_the_records(tmp_path: Path) -> None:
    record = completed()
    text = body_text(render(record, tmp_path / HTML_FILE))
    assert record.verdict is not None
    assert " ".join(record.verdict.sentence.split()) in text
    for number in ("25.00 %", "8.33 %", "-16.67 points", "1.250", "0.500", "3 utterances, 12 words"):
        assert number in text, number
    for setting in ("train.epochs 3.0", "SHA-256 " + "b" * 64, "SHA-256 " + "c" * 64):
        assert setting in text, setting


def test_every_utterance_of_both_sets_is_there_and_what_changed_most_is_first(tmp_path: Path) -> None:
    rows = [a for a in Page(render(completed(), tmp_path / HTML_FILE)).all("tr") if "data-outcome" in a]
    assert [(a["data-set"], a["data-outcome"], a["data-change"]) for a in rows] == [
        ("domain", "better", "-2"),
        ("domain", "worse", "1"),
        ("domain", "better", "-1"),
        *[("heldout", "same", "0")] * len(HELDOUT),
    ]


def test_charts_say_in_words_what_they_show(tmp_path: Path) -> None:
    page = Page(render(with_speakers(completed(), ["anna", "ben"]), tmp_path / HTML_FILE))
    labels = [a["aria-label"] or "" for a in page.all("svg") if a.get("role") == "img"]
    assert len(labels) == 4
    assert "domain baseline 25.00" in labels[0]
    assert "dev (domain) from 1.5 at step 0 to 0.8 at step 10" in labels[1]
    assert "2 speakers" in labels[3]
    assert {a.get("aria-hidden", a.get("role")) for a in page.all("svg")} == {"img", "true"}


def test_without_speakers_the_page_says_so(tmp_path: Path) -> None:
    assert "name no speakers" in body_text(render(completed(), tmp_path / HTML_FILE))


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("Press the pound key.", "press the town key"),
        ("please hold the line", "hold the the line please"),
        ("", "something"),
        ("something", ""),
        ("", ""),
        ("twenty one pounds", "21 pounds"),
        ("a b c d", "e f"),
    ],
)
def test_the_marked_words_are_the_counted_errors(reference: str, hypothesis: str) -> None:
    found = pieces(score_utterance(id="u", speaker_id=None, seconds=Seconds(1), reference=reference, hypothesis=hypothesis))
    said, heard = normalise(reference).split(), normalise(hypothesis).split()
    assert " ".join(p.words for p in found if p.kind != "added").split() == said
    assert " ".join(p.words for p in found if p.kind != "missed").split() == heard
    missed, added = (sum(len(p.words.split()) for p in found if p.kind == kind) for kind in ("missed", "added"))
    counts = count_edits(said, heard)
    assert (missed, added) == (counts.substitutions + counts.deletions, counts.substitutions + counts.insertions)


@pytest.mark.parametrize("high", [0.0, 1e-4, 0.033, 0.05, 0.2, 0.999, 1.0, 1.5, 7, 123, 164, 5000])
def test_axes_have_few_round_ticks_that_cover_the_data(high: float) -> None:
    ticks = steps_to(high)
    assert ticks[0] == 0
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 6
    assert all(f"{tick:.6g}" == f"{tick:g}" for tick in ticks)


# --- safety ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_part_of_the_page(text: str, tmp_path: Path) -> None:
    def elements(record: RunRecord) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in Page(render(record, tmp_path / HTML_FILE)).elements]

    info = ManifestInfo(path=text, sha256="a" * 64, utterances=1, seconds=Seconds(1), speakers=0)
    same = ("<b> " if tags_in(text) else "") + normalise(text)  # other words and tags would move marks of the charts and add rows
    rows, plain = ([(f"{said} pound", f"{said} town", f"{said} pound"), *DOMAIN] for said in (text, same))
    hostile = completed(domain=rows, manifests={"train": info}, replay_left_out=(text,), command=("moonshine-lora", text))
    harmless = completed(domain=plain, manifests={"train": info}, replay_left_out=("x",), command=("moonshine-lora", "x"))
    kept = [tag for tag, _ in elements(hostile) if tag not in ("del", "ins")]
    assert kept == [tag for tag, _ in elements(harmless) if tag not in ("del", "ins")]
    attributes = {(tag, names) for tag, names in elements(hostile) if tag not in ("del", "ins")}
    assert attributes <= set(elements(harmless))


def test_only_the_pages_own_script_and_style_may_run_and_nothing_is_loaded(tmp_path: Path) -> None:
    html = render(completed(), tmp_path / HTML_FILE)
    (policy,) = [a["content"] or "" for a in Page(html).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"https?://", html), "there is nothing to fetch"
    assert not [a for _, a in Page(html).elements if "style" in a or any(name.startswith("on") for name in a)]


@pytest.mark.parametrize("name", ["report.css", "report.js"])
def test_style_and_script_cannot_end_their_element(name: str) -> None:
    assert "</" not in files("lora.report").joinpath(name).read_text()


def test_long_texts_are_folded_away_and_take_no_time(tmp_path: Path) -> None:
    long = " ".join(f"word{n % 977}" for n in range(10_000))
    html = render(completed(domain=((long, long.replace("word7 ", "lord "), long), *DOMAIN)), tmp_path / HTML_FILE)
    assert html.count('<details class="long">') == 1
    assert "10000 words, beginning" in html


# --- sound -----------------------------------------------------------------------------------------------------------------------------


def sources(html: str) -> list[str]:
    return [a["src"] or "" for a in Page(html).all("audio")]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    first, second = (tmp_path / name for name in ("one.html", "two.html"))
    write_html(record, first)
    write_html(record, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("inline", [False, True])
def test_recordings_are_embedded_as_they_were_heard(tmp_path: Path, inline: bool) -> None:
    found = sources(render(recorded(tmp_path, inline=inline), tmp_path / HTML_FILE))
    assert len(found) == len(DOMAIN) + len(HELDOUT)
    (tmp_path / "first.mp3").write_bytes(base64.b64decode(found[0].removeprefix("data:audio/mpeg;base64,")))
    samples, rate = soundfile.read(tmp_path / "first.mp3")
    loudest = np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples)
    assert (rate, round(loudest)) == (16_000, 300), "the page's first row is the third utterance"


def test_sound_is_encoded_once_for_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    record, page = recorded(tmp_path), tmp_path / HTML_FILE
    first = render(record, page)
    kept = sorted((tmp_path / "cache" / "kept").glob("*/*.mp3"))
    written = [file.stat().st_ino for file in kept]
    assert len(kept) == len(set(sources(first)))
    assert render(record, page) == first
    assert [file.stat().st_ino for file in kept] == written, "a second page writes none anew"


def test_recordings_over_the_limit_are_linked_relative_to_the_page(tmp_path: Path) -> None:
    record, page = recorded(tmp_path), tmp_path / "outputs" / "run" / HTML_FILE
    size = len(sources(render(record, page))[0])
    found = sources(render(record, page, audio_mb=(size + 10) / 1e6))
    assert [source.startswith("data:") for source in found] == [True, *[False] * (1 + len(HELDOUT)), False]
    heldout = [f"../../heldout/clip%20{number}.wav" for number in range(len(HELDOUT))]
    assert found[1:] == ["../../domain/clip%201.wav", "../../domain/clip%200.wav", *heldout]
    assert f"{len(found) - 1} recordings are over the limit" in body_text(render(record, page, audio_mb=(size + 10) / 1e6))
    assert sources(render(record, page, audio_mb=0))[0] == "../../domain/clip%202.wav"


def test_inline_recordings_over_the_limit_say_so(tmp_path: Path) -> None:
    html = render(recorded(tmp_path, inline=True), tmp_path / HTML_FILE, audio_mb=0)
    assert sources(html) == []
    assert "over the limit of what is embedded (--audio-mb)" in html


def test_a_manifest_that_is_gone_or_has_changed_is_reported(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    (tmp_path / "domain" / "test.jsonl").unlink()
    with (tmp_path / "heldout" / "test.jsonl").open("a") as stream:
        stream.write("\n")
    html = render(record, tmp_path / HTML_FILE)
    assert sources(html) == []
    text = body_text(html)
    assert f"No audio for domain: {tmp_path}/domain/test.jsonl: no such manifest" in text
    assert f"No audio for held-out: {tmp_path}/heldout/test.jsonl: has changed since the run" in text
    assert text.count("no audio: see above the table") == len(DOMAIN) + len(HELDOUT)


def test_a_record_without_the_manifests_is_reported(tmp_path: Path) -> None:
    assert "No audio for domain: the record names no manifest" in body_text(render(completed(), tmp_path / HTML_FILE))


def test_a_text_that_takes_longer_than_recordings_usually_may_last_is_played(tmp_path: Path) -> None:
    """A run with --max-seconds 60 accepts it."""
    text = " ".join("seven thousand nine hundred" for _ in range(60))
    assert too_much(text, Rules().max_s)
    assert not too_much(text, 60)
    record = recorded(tmp_path, domain=((text, text, text), *DOMAIN))
    assert len(sources(render(record, tmp_path / HTML_FILE))) == 1 + len(DOMAIN) + len(HELDOUT)


def test_a_recording_that_is_another_one_now_is_reported(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    soundfile.write(tmp_path / "domain" / "clip 1.wav", np.full(16_000, 0.1), 16_000)
    html = render(record, tmp_path / HTML_FILE)
    assert len(sources(html)) == len(DOMAIN) + len(HELDOUT) - 1
    assert "no audio: it lasts 1.00 s now, and lasted 2.00 s in the run" in body_text(html)


# --- the command -----------------------------------------------------------------------------------------------------------------------


def test_the_command_makes_both_reports_again(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    write(record, tmp_path)
    result = moonshine_lora("report", tmp_path, "--audio-mb", 0)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [str(tmp_path / "report.md"), str(tmp_path / "report.html")]
    assert (tmp_path / HTML_FILE).read_text() == render(record, tmp_path / HTML_FILE, 0)
    assert (tmp_path / MARKDOWN_FILE).exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert the_error(moonshine_lora("report", tmp_path)) == f"error: {tmp_path}: holds no run (no record.json)"


def test_a_run_that_broke_off_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write(completed(status="failed", error="the loss is nan", verdict=None), tmp_path)
    message = the_error(moonshine_lora("report", tmp_path))
    assert "not complete (failed: the loss is nan)" in message
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_the_commands_limit_is_that_of_a_run() -> None:
    assert f"(default: {AUDIO_MB:g})" in moonshine_lora("report", "--help").out


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much"])
def test_a_limit_that_is_no_size_is_refused(value: str, tmp_path: Path) -> None:
    assert "--audio-mb" in the_error(moonshine_lora("report", tmp_path, f"--audio-mb={value}"))


def test_a_report_is_made_again_without_a_trace_of_the_first(tmp_path: Path) -> None:
    write(recorded(tmp_path), tmp_path)
    first = [path.read_bytes() for path in rebuild(tmp_path, 20.0)]
    assert [path.read_bytes() for path in rebuild(tmp_path, 20.0)] == first
