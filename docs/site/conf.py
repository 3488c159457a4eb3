"""The documentation as a site: `make docs`. The same files as on the repository's page; the README is the first page."""

import re
import sys
from typing import Any

sys.dont_write_bytecode = True

project = "moonshine-lora"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "findings/README.md", "packages/lora-cli/README.md"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
mermaid_output_format = "svg"  # drawn while the site is built: it needs no network to be read
mermaid_cmd = "mermaidx"
mermaid_params = ["--background", "white"]
highlight_language = "none"  # blocks that name no language hold what commands print
html_theme = "furo"
html_title = project
html_show_copyright = False
html_additional_pages = {"index": "index.html"}
templates_path = ["."]


def contents(readme: str) -> str:
    """The list of pages at the side: that of the README's section on documentation, and what only contributors look for."""
    section = readme.partition("\n## Documentation\n")[2]
    pages = [*re.findall(r"\]\(([\w/-]+)\.md\)", section), "findings/README"]
    return "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def add_contents(_app: Any, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += contents(source[0])


def setup(app: Any) -> None:
    app.connect("source-read", add_contents)
