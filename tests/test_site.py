"""The documentation as a site: one command builds it, every link in it leads somewhere, and it needs no network to be read."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from clones import clone, succeeded, surroundings, uv
from running import ROOT


class Page(HTMLParser):
    """What a page links to or loads, and the places in it that links can name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.places: set[str] = {""}
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.places.add(value or "")
            elif name == "href" and tag == "a":
                self.links.add(value or "")
            elif name in ("src", "data", "href"):
                self.loads.add(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of the site that `make docs` builds in a clone; a warning would have ended the command."""
    place = clone(tmp_path_factory.mktemp("clone")).resolve()
    environment = surroundings(UV_NO_SYNC="1")  # as the README advises for a machine without a GPU
    environment["PATH"] += os.pathsep + str(Path(uv()).parent)
    succeeded(["make", "docs"], place, environment)
    return {file: Page(file) for file in (place / "outputs" / "site").rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(site: dict[Path, Page]) -> None:
    dead = []
    for file, page in site.items():
        for link in (link for link in page.links | page.loads if not re.match(r"[a-z]+:", link)):
            target, _, place = link.partition("#")
            found = (file.parent / target.partition("?")[0]).resolve() if target else file
            if not found.exists() or (found in site and place not in site[found].places):
                dead.append(f"{file.name}: {link}")
    assert dead == []
    assert sum(len(page.links) for page in site.values()) > 500


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    assert {load for page in site.values() for load in page.loads if re.match(r"([a-z]+:)?//", load)} == set()
    assert not [file.name for file in site if "jsdelivr" in file.read_text() or "unpkg" in file.read_text()]
    (architecture,) = (page for file, page in site.items() if file.name == "architecture.html")
    assert any(load.endswith(".svg") for load in architecture.loads), "the picture of a run is drawn"


@pytest.mark.slow
def test_the_site_has_each_document(site: dict[Path, Page]) -> None:
    assert {file.stem for file in ROOT.glob("docs/*.md")} | {"index", "README", "CONTRIBUTING", "CHANGELOG"} <= {file.stem for file in site}


def test_the_readme_lists_each_document() -> None:
    """The site's list of pages is made of this one."""
    listed = (ROOT / "README.md").read_text().partition("\n## Documentation\n")[2]
    assert [file.name for file in ROOT.glob("docs/*.md") if f"](docs/{file.name})" not in listed] == []
