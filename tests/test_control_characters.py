"""Nothing that others have written steers a terminal, a Markdown reader or a spreadsheet."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from running import moonshine_lora, the_error

from lora.errors import LoraError
from lora.report.escape import cell, code, markdown_environment, spreadsheet
from lora.system.files import write_json, write_jsonl
from lora.system.terminal import shown, shown_json, shown_lines

STEERING = ["\x1b]0;pwned\x07", "\x1b[2J", "\x9b31m", "\x7f", "a\rb", "\x08", "\u202egpj.exe", "\u2066x\u2069", "\u2028", "\x00", "\udcff"]


def steers(text: str) -> bool:
    return any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
        for letter in text
    )


@given(st.text(st.characters()) | st.sampled_from(STEERING))
def test_what_is_shown_steers_nothing(text: str) -> None:
    assert not steers(shown(text))
    assert not steers(shown_lines(text).replace("\n", ""))


@pytest.mark.parametrize("text", ["straße", "नमस्ते", "שלום", "مرحبا\u200f", "日本語", "e\u0301", "👩‍👩‍👧", "tab-free text"])
def test_ordinary_writing_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert shown_json(msgspec.json.encode(text)) == msgspec.json.encode(text)


def test_escapes_name_the_character() -> None:
    assert shown("a\x1b[2J\n\t\x9b\u202e") == "a\\x1b[2J\\n\\t\\x9b\\u202e"
    assert shown_lines("a\x1b\nb") == "a\\x1b\nb"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_keeps_its_value_and_steers_nothing(text: str) -> None:
    content = shown_json(msgspec.json.encode({text: [text]}))
    assert json.loads(content) == {text: [text]}
    assert not steers(content.decode())


def test_files_of_json_steer_nothing(tmp_path: Path) -> None:
    said = "".join(text for text in STEERING if text.isprintable() or "\udcff" not in text)
    write_json(tmp_path / "one.json", {"text": said})
    write_jsonl(tmp_path / "rows.jsonl", [{"text": said}])
    for file in tmp_path.iterdir():
        content = file.read_text()
        assert json.loads(content) == {"text": said}
        assert not steers(content.replace("\n", ""))


def test_errors_and_their_places_are_shown(tmp_path: Path) -> None:
    for name in ("\x1b[31mred", "\u202egpj", "\x9bA"):
        for command in (("report", tmp_path / name), ("transcribe", "--audio", tmp_path / name), (f"--{name}",), (name,)):
            result = moonshine_lora(*command)
            assert not steers(result.err.replace("\n", "")), command
            the_error(result)


# --- Markdown --------------------------------------------------------------------------------------------------------------------------

ACTIVE = [
    "![i](http://tracker.example/p.png)",
    "[x](https://evil.example)",
    "[x][1]",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "https://evil.example/?q",
    "www.evil.example",
    "<https://evil.example>",
    "mail@evil.example",
    "`code` **bold** ~~gone~~",
    "a | b",
    "# heading",
    "\\[x](y)",
    "\\",
    "&lt;b&gt;",
    "line\n\n# heading\n\n| a |\n|---|",
]


def parsed(text: str) -> tuple[set[str], str]:
    """The kinds of things that a Markdown reader makes of a cell, and the text that it shows."""
    reader = MarkdownIt("gfm-like", {"linkify": False}).enable("table")
    tokens = reader.parse(f"| head |\n|---|\n| {text} |\n")
    inner = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in tokens if token.type.startswith(("heading", "html"))} | {child.type for child in inner}
    rows = sum(token.type == "tr_open" for token in tokens)
    columns = sum(token.type == "td_open" for token in tokens)
    assert (rows, columns) == (2, 1), text
    return kinds, "".join(child.content for child in inner)[len("head") :]


@pytest.mark.parametrize("text", ACTIVE)
def test_a_cell_shows_the_text_and_nothing_else(text: str) -> None:
    kinds, said = parsed(cell(text))
    assert kinds <= {"text", "text_special"}
    assert said == " ".join(text.split())
    assert "http://" not in cell(text)
    assert "https://" not in cell(text)


@given(st.text(st.sampled_from("![](<>)`*_~#|\\&;:/.@w http-x\n")))
def test_no_text_becomes_anything_else_in_a_cell(text: str) -> None:
    kinds, said = parsed(cell("x" + text + "x"))
    assert kinds <= {"text", "text_special"}
    assert said == " ".join(f"x{text}x".split())


@given(st.text(st.sampled_from("`|\\x <a")))
def test_code_ends_where_it_should(text: str) -> None:
    kinds, _ = parsed(code(f"x{text}x", in_table=True))
    assert kinds <= {"text", "code_inline"}


def test_every_expression_of_a_template_is_escaped_once() -> None:
    render = markdown_environment().from_string("{{ a }} {{ a | cell }} {{ b | percent }} {{ ', ' ~ a }}{{ ': ' + a | cell }}").render
    assert render(a="[x]", b=0.5) == "\\[x\\] \\[x\\] 50.00 % , \\[x\\]: \\[x\\]"


# --- CSV -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =cmd|' /C calc'!A0", "＝1"])  # noqa: RUF001
def test_no_cell_starts_a_formula(text: str) -> None:
    written = io.StringIO()
    csv.writer(written).writerow([spreadsheet(text)])
    assert next(csv.reader(io.StringIO(written.getvalue(), newline=""))) == [f"'{text}"]


@pytest.mark.parametrize("value", [-0.12, 3, "plain", "a=b", "", None])
def test_numbers_and_other_text_stay_as_they_are(value: object) -> None:
    assert spreadsheet(value) == value


def test_an_error_is_one_line() -> None:
    assert shown(LoraError("a\nb")) == "a\\nb"
