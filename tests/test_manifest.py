"""Manifests: every problem is found at once with its line and field; both forms of audio are one; splits keep speakers apart."""

import json
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.audio.loading import AudioSettings, FileAudio, Waveform, load, waveform_hash
from lora.corpora.general import HELDOUT, REPLAY, waveform
from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Recording, Row, Rules, Utterance, read, to_row, write
from lora.dataset.speech_rate import too_much
from lora.dataset.splits import require_disjoint, sample, split
from lora.errors import ManifestError
from lora.text.mojibake import damage, one_spelling
from lora.units import SAMPLE_RATE_HZ

AS_IS = AudioSettings()
DOCUMENTATION = Path(__file__).parents[1] / "docs" / "manifests.md"


@pytest.fixture(scope="module")
def speech() -> Waveform:
    return waveform(HELDOUT[1])


@pytest.fixture
def folder(tmp_path: Path, speech: Waveform) -> Path:
    """A folder with one recording, `a.wav`, of two seconds."""
    soundfile.write(tmp_path / "a.wav", (speech[: 2 * SAMPLE_RATE_HZ] * 32768).astype(np.int16), SAMPLE_RATE_HZ)
    return tmp_path


def manifest(folder: Path, rows: Iterable[Any], name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(path: Path, rules: Rules | None = None) -> list[tuple[int, str, str]]:
    with pytest.raises(ManifestError) as caught:
        read(path, rules or Rules())
    return [(p.line, p.field, p.message) for p in caught.value.problems]


BAD_ROWS: list[tuple[Any, str, str]] = [
    ("{not json", "line", "not valid JSON"),
    ('{"audio": [NaN], "text": "x"}', "line", "not valid JSON"),
    ([1, 2], "line", "Expected `object`"),
    ({"audio_path": "a.wav", "text": "x"}, "line", "unknown field 'audio_path'; did you mean 'audio'?"),
    ({"audio": "a.wav", "text": "x", "zzz": 1}, "line", "anything else goes under `meta`"),
    ({"audio": "a.wav", "text": 5}, "text", "Expected `str | null`, got `int`"),
    ({"audio": "a.wav", "text": "x", "duration": "long"}, "duration", "Expected `float | null`, got `str`"),
    ({"audio": "a.wav"}, "text", "is missing"),
    ({"audio": "a.wav", "text": "  "}, "text", "is empty"),
    ({"text": "x"}, "audio", "is missing"),
    ({"audio": None, "text": "x"}, "audio", "is missing"),
    ({"audio": {"a": 1}, "text": "x"}, "audio", "must be a path or a list of float samples"),
    ({"audio": "", "text": "x"}, "audio", "is an empty path"),
    ({"audio": [], "text": "x"}, "audio", "holds no samples"),
    ({"audio": "../a.wav", "text": "x"}, "audio", "lies outside the manifest's folder"),
    ({"audio": "/a.wav", "text": "x"}, "audio", "lies outside the manifest's folder"),
    ({"audio": "b.wav", "text": "x"}, "audio", "b.wav: no such file under"),
    ({"audio": [0.1], "text": "x", "sampling_rate": 0}, "sampling_rate", "must be positive"),
    ({"audio": "a.wav", "text": "x", "sampling_rate": 8000}, "sampling_rate", "says 8000 Hz, a.wav has 16000 Hz"),
    ({"audio": "a.wav", "text": "x", "id": "good"}, "id", "'good' is already used on line 1"),
]


def test_every_problem_is_reported_at_once_with_line_and_field(folder: Path) -> None:
    good = {"audio": "a.wav", "text": "x", "id": "good"}
    found = problems(manifest(folder, [good, *(row for row, _, _ in BAD_ROWS)]))
    assert [(line, name) for line, name, _ in found] == [(number, name) for number, (_, name, _) in enumerate(BAD_ROWS, start=2)]
    for (_, _, message), (_, _, expected) in zip(found, BAD_ROWS, strict=True):
        assert expected in message


@pytest.mark.parametrize(("row", "name", "message"), BAD_ROWS[:-1], ids=lambda value: str(value)[:40])
def test_each_problem_alone(folder: Path, row: Any, name: str, message: str) -> None:
    ((line, where, what),) = problems(manifest(folder, [row]))
    assert (line, where) == (1, name)
    assert message in what


def test_the_message_names_the_first_problems_and_counts_the_rest(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"m\.jsonl: 50 problems: line 1: audio: 0\.wav: no such file.*; and 30 more$"):
        read(manifest(folder, [{"audio": f"{number}.wav", "text": "x"} for number in range(50)]), Rules())


def test_a_mistake_made_in_many_lines_is_reported_once(folder: Path) -> None:
    rows = [{"audio": "a.wav"}] * 50 + [{"audio": "a.wav", "text": " "}, {"audio": "a.wav", "text": " "}]
    message = r"m\.jsonl: 52 problems: lines 1, 2, 3, 4, 5 and 45 more: text: is missing; [^;]*; lines 51, 52: text: is empty; "
    with pytest.raises(ManifestError, match=message) as caught:
        read(manifest(folder, rows), Rules())
    assert [problem.line for problem in caught.value.problems] == list(range(1, 53))


def test_missing_and_empty_manifests(folder: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        read(folder / "none.jsonl", Rules())
    with pytest.raises(ManifestError, match="the manifest is empty"):
        read(manifest(folder, ["", "  "]), Rules())
    with pytest.raises(ManifestError, match="cannot be read"):
        read(folder, Rules())


def test_rules_relax_what_they_name(folder: Path) -> None:
    assert read(manifest(folder, [{"audio": "a.wav"}]), Rules(require_text=False)).utterances[0].text is None
    assert read(manifest(folder, [{"audio": "a.wav", "text": ""}]), Rules(allow_empty_text=True)).utterances[0].text == ""
    (folder / "sub").mkdir()
    outside = manifest(folder / "sub", [{"audio": "../a.wav", "text": "x"}])
    assert len(read(outside, Rules(allow_outside=True))) == 1


def test_fields_arrive(folder: Path) -> None:
    row = {"audio": "a.wav", "text": "x", "id": 7, "speaker_id": 9, "duration": 2, "sampling_rate": 16000, "meta": {"take": 1}}
    utterance = read(manifest(folder, ["", row]), Rules()).utterances[0]
    assert utterance == Utterance("7", FileAudio(folder / "a.wav"), "x", "9", 2, utterance.declared_s, {"take": 1}, declared_hz=16000)
    assert read(manifest(folder, ["", {"audio": "a.wav", "text": "x"}]), Rules()).utterances[0].id == "line-2"


def test_inline_and_path_are_the_same_waveform(folder: Path) -> None:
    samples = load(FileAudio(folder / "a.wav"), AS_IS)
    rows = [Row(audio="a.wav", text='a "[0.1]" b', id="p"), Row(audio=samples.tolist(), text="[0.5] ü", id="i")]
    assert write(folder / "m.jsonl", rows) == 2
    by_path, by_value = read(folder / "m.jsonl", Rules())
    assert np.array_equal(load(by_path.audio, AS_IS), load(by_value.audio, AS_IS))
    assert waveform_hash(load(by_path.audio, AS_IS)) == waveform_hash(load(by_value.audio, AS_IS))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: text.strip() and damage(text) is None)


@given(
    st.lists(
        st.tuples(TEXT, st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.none() | TEXT, st.booleans()),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    write(path, [Row(audio=samples, text=text, speaker_id=who, meta={"k": 1} if meta else None) for text, samples, who, meta in rows])
    for utterance, (text, samples, who, meta) in zip(read(path, Rules()), rows, strict=True):
        assert (utterance.text, utterance.meta) == (text, {"k": 1} if meta else None)
        assert utterance.speaker_id == (None if who is None else one_spelling(who))
        assert np.array_equal(load(utterance.audio, AS_IS), np.asarray(samples, np.float32))
        again = to_row(utterance, samples)
        assert (again.text, again.speaker_id, again.meta) == (utterance.text, utterance.speaker_id, utterance.meta)


def test_validation_reports_everything_that_decoding_shows(folder: Path) -> None:
    (folder / "noise.wav").write_bytes(b"no audio")
    (folder / "null.wav").write_bytes(b"")
    rows: list[Any] = [
        {"audio": "a.wav", "text": "fine"},
        {"audio": "noise.wav", "text": "x"},
        {"audio": "null.wav", "text": "x"},
        {"audio": [0.0] * 1600, "text": "claimed"},
        {"audio": [0.0] * 3200, "text": ""},
        '{"audio": [0.1, 1e999], "text": "x"}',
        {"audio": ["a"], "text": "x"},
        {"audio": "a.wav", "text": "fine", "duration": 2.5},
        {"audio": "a.wav", "text": " fine\n", "duration": 2.1},
        {"audio": [0.5] * 1000, "text": "x"},
    ]
    content = read(manifest(folder, rows), Rules(allow_empty_text=True))
    with pytest.raises(ManifestError) as caught:
        validate(content, Rules(max_s=1.5), AS_IS)
    found = [(p.line, p.field, p.message) for p in caught.value.problems]
    expected = [
        (1, "audio", "2.0 s is over --max-seconds 1.5"),
        (2, "audio", "not readable as wav"),
        (3, "audio", "0 bytes"),
        (4, "audio", "is silent although the text says 'claimed'"),
        (6, "audio", "Number out of range"),
        (7, "audio", "must hold numbers only"),
        (8, "audio", "is over --max-seconds"),
        (8, "duration", "says 2.50 s, the audio lasts 2.00 s"),
        (9, "audio", "is over --max-seconds"),
        (10, "audio", "0.062 s is too short for speech; Moonshine needs 0.1 s"),
    ]
    assert [(line, name) for line, name, _ in found] == [(line, name) for line, name, _ in expected]
    assert all(what in message for (_, _, message), (_, _, what) in zip(found, expected, strict=True))


def test_a_recording_with_two_texts_is_refused(folder: Path) -> None:
    soundfile.write(folder / "b.flac", *soundfile.read(folder / "a.wav", dtype="int16"))
    samples = load(FileAudio(folder / "a.wav"), AS_IS).tolist()
    rows: list[Any] = [
        {"audio": "a.wav", "text": "one"},
        {"audio": "b.flac", "text": "one  "},
        {"audio": "b.flac", "text": "two"},
        {"audio": samples, "text": "three"},
        {"audio": samples},
    ]
    content = read(manifest(folder, rows), Rules(require_text=False))
    with pytest.raises(ManifestError) as caught:
        validate(content, Rules(), AS_IS)
    assert [(p.line, p.field) for p in caught.value.problems] == [(3, "text"), (4, "text")]
    assert "is not that of line 1, which is the same recording; one is wrong, remove it ('one' and 'two')" in str(caught.value)


SAYABLE = [
    ("x" * 60, 2.0),
    ("四" * 30, 2.0),
    ("か" * 40, 2.0),
    ("한" * 30, 2.0),
    ("нет " * 22, 2.0),
    ("...!? " * 100, 2.0),
    ("a" * 1000, 30.0),
]
UNSAYABLE = [
    ("x" * 100, 2.0),
    ("四" * 50, 2.0),
    ("か" * 70, 2.0),
    ("한" * 50, 2.0),
    ("нет " * 40, 2.0),
    ("1 " * 100, 2.0),
    ("a" * 1200, 30.0),
]


@pytest.mark.parametrize(("text", "length_s"), SAYABLE)
def test_what_can_be_said_in_the_time_is_taken(text: str, length_s: float) -> None:
    assert not too_much(text, length_s)


@pytest.mark.parametrize(("text", "length_s"), UNSAYABLE)
def test_what_cannot_be_said_in_the_time_is_not(text: str, length_s: float) -> None:
    assert too_much(text, length_s)


@pytest.mark.parametrize("line", [1, 3])
def test_a_text_that_nobody_can_say_in_the_time_is_refused_at_its_line(folder: Path, line: int) -> None:
    rows: list[Any] = [{"audio": "a.wav", "text": "fine"} for _ in range(3)]
    rows[line - 1] = {"audio": "a.wav", "text": "forty words " * 20}
    content = read(manifest(folder, rows), Rules())
    with pytest.raises(ManifestError, match=r"text: has 40 words .* at least 5.6 s to say, and the audio lasts 2.0 s"):
        validate(content.subset([content.utterances[line - 1]]), Rules(), AS_IS)


def test_a_huge_text_is_refused_before_any_audio_is_decoded(folder: Path) -> None:
    (folder / "broken.wav").write_bytes(b"no audio")
    ((line, name, message),) = problems(manifest(folder, [{"audio": "broken.wav", "text": "word " * 20_000}]))
    assert (line, name) == (1, "text")
    assert message.startswith("has 20000 words (100000 characters), which takes at least 2222.2 s to say, and --max-seconds is 30; it is")


def test_validation_gives_length_and_hash_in_order(folder: Path) -> None:
    samples = load(FileAudio(folder / "a.wav"), AS_IS)
    content = read(manifest(folder, [{"audio": "a.wav", "text": "x"}, {"audio": samples[:16000].tolist(), "text": "y"}]), Rules())
    first, second = validate(content, Rules(), AS_IS)
    assert (first.length_s, second.length_s) == (2.0, 1.0)
    assert (first.sha256, second.sha256) == (waveform_hash(samples), waveform_hash(samples[:16000]))


def test_every_message_is_documented() -> None:
    text = " ".join(DOCUMENTATION.read_text().replace("`", "").split())
    for fragment in (
        "not valid JSON", "Expected object", "unknown field", "is missing", "is empty", "must be a path or a list of float samples",
        "is an empty path", "holds no samples", "lies outside the manifest's folder", "no such file under", "must be positive",
        "is already used on line", "no such manifest", "the manifest is empty", "0 bytes", "not readable as wav", "NaN or infinite",
        "the file is truncated", "its header says 0 s of sound", "holds several recordings", "is damaged", "holds samples up to",
        "of opposite phase and cancel", "hold different sounds", "audio tracks", "channel: must be a number from 1", "is for files",
        "must hold numbers only", "is silent although the text says", "is too short for speech", "is over --max-seconds", "the audio lasts",
        "is not that of line", "s to say, and", "is 'X' in a run for", "is in X letters", "hold no X letter",
        "the same recording is in", "share N speakers", "have no speaker_id", "so none can be held out",
    ):  # fmt: skip
        assert fragment in text, fragment


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_in_little_memory(folder: Path) -> None:
    path = folder / "big.jsonl"
    write(path, (Row(audio="a.wav", text=f"utterance {n}", speaker_id=f"s{n % 100}", id=str(n)) for n in range(100_000)))
    tracemalloc.start()
    try:
        content = read(path, Rules())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) == 100_000
    assert len(content.speakers()) == 100
    assert peak < 60e6  # 600 bytes a row


def test_reading_leaves_inline_samples_on_disk(folder: Path) -> None:
    path = folder / "big.jsonl"
    write(path, (Row(audio=[0.123456789] * 100_000, text="x", id=str(n)) for n in range(20)))
    tracemalloc.start()
    try:
        assert len(read(path, Rules())) == 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 8e6


def people(counts: dict[str, int]) -> Manifest:
    utterances = [Utterance(f"{who}-{n}", FileAudio(Path("a.wav")), "x", who, 1) for who, count in counts.items() for n in range(count)]
    return Manifest(Path("m.jsonl"), "0", tuple(utterances))


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 9), min_size=2), st.floats(0.01, 0.9), st.integers(0, 99))
@settings(deadline=None)
def test_split_by_speaker_holds_out_whole_speakers(counts: dict[str, int], fraction: float, seed: int) -> None:
    whole = people(counts)
    kept, held = split(whole, fraction, "speaker", seed)
    assert len(kept) > 0
    assert len(held) > 0
    assert not kept.speakers() & held.speakers()
    assert {u.id for u in kept} | {u.id for u in held} == {u.id for u in whole}
    assert len(kept) + len(held) == len(whole)
    assert split(whole, fraction, "speaker", seed) == (kept, held)
    mirrored = replace(whole, utterances=whole.utterances[::-1])
    assert {u.id for u in split(mirrored, fraction, "speaker", seed)[1]} == {u.id for u in held}


@given(st.integers(2, 200), st.floats(0.01, 0.9), st.integers(0, 99))
@settings(deadline=None)
def test_split_by_utterance_holds_out_the_fraction(count: int, fraction: float, seed: int) -> None:
    kept, held = split(people({"a": count}), fraction, "utterance", seed)
    assert len(held) == min(max(1, round(fraction * count)), count - 1)
    assert not {u.id for u in kept} & {u.id for u in held}


def test_split_needs_speakers() -> None:
    with pytest.raises(ManifestError, match="only 1 speaker, so none can be held out"):
        split(people({"a": 5}), 0.2, "speaker", 0)
    with pytest.raises(ManifestError, match="only 1 utterance"):
        split(people({"a": 1}), 0.2, "utterance", 0)
    whole = people({"a": 2, "b": 2})
    unknown = replace(whole, utterances=(*whole.utterances, replace(whole.utterances[0], speaker_id=None, line=7)))
    with pytest.raises(ManifestError, match=r"1 of 5 utterances have no `speaker_id` \(first on line 7\)"):
        split(unknown, 0.2, "speaker", 0)


def test_sample_keeps_the_order_and_follows_the_seed() -> None:
    chosen = sample(range(100), 10, 3)
    assert chosen == sorted(chosen) == sample(range(100), 10, 3)
    assert chosen != sample(range(100), 10, 4)
    assert sample(range(3), 10, 0) == [0, 1, 2]


def test_shared_recordings_and_speakers_are_refused(folder: Path) -> None:
    def checked(row: dict[str, Any], name: str) -> tuple[Manifest, tuple[Recording, ...]]:
        content = read(manifest(folder, [row], name), Rules())
        return content, validate(content, Rules(), AS_IS)

    samples = load(FileAudio(folder / "a.wav"), AS_IS).tolist()
    other = waveform(REPLAY[0])[:16000].tolist()
    first = checked({"audio": "a.wav", "text": "x", "speaker_id": "a"}, "1.jsonl")
    same_sound = checked({"audio": samples, "text": "x", "speaker_id": "b"}, "2.jsonl")
    same_voice = checked({"audio": other, "text": "x", "speaker_id": "a"}, "3.jsonl")
    with pytest.raises(ManifestError, match=r"1\.jsonl line 1 and .*2\.jsonl line 1: the same recording is in train and test"):
        require_disjoint({"train": first, "test": same_sound}, speakers=True)
    with pytest.raises(ManifestError, match="train and test share 1 speakers, among them a"):
        require_disjoint({"train": first, "test": same_voice}, speakers=True)
    require_disjoint({"train": first, "test": same_voice}, speakers=False)
