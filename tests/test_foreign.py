"""Files that other tools wrote: tests/foreign/README.md says which tool wrote which."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from running import moonshine_lora

from lora.corpora.build import Bad
from lora.corpora.recordings.beside import Timed
from lora.corpora.recordings.segments import Segment
from lora.corpora.recordings.textgrid import textgrid_reader
from lora.errors import ManifestError

FOREIGN = Path(__file__).parent / "foreign"


def timed(name: str) -> Timed:
    return Timed(FOREIGN / name, Path("talk.wav"), "talk", None)


def found(segments: Iterable[Segment | Bad]) -> list[tuple[str | None, float, float | None, str]]:
    """Speaker, times and text of each segment."""
    return [(one.speaker, one.start_s, one.end_s, one.text) for one in segments if isinstance(one, Segment)]


TEXTGRIDS = sorted(file.name for file in FOREIGN.glob("*.TextGrid") if file.stem not in ("praat-binary", "praat-chronological"))


@pytest.mark.parametrize("name", TEXTGRIDS)
def test_textgrids_of_praat_and_other_writers(name: str) -> None:
    """Long and short, UTF-8 and UTF-16; labels hold quotes and what looks like fields."""
    read = textgrid_reader(["anna", "b*"], tier_is_speaker=True)
    assert found(read(timed(name))) == [
        ("anna", 1.0, 2.5, 'He said "hi"; intervals [3]: text = "x"'),
        ("ben", 2.75, 3.5, "5 xmin = 3"),
        ("anna", 4.0, 5.25, "Café, naïve"),
    ]


def test_a_tier_that_is_not_there_names_those_that_are() -> None:
    for tiers, message in (
        (["cleo"], "has no tier 'cleo' with intervals; it has anna (2 texts), ben (1 text), notes (points)"),
        (["notes"], "has no tier 'notes' with intervals"),
        ([], "several tiers hold text; choose with --tier: anna"),
    ):
        with pytest.raises(ManifestError, match=re.escape(message)):
            list(textgrid_reader(tiers, tier_is_speaker=False)(timed("praat-long.TextGrid")))


def test_tiers_as_the_forced_aligner_names_them(tmp_path: Path) -> None:
    tier = '"IntervalTier" "{}" 0 1 1 0 1 "{}"'
    content = '"ooTextFile" "TextGrid" 0 1 <exists> 2 ' + tier.format("anna - words", "hello") + "\n" + tier.format("anna - phones", "HH")
    (tmp_path / "a.TextGrid").write_text(content)
    read = textgrid_reader(["words"], tier_is_speaker=False)
    assert found(read(Timed(tmp_path / "a.TextGrid", Path("a.wav"), "a", None))) == [("anna", 0.0, 1.0, "hello")]


def test_textgrids_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    whole = (FOREIGN / "praat-short.TextGrid").read_text()
    cases = {
        (FOREIGN / "praat-binary.TextGrid").read_bytes(): "is a binary TextGrid; save it in Praat as a text file",
        (FOREIGN / "praat-chronological.TextGrid").read_bytes(): "is a chronological TextGrid",
        b"hello": "does not begin as a TextGrid",
        whole[:-40].encode(): "ends too soon",
        whole.replace("1.5\n", '"x"\n').encode(): "in the place of a number",
        "Café".encode("latin-1"): "is not UTF-8",
        b"": "does not begin as a TextGrid",
    }
    for content, message in cases.items():
        (tmp_path / "a.TextGrid").write_bytes(content)
        result = moonshine_lora("manifest", "import", "textgrid", tmp_path / "a.TextGrid", "--output", tmp_path / "m.jsonl")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
        assert message in result.err
        assert not (tmp_path / "m.jsonl").exists()
