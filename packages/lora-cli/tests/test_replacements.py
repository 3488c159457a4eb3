"""Words and replacements: what is written for what was spoken, and the table in which a user says so."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cli.main import _main as moonshine
from lora_cli.replacements import Applied, Replacement, Table, difference, parse, read, replace

from lora.errors import ConfigError

SWITCHED_ON = Table(new_line=True, punctuation=True)


def written(text: str, *entries: Replacement) -> str:
    return replace(text, Table(replacement=entries)).text


def test_what_is_heard_is_written_as_the_table_says_and_said_to_be() -> None:
    table = Table(replacement=(Replacement("cube control", "kubectl"), Replacement("post grass", "Postgres")))
    replaced = replace("Cube control, then post-grass.", table)
    assert replaced.text == "kubectl, then Postgres."
    assert replaced.applied == (Applied("Cube control", "kubectl", 0), Applied("post-grass", "Postgres", 19))


def test_words_have_bounds() -> None:
    assert written("A catalogue of cats and a cat.", Replacement("cat", "dog")) == "A catalogue of cats and a dog."
    assert written("A catalogue.", Replacement("cat", "dog", inside_words=True)) == "A dogalogue."


def test_case_counts_where_it_is_asked_for() -> None:
    assert written("Polish the polish.", Replacement("polish", "shine", match_case=True)) == "Polish the shine."
    assert written("Btw, btw.", Replacement("btw", "by the way", follow_case=True)) == "By the way, by the way."


def test_the_longest_entry_counts_and_nothing_is_replaced_twice() -> None:
    entries = (Replacement("new", "old"), Replacement("new york", "NYC"), Replacement("old", "ancient"))
    assert written("A new New York.", *entries) == "A old NYC."


def test_an_entry_for_nothing_takes_its_space_with_it() -> None:
    assert written("So um I think um.", Replacement("um", "")) == "So I think."


def test_an_apostrophe_is_found_in_both_forms() -> None:
    assert written("it\u2019s, it's", Replacement("it's", "it is")) == "it is, it is"


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("Hello, full stop. Next one.", "Hello. Next one."),
        ("hello full stop next", "hello. Next"),
        ("Is it there question mark yes", "Is it there? Yes"),
        ("Dear Anna, comma, thanks.", "Dear Anna, thanks."),
        ("First line. New line. Second line.", "First line.\nSecond line."),
        ("one, new paragraph, two", "one\n\nTwo"),
        ("The end, full stop, new line, more", "The end.\nMore"),
        ("New line", "\n"),
    ],
)
def test_spoken_marks_are_written_where_they_are_switched_on(heard: str, expected: str) -> None:
    assert replace(heard, SWITCHED_ON).text == expected
    assert replace(heard, Table()).text == heard


def test_an_own_entry_goes_before_a_built_in_mark_that_is_shorter() -> None:
    table = Table(punctuation=True, replacement=(Replacement("full stop sign", "STOP"),))
    assert replace("a full stop sign full stop", table).text == "a STOP."


WORDS = st.text(st.sampled_from("ab \n.,-é'"), max_size=40)
ENTRIES = st.lists(
    st.builds(
        Replacement,
        spoken=st.text(st.sampled_from("ab "), min_size=1, max_size=5).filter(str.strip),
        written=st.text(st.sampled_from("xyz. \n"), max_size=4),
        inside_words=st.booleans(),
        match_case=st.booleans(),
    ),
    max_size=4,
)


@settings(deadline=None)
@given(WORDS, ENTRIES)
def test_what_is_said_to_be_applied_is_all_that_changed(text: str, entries: list[Replacement]) -> None:
    """Without marks and empty entries, which change what stands around them."""
    plain = [entry for entry in entries if entry.written]
    replaced = replace(text, Table(replacement=tuple(plain)))
    expected, done = "", 0
    for one in replaced.applied:
        assert text[one.start :].startswith(one.heard)
        expected += text[done : one.start] + one.written
        done = one.start + len(one.heard)
    assert replaced.text.casefold() == (expected + text[done:]).casefold()


@settings(deadline=None)
@given(WORDS.map(lambda text: re.sub("[ab]", "k", text)), ENTRIES)
def test_a_text_without_the_words_stays_as_it_is(text: str, entries: list[Replacement]) -> None:
    assert replace(text, Table(new_line=True, punctuation=True, replacement=tuple(entries))).text == text


def test_lines_with_tabs_are_a_table_too(tmp_path: Path) -> None:
    file = tmp_path / "words.tsv"
    file.write_text("# mine\npost grass\tPostgres\nmy address\tOne Road\\nTown\tmatch-case,follow_case\n")
    entries = read(file).replacement
    assert entries == (
        Replacement("post grass", "Postgres"),
        Replacement("my address", "One Road\nTown", match_case=True, follow_case=True),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "[[replacement]]\nspoken = 'a'", "a.toml: Object missing required field `written`"),
        ("a.toml", "[[replacement]]\nspoken = 'a'\nwrites = 'b'", "a.toml: Object contains unknown field `writes`"),
        ("a.toml", "new_line = 'yes'", "a.toml: Expected `bool`, got `str`"),
        ("a.toml", "new_line =", "a.toml: "),
        ("a.toml", "[[replacement]]\nspoken = ' . '\nwritten = 'b'", "a.toml: entry 1: spoken is ' . ': give words that can be said"),
        ("a.toml", "[[replacement]]\nspoken = 'a'\nwritten = '\\u001b'".replace("'", '"'), "a.toml: entry 1: written holds the control"),
        ("a.tsv", "a\tb\nA\tc\n", "a.tsv: entry 2: 'A' is spoken in entry 1 too"),
        ("a.tsv", "a b\n", "a.tsv line 1: has 1 columns; write spoken, tab, written"),
        ("a.tsv", "a\tb\tloud\n", "a.tsv line 1: there is no option loud; write spoken, tab, written"),
        ("a.tsv", b"\xff\tb\n", "a.tsv: is no UTF-8 text"),
        ("a.tsv", "e\u0301\tb\n", "a.tsv: entry 1: spoken is 'e\u0301', with letters and marks apart"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        parse(content if isinstance(content, bytes) else content.encode(), Path(name))


def test_the_table_is_kept_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert moonshine(["replacements", "list"]) == 0
    assert "no entries; add one" in capsys.readouterr().out
    moonshine(["replacements", "path"])
    file = Path(capsys.readouterr().out.strip())
    assert file.parent.parent == tmp_path
    moonshine(["replacements", "add", "cube control", "kubectl"])
    file.write_text(f"# my words\npunctuation = true\n\n{file.read_text()}")
    moonshine(["replacements", "add", "by the weigh", "by the way", "--follow-case"])
    moonshine(["replacements", "remove", "Cube Control"])
    assert file.read_text().startswith("# my words\npunctuation = true\n")
    assert read(file) == Table(punctuation=True, replacement=(Replacement("by the weigh", "by the way", follow_case=True),))
    assert file.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    moonshine(["replacements", "test", "By the weigh full stop"])
    assert capsys.readouterr().out == 'By the way.\n  By the weigh -> "By the way"\n  full stop -> "."\n'


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", ["add", "a", "b"], "'a' is spoken in entry 1 too"),
        ("", ["add", "!", "b"], "give words that can be said"),
        ("", ["remove", "b"], "has no entry for 'b'"),
        ("replacement = [{spoken = 'c', written = 'd'}]\n", ["remove", "c"], "no command can change; edit it yourself"),
    ],
)
def test_a_change_that_does_not_fit_leaves_the_table_as_it_was(content: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content or "[[replacement]]\nspoken = 'a'\nwritten = 'x'\n")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=re.escape(message)):
        moonshine(["replacements", "--file", str(file), *arguments])
    assert file.read_bytes() == before


def test_a_table_of_lines_is_not_changed_by_command(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("a\tb\n")
    with pytest.raises(ConfigError, match=r"only \.toml tables are changed by command"):
        moonshine(["replacements", "--file", str(tmp_path / "mine.tsv"), "add", "c", "d"])


def test_the_guide_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    guide = (Path(__file__).parents[3] / "docs" / "voice.md").read_text()
    commands = re.findall(r"^uv run moonshine (replacements .*)$", guide, re.M)
    assert len(commands) == 5
    for command in commands:
        assert moonshine(shlex.split(command)) == 0
    assert "Postgres" in capsys.readouterr().out
    (table,) = re.findall(r"```toml\n(new_line.*?)```", guide, re.S)
    assert replace("Btw, post grass new line that is it", parse(table.encode(), Path("a.toml"))).text == "By the way, Postgres\nThat is it"


@pytest.mark.parametrize(
    ("heard", "wanted", "entry"),
    [
        ("Start post grass.", "Start Postgres.", Replacement("post grass", "Postgres")),
        ("cube control, get pods", "kubectl get pods", Replacement("cube control", "kubectl")),
        ("one two three", "won two free", None),
        ("the same", "the same", None),
        ("left out here", "left here", None),
        ("Stop", "Stop.", None),
    ],
)
def test_an_entry_is_found_where_a_correction_differs_in_one_place(heard: str, wanted: str, entry: Replacement | None) -> None:
    assert difference(heard, wanted) == entry
