"""The page in a real browser: sorted, filtered, heard, read aloud and printed, without a network."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import NoBrowserError, chromium
from playwright.sync_api import Browser, Page, expect
from records import DOMAIN, HELDOUT
from test_report_html import HOSTILE, LENGTH_S, recorded, with_speakers

from lora.report.html import write_html
from lora.system.artifacts import HTML_FILE
from lora.text.mojibake import damage

LONG = " ".join(f"word{number % 977}" for number in range(2_000))
ROWS = (
    *((f"{'' if damage(text) else text} pound", f"{text} town", f"{text} pound") for text in HOSTILE),  # damage stands in no manifest
    (LONG, LONG, LONG.replace("word7 ", "lord ")),
    *DOMAIN,
)

PHONE, DESKTOP = (360, 800), (1280, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as started:
            yield started
    except NoBrowserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of hostile, long and ordinary texts, with the clips of the first rows embedded and the others linked."""
    folder = tmp_path_factory.mktemp("run")
    record = with_speakers(recorded(folder, domain=ROWS), ["anna", "ben", "carl"])
    write_html(record, folder / HTML_FILE, audio_mb=0.05)
    return folder / HTML_FILE


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """The page as opened from disk. Afterwards: nothing was complained about, and nothing but it and the recordings was asked for."""
    (width, height), scheme = getattr(request, "param", (DESKTOP, "light"))
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("request", lambda made: asked.append(made.url))
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert complaints == []
    outside = [url for url in asked if not url.startswith(("data:", report.parent.as_uri()))]
    assert outside == []


everywhere = pytest.mark.parametrize(
    "page",
    [(size, scheme) for size in (PHONE, DESKTOP) for scheme in ("light", "dark")],
    ids=["phone-light", "phone-dark", "desktop-light", "desktop-dark"],
    indirect=True,
)


def shown(page: Page) -> list[str]:
    """The references of the rows that can be seen, in their order."""
    return page.locator("table.utterances tbody tr:visible .reference").all_text_contents()


@everywhere
def test_it_fits_the_screen(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    for chart in page.locator("svg.chart").all():
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 250
    player = page.locator("audio").first.bounding_box()
    assert player is not None
    assert player["width"] > 180
    sizes = page.evaluate("[...document.querySelectorAll('svg.chart text')].map((text) => text.getBoundingClientRect().height)")
    assert min(sizes) > 11, "too small to be read"


@everywhere
def test_nobody_is_kept_out(page: Page) -> None:
    """Contrast, names, roles and labels, by axe-core, with everything unfolded."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_columns_sort_both_ways(page: Page) -> None:
    for name, column in (("Change", 0), ("Baseline errors", 1), ("Tuned errors", 2)):
        button = page.get_by_role("button", name=name, exact=True)
        head = page.get_by_role("columnheader", name=name, exact=True)
        for direction in ("ascending", "descending"):
            button.click()
            expect(head).to_have_attribute("aria-sort", direction)
            cells = page.locator(f"table.utterances tbody tr td:nth-child({column + 1})").all_text_contents()
            numbers = [int((re.findall(r"[+-]?\d+", cell) or ["0"])[-1]) for cell in cells]
            assert numbers == sorted(numbers, reverse=direction == "descending")
        assert page.locator("th[aria-sort=ascending], th[aria-sort=descending]").count() == 1
    page.get_by_role("button", name="Texts").click()
    assert page.locator("table.utterances tbody tr").count() == len(ROWS) + len(HELDOUT)


def test_rows_are_filtered_by_text_outcome_and_set(page: Page) -> None:
    total = len(ROWS) + len(HELDOUT)
    said = page.locator("#shown")
    expect(said).to_have_text(f"{total} of {total}")
    page.get_by_label("Text").fill("IMPORTANT")
    assert shown(page) == ["your call is important"]
    expect(said).to_have_text(f"1 of {total}")
    page.get_by_role("button", name="Show all").click()
    expect(said).to_have_text(f"{total} of {total}")
    page.get_by_label("Outcome").select_option("worse")
    assert {reference[:9] for reference in shown(page)} == {"your call", "word0 wor"}
    page.get_by_label("Outcome").select_option("same")
    assert shown(page) == [row[0] for row in HELDOUT]
    page.get_by_label("Outcome").select_option("wrong")
    assert "your call is important" in shown(page)
    page.get_by_label("Outcome").select_option("")
    page.get_by_label("Set").select_option("heldout")
    assert shown(page) == [row[0] for row in HELDOUT]


def test_differences_are_reported_without_colour(page: Page) -> None:
    row = page.locator("tr", has_text="your call is important").first
    missed, added = row.locator("del"), row.locator("ins")
    assert (missed.inner_text(), added.inner_text()) == ("important", "import")
    styles = [one.evaluate("one => getComputedStyle(one).textDecorationLine") for one in (missed, added)]
    assert styles == ["line-through", "underline"]
    spoken = [one.evaluate("one => getComputedStyle(one, '::before').content") for one in (missed, added)]
    assert spoken == ['" [missed: "', '" [added: "']


def test_a_long_text_is_unfolded_with_the_keyboard(page: Page) -> None:
    fold = page.locator("details.long")
    expect(fold.locator(".texts")).not_to_be_visible()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(fold.locator(".texts")).to_be_visible()
    assert fold.locator("ins").count() == LONG.count("word7 ")


def test_the_keyboard_reaches_the_controls_and_shows_where_it_is(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the utterances")).to_be_focused()
    page.get_by_label("Set").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Show all")).to_be_focused()
    page.keyboard.press("Tab")
    focused = page.get_by_role("button", name="Change", exact=True)
    expect(focused).to_be_focused()
    assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(page.get_by_role("columnheader", name="Change", exact=True)).to_have_attribute("aria-sort", "ascending")


def test_clips_play_whether_embedded_or_linked_and_one_at_a_time(page: Page) -> None:
    embedded, linked = page.locator("audio[src^='data:']").first, page.locator("audio:not([src^='data:'])").first
    for player in (embedded, linked):
        player.evaluate("player => player.play()")
        page.wait_for_function("player => player.currentTime > 0.1 && !player.paused", arg=player.element_handle())
        assert player.evaluate("player => player.duration") == pytest.approx(LENGTH_S, abs=0.15)
    assert embedded.evaluate("player => player.paused")


def test_paper_is_white_and_holds_what_can_be_read(page: Page, tmp_path: Path) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for gone in ("audio", ".controls", "nav"):
        expect(page.locator(gone).first).not_to_be_visible()
    expect(page.get_by_role("heading", name="Utterances")).to_be_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.get_by_text("train.learning_rate")).to_be_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.get_by_text("train.learning_rate")).not_to_be_visible()
    assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF-")


def test_without_scripts_everything_can_still_be_read(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    expect(page.locator(".controls")).not_to_be_visible()
    expect(page.get_by_text("your call is important").first).to_be_visible()
    context.close()
