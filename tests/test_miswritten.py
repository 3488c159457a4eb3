"""Transcripts that were read in a wrong encoding or taken out of a web page; names that are written in two ways."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.console import run
from lora.corpora.commands import build_domain_manifest
from lora.dataset.manifest import Row, Rules, read, write
from lora.errors import ManifestError
from lora.text.mojibake import damage


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello".encode("utf-16-le").decode(), "U+0000"),
        ("it\x92s", "U+0092"),
        ("a \x1b[31m", "U+001B"),
        ("caf\ufffd", "could not be read"),
        ("café".encode().decode("latin-1"), "read as Latin-1"),
        ("it\u2019s".encode().decode("cp1252"), "read as Latin-1"),
        ("¿Qué?".encode().decode("cp1252"), "read as Latin-1"),
        ("AT&amp;T", "'&amp;' of a web page"),
        ("rock &#39;n&#39; roll", "'&#39;' of a web page"),
        ("&#x27;tis", "'&#x27;' of a web page"),
        ("a&nbsp;b", "'&nbsp;' of a web page"),
        ("zero\u200bwidth", "nobody sees"),
        ("\ufeffbegins", "nobody sees"),
        ("soft\u00adhyphen", "nobody sees"),
    ],
)
def test_a_damaged_text_is_refused_with_what_shows_it(text: str, said: str, tmp_path: Path) -> None:
    assert said in (damage(text) or "")
    write(tmp_path / "m.jsonl", [Row(audio=[0.0], text="fine"), Row(audio=[0.0], text=text)])
    with pytest.raises(ManifestError, match="line 2: text: holds"):
        read(tmp_path / "m.jsonl", Rules())


@pytest.mark.parametrize(
    "text",
    [
        "AT&T; R&D; Q&A", "café, naïve, Ångström, NÃO, MANHÃ, Âge", "a\u00a0b\tc\nd", "«Où?» “Ici…”", "5 µm ± 2°", "# & ; &;",
        "كتب\u200f", "می\u200cخوریم", "\U0001f468\u200d\U0001f469", "за́мок", "Đà Nẵng", "こんにちは", "é".encode().decode(),
        unicodedata.normalize("NFD", "é à ü が"),
    ],
)  # fmt: skip
def test_odd_and_right_texts_are_taken(text: str) -> None:
    assert damage(text) is None


def test_a_folder_names_the_transcripts_that_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "source", tmp_path / "m.jsonl"
    source.mkdir()
    soundfile.write(source / "a.wav", np.full(8000, 0.1), 16_000)
    (source / "a.txt").write_bytes("hello there".encode("utf-16-le"))
    assert run(lambda: build_domain_manifest(["--from-folder", str(source), "--output", str(output)])) == 2
    assert "a.txt: a: its text holds the control character U+0000" in capsys.readouterr().err
    assert not output.exists()


def test_one_person_has_one_name_however_it_is_written(tmp_path: Path) -> None:
    names = ["José", unicodedata.normalize("NFD", "José"), " José "]
    write(tmp_path / "m.jsonl", [Row(audio=[0.0], text="x", speaker_id=name) for name in names])
    assert read(tmp_path / "m.jsonl", Rules()).speakers() == {"José"}


@pytest.mark.parametrize("field", ["id", "speaker_id"])
def test_an_empty_name_is_none(field: str, tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", [Row(audio=[0.0], text="x", **{field: " "})])
    with pytest.raises(ManifestError, match=f"line 1: {field}: is empty; leave the field out"):
        read(tmp_path / "m.jsonl", Rules())


@pytest.mark.parametrize("code", ["en", "EN", "en-US", "en_GB"])
def test_a_language_may_name_its_country(code: str, tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", [Row(audio=[0.0], text="x", language=code)])
    assert len(read(tmp_path / "m.jsonl", Rules(language="en"))) == 1


@pytest.mark.parametrize("code", ["es", "es-US", "eng", ""])
def test_another_language_is_refused(code: str, tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", [Row(audio=[0.0], text="x", language=code)])
    with pytest.raises(ManifestError, match="in a run for English"):
        read(tmp_path / "m.jsonl", Rules(language="en"))
