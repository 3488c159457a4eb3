"""Files that other tools wrote: tests/foreign/README.md says which tool wrote which."""

import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import moonshine_lora

from lora.corpora.build import Bad
from lora.corpora.recordings.audacity import label_segments
from lora.corpora.recordings.beside import Timed
from lora.corpora.recordings.chat import chat_reader
from lora.corpora.recordings.commonvoice import common_voice_segments
from lora.corpora.recordings.elan import elan_reader
from lora.corpora.recordings.kaldi import kaldi_segments
from lora.corpora.recordings.labelstudio import label_studio_segments
from lora.corpora.recordings.ljspeech import ljspeech_segments
from lora.corpora.recordings.marks import without_marks
from lora.corpora.recordings.nemo import nemo_segments
from lora.corpora.recordings.nist import ctm_segments, stm_segments
from lora.corpora.recordings.segments import Segment
from lora.corpora.recordings.subtitles import subtitle_segments
from lora.corpora.recordings.textgrid import textgrid_reader
from lora.corpora.recordings.words import joined
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
        (["cleo"], "has no tier 'cleo' with times; it has anna (2 texts), ben (1 text), notes (points)"),
        (["notes"], "has no tier 'notes' with times"),
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
        whole.replace("<exists>\n3\n", "<exists>\n1e999\n").encode(): "holds inf in the place of a count",
        "Café".encode("latin-1"): "is not UTF-8",
        b"": "does not begin as a TextGrid",
    }
    for content, message in cases.items():
        (tmp_path / "a.TextGrid").write_bytes(content)
        result = moonshine_lora("manifest", "import", "textgrid", tmp_path / "a.TextGrid", "--output", tmp_path / "m.jsonl")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
        assert message in result.err
        assert not (tmp_path / "m.jsonl").exists()


SPOKEN = [("anna", 1.0, 2.5, "He said hi"), ("ben", 2.75, 3.5, "five equals three"), ("anna", 4.0, 5.25, "Café naïve")]


def test_elan_files_of_pympi() -> None:
    """Tiers by name and pattern; a tier that refers to another has its times, and its parts are one segment."""
    for tiers, expected in (
        (["A_utt"], [("Anna", 1.0, 2.5, 'He said "hi" & <left>'), ("Anna", 4.0, 5.25, "Café, naïve")]),
        (["B*"], [("Ben", 2.75, 3.5, "5 xmin = 3")]),
        (["A_norm"], [("Anna", 1.0, 2.5, "he said hi and left")]),
        (["A_words"], [("Anna", 4.0, 5.25, "cafe is naive")]),
    ):
        assert found(elan_reader(tiers)(timed("pympi.eaf"))) == expected
    with pytest.raises(
        ManifestError, match=re.escape("has no tier 'C' with times; it has A_utt (2 texts), B_utt (1 text), A_norm (1 text)")
    ):
        list(elan_reader(["C"])(timed("pympi.eaf")))


def test_elan_files_of_speach() -> None:
    assert found(elan_reader(["*_utterance"])(timed("speach.eaf"))) == [
        ("Anna", 1.0, 2.5, "He said hi"),
        ("Ben", 2.75, 3.5, "five equals three"),
        ("Anna", 4.0, 5.25, "Café naïve"),
    ]


def annotations(slots: str, tiers: str, head: str = "") -> str:
    return f"<ANNOTATION_DOCUMENT>{head}<TIME_ORDER>{slots}</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>"


def slot(name: str, time: int | None) -> str:
    return f'<TIME_SLOT TIME_SLOT_ID="{name}"' + ("/>" if time is None else f' TIME_VALUE="{time}"/>')


def aligned(name: str, start: str, end: str, text: str) -> str:
    return (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{start}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
    )


def test_annotations_without_times_are_taken_with_their_neighbours_or_named(tmp_path: Path) -> None:
    slots = slot("t1", 1000) + slot("t2", None) + slot("t3", None) + slot("t4", 3000) + slot("t5", None) + slot("t6", None)
    said = aligned("a1", "t1", "t2", "one") + aligned("a3", "t3", "t4", "three") + aligned("a2", "t2", "t3", "two")
    (tmp_path / "a.eaf").write_text(annotations(slots, f'<TIER TIER_ID="x">{said}{aligned("a4", "t5", "t6", "lost")}</TIER>'))
    result = list(elan_reader([])(Timed(tmp_path / "a.eaf", Path("a.wav"), "a", None)))
    assert found(result) == [(None, 1.0, 3.0, "one two three")]
    assert [str(one) for one in result if isinstance(one, Bad)] == [
        "a.eaf tier x annotation a4: a-x-a4: has no times in ELAN, and its neighbours have none; left out"
    ]


def test_a_recording_that_begins_later_than_its_elan_document(tmp_path: Path) -> None:
    head = '<HEADER><MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/a/talk.wav" TIME_ORIGIN="2500"/></HEADER>'
    tier = f'<TIER TIER_ID="x">{aligned("a1", "t1", "t2", "one")}</TIER>'
    (tmp_path / "a.eaf").write_text(annotations(slot("t1", 0) + slot("t2", 1000), tier, head))
    assert found(elan_reader([])(Timed(tmp_path / "a.eaf", Path("talk.wav"), "a", None))) == [(None, 2.5, 3.5, "one")]
    with pytest.raises(ManifestError, match=r"begin at different times \(talk at 2500 ms\); name other\.wav as one of them"):
        list(elan_reader([])(Timed(tmp_path / "a.eaf", Path("other.wav"), "a", None)))


def test_elan_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    tier = '<TIER TIER_ID="x">{}</TIER>'
    inner = '<REF_ANNOTATION ANNOTATION_ID="r" ANNOTATION_REF="r"><ANNOTATION_VALUE>x</ANNOTATION_VALUE></REF_ANNOTATION>'
    reference = f"<ANNOTATION>{inner}</ANNOTATION>"
    for content, message in (
        ("hello", "is no XML"),
        ('<?xml version="1.0" encoding="U-8"?><a/>', "is no XML (unknown encoding: U-8)"),
        ("<a/>", "begins with <a>, not with <ANNOTATION_DOCUMENT>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "defines entities"),
        (annotations(slot("t1", 0), tier.format(aligned("a1", "t1", "t9", "x"))), "time slot 't9' that is not there"),
        (annotations('<TIME_SLOT TIME_SLOT_ID="t" TIME_VALUE="x"/>', ""), "holds a time that is no number"),
        (annotations("<TIME_SLOT/>", ""), "lacks 'TIME_SLOT_ID'"),
        (annotations("", tier.format(reference)), "refers to 'r', which is not there"),
        (annotations("", ""), "no tier holds text with times; choose with --tier: none"),
    ):
        (tmp_path / "a.eaf").write_text(content)
        assert message in refused("elan", tmp_path / "a.eaf", tmp_path)


def refused(form: str, source: Path, place: Path, *options: object) -> str:
    """The one line of a refusal that leaves nothing behind."""
    result = moonshine_lora("manifest", "import", form, source, *options, "--output", place / "m.jsonl")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result
    assert not list(place.glob("m*")), "half-written"
    return result.err


def test_stm_and_ctm_of_meeteval(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    assert found(stm_segments(FOREIGN / "meeteval.stm", tmp_path)) == SPOKEN
    words = joined(ctm_segments(FOREIGN / "meeteval.ctm", tmp_path), 0.3, 30)
    assert found(words) == [(None, 1.0, 3.5, "He said hi five equals three"), (None, 4.0, 5.24, "Café naïve")]


def test_stm_and_ctm_of_sctk_and_the_ctm_of_lhotse_which_counts_channels_from_0(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    assert found(stm_segments(FOREIGN / "sctk.stm", tmp_path)) == SPOKEN
    rover = joined(ctm_segments(FOREIGN / "sctk-rover.ctm", tmp_path), 0.3, 30)
    assert found(rover) == [(None, 1.0, 3.5, "he said hi five equals three"), (None, 4.0, 5.24, "café naïve")]
    words = list(ctm_segments(FOREIGN / "lhotse.ctm", tmp_path))
    assert [one.channel for one in words if isinstance(one, Segment)] == [1] * 8
    assert [text for *_, text in found(joined(words, 0.3, 30))] == ["He said hi five equals three", "Café naïve"]
    (tmp_path / "a.ctm").write_text("talk 0 1 0.5 one\ntalk 1 1.5 0.5 two\n")
    assert [one.channel for one in ctm_segments(tmp_path / "a.ctm") if isinstance(one, Segment)] == [1, 2]


def test_marks_of_an_stm(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    (tmp_path / "a.stm").write_text(
        ';; CATEGORY "0" "" ""\n'
        "talk A anna 0.0 1.5 <o,f0,male> hello { gray / grey / @ } world\n"
        "talk B ben 1.5 2.0 <NA> and\n"
        "talk 1 inter_segment_gap 2.0 3.0 <o,,> IGNORE_TIME_SEGMENT_IN_SCORING\n"
        "talk 1 anna 3.0 4.0 ignore_time_segment_in_scoring\n"
        "talk 1 anna 4.0 5.0\n"
        "gone 1 anna 4.0 5.0 lost\n"
        "talk C anna 4.0 5.0 lost\n"
        "talk 1 anna x 5.0 lost\n"
        "talk 1\n"
    )
    result = list(stm_segments(tmp_path / "a.stm"))
    assert found(result) == [("anna", 0.0, 1.5, "hello { gray / grey / @ } world"), ("ben", 1.5, 2.0, "<NA> and")]
    assert [one.channel for one in result if isinstance(one, Segment)] == [1, 2]
    bad = [one for one in result if isinstance(one, Bad)]
    assert [one.expected for one in bad] == [True, True, False, False, False, False]
    for one, message in zip(
        bad[1:], ("is not scored", "no recording gone.wav", "its channel is 'C'", "times are no numbers", "has no file"), strict=True
    ):
        assert message in str(one)


def test_marks_of_a_ctm(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    (tmp_path / "a.ctm").write_text(
        ";; comment\ntalk 1 0.0 0.5 so 0.9 lex anna\ntalk 1 0.5 0.2 [breath] 0.9 non-lex anna\n"
        "talk 1 * * <ALT_BEGIN>\ntalk 1 0.7 0.2 in 1 lex anna\ntalk 1 0.9 0.1 to 1 lex anna\n"
        "talk 1 * * <ALT>\ntalk 1 0.7 0.3 into 1 lex anna\n"
        "talk 1 * * <ALT>\ntalk 1 0.7 0.3 @ 1 lex anna\ntalk 1 * * <ALT_END>\n"
        "talk 1 1.0 0.5 it 0.9 lex anna\ntalk 1 1.5 0.5 yes 0.8 lex ben\ntalk 1 x 0.5 lost\n"
    )
    result = list(joined(ctm_segments(tmp_path / "a.ctm"), 0.5, 30))
    assert found(result) == [("anna", 0.0, 1.5, "so { in to / into / @ } it"), ("ben", 1.5, 2.0, "yes")]
    assert ["its times are no numbers" in str(one) for one in result if isinstance(one, Bad)] == [True]
    (tmp_path / "b.ctm").write_text("talk 1 * * <ALT_BEGIN>\ntalk 1 0.7 0.2 in\n")
    assert "its alternatives have no <ALT_END>" in refused("ctm", tmp_path / "b.ctm", tmp_path)
    (tmp_path / "c.ctm").write_text(";; nothing\n")
    assert "holds no line with times" in refused("ctm", tmp_path / "c.ctm", tmp_path)


def test_words_are_one_segment_up_to_a_pause_and_cut_at_the_longest_one_where_it_lasts_too_long() -> None:
    times = [(0.0, 1.0), (1.1, 2.0), (2.4, 3.0), (3.1, 4.0), (5.0, 6.0), (6.0, 12.0)]
    words = [Segment(f"w{n}", Path("a.wav"), f"w{n}", "", "anna", start_s, end_s) for n, (start_s, end_s) in enumerate(times)]
    assert [text for *_, text in found(joined(words, 0.5, 30))] == ["w0 w1 w2 w3", "w4 w5"]
    assert [text for *_, text in found(joined(words, 0.5, 3))] == ["w0 w1", "w2 w3", "w4 w5"], (
        "without a pause it stays, for the cutter to name"
    )
    assert [text for *_, text in found(joined(words, 0.05, 30))] == ["w0", "w1", "w2", "w3", "w4 w5"]


def test_chat_files_of_pylangacq() -> None:
    said = [("Anna", 1.0, 2.5, "He said hi ."), ("BEN", 2.75, 3.5, "five equals three ."), ("Anna", 4.0, 5.25, "Café naïve .")]
    assert found(chat_reader([])(timed("pylangacq.cha"))) == said
    assert found(chat_reader(["BEN"])(timed("pylangacq.cha"))) == said[1:2]
    with pytest.raises(ManifestError, match="has no speaker 'MOT'; it has ANN, BEN"):
        list(chat_reader(["MOT"])(timed("pylangacq.cha")))


def test_chat_files_of_batchalign() -> None:
    assert found(chat_reader([])(timed("batchalign.cha"))) == [
        ("Anna", 1.0, 2.5, "He said hi ."),
        ("BEN", 2.75, 3.5, "five equals three ."),
        ("Anna", 4.0, 5.25, "Café naïve ."),
    ]


def test_labels_and_subtitles_of_whisperx_name_their_speakers() -> None:
    assert found(label_segments(timed("whisperx-audacity.txt"))) == SPOKEN
    assert found(subtitle_segments(timed("whisperx.srt"))) == SPOKEN
    assert found(subtitle_segments(timed("whisperx.vtt"))) == SPOKEN


@pytest.mark.parametrize("writer", ["lhotse", "espnet"])
def test_kaldi_directories_of_other_writers(writer: str, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    assert sorted(found(kaldi_segments(FOREIGN / f"{writer}-kaldi", tmp_path)), key=lambda one: one[1]) == SPOKEN


def test_kaldi_says_which_channel_of_a_file_is_a_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", np.zeros((16_000, 2)), 16_000)
    soundfile.write(tmp_path / "one.wav", np.zeros(16_000), 16_000)
    tables = {
        "wav.scp": "call-A call.wav\ncall-B call.wav\none-B one.wav\n",
        "segments": "a call-A 0 0.5\nb call-B 0 -1\nc one-B 0 1\n",
        "text": "a hello\nb yes\nc no\n",
        "reco2file_and_channel": "call-A call A\ncall-B call B\none-B one B\n",
    }
    for name, content in tables.items():
        (tmp_path / name).write_text(content)
    sides = [one.channel for one in kaldi_segments(tmp_path) if isinstance(one, Segment)]
    assert sides == [1, 2, None], "a file of one channel is that channel already"
    (tmp_path / "reco2file_and_channel").write_text("call-A call C\n")
    assert "call-A: its channel is 'C'; channels are A and B" in refused("kaldi", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("writer", ["pandas", "polars"])
def test_tables_of_other_writers(writer: str, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    texts = ['He said "hi"', "five equals three", "Café naïve"]
    (tmp_path / "nemo.jsonl").write_bytes((FOREIGN / f"{writer}-nemo.jsonl").read_bytes())
    assert found(nemo_segments(tmp_path / "nemo.jsonl")) == SPOKEN
    (tmp_path / "train.tsv").write_bytes((FOREIGN / f"{writer}-common-voice.tsv").read_bytes())
    (tmp_path / "clips").mkdir()
    for number in range(3):
        (tmp_path / "clips" / f"cv_{number}.mp3").write_bytes(b"x")
    assert [text for *_, text in found(common_voice_segments(tmp_path, "train"))] == texts
    (tmp_path / "wavs").mkdir()
    for number in range(3):
        (tmp_path / "wavs" / f"LJ{number}.wav").touch()
    (tmp_path / "metadata.csv").write_bytes((FOREIGN / f"{writer}-ljspeech.csv").read_bytes())
    assert [text for *_, text in found(ljspeech_segments(tmp_path))] == texts


def test_bullets_of_chat(tmp_path: Path) -> None:
    (tmp_path / "a.cha").write_text(
        "@UTF8\n@Begin\n@Participants:\tCHI Adam Target_Child, MOT Mother\n*CHI:\tI want \x15100_900\x15 this\n\tnow . \x15950_1500\x15\n"
        '%mor:\tn|x\n*MOT:\tyes . \x15%snd:"talk_1"_1500_2500\x15\n*MOT:\tno time .\n@End\n'
    )
    result = list(chat_reader([])(Timed(tmp_path / "a.cha", Path("a.wav"), "a", "family")))
    assert found(result) == [("family-Adam", 0.1, 1.5, "I want this now ."), ("family-MOT", 1.5, 2.5, "yes .")]
    assert [str(one) for one in result if isinstance(one, Bad)] == ["a.cha line 8: a-MOT-00008: has no time bullet; left out"]
    (tmp_path / "b.cha").write_text("hello\n")
    (tmp_path / "b.wav").touch()
    assert "has no @Begin; it is no CHAT file" in refused("chat", tmp_path / "b.cha", tmp_path)


def test_label_tracks(tmp_path: Path) -> None:
    assert [text for *_, text in found(label_segments(timed("crowsetta-audacity.txt")))] == ["He said hi", "5 xmin = 3", "Café, naïve"]
    (tmp_path / "a.txt").write_text(
        '1,000000\t2,500000\tsay "hi"\n\\\t100.0\t4000.0\n3.0\t3.0\tclick\n3.5\tbeep\n4.0\t5.0\t\n4.0\t5.0\n6.0 7.0 spaces\n'
    )
    result = list(label_segments(Timed(tmp_path / "a.txt", Path("a.wav"), "a", None)))
    assert found(result) == [(None, 1.0, 2.5, 'say "hi"')]
    bad = [str(one) for one in result if isinstance(one, Bad)]
    assert ["marks a point, which lasts no time" in one for one in bad] == [True, True, False]
    assert "is no start, end and label with tabs between" in bad[2]
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("\n")
    assert "holds no label" in refused("audacity", tmp_path / "a.txt", tmp_path)


def test_exports_of_label_studio(tmp_path: Path) -> None:
    for name in ("talk.wav", "talks/other.wav", "third.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    result = list(label_studio_segments(FOREIGN / "label-studio.json", tmp_path))
    assert found(result) == [
        ("Anna", 1.0, 2.5, 'He said "hi" & left'),
        ("Ben", 2.75, 3.5, "5 xmin = 3"),
        ("Anna", 4.0, 5.25, "Café, naïve"),
        ("Ben", 0.5, 1.5, "second talk"),
    ]
    assert [one.recording.name for one in result if isinstance(one, Segment)] == ["talk.wav"] * 3 + ["other.wav"]
    assert [str(one) for one in result if isinstance(one, Bad)] == [
        "label-studio.json task 1 region r4: has no text; left out",
        "label-studio.json task 3: nobody has annotated it; left out",
    ]
    assert "has no `annotations`; choose JSON in Label Studio's export, not JSON-MIN" in refused(
        "label-studio", FOREIGN / "label-studio-min.json", tmp_path
    )


def test_tasks_of_label_studio_that_cannot_be_taken_are_named(tmp_path: Path) -> None:
    result = [{"id": "r", "type": "textarea", "value": {"start": 0, "end": 1, "text": ["hello"]}}]
    one, data = {"result": result}, {"audio": "/data/upload/1/talk.wav"}
    tasks = [
        {"id": 1, "data": data, "annotations": [one, one]},
        {"id": 2, "data": {"audio": "https://host/gone.wav?x=1"}, "annotations": [one]},
        {"id": 3, "data": {"text": "hello"}, "annotations": [one]},
        {"id": 4, "data": data, "annotations": [{"result": 3}]},
        {"id": 5, "data": data, "annotations": 3},
        {"id": 6, "data": {"audio": "/data/local-files/?d=../talk.wav"}, "annotations": [one]},
    ]
    place = tmp_path / "in"
    place.mkdir()
    (tmp_path / "talk.wav").touch()
    (place / "a.json").write_text(json.dumps(tasks))
    error = refused("label-studio", place / "a.json", tmp_path)
    for message in (
        "task 1: has 2 annotations; mark one as ground truth",
        "task 2: no gone.wav in",
        "task 3: its data names no recording",
        "task 4: its annotation has no list `result`",
        "task 5: its `annotations` are no list",
        "task 6: no talk.wav in",
    ):
        assert message in error
    for content, message in (("{}", "is no list of tasks"), ("[]", "holds no task"), ("[", "JSON")):
        (place / "a.json").write_text(content)
        assert message in refused("label-studio", place / "a.json", tmp_path)


def test_common_voice_keeps_its_splits_and_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(4):
        (tmp_path / "clips" / f"cv_{number}.mp3").write_bytes(b"x")
    head = "client_id\tpath\tsentence\tup_votes\n"
    rows = ['c1\tcv_0.mp3\t"So, he said.\t2', 'c1\tcv_1.mp3\t"""Go,"" he said."\t2', "c2\tcv_2.mp3\t\t2", 'c3\tcv_3.mp3\t"Yes."\t2']
    (tmp_path / "train.tsv").write_text(head + "\n".join(rows) + "\n")
    (tmp_path / "test.tsv").write_text(head + "c9\tcv_3.mp3\tOther.\t2\n")
    result = list(common_voice_segments(tmp_path, "train"))
    assert [(one.speaker, one.text) for one in result if isinstance(one, Segment)] == [
        ("c1", '"So, he said.'),
        ("c1", '"Go," he said.'),
        ("c3", '"Yes."'),
    ]
    assert ["has no sentence" in str(one) and one.expected for one in result if isinstance(one, Bad)] == [True]
    assert [one.text for one in common_voice_segments(tmp_path / "test.tsv") if isinstance(one, Segment)] == ["Other."]
    assert "choose one of its tables with --split: test, train" in refused("common-voice", tmp_path, tmp_path)
    assert "has no table dev.tsv: test, train" in refused("common-voice", tmp_path, tmp_path, "--split", "dev")
    assert "--split: is for a language's folder" in refused("common-voice", tmp_path / "test.tsv", tmp_path, "--split", "dev")


@pytest.mark.parametrize(
    "name", sorted(file.name for file in FOREIGN.iterdir() if file.suffix in (".srt", ".vtt") and file.stem != "whisperx")
)
def test_subtitles_of_other_writers(name: str) -> None:
    texts = ['He said "hi" & left', "5 xmin = 3", "Café, naïve second line"]
    assert found(subtitle_segments(timed(name))) == [
        (None, start_s, end_s, text) for (start_s, end_s), text in zip(((1.0, 2.5), (2.75, 3.5), (4.0, 5.25)), texts, strict=True)
    ]


def test_a_long_cue_is_cut_at_its_inline_times(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:01.000 --> 00:11.000\n<v Anna>one <00:03.000>two &amp; <00:05.500><c>three</c>\n<00:09.000>four\n\n"
        "00:12.000 --> 00:22.000\nno inline times\n\n00:23.000 --> 00:33.000\nfive <00:22.000>six\n"
    )
    file = Timed(tmp_path / "a.vtt", Path("a.wav"), "a", None)
    texts = ["one two & three four", "no inline times", "five six"]
    assert [text for *_, text in found(subtitle_segments(file))] == texts
    assert [text for *_, text in found(subtitle_segments(file, 10.0))] == texts
    parts = list(subtitle_segments(file, 5.0))
    assert found(parts) == [
        ("Anna", 1.0, 5.5, "one two &"),
        ("Anna", 5.5, 9.0, "three"),
        ("Anna", 9.0, 11.0, "four"),
        (None, 12.0, 22.0, "no inline times"),
        (None, 23.0, 33.0, "five six"),
    ]
    assert len({one.id for one in parts if isinstance(one, Segment)}) == 5


READERS: dict[str, Callable[[Path], Iterable[Segment | Bad]]] = {
    ".TextGrid": lambda path: textgrid_reader(["*"], tier_is_speaker=True)(Timed(path, Path("talk.wav"), "talk", None)),
    ".eaf": lambda path: elan_reader(["*"])(Timed(path, Path("talk.wav"), "talk", None)),
    ".cha": lambda path: chat_reader([])(Timed(path, Path("talk.wav"), "talk", None)),
    ".txt": lambda path: label_segments(Timed(path, Path("talk.wav"), "talk", None)),
    ".srt": lambda path: subtitle_segments(Timed(path, Path("talk.wav"), "talk", None)),
    ".vtt": lambda path: subtitle_segments(Timed(path, Path("talk.wav"), "talk", None)),
    ".json": lambda path: label_studio_segments(path, path.parent),
    ".stm": lambda path: stm_segments(path, path.parent),
    ".ctm": lambda path: ctm_segments(path, path.parent),
}
INSERTED = (b"-1", b"1e999", b"nan", b'"', b"<", b"]", b"null", b"{}", b"\t", b"9" * 30)


def damaged(content: bytes, source: random.Random) -> bytes:
    """A file with bytes changed, cut out, said twice, or put in."""
    for _ in range(source.randint(1, 6)):
        place, length = source.randrange(len(content) + 1), source.randint(1, 30)
        before, after = content[:place], content[place:]
        ways = (bytes([source.randrange(256)]) + after[1:], after[length:], after[:length] + after, source.choice(INSERTED) + after)
        content = before + source.choice(ways)
    return content


@pytest.mark.parametrize("name", sorted(file.name for file in FOREIGN.iterdir() if file.suffix in READERS))
def test_a_damaged_file_is_read_or_refused_and_never_a_traceback(name: str, tmp_path: Path) -> None:
    source, file = random.Random(name), tmp_path / name
    (tmp_path / "talk.wav").touch()
    content, outcomes = (FOREIGN / name).read_bytes(), list[str]()
    for _ in range(60):
        file.write_bytes(damaged(content, source))
        try:
            list(without_marks(joined(READERS[file.suffix](file), 0.3, 5), "chat", allow_empty=False))
            outcomes.append("")
        except ManifestError as error:
            outcomes.append(str(error))
    assert all(str(file) in refusal for refusal in outcomes if refusal), "each refusal names the file"
