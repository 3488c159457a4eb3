"""How the HTML pages are rendered: from the templates beside this module."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """Templates of this folder; what they are given is escaped, and a name that they are not given is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("lora.report", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
