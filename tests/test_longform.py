"""Recordings of any length: cut at pauses, decoded together, joined as if they had been heard at once, written in every form."""

import json
from contextlib import chdir
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import Result, moonshine_lora, refusal, write_rows
from sounds import FORMS, Form
from test_docs import Command, chosen

from lora.audio.loading import AudioSettings, EncodedAudio, FileAudio, Span, Waveform, load
from lora.audio.streaming import blocks, parts
from lora.corpora import general
from lora.corpora.recordings.textgrid import read_tiers
from lora.errors import AudioError, TooLongError
from lora.longform.captions import LONGEST_S, WIDTH, captions
from lora.longform.output import write_result
from lora.longform.pieces import Piece, pieces
from lora.longform.recording import Listener, transcribe_files
from lora.longform.seams import Join, mended, told
from lora.model.loading import LoadedModel
from lora.passages import Word
from lora.scoring.counts import score_utterance
from lora.transcribe import Choice, Request, Transcriber, named, open_transcriber
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds

TEXT = " ".join(cut.text for cut in general.HELDOUT[0].cuts)


@pytest.fixture(scope="module")
def said() -> Waveform:
    """44 s that one speaker reads."""
    return general.waveform(general.HELDOUT[0])


@pytest.fixture(scope="module")
def file(said: Waveform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reading three times, with pauses between: more than two minutes."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    pause = np.zeros(2 * SAMPLE_RATE_HZ, dtype=np.float32)
    soundfile.write(path, np.concatenate([said, pause, said, pause, said]), SAMPLE_RATE_HZ)
    return path


@pytest.fixture(scope="module")
def hearing(tiny: LoadedModel) -> Transcriber:
    return open_transcriber(Request(tiny.checkpoint.model_id, None, None, None, "cpu", "float32", 32, None))


def errors(reference: str, hypothesis: str) -> float:
    score = score_utterance(id="a", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis, language="en")
    return score.standard.rate


def transcribe(tiny: LoadedModel, *arguments: object) -> Result:
    result = moonshine_lora("transcribe", "--model-id", tiny.checkpoint.model_id, *arguments)
    assert result.code == 0, result.err
    return result


def test_a_long_recording_says_what_is_said_in_it(tiny: LoadedModel, file: Path, tmp_path: Path) -> None:
    result = transcribe(tiny, "--audio", file, "--word-times", "--output", tmp_path / "o.json")
    (row,) = json.loads((tmp_path / "o.json").read_text())["utterances"]
    assert errors(f"{TEXT} {TEXT} {TEXT}", row["text"]) < 0.08
    assert result.out == f"{file}\t{row['text']}\n"
    assert row["seconds"] == pytest.approx(soundfile.info(file).duration)
    assert " ".join(passage["text"] for passage in row["passages"]) == row["text"]
    assert len(row["passages"]) > 5
    assert row["marks"] == []
    (before, *listed) = result.err.splitlines()
    assert before == "least certain:"
    passages = sorted(row["passages"], key=lambda one: sum(word["confidence"] for word in one["words"]) / len(one["words"]))
    assert [line.split(": ", 1)[1] for line in listed] == [one["text"] for one in passages[:5]]


@pytest.mark.parametrize("longest_s", [5.0, 12.0, 30.0])
def test_pieces_are_no_longer_than_asked_and_leave_no_speech_out(file: Path, longest_s: float) -> None:
    found = list(pieces(0, FileAudio(file), longest_s, AudioSettings()))
    assert all(0 < piece.length_s <= longest_s + 1e-6 for piece in found)
    assert all(before.start + len(before.samples) <= after.start for before, after in pairwise(found))
    whole = load(FileAudio(file), AudioSettings())
    assert all(np.array_equal(piece.samples, whole[piece.start : piece.start + len(piece.samples)]) for piece in found)
    left = whole.copy()
    for piece in found:
        left[piece.start : piece.start + len(piece.samples)] = 0
    assert np.square(left).sum() < 3e-3 * np.square(whole).sum()  # breath in pauses
    assert found[-1].total == len(whole)


@pytest.mark.slow
def test_what_is_decoded_together_decides_nothing(hearing: Transcriber, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileAudio(file)
    whole = Listener(hearing, timed=True)(pieces(0, source, 20.0, hearing.audio))
    monkeypatch.setattr("lora.longform.recording.CHUNK_S", 25.0)
    parts = Listener(hearing, timed=True)(pieces(0, source, 20.0, hearing.audio))
    assert [one.text for one in whole] == [one.text for one in parts]
    for before, after in zip(whole[0].passages, parts[0].passages, strict=True):
        assert [word.text for word in before.words or ()] == [word.text for word in after.words or ()]


@pytest.mark.slow
def test_a_cut_invents_no_sentence(hearing: Transcriber, said: Waveform, tmp_path: Path) -> None:
    """The reading has many commas: cut every few seconds, it has no more sentences than when it is heard at once."""
    path = tmp_path / "said.wav"
    soundfile.write(path, said, SAMPLE_RATE_HZ)

    def sentences(longest_s: float) -> int:
        (heard,) = Listener(hearing, timed=False)(pieces(0, FileAudio(path), longest_s, hearing.audio))
        assert errors(TEXT, heard.text) < 0.15
        return sum(heard.text.count(mark) for mark in ".?!")

    assert sentences(8.0) <= sentences(30.0) + 1


@pytest.mark.parametrize(
    ("before", "after", "heard", "join"),
    [
        ("It was in.", "The house.", "was in the house", Join("in", "the")),
        ("He came.", "She left.", "He came. She left", Join("came.", "She")),
        ("the end.", "The end of", "before the end, the end of it", Join("end,", "the")),
        ("nothing alike", "at all", "something else", None),
        ("", "The house.", "the house", None),
        ("- -", "The house.", "- the house", None),
    ],
)
def test_a_seam_takes_its_marks_from_what_is_heard_across_it(before: str, after: str, heard: str, join: Join | None) -> None:
    assert mended(before.split(), after.split(), heard.split()) == join


WORDS = st.lists(st.sampled_from(["the", "The", "the.", "house", "house,", "-"]), max_size=12)


@given(before=WORDS, after=WORDS, heard=WORDS)
@example(before=["of", "the", "house."], after=["The", "house", "the"], heard=["of", "the", "house", "the", "house", "the", "ho"])
def test_what_is_heard_of_a_seam_after_enough_of_it_changes_nothing(before: list[str], after: list[str], heard: list[str]) -> None:
    for count in range(len(heard) + 1):
        if told(before, after, [*heard[:count], "th"]):
            assert mended(before, after, heard) == mended(before, after, heard[:count]) == mended(before, after, [*heard[:count], "th"])


# --- sound ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rate", "options"), [("a.wav", 44_100, {}), ("a.flac", 48_000, {}), ("a.mp3", 16_000, {})])
def test_blocks_are_what_is_read_at_once(said: Waveform, tmp_path: Path, name: str, rate: int, options: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, np.tile(said, 3)[:, None].repeat(2, axis=1), rate, **options)
    source = FileAudio(tmp_path / name)
    parts = list(blocks(source))
    assert len(parts) > 2
    whole = load(source, AudioSettings())
    joined = np.concatenate(parts)
    assert abs(len(joined) - len(whole)) <= 1
    least = min(len(joined), len(whole))
    assert np.abs(joined[:least] - whole[:least]).max() < 1e-4


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_bytes_in_memory_are_cut_as_their_file_is(said: Waveform, tmp_path: Path, form: Form) -> None:
    data = form.make(said[: 20 * SAMPLE_RATE_HZ, None], SAMPLE_RATE_HZ if SAMPLE_RATE_HZ in form.rates else form.rates[0])
    (tmp_path / "file").write_bytes(data)
    of_file, of_memory = (list(blocks(source)) for source in (FileAudio(tmp_path / "file"), EncodedAudio(data, "file")))
    assert np.array_equal(np.concatenate(of_file), np.concatenate(of_memory))


@pytest.mark.parametrize("channels", [1, 2])
def test_what_lasts_too_long_is_refused_before_all_of_it_is_decoded(said: Waveform, tmp_path: Path, channels: int) -> None:
    soundfile.write(tmp_path / "a.flac", np.tile(said, 4)[:, None].repeat(channels, axis=1), SAMPLE_RATE_HZ)
    data = (tmp_path / "a.flac").read_bytes()
    with pytest.raises(TooLongError, match="lasts more than 100 s"):
        list(blocks(EncodedAudio(data, "file"), 100.0))
    assert sum(map(len, blocks(EncodedAudio(data, "file"), 200.0))) == 4 * len(said)


def test_parts_of_a_long_recording_are_what_is_cut_from_it_whole(said: Waveform, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.tile(said, 4), SAMPLE_RATE_HZ)
    source = FileAudio(tmp_path / "a.flac")
    whole, end = load(source, AudioSettings()), 4 * len(said)
    spans = [Span(0, 7), Span(5, 40), Span(900_000, 1_800_000), Span(1_200_000, 10), Span(end - 5, 9), Span(end + 5, 3)]
    found = list(parts(source, spans))
    assert [len(part) for part in found] == [7, 40, 1_800_000, 10, 5, 0]
    assert all(np.array_equal(part, whole[span.start : span.start + span.count]) for part, span in zip(found, spans, strict=True))
    assert not list(parts(source, []))


@pytest.mark.slow
def test_the_sides_of_a_call_are_not_mixed(said: Waveform, tmp_path: Path) -> None:
    silent = np.zeros(80 * SAMPLE_RATE_HZ, dtype=np.float32)
    both = np.stack([np.concatenate([silent, said]), np.concatenate([silent, said[::-1]])], axis=1)
    soundfile.write(tmp_path / "call.wav", both, SAMPLE_RATE_HZ)
    with pytest.raises(AudioError, match="channels 1 and 2 hold different sounds"):
        list(blocks(FileAudio(tmp_path / "call.wav")))
    assert np.concatenate(list(blocks(FileAudio(tmp_path / "call.wav", 1)))) == pytest.approx(both[:, 0], abs=1e-4)


def test_a_recording_that_broke_off_is_refused(said: Waveform, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", said, SAMPLE_RATE_HZ)
    (tmp_path / "b.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:-100_000])
    with pytest.raises(AudioError, match="truncated"):
        list(blocks(FileAudio(tmp_path / "b.flac")))


# --- what is written --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(hearing: Transcriber, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording's transcript in every form."""
    folder = tmp_path_factory.mktemp("written")
    result = transcribe_files(hearing, named([file], Choice()), 30.0, timed=True)
    for suffix in ("json", "txt", "srt", "vtt", "tsv", "TextGrid", "eaf"):
        write_result(result, folder / f"o.{suffix}", "en", word_times=suffix == "json")
    return folder


def _words(folder: Path) -> list[dict[str, object]]:
    (row,) = json.loads((folder / "o.json").read_text())["utterances"]
    return [word for passage in row["passages"] for word in passage["words"]]


def _text(folder: Path) -> str:
    return str(json.loads((folder / "o.json").read_text())["utterances"][0]["text"])


@pytest.mark.slow
def test_words_are_those_of_the_text_one_after_the_other(written: Path, file: Path) -> None:
    words = _words(written)
    assert " ".join(str(word["text"]) for word in words) == _text(written)
    times = [(float(str(word["start_s"])), float(str(word["end_s"]))) for word in words]
    assert all(0 <= start <= end <= soundfile.info(file).duration for start, end in times)
    assert all(before[1] <= after[0] + 1e-6 for before, after in pairwise(times))
    assert all(0 < float(str(word["confidence"])) <= 1 for word in words)


def _cues(content: str) -> list[tuple[float, float, list[str]]]:
    found = []
    for block in content.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if line != "WEBVTT" and line and not line.isdigit()]
        if lines:
            start, end = ([float(part) for part in side.replace(",", ".").split(":")] for side in lines[0].split(" --> "))
            found.append((3600 * start[0] + 60 * start[1] + start[2], 3600 * end[0] + 60 * end[1] + end[2], lines[1:]))
    return found


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_can_be_read(written: Path, form: str) -> None:
    cues = _cues((written / f"o.{form}").read_text())
    assert " ".join(" ".join(lines) for _, _, lines in cues) == _text(written)
    assert all(len(lines) <= 2 and max(map(len, lines)) <= 42 for _, _, lines in cues)
    assert all(0 < end - start <= 7.001 for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in pairwise(cues))


def test_text_and_table_hold_the_whole_text(written: Path) -> None:
    assert " ".join((written / "o.txt").read_text().split()) == _text(written)
    head, *rows = [line.split("\t") for line in (written / "o.tsv").read_text().splitlines()]
    assert head == ["audio", "start", "end", "text"]
    assert " ".join(row[3] for row in rows) == _text(written)


def test_tiers_hold_the_words(written: Path, file: Path) -> None:
    import pympi

    words = _words(written)
    spoken = [word["text"] for word in words if float(str(word["end_s"])) > float(str(word["start_s"]))]
    passages, praat = read_tiers(written / "o.TextGrid")
    assert [text for _, _, text in praat.intervals if text] == spoken
    assert " ".join(text for _, _, text in passages.intervals if text) == _text(written)
    assert praat.intervals[-1][1] == pytest.approx(soundfile.info(file).duration, abs=1e-3)
    assert all(before[1] == after[0] for before, after in pairwise(praat.intervals))
    tier = pympi.Elan.Eaf(str(written / "o.eaf")).get_annotation_data_for_tier("words")
    assert [text for _, _, text in sorted(tier)] == [
        word["text"] for word in words if float(str(word["end_s"])) > float(str(word["start_s"]))
    ]


def test_every_word_of_a_manifest_has_a_time(tiny: LoadedModel, said: Waveform, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", said[: 5 * SAMPLE_RATE_HZ], SAMPLE_RATE_HZ)
    manifest = write_rows(tmp_path / "m.jsonl", [{"audio": "a.flac", "text": "It was the best of times."}])
    transcribe(tiny, "--manifest", manifest, "--word-times", "--output", tmp_path / "o.json")
    (row,) = json.loads((tmp_path / "o.json").read_text())["utterances"]
    assert [word["text"] for word in row["passages"][0]["words"]] == row["text"].split()
    assert row["reference"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("command", chosen("moonshine-lora", needs="long"), ids=str)
def test_documented_commands(command: Command, tiny: LoadedModel, said: Waveform, tmp_path: Path) -> None:
    assert tiny.checkpoint.model_id == "packaged:moonshine-tiny"
    soundfile.write(tmp_path / "talk.flac", said, SAMPLE_RATE_HZ)
    (tmp_path / "talk.txt").write_text(TEXT)
    with chdir(tmp_path):
        result = moonshine_lora(*command.words[1:])
    assert result.code == 0, result.err
    output = tmp_path / command.words[command.words.index("--output") + 1]
    assert output.stat().st_size > 500


def test_both_generations_time_their_words(any_speech: LoadedModel, said: Waveform) -> None:
    """Of a model of random weights the words are nonsense, but there are times for them."""
    folder = str(any_speech.checkpoint.folder)
    hearing = open_transcriber(Request(folder, None, None, None, "cpu", "float32", 32, None))
    piece = Piece(0, Samples(0), said[: 4 * SAMPLE_RATE_HZ], None, True, Samples(4 * SAMPLE_RATE_HZ))
    (heard,) = Listener(hearing, timed=True)([piece])
    words = heard.passages[0].words
    assert words
    assert "".join(word.text for word in words).replace(" ", "") == heard.text.replace(" ", "")
    assert all(0 <= before.start_s <= before.end_s <= after.start_s <= 4.0 for before, after in pairwise(words))


LETTERS = st.text(alphabet="abc.,", min_size=1, max_size=60)


@given(st.lists(st.tuples(LETTERS, st.floats(0, 3), st.floats(0.01, 9)), max_size=40))
@settings(deadline=None)
def test_captions_hold_all_words_and_never_too_much(spoken: list[tuple[str, float, float]]) -> None:
    at, words = 0.0, list[Word]()
    for text, pause_s, length_s in spoken:
        words.append(Word(text=text, start_s=Seconds(at + pause_s), end_s=Seconds(at + pause_s + length_s), confidence=1.0))
        at += pause_s + length_s
    found = captions(words)
    assert "".join("".join(one.lines) for one in found).replace(" ", "") == "".join(text for text, _, _ in spoken)
    assert all(len(one.lines) <= 2 and max(map(len, one.lines)) <= WIDTH for one in found)
    assert all(one.end_s - one.start_s <= LONGEST_S + 1e-6 for one in found)
    assert all(before.end_s <= after.start_s + 1e-6 for before, after in pairwise(found))


# --- what is refused --------------------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_nothing_is_written(tiny: LoadedModel, file: Path, tmp_path: Path) -> None:
    model = ("transcribe", "--model-id", tiny.checkpoint.model_id)
    soundfile.write(tmp_path / "silent.wav", np.zeros(40 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    manifest = write_rows(tmp_path / "m.jsonl", [{"audio": "silent.wav", "text": ""}])
    for options, message in (
        (("--audio", file, "--output", tmp_path / "o.doc"), "name it .txt, .srt, .vtt, .json, .jsonl, .tsv, .TextGrid or .eaf"),
        (("--audio", file, file, "--output", tmp_path / "o.srt"), ".srt is of one recording, and --audio gives 2 files"),
        (("--manifest", manifest, "--output", tmp_path / "o.vtt"), ".vtt is of one recording, and --manifest gives a manifest"),
        (("--audio", file, "--max-seconds", 120), "--max-seconds 120: recordings are cut into pieces of up to 5 to 30 s"),
        (("--audio", file, "--max-seconds", 1), "--max-seconds 1: "),
        (("--audio", tmp_path / "silent.wav", "--output", tmp_path / "o.json"), "silent.wav: no speech found"),
        (("--audio", file, tmp_path / "m.jsonl", "--output", tmp_path / "o.json"), "m.jsonl: not readable"),
    ):
        assert message in refusal(*model, *options)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("o.")]


@pytest.mark.slow
def test_one_of_several_recordings_without_speech_is_marked(tiny: LoadedModel, file: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(40 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    result = transcribe(tiny, "--audio", tmp_path / "silent.wav", file)
    silent, spoken = result.out.splitlines()
    assert silent == f"{tmp_path / 'silent.wav'}\t\t[no speech]"
    assert len(spoken) > 1000
