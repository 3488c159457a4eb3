"""Marks of transcribers by the table in docs/recordings.md: what is said stays, what nobody says goes, what is missing is told."""

import re

import pytest
from running import ROOT

from lora.text.conventions import Notation, Said, said
from lora.text.tags import tags_in

GENERAL = {
    "hello [noise] , there": "hello, there",
    "[music]": "",
    "so ((I guess)) yes": "so I guess yes",
    "%uh well [Uh] %hesitation ++um++ x": "uh well Uh um x",
    "a , b - and *this*, (that) {c / d} 100 %": "a , b - and *this*, (that) {c / d} 100 %",
    "(laughs) <noise> fine": "fine",
    "♪ la ♪": "la",
    "two  spaces\tand a tab": "two spaces and a tab",
}
NIST = {
    "hello { a / b / @ } (the) dog": "hello { a / b / @ } {the / @} dog",
    "th- the (uh-) (%hesitation) [laugh] end": "the end",
    "well-known and o'clock": "well-known and o'clock",
}
CHAT = {
    "&-uh &-you_know I want it .": "uh you know I want it.",
    "<I want> [//] I need (be)cause runnin(g) [/] running .": "I want I need because running running.",
    "it's [x 2] <the dog> [x 3] ?": "it's it's the dog the dog the dog?",
    "&+th that &=laughs &~gaga is &*INV:yeah fine &{l=sings yes &}l=sings .": "that is fine yes.",
    "gonna [: going to] what [?] <over there> [>] [=! shouting] [% a (nested) remark] .": "gonna what over there.",
    "wo:rd no:: b@l Santa_Claus ice+cream (.) and (1.5) so (..) .": "word no b Santa Claus ice cream and so.",
    'I went +... +^ 0is there +//? +" really !': "I went there? really!",
    "0 [=! cries] .": "",
    "‡ hey , you„ ↑here⌈2 ok ⌉2 .": "hey, you, here ok.",
    "&uh &th what .": "uh what.",
    "well , it was [* m] .": "well, it was.",
}


@pytest.mark.parametrize(
    ("notation", "text", "expected"),
    [
        (notation, text, plain)
        for notation, table in (("general", GENERAL), ("nist", NIST), ("chat", CHAT))
        for text, plain in table.items()
    ],
)
def test_what_is_said_stays(notation: Notation, text: str, expected: str) -> None:
    assert said(text, notation) == Said(expected)
    assert said(expected, "general") == Said(expected), "nothing is left to do"
    assert not tags_in(said(text, notation).text)


@pytest.mark.parametrize(
    ("notation", "text", "mark"),
    [
        *(
            ("general", f"so {mark} yes", mark)
            for mark in ("<unk>", "[unintelligible]", "[inaudible 00:12]", "(())", "(( ))", "[xxx]", "[?]")
        ),
        ("general", "((unintelligible)) yes", "((unintelligible))"),
        ("nist", "so <UNK> yes", "<UNK>"),
        *(("chat", text, mark) for text, mark in (("I xxx it .", "xxx"), ("<yyy> [/] it .", "yyy"), ("www .", "www"), ("ba@u .", "ba@u"))),
    ],
)
def test_words_that_are_missing_are_reported(notation: Notation, text: str, mark: str) -> None:
    assert said(text, notation).unclear == mark


def test_words_that_only_look_like_marks_of_missing_ones_are_words() -> None:
    assert said("xxxl shirts", "chat").unclear is None
    assert said("foreign policy is unclear", "general") == Said("foreign policy is unclear")


def test_every_mark_of_the_documented_table_does_what_it_says() -> None:
    page = (ROOT / "docs" / "recordings.md").read_text().split("### Marks of CHAT\n")[1].split("\n## ")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (.*`.*) \|$", page, re.MULTILINE)]
    assert len(rows) >= 10
    for written, becomes in rows:
        marks, results = (re.findall(r"`([^`]+)`", cell) for cell in (written, becomes))
        if not results:
            assert all(said(mark, "chat").unclear for mark in marks)
            continue
        assert [said(mark, "chat").text for mark in marks] == results
