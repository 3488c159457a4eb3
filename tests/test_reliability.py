"""docs/reliability.md counts what the tests have."""

import re
from pathlib import Path

import mutations
import processors
import pytest
import test_campaign
import test_near_copies
import test_sound_lengths
from campaign import Maker
from sounds import FORMS

from lora.model.loading import LoadedModel

ROOT = Path(__file__).parents[1]
PAGE = " ".join((ROOT / "docs" / "reliability.md").read_text().split())


def unless_told(name: str, file: str) -> str:
    """The value that an environment variable stands for in a test."""
    found = re.search(rf'"{name}", "(\d+)"', (ROOT / "tests" / file).read_text())
    assert found
    return found[1]


CLAIMS = {
    "cases": f"{test_campaign.FEW:,} cases, *long* {test_campaign.MANY:,}",
    "limits": f"more than {test_campaign.MOST_SECONDS} s or {test_campaign.MOST_BYTES >> 30} GiB",
    "lines": f"more than {120 * test_campaign.MOST_LINES:,} characters",
    "containers": f"{len(FORMS)} containers and codecs, {test_sound_lengths.SHORT} files of each, *slow* {10 * test_sound_lengths.SHORT}",
    "second decoder": f"a second decoder finds (within {max(form.apart_s for form in FORMS):g} s",
    "last blocks": f"that was written (within {max(form.block_s for form in FORMS):g} s",
    "copies": f"{len(test_near_copies.FORMS)} forms of real clips",
    "kills": f"*slow* {unless_told('KILLS', 'test_kills.py')} kills a command and kind",
    "resumed": f"*slow* {unless_told('RESUME_KILLS', 'test_resume.py')} (`RESUME_KILLS`)",
    "signals": f"a model ({unless_told('SIGNALS', 'test_signals.py')} signals;",
    "faults": f"has {len(mutations.TABLE)} faults",
    "all faults": f"nobody thought of: {len(mutations.TABLE)} faults",
    "number pairs": f"{len((ROOT / 'tests' / 'number_pairs.tsv').read_text().splitlines()) - 1} pairs by hand",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_count_is_that_of_the_tests(claim: str) -> None:
    assert CLAIMS[claim] in PAGE


def test_every_kind_of_damaged_input_is_counted(random_v1: LoadedModel, tmp_path: Path) -> None:
    assert f"{len(Maker(tmp_path, random_v1).kinds)} kinds; " in PAGE


def test_numeric_tests_are_as_many_as_they_are_said_to_be() -> None:
    assert len(processors.FILES) == 6
    assert "runs six test files" in PAGE


@pytest.mark.parametrize("name", sorted({word for word in PAGE.split("`") if word.startswith("tests/")}))
def test_every_test_that_is_named_is_there(name: str) -> None:
    assert (ROOT / name).is_file()
