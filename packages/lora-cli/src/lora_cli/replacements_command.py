"""`moonshine replacements`: shows the table of replacements, adds and removes entries, and tries them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock

from lora.console import ArgumentParser
from lora.errors import ConfigError
from lora.system.destination import writing_errors
from lora.system.files import atomic_file
from lora.system.terminal import say
from lora_cli.replacements import Replacement, Table, parse, read, replace, user_file

_HEADER = "[[replacement]]"


def main(arguments: list[str]) -> int:
    """Runs `moonshine replacements`; returns the exit code."""
    options = _parser().parse_args(arguments)
    file: Path = options.file or user_file()
    if options.action == "path":
        say(file)
    elif options.action == "add":
        add(file, Replacement(**{field: getattr(options, field) for field in Replacement.__struct_fields__}))
        say(f"{file}: {options.spoken!r} is written {options.written!r} from now on")
    elif options.action == "remove":
        remove(file, options.spoken)
        say(f"{file}: {options.spoken!r} is written as it is heard again")
    elif options.action == "test":
        _test(options.text, _read(file))
    else:
        _list(_read(file))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="moonshine replacements", description="Words and replacements: what to write for what is spoken. Applied to finished text."
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="another table, .toml or .tsv (default: moonshine replacements path)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show all entries in use")
    actions.add_parser("path", help="show where the table is")
    adding = actions.add_parser("add", help="add an entry")
    adding.add_argument("spoken", help="the words as the model hears them")
    adding.add_argument("written", help="what to write for them; '' for nothing")
    for name, help_text in _OPTIONS.items():
        adding.add_argument(f"--{name}", action="store_true", help=help_text)
    removing = actions.add_parser("remove", help="remove an entry")
    removing.add_argument("spoken", help="the words of the entry")
    testing = actions.add_parser("test", help="apply the table to a text, and say what was applied")
    testing.add_argument("text", help="a text, as the model hears it")
    return parser


_OPTIONS = {
    "match-case": "only with capital letters where they are given",
    "inside-words": "within longer words too",
    "follow-case": "with a capital where the heard words have one, as at the start of a sentence",
    "mark": "as punctuation: at the word before it, instead of punctuation around it",
}


def _read(file: Path) -> Table:
    return read(file) if file.exists() or file != user_file() else Table()


def _list(table: Table) -> None:
    for entry in table.entries:
        options = ", ".join(name for name in _OPTIONS if getattr(entry, name.replace("-", "_")))
        say(f"{entry.spoken} -> {json.dumps(entry.written, ensure_ascii=False)}" + (f"  ({options})" if options else ""))
    if not table.entries:
        say("no entries; add one: moonshine replacements add 'post grass' Postgres")


def _test(text: str, table: Table) -> None:
    replaced = replace(text, table)
    print(replaced.text)
    for one in replaced.applied:
        say(f"  {one.heard} -> {json.dumps(one.written, ensure_ascii=False)}")


def add(file: Path, entry: Replacement) -> None:
    """Writes an entry behind those of a table, which keeps its comments, and is made where it is missing. For the app's key too.

    Raises `ConfigError`, with the table as it was, if the entry does not fit, and `RunFolderError` if the disk refuses.
    """
    _change(file, lambda content: content + ("\n" if content.strip() else "") + _block(entry), lambda entries: (*entries, entry))


def remove(file: Path, spoken: str) -> None:
    """Removes the entries of these words from a table; the rest of the file stays as it is. Raises as `add` does."""
    gone = [number for number, entry in enumerate(_read(file).replacement) if entry.spoken.casefold() == spoken.casefold()]
    if not gone:
        raise ConfigError(f"{file}: has no entry for {spoken!r}; moonshine replacements list shows all")
    _change(
        file,
        lambda content: _without(content, gone),
        lambda entries: tuple(entry for number, entry in enumerate(entries) if number not in gone),
    )


def _change(file: Path, change: Callable[[str], str], expected: Callable[[tuple[Replacement, ...]], tuple[Replacement, ...]]) -> None:
    """Writes a changed text after checking that it holds the entries that it should."""
    if file.suffix != ".toml":
        raise ConfigError(f"{file}: only .toml tables are changed by command; edit this one yourself")
    with writing_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(file.with_name(f".{file.name}.lock"), mode=0o600):
            content = change(file.read_text() if file.exists() else "").encode()
            before = read(file) if file.exists() else Table()
            if parse(content, file).replacement != expected(before.replacement):
                raise ConfigError(f"{file}: is written in a way that no command can change; edit it yourself")
            with atomic_file(file, durable=True, private=True) as stream:
                stream.write(content)


def _block(entry: Replacement) -> str:
    """An entry as TOML, of which JSON's strings and words are a part."""
    values = msgspec.to_builtins(entry)
    return "".join([_HEADER, "\n", *(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())])


def _without(content: str, numbers: list[int]) -> str:
    """The text without the blocks of these numbers, from 0."""
    lines = content.splitlines(keepends=True)
    starts = [index for index, line in enumerate(lines) if re.match(r"\s*\[\[\s*replacement\s*\]\]", line)]
    ends = [*starts[1:], len(lines)]
    gone = {index for number in numbers if number < len(starts) for index in range(starts[number], ends[number])}
    return "".join(line for index, line in enumerate(lines) if index not in gone)
