"""What is read aloud: where it comes from, what is refused, and which set it is of."""

from pathlib import Path

import pytest
from lora_cli.recorder.prompts import LIKE, MOST, Prompt, PromptSet, built_in, divided, of_terms, read_prompts, settled
from rapidfuzz import fuzz

from lora.errors import PromptsError, TermsError
from lora.text.normaliser import normalise

PHONES = (*"bdfhjklmnpstvwzðŋɡɹʃʒʤʧθ", *"AIOWYiuæɑɔɛɜɪʊʌ", "ə")  # noqa: RUF001 - phonetic letters
"""The 39 of ARPAbet in the notation of the packaged voice, where capitals are diphthongs, and its schwa."""


def test_the_built_in_sentences_hold_every_sound_of_english_often() -> None:
    from hibari import Hibari

    voice = Hibari()
    said = "".join(phones for sentence in built_in() for phones in voice.phonemize(sentence))
    assert {phone: said.count(phone) for phone in PHONES if said.count(phone) < 10} == {}


def test_the_built_in_sentences_can_be_read_by_anybody_and_are_all_different() -> None:
    sentences = built_in()
    assert len(sentences) == len({normalise(sentence) for sentence in sentences}) >= 200
    assert all(4 <= len(sentence.split()) <= 16 for sentence in sentences)
    assert not [sentence for sentence in sentences if any(map(str.isdigit, sentence)) or not sentence.isascii()]


def test_a_file_gives_its_sentences_without_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff# mine\n\n  Open   the file.\r\nClose it.\n", encoding="utf-8")
    assert read_prompts(file, "en") == ["Open the file.", "Close it."]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no sentence"),
        (b"# only a comment\n", "holds no sentence"),
        (b"Open it.\n\xff\n", "not UTF-8"),
        (b"Open it.\nopen it\n", "line 2 is the sentence of line 1 again"),
        (b"Open it.\n...\n", "line 2 has no word"),
        (b"Open \x1b[2J it.\n", "line 1 holds a control character"),
        (b"word " * 100, "line 1 is longer than 300 characters"),
        ("Открой файл.\n".encode(), "line 1 is in Cyrillic letters"),
        (b"".join(b"Sentence %d.\n" % number for number in range(MOST + 1)), "5001 sentences, and 5000 are the most"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_line(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(PromptsError, match=reason):
        read_prompts(file, "en")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptsError, match="No such file"):
        read_prompts(tmp_path / "none.txt", "en")


def test_the_set_of_a_sentence_is_that_of_its_words_whatever_list_it_stands_in() -> None:
    whole = divided(built_in(), "en")
    assert divided(built_in()[100:][::-1], "en") == whole[100:][::-1]
    (other,) = divided([whole[0].text.upper().replace(".", "!")], "en")
    assert other.set == whole[0].set
    assert 0.25 < sum(one.set == "test" for one in whole) / len(whole) < 0.35


def test_no_two_built_in_sentences_of_different_sets_are_nearly_alike() -> None:
    prompts = settled(divided(built_in(), "en"), {}, "en")
    train, test = ([normalise(one.text) for one in prompts if one.set == name] for name in ("train", "test"))
    assert not [(one, other) for one in train for other in test if fuzz.ratio(one, other) >= LIKE]


def test_sentences_that_are_nearly_alike_share_a_set() -> None:
    bases = [f"Please send the {noun} report to our office before the end of the week." for noun in ("daily", "weekly", "yearly", "final")]
    prompts = settled([Prompt(text=text, set="test" if place % 2 else "train") for place, text in enumerate(bases)], {}, "en")
    assert len({prompt.set for prompt in prompts}) == 1


@pytest.mark.parametrize("kept", ["train", "test"])
def test_a_recorded_sentence_keeps_its_set_and_those_like_it_follow(kept: PromptSet) -> None:
    recorded, changed = "Please send the daily report to our office.", "Please send a daily report to our office."
    prompts = settled(divided([changed, "The goat ate my hat."], "en"), {recorded: kept}, "en")
    assert prompts[0] == Prompt(text=changed, set=kept)
    assert len(prompts) == 2


def test_a_sentence_like_recorded_ones_of_both_sets_is_left_out() -> None:
    recorded: dict[str, PromptSet] = {
        "Please send the daily report to our office.": "train",
        "Please send the daily reports to our office.": "test",
    }
    prompts = settled(divided(["Please send a daily report to our office.", *recorded], "en"), recorded, "en")
    assert {prompt.text: prompt.set for prompt in prompts} == recorded


def test_terms_stand_in_carrier_sentences_of_their_own_for_each_set(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("kubectl = cube control\nBrentano\n")
    prompts = settled(of_terms(file, 4), {}, "en")
    for name, count in (("train", 4), ("test", 2)):
        for term in ("kubectl", "Brentano"):
            assert sum(term in prompt.text for prompt in prompts if prompt.set == name) == count
    assert all(prompt.said is not None and "cube control" in prompt.said for prompt in prompts if "kubectl" in prompt.text)
    assert of_terms(file, 4) == of_terms(file, 4)


def test_a_list_of_terms_is_checked_as_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("kubectl =\n")
    with pytest.raises(TermsError, match="empty spoken form"):
        of_terms(file, 4)
