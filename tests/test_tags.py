"""Tags in transcripts: what is one, what is none, and what becomes of them."""

from pathlib import Path

import pytest

from lora.dataset.manifest import Manifest, Row, Rules, read, write
from lora.errors import ManifestError
from lora.text.tags import TagRule, counted, pieces, tags_in, without_tags


@pytest.mark.parametrize(
    ("text", "tags", "plain"),
    [
        ("Rubout <COMMA> six <PERIOD>", ["<COMMA>", "<PERIOD>"], "Rubout six"),
        ("<MUSIC>", ["<MUSIC>"], ""),
        ("a [noise] b", ["[noise]"], "a b"),
        ("[inaudible 00:12] yes", ["[inaudible 00:12]"], "yes"),
        ("%hesitation yes", ["%hesitation"], "yes"),
        ("well <unk> then </s>", ["<unk>", "</s>"], "well then"),
        ("<|en|> one", ["<|en|>"], "one"),
        ("{laugh} right", ["{laugh}"], "right"),
        ("so ((I think)) yes (())", ["((I think))", "(())"], "so yes"),
        ("(laughs) no", ["(laughs)"], "no"),
        ("(BACKGROUND NOISE) no", ["(BACKGROUND NOISE)"], "no"),
        ("*coughs* no", ["*coughs*"], "no"),
        ("++noise++ go +uh+ on", ["++noise++", "+uh+"], "go on"),
        ("hello [laughter], you", ["[laughter]"], "hello, you"),
        ("♪ la la ♪", ["♪", "♪"], "la la"),
        ("(sniffling) (humming) no (speaks Spanish)", ["(sniffling)", "(humming)", "(speaks Spanish)"], "no"),
        ("(foreign language) yes (hesitation)", ["(foreign language)", "(hesitation)"], "yes"),
        ("(risas) sí", ["(risas)"], "sí"),
        ("(vỗ tay) xin chào", ["(vỗ tay)"], "xin chào"),
        ("(웃음) 네", ["(웃음)"], "네"),
        ("\uff08笑\uff09はい", ["\uff08笑\uff09"], "はい"),
        ("\uff3b笑声\uff3d好\u3010掌声\u3011", ["\uff3b笑声\uff3d", "\u3010掌声\u3011"], "好"),
    ],
)
def test_tags_are_found_and_taken_out(text: str, tags: list[str], plain: str) -> None:
    assert tags_in(text) == tags
    assert without_tags(text) == plain
    assert "".join(piece for piece, _ in pieces(text)) == text
    assert [piece for piece, is_tag in pieces(text) if is_tag] == tags


@pytest.mark.parametrize(
    "text",
    [
        "100% sure, 5 % more", "AT&T", "2 * 3 * 4", "a < b and c > d", "I <3 you", "C++ and C++ again", "NASA (the agency) said",
        "x+y", "{a / b / @} c", "Mr. Smith's", "50%of", "-5 + 3",
        "a+b+c", "see (singular) form", "(cryptic) clue", "*single* room", "(speaking of which)", "(humans)",
        "《红楼梦》", "the (musical) theatre", "(sights) and", "\uff08东京\uff09",
    ],
)  # fmt: skip
def test_what_is_written_for_what_is_said_is_no_tag(text: str) -> None:
    assert tags_in(text) == []
    assert without_tags(text) == text


def test_tags_are_counted_most_frequent_first() -> None:
    assert counted(["a <X> <Y>", "<X>", "b"]) == "<X> 2, <Y> 1"
    assert counted([f"[{number}]" for number in range(7)]) == "[0] 1, [1] 1, [2] 1, [3] 1, [4] 1 and 2 others"


def manifest(folder: Path, texts: list[str], tags: TagRule, *, allow_empty: bool = False) -> Manifest:
    write(folder / "m.jsonl", [Row(audio=[0.0] * 1600, text=text) for text in texts])
    return read(folder / "m.jsonl", Rules(tags=tags, allow_empty_text=allow_empty))


TEXTS = ["one", "two <COMMA> three", "<MUSIC> four", "five <COMMA>"]


def test_a_manifest_with_tags_is_refused_with_counts_and_an_example(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(tmp_path, TEXTS, "refuse")
    assert str(refused.value).removeprefix(f"{tmp_path}/m.jsonl: ") == (
        "3 problems: lines 2, 3, 4: text: there are tags in 3 of 4 transcripts (<COMMA> 2, <MUSIC> 1), such as 'two <COMMA> three'; "
        "--tags drop takes tags out, --tags keep teaches and scores them as they are written"
    )


def test_tags_are_dropped_or_kept_as_asked_and_that_is_said(tmp_path: Path) -> None:
    dropped = manifest(tmp_path, TEXTS, "drop")
    assert [row.text for row in dropped] == ["one", "two three", "four", "five"]
    assert dropped.tags == "tags in 3 of 4 transcripts (<COMMA> 2, <MUSIC> 1): dropped"
    kept = manifest(tmp_path, TEXTS, "keep")
    assert [row.text for row in kept] == TEXTS
    assert kept.tags.endswith(": kept as they are written")
    assert manifest(tmp_path, ["one", "two"], "refuse").tags == ""


def test_a_transcript_of_nothing_but_tags_is_named_when_they_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 2: text: holds only tags, and nothing is left without them; remove the line"):
        manifest(tmp_path, ["one", "<MUSIC>"], "drop")
    assert [row.text for row in manifest(tmp_path, ["one", "<MUSIC>"], "drop", allow_empty=True)] == ["one", ""]
