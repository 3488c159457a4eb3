"""Words and phrases that docs/glossary.md lists to avoid do not come back in documentation, help, messages, docstrings or comments."""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from running import ROOT, moonshine_lora

from lora.main import COMMANDS

GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "packages").glob("*/src/**/*.py")])
TEXTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *(file for file in (ROOT / "docs").glob("*.md") if file != GLOSSARY),
        *(ROOT / "packages").glob("*/README.md"),
        *(ROOT / "src").rglob("*.j2"),
        *(ROOT / "configs").glob("*.toml"),
    ]
)


@cache
def avoided() -> dict[str, str]:
    """Each phrase to avoid with what to write instead."""
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", GLOSSARY.read_text(), re.M)
    return {phrase: instead for cell, instead in rows for phrase in re.findall(r"`([^`]+)`", cell)}


def found(text: str) -> list[str]:
    """What a text holds of them, with what to write instead."""
    flat = " ".join(re.sub(r"^#+ ", "", text, flags=re.M).split())
    hits = ((phrase, re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", flat, re.I)) for phrase in avoided())
    return [f"...{flat[max(0, hit.start() - 40) : hit.end() + 40]}...: write {avoided()[phrase]!r}" for phrase, hit in hits if hit]


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module with its line: messages, names of flags and fields, docstrings (without code in backticks), comments."""
    source = file.read_text()
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, re.sub(r"`[^`]*`", "", node.value) if id(node) in docstrings else node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_the_table_is_read() -> None:
    assert len(avoided()) > 35
    assert found("It has to be mended first,\nby you") == ["...It has to be mended first, by you...: write 'fix, fixed'"]
    assert found("recommended, amend, passport_sha256") == []


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_documentation_uses_the_words_of_the_field(file: Path) -> None:
    assert found(file.read_text()) == []


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_messages_and_docstrings_use_the_words_of_the_field(file: Path) -> None:
    assert {line: hits for line, text in texts(file) if (hits := found(text))} == {}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_uses_the_words_of_the_field_and_one_form_for_defaults(command: str) -> None:
    text = moonshine_lora(*([command] if command else []), "--help").out
    assert found(text) == []
    assert not re.search(r"\(default (?!:)", text)


def test_help_of_the_app_uses_one_form_for_defaults() -> None:
    from lora_cli.main import _parser

    parser: argparse.ArgumentParser = _parser()
    assert found(parser.format_help()) == []
    assert not re.search(r"\(default (?!:)", parser.format_help())
