"""A user's own table of forms that count as the same, in the manner of NIST's GLM files."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.errors import ConfigError
from lora.system.files import sha256_bytes
from lora.text.spoken_forms import Item

Parse = Callable[[str], list[Item]]
"""The items of a form."""


@dataclass(frozen=True, slots=True)
class Equivalents:
    """Groups of forms; those of a group are the same to the reader's score."""

    path: str
    sha256: str
    groups: tuple[tuple[tuple[Item, ...], ...], ...]
    words: frozenset[str]
    """First words of the forms, to find the texts they concern quickly."""

    def concerns(self, *texts: str) -> bool:
        """Whether a text may hold one of the forms."""
        return any(not self.words.isdisjoint(re.findall(r"\w+", text.lower())) for text in texts)

    def widened(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with all forms of a group in place of one of them; of several that begin at a word the longest."""
        place = 0
        while place < len(items):
            found = [
                (len(form), group) for group in self.groups for form in group if form and tuple(items[place : place + len(form)]) == form
            ]
            if found:
                length, group = max(found, key=lambda one: one[0])
                yield Item(branches=group)
                place += length
            else:
                yield items[place]
                place += 1


def read_equivalents(path: Path, parse: Parse) -> Equivalents:
    """Reads a table: one group per line, its forms joined by `=`, or by `=>` and `/` as in GLM files; `#` and `;;` begin a comment.

    Raises `ConfigError` that names the line for one that holds fewer than two different forms, and for a file that cannot be read.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}); --equivalents takes a text file, a group of forms a line") from error
    groups = []
    for number, line in enumerate(lines, start=1):
        if forms := _forms(line):
            group = tuple(dict.fromkeys(tuple(parse(form)) for form in forms))
            if len(set(forms)) < 2 or not all(group):
                raise ConfigError(f"{path}: line {number}: {line.strip()[:60]!r} gives no two forms; write them as: colour = color")
            groups.append(group)  # a single form if a reader counts them as the same anyway: it changes nothing
    if not groups:
        raise ConfigError(f"{path}: holds no forms; write one group per line, such as: colour = color")
    words = {name.lower() for line in lines for form in _forms(line) for name in re.findall(r"\w+", form)}
    return Equivalents(str(path), sha256_bytes(content), tuple(groups), frozenset(words))


def _forms(line: str) -> list[str]:
    """`a = b`, or `a => b / c / [ ] __ [ ]`; GLM's brackets and its context of what stands around are no part of a form."""
    plain = re.sub(r"(;;|#).*", "", line)
    if plain.lstrip().startswith("*"):  # a directive of GLM files
        return []
    parts = re.split(r"=>|=|\s/\s", plain.replace("{", " ").replace("}", " "))
    forms = [re.sub(r"[\[\]]", "", part).strip() for part in parts if "__" not in part]
    return forms if plain.strip() else []
