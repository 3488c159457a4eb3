"""`moonshine-lora synthesise`: what is written, what is spoken, by which voice, and what is refused. The packaged voice is the real one."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from running import Manifests, moonshine_lora, refusal, write_rows

from lora.audio.loading import AudioSettings, FileAudio
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, Utterance, read
from lora.synthesis.sentences import Plan, carrier_sentences, near_words, planned, read_sentences
from lora.synthesis.spoken import in_words, without_phonemes
from lora.text.terms import read_terms

LIST = "kubectl = cube control | cube C T L\nPostgres\nXarelto = /zəɹɛltO/\n"


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    file = tmp_path / "terms.txt"
    file.write_text(LIST, encoding="utf-8")
    return file


def rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def program(folder: Path, code: str) -> str:
    """A voice command that runs Python."""
    script = folder / "voice.py"
    script.write_text(code)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{text}} {{out}}"


@pytest.fixture
def copying(tmp_path: Path, clips: Sequence[Utterance]) -> str:
    """A voice that says the same real recording whatever it is asked for, and keeps what it was asked for."""
    source = clips[0].audio
    assert isinstance(source, FileAudio)
    copy = f"import shutil, sys\nshutil.copy({str(source.path)!r}, sys.argv[2])\n"
    return program(tmp_path, f"{copy}open({str(tmp_path / 'asked')!r}, 'a').write(sys.argv[1] + chr(10))")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Take 5 mg at 12:33, not (2,500).", "Take five milligrams at twelve thirty three, not (two thousand five hundred)."),
        ("The API and two APIs cost $3.50.", "The A P I and two A P I's cost three dollars fifty cents."),
        ("$2 million, 50% off, 16GB", "two million dollars, fifty percent off, sixteen gigabytes"),
        ("GPT-4 in 1999, 007 and 3.25", "G P T four in nineteen ninety nine, zero zero seven and three point two five"),
        ("Write to jo.doe@acme-x.com, please.", "Write to jo dot doe at acme dash x dot com, please."),
        ("It is 1/2 cup on May 3rd.", "It is one half cup on May third."),
        ("-5 degrees at 10 km/h", "minus five degrees at ten kilometers per hour"),
        ("Call [Siobhan](/ʃəvɔn/) at 5 in the morning.", "Call [Siobhan](/ʃəvɔn/) at five in the morning."),
        ("I told kubectl. A plan, OK?", "I told kubectl. A plan, O K?"),
    ],
)
def test_numbers_units_acronyms_and_addresses_are_said_in_words(written: str, said: str) -> None:
    assert in_words(written) == said


def test_a_voice_without_phonemes_is_given_the_term() -> None:
    assert without_phonemes("Call [Siobhan](/ʃəvɔn/) now.") == "Call Siobhan now."


def test_terms_are_balanced_and_sentences_without_any_stand_between_them(terms: Path) -> None:
    listed = read_terms(terms, "en")
    lines = planned(listed, [], Plan("train", 7, 1.0, 0))
    counts = {term.written: sum(line.term == term.written for line in lines) for term in listed}
    assert set(counts.values()) == {7}
    without = [line for line in lines if line.term is None]
    assert len(without) == 21
    assert not any(listed.found(line.written) for line in without)
    assert all(line.term in [found.term for found in listed.found(line.written)] for line in lines if line.term is not None)


def test_spoken_forms_take_turns_and_stand_in_no_text(terms: Path) -> None:
    lines = [line for line in planned(read_terms(terms, "en"), [], Plan("train", 6, 0.0, 0)) if line.term == "kubectl"]
    assert sum("cube control" in line.spoken for line in lines) == sum("cube C T L" in line.spoken for line in lines) == 3
    assert not any("cube" in line.written for line in lines)


def test_ordinary_words_near_a_term_are_among_the_sentences_without_one(terms: Path) -> None:
    listed = read_terms(terms, "en")
    near = near_words(listed)
    assert {"cube", "control"} <= set(near)
    lines = [line for line in planned(listed, [], Plan("train", 10, 1.0, 0)) if line.term is None]
    assert sum(any(word in line.written.split() for word in near) for line in lines) >= 10


def test_train_dev_and_test_share_no_sentence(terms: Path) -> None:
    own = [f"Sentence number {number} restarts Postgres." for number in range(40)]
    listed = read_terms(terms, "en")
    parts = [{line.written for line in planned(listed, own, Plan(part, 12, 0.0, 0))} for part in ("train", "dev", "test")]
    carriers = [set(carrier_sentences(part)) for part in ("train", "dev", "test")]
    for found in (parts, carriers):
        assert len(set.union(*found)) == sum(map(len, found))


def test_sentences_of_the_user_that_hold_a_term_come_first(terms: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.md"
    text.write_text(
        "# Notes\n\nHe restarted Postgres's index. Then\nwe took 5 mg of it!\n\n- They ran kubectl twice on Monday.\n", encoding="utf-8"
    )
    own = read_sentences([text])
    assert own == ["He restarted Postgres's index.", "Then we took 5 mg of it!", "They ran kubectl twice on Monday."]
    found = [line for part in ("train", "dev", "test") for line in planned(read_terms(terms, "en"), own, Plan(part, 3, 1.0, 0))]
    assert {line.written: line.spoken for line in found}["He restarted Postgres's index."] == "He restarted Postgres's index."
    assert next(line for line in found if line.written == own[2]).spoken in (
        "They ran cube control twice on Monday.",
        "They ran cube C T L twice on Monday.",
    )


def test_the_packaged_voice_writes_a_manifest_that_says_it_is_synthetic(terms: Path, tmp_path: Path) -> None:
    output = tmp_path / "train.jsonl"
    result = moonshine_lora("synthesise", terms, "--output", output, "--per-term", 2)
    assert result.code == 0, result.err
    assert "train.jsonl: 9 utterances" in result.out
    manifest = read(output, Rules(language="en"))
    assert all(recording.length_s > 0.5 for recording in validate(manifest, Rules(), AudioSettings()))
    for row in rows(output):
        origin = row["meta"]["synthetic"]
        assert row["speaker_id"] == origin["voice"] == "hibari heart"
        assert origin["engine"].startswith("hibari-tts ")
        assert isinstance(origin["seed"], int)
    assert [row["text"] for row in rows(output) if row["meta"]["synthetic"].get("term") == "Xarelto"]
    assert len({row["meta"]["synthetic"]["seed"] for row in rows(output)}) == 9


def test_the_same_flags_give_the_same_bytes_and_another_seed_does_not(terms: Path, tmp_path: Path) -> None:
    def made(name: str, seed: int) -> tuple[str, list[bytes]]:
        output = tmp_path / name / "a.jsonl"
        output.parent.mkdir()
        flags = ("--per-term", 1, "--seed", seed, "--speed-min", 0.9, "--speed-max", 1.1, "--telephone-probability", 0.5, "--gain-db", 3)
        result = moonshine_lora("synthesise", terms, "--output", output, *flags)
        assert result.code == 0, result.err
        return output.read_text(), [file.read_bytes() for file in sorted((output.parent / "a_audio").iterdir())]

    first = made("one", 0)
    assert made("two", 0) == first
    assert made("three", 1) != first


def test_clips_are_varied_by_the_augmentation_and_say_how(terms: Path, tmp_path: Path) -> None:
    output = tmp_path / "varied.jsonl"
    assert moonshine_lora("synthesise", terms, "--output", output, "--per-term", 1, "--speed-min", 1.2, "--speed-max", 1.3).code == 0
    assert all(1.2 <= row["meta"]["augmentation"]["speed"] <= 1.3 for row in rows(output))
    assert "changes nothing without" in refusal("synthesise", terms, "--output", tmp_path / "b.jsonl", "--telephone-codecs", "gsm")


def test_voices_take_turns_and_a_program_is_given_what_is_said(terms: Path, tmp_path: Path, copying: str) -> None:
    output = tmp_path / "two.jsonl"
    result = moonshine_lora("synthesise", terms, "--output", output, "--per-term", 2, "--packaged-voice", "--voice-command", copying)
    assert result.code == 0, result.err
    speakers = [row["speaker_id"] for row in rows(output)]
    assert speakers.count("hibari heart") in (4, 5)
    assert len(set(speakers)) == 2
    asked = (tmp_path / "asked").read_text().splitlines()
    others = [row for row in rows(output) if row["speaker_id"] != "hibari heart"]
    assert sorted(asked) == sorted(without_phonemes(row["meta"]["synthetic"]["spoken"]) for row in others)
    assert not any("kubectl" in text for text in asked)


def test_a_program_without_a_place_for_the_text_reads_it(terms: Path, tmp_path: Path, copying: str) -> None:
    script = tmp_path / "voice.py"
    script.write_text(script.read_text().replace("sys.argv[1] +", "sys.stdin.read() +").replace("argv[2]", "argv[1]"))
    command = copying.replace("{text} ", "")
    assert moonshine_lora("synthesise", terms, "--output", tmp_path / "a.jsonl", "--per-term", 1, "--voice-command", command).code == 0
    assert "Postgres" in (tmp_path / "asked").read_text()


SILENCE = """
import sys, wave
with wave.open(sys.argv[2], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(bytes(32000))
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys\nsys.exit('no voice of that name')", "ended with 1, and said: no voice of that name"),
        ("import sys\nprint('nothing to say', file=sys.stderr)", "wrote no file, and said: nothing to say"),
        (SILENCE + "print('muted', file=sys.stderr)", "wrote silence for"),
        (SILENCE + "print('muted', file=sys.stderr)", "and said: muted"),
        ("import sys\nopen(sys.argv[2], 'w').write('hello')", "wrote what is no sound"),
    ],
)
def test_a_voice_that_fails_is_refused_with_what_it_said(terms: Path, tmp_path: Path, code: str, says: str) -> None:
    output = tmp_path / "none.jsonl"
    assert says in refusal("synthesise", terms, "--output", output, "--voice-command", program(tmp_path, code))
    assert not output.exists()
    assert not list(tmp_path.glob("none_audio*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--voice-command", "flite -t {text}"), "lacks {out}"),
        (("--voice-command", "no-such-program-here {text} {out}"), "there is no program 'no-such-program-here'"),
        (("--voice-command", "'say {out}"), "no closing quotation; check its quotes"),
        (("--voice-command", ""), "--voice-command is empty"),
        (
            ("--packaged-voice", "--voice-command", "cp {text} {out}", "--voice-command", "cp {text}  {out}"),
            "the voice 'cp' is given twice",
        ),
        (("--per-term", "0"), "must be at least 1"),
        (("--negatives", "-1"), "must be a number of at least 0"),
        (("--sentences", "none.txt"), "none.txt: cannot be read (No such file or directory)"),
        (("--speed-min", "fast"), "--speed-min fast: must be"),
    ],
)
def test_bad_flags_are_refused_in_one_line(terms: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refusal("synthesise", terms, "--output", tmp_path / "a.jsonl", *arguments)


def test_bad_files_are_refused_in_one_line(terms: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("Hi.\n")
    assert "holds no sentence of 3 to 30 words" in refusal(
        "synthesise", terms, "--output", tmp_path / "a.jsonl", "--sentences", tmp_path / "empty.txt"
    )
    (tmp_path / "a.jsonl").write_text("{}")
    assert "exists already; pass --overwrite" in refusal("synthesise", terms, "--output", tmp_path / "a.jsonl")
    terms.write_text("")
    assert "holds no term" in refusal("synthesise", terms, "--output", tmp_path / "b.jsonl")


@pytest.mark.parametrize("name", ["domain", "held-out"])
def test_no_test_set_may_hold_synthesised_speech(sets: Manifests, tmp_path: Path, name: str) -> None:
    source = sets.domain if name == "domain" else sets.heldout
    first, *rest = rows(source)
    changed = write_rows(source.with_name("synthetic.jsonl"), [first | {"meta": {"synthetic": {"voice": "x"}}}, *rest])
    given = sets.flags(**{name.replace("-", ""): changed})
    check = ("--output-dir", tmp_path / "run", "--model-id", "packaged:moonshine-tiny", "--split-by", "utterance", "--dry-run")
    result = moonshine_lora("experiment", *given, *check)
    assert (result.code, "line 1: synthesised speech in the " + name in result.err) == (2, True), result.err
    allowed = moonshine_lora("experiment", *given, *check, "--synthetic-domain")
    assert allowed.code == (0 if name == "domain" else 2), allowed.err
