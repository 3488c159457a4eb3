"""Own recordings: folders and tables whose rows are what they seem, or are refused by name; all that is wrong is told at once."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lora.console import run
from lora.corpora import commands
from lora.corpora.general import HELDOUT, waveform
from lora.corpora.timed import timed
from lora.dataset.manifest import Rules, read
from lora.units import SAMPLE_RATE_HZ

SPOKEN = (
    "Please hold the line.",
    "1 2 3",
    "7 11",
    "12:33",
    "3.5 percent of 4.5 is little",
    "20 30 go",
    "He said [twice] so. {Really?}",
    "Dialogue is what we need",
    "speaker one",
    "Meet at 10:30\nor at 11:45 please",
    "First line\nsecond line",
    "",
)

TIMED = (
    "0.000000\t5.000000\tHe hoped\n5.000000\t10.400000\tturnips",
    "0,000000\t5,000000\tEr hoffte",
    "0.0 2.5 hello\n\\\t100.0\t200.0\n",
    "0 12800 Stop.",
    "2360 5200 she\n5200 9680 had",
    "0 500000 sil\n500000 12000000 a",
    "1\n00:00:01,000 --> 00:00:04,000\nHello",
    "WEBVTT\n\n00:01.000 --> 00:04.000\nHello",
    "[00:12.00]Hello\n[00:15.30]again",
    "[00:00.000 --> 00:04.000]  Hello",
    "0:00\nhello\n0:05\nagain",
    "0:00 hello\n0:05 again",
    "Speaker 1  0:03\nhello there\nSpeaker 2  0:09\nyes",
    "talk 1 0.00 0.35 hello 0.98\ntalk 1 0.35 0.60 there 0.77",
    "talk A anna 0.00 5.00 <o,f0> hello there",
    "SPEAKER talk 1 0.00 5.00 <NA> <NA> anna <NA> <NA>",
    'File type = "ooTextFile"\nObject class = "TextGrid"',
    '{"text": "hello"}',
    '[{"start": 0, "text": "hello"}]',
    "<?xml version='1.0'?><tt>hello</tt>",
    "{\\rtf1\\ansi hello}",
    "0.00,2.50,hello there\n2.50,4.00,again",
)


@pytest.mark.parametrize("text", SPOKEN)
def test_what_may_be_said_is_a_transcript(text: str) -> None:
    assert timed(text) is None


@pytest.mark.parametrize("text", TIMED)
def test_texts_with_times_and_other_files_are_no_transcripts(text: str) -> None:
    assert timed(text) is not None
    assert timed("\ufeff" + text.replace("\n", "\r\n")) is not None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with six different recordings, `c0.wav` to `c5.wav`."""
    samples = (waveform(HELDOUT[1]) * 32768).astype(np.int16)
    for number in range(6):
        soundfile.write(tmp_path / f"c{number}.wav", samples[number * 16000 : (number + 1) * 16000], SAMPLE_RATE_HZ)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name: str, *arguments: object) -> tuple[int, str]:
    """Exit code of a script's command, and what it printed."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = run(lambda: int(getattr(commands, name)([*map(str, arguments)])))
    return code, text.getvalue()


def table(content: str, *arguments: object, name: str = "t.csv", overwrite: bool = True) -> tuple[int, str]:
    Path(name).write_text(content)
    return made("build_domain_manifest", "--csv", name, "--output", "out.jsonl", *arguments, *(("--overwrite",) if overwrite else ()))


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def test_all_bad_rows_are_reported_at_once_and_left_out_on_demand(place: Path) -> None:
    (place / "c1.wav").write_bytes(b"")
    (place / "c2.wav").write_bytes((place / "c2.wav").read_bytes()[:30])
    content = "file,text,speaker\nc0.wav,One.,a\nc1.wav,Two.,a\nc2.wav,Three.,a\nc3.wav,,a\nnone.wav,Five.,a\n"
    content += ",Six.,a\nc0.wav,Again.,a\nc4.wav,Eight.,b\n"
    code, said = table(content)
    assert code == 2
    assert said.count("\n") == 1
    assert "6 bad rows" in said
    for line, what in (
        (3, "0 bytes"),
        (4, "c2.wav"),
        (5, "has no text"),
        (6, "no such file"),
        (7, "has no file"),
        (8, "several recordings"),
    ):
        assert what in said.split(f"t.csv line {line}:")[1].split("; t.csv")[0]
    assert not Path("out.jsonl").exists()
    code, said = table(content, "--skip-bad")
    assert code == 0, said
    assert "left out 6 bad rows:" in said
    assert [row["text"] for row in rows()] == ["One.", "Eight."]


@pytest.mark.usefixtures("place")
def test_at_most_twenty_bad_rows_are_shown_and_the_rest_counted() -> None:
    content = "file,text,speaker\nc0.wav,One.,a\n" + "".join(f"none{number}.wav,x,a\n" for number in range(50))
    assert "; and 30 more" in table(content)[1]
    code, said = table(content, "--skip-bad")
    assert code == 0
    assert "  and 30 more" in said
    assert said.count("no such file") == 20


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("where", [2, 3, 5])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("c1.wav,Hello, world,anna", "has 4 cells under 3 headings; put a text that holds a comma in quotes"),
        ("c1.wav,Hello, world", "a comma and a space before the speaker"),
        ("c1.wav,Hello", "has 2 cells under 3 headings"),
        ('c1.wav,"Where?" she asked,anna', "twice"),
    ],
)
def test_a_text_with_a_bare_comma_or_quote_loses_no_words(where: int, bad: str, message: str) -> None:
    lines = ["file,text,speaker", "c0.wav,One.,a", "c2.wav,Two.,a", 'c3.wav,"Well, ""yes"".",b', "c4.wav,Four.,b"]
    code, said = table("\n".join([*lines[: where - 1], bad, *lines[where - 1 :]]) + "\n")
    assert code == 2
    assert "1 bad row " in said
    assert message in said.split(f"t.csv line {where}:")[1]
    code, said = table("\n".join(lines) + "\n")
    assert code == 0, said
    assert [row["text"] for row in rows()] == ["One.", "Two.", 'Well, "yes".', "Four."]


@pytest.mark.usefixtures("place")
def test_an_unclosed_quote_in_a_csv_names_the_lines_that_it_swallows() -> None:
    code, said = table('file,text,speaker\nc0.wav,"I go, he said.,a\nc1.wav,Two.,a\nc2.wav,He left",a\nc3.wav,Four.,b\n')
    assert code == 2
    assert "t.csv lines 2 to 4: a quotation mark opens a cell that continues over several lines" in said
    code, said = table('file,text,speaker\nc0.wav,"I go, he said.,a\nc1.wav,Two.,a\n')
    assert code == 2
    assert "over several lines" in said
    content = 'file,text,speaker\nc0.wav,"I go he said.,a\nc1.wav,He left",a\n'
    code, said = table(content, "--quotes", "plain")
    assert code == 0, said
    assert [row["text"] for row in rows()] == ['"I go he said.', 'He left"']


@pytest.mark.usefixtures("place")
def test_quotes_in_a_tsv_are_characters_unless_they_are_said_to_enclose() -> None:
    content = 'file\ttext\tspeaker\nc0.wav\t"I go, he said.\ta\nc1.wav\t"Where?" she asked\ta\nc2.wav\t"Here."\tb\nc3.wav\tHe left"\tb\n'
    code, said = table(content, name="t.tsv")
    assert code == 0, said
    assert [row["text"] for row in rows()] == ['"I go, he said.', '"Where?" she asked', '"Here."', 'He left"']
    doubled = 'file\ttext\tspeaker\nc0.wav\t"He said ""go"" twice"\ta\n'
    assert "pass --quotes csv, or --quotes plain" in table(doubled, name="t.tsv")[1]
    assert table(doubled, "--quotes", "csv", name="t.tsv")[0] == 0
    assert [row["text"] for row in rows()] == ['He said "go" twice']


@pytest.mark.usefixtures("place")
def test_other_separators_are_named() -> None:
    content = "file;text;speaker\nc0.wav;One, two.;a\n"
    assert "columns are separated by semicolons; pass --delimiter semicolon" in table(content)[1]
    code, said = table(content, "--delimiter", "semicolon")
    assert code == 0, said
    assert rows()[0]["text"] == "One, two."
    assert "has two columns 'text'" in table("file,text,text\nc0.wav,a,b\n", "--speaker-column", "none")[1]


def test_a_row_that_is_not_utf_8_is_named(place: Path) -> None:
    (place / "t.csv").write_bytes("file,text,speaker\nc0.wav,One.,a\nc1.wav,caf\xe9,a\n".encode("latin-1"))
    code, said = made("build_domain_manifest", "--csv", "t.csv", "--output", "out.jsonl")
    assert (code, "t.csv line 3: is not UTF-8" in said) == (2, True)
    (place / "t.csv").write_bytes("file,text,speaker\nc0.wav,One.,a\n".encode("utf-16"))
    code, said = made("build_domain_manifest", "--csv", "t.csv", "--output", "out.jsonl")
    assert (code, "cannot be read as a table in UTF-8" in said) == (2, True)


def test_common_voice_as_it_is_unpacked(place: Path) -> None:
    (place / "clips").mkdir()
    for number in range(3):
        (place / f"c{number}.wav").rename(place / "clips" / f"c{number}.wav")
    content = "client_id\tpath\tsentence\nx\tc0.wav\tOne.\nx\tc1.wav\t\ny\tc2.wav\tThree.\n"
    columns = ("--audio-column", "path", "--text-column", "sentence", "--speaker-column", "client_id")
    code, said = table(content, *columns, name="validated.tsv")
    assert code == 0, said
    assert "left out 1 bad rows" in said
    assert "line 3: c1.wav: has no sentence" in said
    assert [row["speaker_id"] for row in rows()] == ["x", "y"]
    (place / "sub").mkdir()
    (place / "sub" / "t.csv").write_text("file,text,speaker\nc1.wav,Two.,a\n")
    arguments = ("build_domain_manifest", "--csv", "sub/t.csv", "--output", "other.jsonl")
    assert "--audio-dir says where they lie" in made(*arguments)[1]
    assert made(*arguments, "--audio-dir", "clips")[0] == 0
    assert "no such folder" in made(*arguments, "--overwrite", "--audio-dir", "nowhere")[1]
    assert (
        "--audio-dir: is for --csv" in made("build_domain_manifest", "--from-folder", ".", "--output", "o.jsonl", "--audio-dir", "clips")[1]
    )


def folder(place: Path, *names: str, text: str = "Hello there.") -> Path:
    for number, name in enumerate(names):
        file = place / "r" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((place / f"c{number}.wav").read_bytes())
        file.with_suffix(".txt").write_text(text)
    return place / "r"


def test_a_folder_in_a_folder_is_a_speaker_only_where_that_is_said(place: Path) -> None:
    source = folder(place, "anna/s1/u.wav", "anna/s2/u.wav", "ben/s1/u.wav", "cleo/u.wav", "u.wav")
    arguments = ("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl", "--overwrite")
    code, said = made(*arguments)
    assert code == 2
    assert "('anna' or 's1'), as of 3 files" in said
    for by, expected in (
        ("top", ["anna", "anna", "ben", "cleo", None]),
        ("nearest", ["s1", "s2", "s1", "cleo", None]),
        ("none", [None] * 5),
    ):
        code, said = made(*arguments, "--speaker-from", by)
        assert code == 0, said
        assert [row.get("speaker_id") for row in rows()] == expected


def test_folders_that_are_links_are_gone_through_once(place: Path) -> None:
    source = folder(place, "anna/u.wav")
    (place / "disk").mkdir()
    (place / "disk/c0.wav").write_bytes((place / "c1.wav").read_bytes())
    elsewhere = folder(place / "disk", "v.wav")
    (source / "ben").symlink_to(elsewhere)
    arguments = ("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl", "--overwrite")
    code, said = made(*arguments)
    assert code == 0, said
    assert [(row["id"], row["speaker_id"]) for row in rows()] == [("anna/u", "anna"), ("ben/v", "ben")]
    for name, target in (("cleo", "anna"), ("round", ".")):
        (source / name).symlink_to(source / target)
        code, said = made(*arguments)
        assert code == 2
        assert "are the same folder, by a link" in said
        (source / name).unlink()


def test_a_text_may_begin_with_the_number_that_names_its_file(place: Path) -> None:
    source = folder(place, "7.wav", "007.wav", text="7 apples.")
    (source / "007.txt").write_text("007 apples.")
    code, said = made("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl")
    assert code == 2
    assert "for 1 bad row (--skip-bad leaves them out): 007.txt: starts with its own name" in said


@pytest.mark.usefixtures("place")
def test_line_breaks_in_cells_are_taken_where_quotes_are_said_to_enclose_them() -> None:
    content = 'file,text,speaker\nc0.wav,"Two\nlines, here.",a\nc1.wav,One.,b\n'
    code, said = table(content)
    assert code == 2
    assert "lines 2 to 3: a quotation mark opens a cell" in said
    assert "--quotes csv if it is one text" in said
    code, said = table(content, "--quotes", "csv")
    assert code == 0, said
    assert [row["text"] for row in rows()] == ["Two lines, here.", "One."]
    assert table(content.replace("lines, here.", "lines, here."[:-1] + '"x'), "--quotes", "csv")[0] == 2


def test_label_files_beside_audio_are_refused_by_name(place: Path) -> None:
    source = folder(place, "a.wav", "b.wav", "TWO.WAV")
    (source / "a.txt").write_text(TIMED[0])
    (source / "TWO.txt").rename(source / "TWO.TXT")
    arguments = ("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl")
    code, said = made(*arguments)
    assert code == 2
    assert "1 bad row " in said
    assert "a.txt: a: a label file with times in front of the words, not a transcript" in said
    code, said = made(*arguments, "--skip-bad")
    assert code == 0, said
    assert [row["id"] for row in rows()] == ["TWO", "b"]


def test_files_without_counterpart_and_unknown_kinds_are_named(place: Path) -> None:
    source = folder(place, "a.wav", "b-01.wav")
    for name in ("memo.ra", "other.dss"):
        (source / name).write_bytes(b"x")
    (source / "memo.txt").write_text("Hello.")
    (source / "lone.txt").write_text("Hello.")
    (source / "c.flac").write_bytes(b"x")
    (source / "b-01.txt").write_text("b-01 Hello.")
    code, said = made("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl")
    assert code == 2
    assert "6 bad rows" not in said
    assert "5 bad rows" in said
    for expected in (
        "memo.txt: its recording memo.ra is no kind of file that is taken",
        "other.dss: is no kind of file",
        "lone.txt: lacks its recording",
        "c.flac: lacks its transcript",
        "b-01.txt: starts with its own name",
    ):
        assert expected in said


def test_recordings_in_which_nobody_speaks_are_taken_where_that_is_said(place: Path) -> None:
    source = folder(place, "a.wav", "quiet.wav")
    (source / "quiet.txt").write_text("\n")
    arguments = ("build_domain_manifest", "--from-folder", source, "--output", "out.jsonl")
    assert "quiet: has no text" in made(*arguments)[1]
    assert made(*arguments, "--allow-empty-text")[0] == 0
    assert [row["text"] for row in rows()] == ["Hello there.", ""]
    assert len(read(Path("out.jsonl"), Rules(allow_empty_text=True))) == 2


@pytest.mark.usefixtures("place")
def test_merging_keeps_every_field() -> None:
    full = {
        "audio": "c0.wav",
        "text": "One.",
        "speaker_id": "a",
        "id": "x",
        "sampling_rate": 16000,
        "duration": 1.0,
        "language": "en",
        "meta": {"take": [1, {"deep": None}]},
    }
    Path("a.jsonl").write_text(json.dumps(full) + "\n")
    Path("b.jsonl").write_text(json.dumps(full | {"audio": "c1.wav", "language": "es", "meta": {"k": "v"}}) + "\n")
    code, said = made("merge_manifests", "a.jsonl", "b.jsonl", "--output", "out.jsonl")
    assert code == 0, said
    first, second = rows()
    assert {**first, "audio": "c0.wav"} == full
    assert {**second, "audio": "c1.wav"} == full | {"audio": "c1.wav", "id": "b-x", "language": "es", "meta": {"k": "v"}}


def test_merging_tells_the_bad_lines_of_all_manifests(place: Path) -> None:
    (place / "broken.wav").write_bytes(b"no audio")
    Path("a.jsonl").write_text('{"audio": "c0.wav", "text": "One."}\n{"audio": "none.wav", "text": "x"}\n{not json\n')
    Path("b.jsonl").write_text(
        '{"audio": "broken.wav", "text": "x"}\n{"audio": "c1.wav", "text": "Two."}\n{"audio": "c2.wav", "txt": ""}\n'
    )
    arguments = ("merge_manifests", "a.jsonl", "b.jsonl", "--output", "out.jsonl")
    code, said = made(*arguments)
    assert code == 2
    assert "4 bad rows" in said
    assert all(place in said for place in ("a.jsonl line 2", "a.jsonl line 3", "b.jsonl line 1", "b.jsonl line 3"))
    code, said = made(*arguments, "--skip-bad")
    assert code == 0, said
    assert [row["text"] for row in rows()] == ["One.", "Two."]
