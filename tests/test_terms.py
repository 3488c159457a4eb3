"""A list of terms: how it is read, what is refused, and where a text holds a term."""

from pathlib import Path

import pytest

from lora.errors import TermsError
from lora.text.terms import Terms, read_terms


def listed(folder: Path, text: str) -> Terms:
    file = folder / "terms.txt"
    file.write_text(text, encoding="utf-8")
    return read_terms(file, "en")


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return listed(tmp_path, "kubectl\nGitHub\nGitHub Actions\nC++\n.NET\nNode.js\nPostgres\nGPT-4\nAPI\nEliquis\nMcCoy")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Restart KUBECTL now.", ["KUBECTL"]),
        ("He restarted Postgres's index.", ["Postgres's"]),
        ("He restarted Postgres\u2019s index.", ["Postgres\u2019s"]),
        ("Two APIs and one API.", ["APIs", "API"]),
        ("GitHub Actions of GitHub's users", ["GitHub Actions", "GitHub's"]),
        ("The GitHub action failed.", ["GitHub"]),
        ("We write C++, C and .NET, in a net.", ["C++", ".NET"]),
        ("node.js is not node or js", ["node.js"]),
        ("GPT 4 or gpt-4", ["GPT 4", "gpt-4"]),
        ("Eliquises and McCoys", ["Eliquises", "McCoys"]),
        ("Cube control, git hub, post gress", []),
        ("subkubectl kubectl2", []),
        ("The end...net", []),
    ],
)
def test_a_term_is_found_whatever_its_case_and_ending_and_nowhere_else(terms: Terms, text: str, found: list[str]) -> None:
    assert [text[one.start : one.end] for one in terms.found(text)] == found


def test_the_ending_is_what_follows_the_term(terms: Terms) -> None:
    assert [(one.term, one.ending) for one in terms.found("Postgres's kubectl, APIs")] == [("Postgres", 2), ("kubectl", 0), ("API", 1)]


def test_a_line_holds_a_term_its_spoken_forms_and_its_phonemes(tmp_path: Path) -> None:
    terms = listed(
        tmp_path, "\ufeff# tools\n\nkubectl = cube  control | cube C T L # said so\nXarelto = /zəɹɛltO/ | zarelto\nC#\nGitHub Actions\n"
    )
    assert [(one.written, one.spoken, one.phonemes) for one in terms] == [
        ("kubectl", ("cube control", "cube C T L"), ()),
        ("Xarelto", ("zarelto",), ("zəɹɛltO",)),
        ("C#", (), ()),
        ("GitHub Actions", (), ()),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no term; write one per line"),
        ("# nothing\n\n", "holds no term"),
        ("kubectl\nPostgres\nKubectl", "line 3: 'Kubectl' stands on line 1 already"),
        ("GPT-4\nGPT 4", "line 2: 'GPT 4' stands on line 1 already"),
        ("kubectl =", "line 1: 'kubectl =' has an empty spoken form"),
        ("kubectl = cube | ", "has an empty spoken form"),
        ("...", "line 1: '...' has no letter and no digit"),
        ("пример", "line 1: 'пример' is in Cyrillic letters, and the speech is English"),
        ("kubectl = 東京", "'東京' is in Chinese letters"),
        ("kube\x07ctl", "holds a control character"),
        ("word " * 30, "longer than 80 characters"),
    ],
)
def test_a_bad_list_is_refused_with_its_lines(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TermsError) as refused:
        listed(tmp_path, text)
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'terms.txt'}: ")


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(TermsError, match=r"line 1: .*; line 3: "):
        listed(tmp_path, "...\nkubectl\n=")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"caf\xe9")
    with pytest.raises(TermsError, match="not UTF-8"):
        read_terms(tmp_path / "bytes.txt", "en")
    with pytest.raises(TermsError, match="No such file"):
        read_terms(tmp_path / "none.txt", "en")
