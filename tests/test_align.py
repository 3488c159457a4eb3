"""`moonshine-lora align`: each clip gets the words of the script that it says, whatever else the script and the recording hold."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import moonshine_lora, refusal

from lora.corpora import general
from lora.longform.script import RUN, Match, Reading, borders, confirmed, tokens
from lora.longform.seams import plain
from lora.longform.spelling import as_in_script
from lora.longform.wording import pairs
from lora.model.loading import LoadedModel
from lora.passages import Word
from lora.units import SAMPLE_RATE_HZ, Seconds

SENTENCES = [cut.text for cut in general.HELDOUT[0].cuts]
TEXT = " ".join(SENTENCES)
OTHERS = " ".join(cut.text for cut in general.HELDOUT[1].cuts)
WORDS = [word for word in map(plain, TEXT.split()) if word]

OTHER = ["parrots", "quickly", "hum", "jazz", "beneath", "yellow", "umbrellas", "today"]
"""Words of no script."""


def passages(words: list[str], length: int = 12) -> list[list[str]]:
    return [words[start : start + length] for start in range(0, len(words), length)]


def matches(heard: list[list[str]], script: list[str], most_errors: float) -> list[Match]:
    reading = Reading(heard, [plain(word) for word in script], most_errors)
    return [reading.match(words) for words in reading.passages]


def said(script: str, heard: list[list[str]]) -> list[str | None]:
    words = tokens(script)
    return [" ".join(words[m.start : m.stop]) if m.reason is None else None for m in matches(heard, words, 0.3)]


def test_each_passage_gets_its_words_as_the_script_writes_them() -> None:
    assert " ".join(text or "" for text in said(TEXT, passages(WORDS))) == " ".join(tokens(TEXT))


def test_words_that_are_misheard_are_the_scripts() -> None:
    heard = [word[:-1] + "x" if number % 6 == 3 else word for number, word in enumerate(WORDS)]
    assert said(TEXT, passages(heard)) == said(TEXT, passages(WORDS))


def test_pages_that_nobody_reads_shift_nothing() -> None:
    page = "The harbour master counted seven grey boats before breakfast and wrote each name into a ledger. " * 6
    assert said(f"{page} {TEXT} {page}", passages(WORDS)) == said(TEXT, passages(WORDS))
    first, second = " ".join(SENTENCES[:4]), " ".join(SENTENCES[4:])
    split = len([word for word in map(plain, first.split()) if word])
    heard = [*passages(WORDS[:split]), *passages(WORDS[split:])]
    assert said(f"{first} {page} {second}", heard) == said(TEXT, heard)


def test_words_that_are_not_in_the_script_are_left_out_and_shift_nothing() -> None:
    extra = ["well", "before", "we", "go", "on", "let", "me", "tell", "you", "about", "my", "cousin", "who", "once", "owned", "a", "parrot"]
    heard = passages(WORDS)
    found = said(TEXT, [*heard[:2], extra, *heard[2:]])
    assert found[2] is None
    assert [*found[:2], *found[3:]] == said(TEXT, heard)


def test_a_sentence_that_the_script_has_twice_is_said_once() -> None:
    heard = passages(WORDS)
    twice = " ".join([*tokens(TEXT)[:24], *tokens(TEXT)[12:24], *tokens(TEXT)[24:]])
    found = said(twice, heard)
    assert found == said(TEXT, heard)


def test_a_passage_that_says_more_than_the_script_is_left_out() -> None:
    heard = [*WORDS[:30], *["and", "so", "to", "bed", "my", "friends"], *WORDS[30:40]]
    assert said(TEXT, [heard]) == [None]
    (match,) = matches([heard], tokens(TEXT), 0.3)
    assert match.reason is not None
    assert match.reason.startswith('says "and so to bed my friends" where the script has ')


def test_a_passage_half_of_which_is_in_the_script_is_cut_to_that_half() -> None:
    """Its pauses are behind each eighth word."""
    heard = [WORDS[:24], [*WORDS[24:40], *OTHER, *WORDS[40:56]], WORDS[56:]]
    reading = Reading(heard, WORDS, 0.3)
    middle = reading.passages[1]
    assert reading.match(middle).reason is not None
    found = reading.parts(middle, range(middle.start, middle.stop, 8))
    assert [(part.start, part.stop) for part in found] == [(24, 40), (40 + len(OTHER), 56 + len(OTHER))]
    assert [reading.match(part) for part in found] == [Match(24, 40), Match(40, 56)]


def test_a_part_never_begins_or_ends_with_words_that_are_not_the_scripts() -> None:
    heard = [WORDS[:24], [*WORDS[24:38], *OTHER, *WORDS[42:56]], WORDS[56:]]
    reading = Reading(heard, WORDS, 0.3)
    for step in range(1, 9):
        for part in reading.parts(reading.passages[1], range(24, 24 + len(heard[1]), step)):
            match = reading.match(part)
            assert [word for passage in heard for word in passage][part.start : part.stop] == WORDS[match.start : match.stop]


def test_a_word_that_is_misheard_beside_words_of_no_script_is_still_the_scripts() -> None:
    """Edit distance alone may put it for any word of the others."""
    misheard = [*OTHER, WORDS[24] + "s", *WORDS[25:40]]
    found = {pair.heard: pair.script for pair in pairs(misheard, WORDS[24:40])}
    assert found[len(OTHER)] == 0
    (match,) = matches([[WORDS[24] + "s", *WORDS[25:40]]], WORDS[24:40], 0.3)
    assert match == Match(0, 16)


def test_a_part_is_confirmed_by_what_is_heard_in_it_alone() -> None:
    match = Match(24, 40)
    assert confirmed(WORDS[24:40], WORDS, match, 0.3)
    assert confirmed([WORDS[24] + "s", *WORDS[25:40]], WORDS, match, 0.3)
    assert not confirmed(WORDS[23:40], WORDS, match, 0.3)
    assert not confirmed(WORDS[24:41], WORDS, match, 0.3)
    assert not confirmed(WORDS[25:40], WORDS, match, 0.3)
    assert not confirmed([*OTHER, *WORDS[24:40]], WORDS, match, 0.3)
    assert not confirmed(OTHER, WORDS, match, 0.3)


def test_a_sentence_that_the_script_has_twice_and_of_which_a_word_is_misheard_is_said_once() -> None:
    sentence = ["when", "i", "had", "taken", "two", "or", "three", "pipes", "i", "was", "presently", "ready", "for", "another"]
    script = [*WORDS[:20], *sentence, *sentence, *WORDS[20:40]]
    heard = [WORDS[:20], [word if place != 8 else "it" for place, word in enumerate(sentence)], WORDS[20:40]]
    found = matches(heard, script, 0.3)
    assert [match.reason for match in found] == [None] * 3
    assert script[found[1].start : found[1].stop] == sentence


def test_numbers_and_titles_are_the_scripts() -> None:
    def word(place: int, text: str) -> Word:
        return Word(text=text, start_s=Seconds(place), end_s=Seconds(place + 0.5), confidence=1.0)

    heard = [
        word(place, text) for place, text in enumerate(["Mrs.", "Arneil", "was", "there", "on", "April", "21,", "1917,", "at", "noon."])
    ]
    script = ["MISSUS", "ARNEIL", "WAS", "THERE", "ON", "APRIL", "TWENTY", "FIRST", "NINETEEN", "SEVENTEEN", "AT", "NOON"]
    ((*found,),) = as_in_script([heard], script, "en")
    assert [plain(one.text) for one in found] == [plain(one) for one in script]
    assert [one.start_s for one in found] == sorted(one.start_s for one in found)
    (twice,) = as_in_script([[word(0, "1917"), word(1, "men")]], ["eighteen", "men"], "en")
    assert [one.text for one in twice] == ["1917", "men"]


def test_few_words_between_two_passages_may_be_of_either() -> None:
    heard = passages(WORDS)
    heard[0] = heard[0][:-2]
    before, after = matches(heard, tokens(TEXT), 0.3)[:2]
    assert list(borders(before, after)) == [10, 11, 12]
    heard = passages(WORDS)
    heard[0][-1], heard[1][0] = "zzz", "xxxx"
    before, after = matches(heard, tokens(TEXT), 0.3)[:2]
    assert list(borders(before, after)) == [11, 12, 13]
    heard = passages(WORDS)
    assert not borders(*matches(heard, tokens(TEXT), 0.3)[:2])
    heard[0] = heard[0][: -RUN - 1]
    before, after = matches(heard, tokens(TEXT), 0.3)[:2]
    assert not borders(before, after)


def test_an_hour_is_matched_in_seconds() -> None:
    draw = random.Random(0)
    words = [f"word{draw.randrange(3000)}" for _ in range(10_000)]
    heard = [word if draw.random() > 0.1 else "other" for word in words]
    found = matches(passages(heard, 35), words, 0.5)
    assert sum(match.reason is None for match in found) > 0.95 * len(found)
    assert all(match.start == 35 * number for number, match in enumerate(found) if match.reason is None and heard[35 * number] != "other")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reading, then another one, then the first again: 100 s."""
    reading, other = (general.waveform(one) for one in general.HELDOUT)
    pause = np.zeros(2 * SAMPLE_RATE_HZ, dtype=np.float32)
    path = tmp_path_factory.mktemp("align") / "talk.flac"
    soundfile.write(path, np.concatenate([reading, pause, other, pause, reading]), SAMPLE_RATE_HZ)
    return path


def test_a_recording_and_its_script_become_a_manifest(tiny: LoadedModel, recording: Path, tmp_path: Path) -> None:
    """The script has a page that is not read, and lacks what the other one says."""
    page = "The harbour master counted seven grey boats before breakfast and wrote each name into a ledger. " * 4
    (tmp_path / "talk.txt").write_text(f"{page}\n{TEXT}\n\n{TEXT}\n")
    outputs = ("--output", tmp_path / "m.jsonl", "--left-out", tmp_path / "left.tsv")
    result = moonshine_lora("align", recording, tmp_path / "talk.txt", "--model-id", tiny.checkpoint.model_id, *outputs)
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    left = [line.split("\t") for line in (tmp_path / "left.tsv").read_text().splitlines()[1:]]
    assert all(f" {row['text']} " in f" {TEXT} {TEXT} " for row in rows)
    assert sum(len(row["text"].split()) for row in rows) > 0.9 * 2 * len(TEXT.split())
    assert any("tried" in heard.casefold() for *_, heard in left)
    assert all((tmp_path / row["audio"]).is_file() for row in rows)


def test_bad_input_is_one_line_and_nothing_is_written(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n -- \n")
    (tmp_path / "foreign.txt").write_text("The harbour master counted seven grey boats before breakfast. " * 9)
    (tmp_path / "talk.txt").write_text(TEXT)
    soundfile.write(tmp_path / "silent.wav", np.zeros(40 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    output = ("--model-id", "packaged:moonshine-tiny", "--output", tmp_path / "m.jsonl")
    for arguments, message in (
        ((recording, tmp_path / "empty.txt", *output), "empty.txt: holds no word"),
        ((recording, tmp_path / "none.txt", *output), "none.txt: "),
        ((recording, tmp_path / "foreign.txt", *output), "foreign.txt: is not what "),
        ((tmp_path / "silent.wav", tmp_path / "talk.txt", *output), "silent.wav: no speech found"),
        ((tmp_path / "none.wav", tmp_path / "talk.txt", *output), "none.wav: "),
        ((recording, tmp_path / "talk.txt", *output, "--max-seconds", 90), "--max-seconds 90: "),
    ):
        assert message in refusal("align", *arguments)
    assert not (tmp_path / "m.jsonl").exists()
    assert not (tmp_path / "m_audio").exists()
