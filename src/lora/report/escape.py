"""Escapes foreign text for Markdown and tables: it never becomes links, images, HTML, rows, headings or formulas."""

import re
from typing import Any, Final

from lora.system.terminal import shown

_MARKS: Final = re.compile(r"[\\`*\[\]|~]|\b_|_\b|^#")
_LINKED: Final = re.compile(r"://|(?<=www)\.|@", re.IGNORECASE)
"""Text that becomes a link without any mark: addresses, and names after an @."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How cells begin that spreadsheets compute, with the wide forms that some accept too."""


class Markdown(str):
    """Text that is Markdown already; what is added to it is escaped."""

    __slots__ = ()

    def __add__(self, other: str) -> "Markdown":
        return Markdown(str.__add__(self, other if isinstance(other, Markdown) else _inline(other)))

    def __radd__(self, other: str) -> "Markdown":
        return Markdown(_inline(other) + str(self))


def cell(text: object) -> Markdown:
    """Text for a table's cell or a paragraph: on one line, and shown as it is."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_inline(" ".join(str(text).split())))


def _inline(text: str) -> str:
    plain = shown(text).replace("&", "&amp;").replace("<", "&lt;")
    marked = _MARKS.sub(lambda found: f"\\{found[0]}", plain)
    return _LINKED.sub(lambda found: "".join(f"&#{ord(letter)};" for letter in found[0]), marked)


def code(text: object, *, in_table: bool = False) -> Markdown:
    """Text between a pair of backticks, which does not end before its time, nor does the table's cell."""
    plain = shown(" ".join(str(text).split())).replace("`", "'")
    return Markdown(f"`{plain.replace('|', chr(92) + '|') if in_table else plain}`")


def markdown_environment() -> Any:
    """Templates whose every expression is escaped by `cell`, but for what is Markdown already."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lora.report", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=lambda value: _inline(value) if isinstance(value, str) and not isinstance(value, Markdown) else value,
    )
    environment.filters |= {
        "percent": lambda ratio: Markdown(f"{100 * ratio:.2f} %"),
        "points": lambda ratio: Markdown(f"{100 * ratio:+.2f}"),
        "range": lambda interval: Markdown(f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"),
        "change": lambda interval: Markdown(f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"),
        "cell": cell,
        "code": code,
    }
    return environment


def spreadsheet(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would compute gets an apostrophe before it; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
