"""Recordings with times: every form gives the same clips, cut at the sample, and what cannot be cut is named."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import ROOT, moonshine_lora
from test_docs import chosen
from timed import (
    FORMS,
    PAUSE_S,
    Clip,
    as_audacity,
    as_chat,
    as_ctm,
    as_elan,
    as_kaldi,
    as_label_studio,
    as_nemo,
    as_srt,
    as_stm,
    as_textgrid,
    as_vtt,
    joined,
    words_of,
)
from timed_import import imported, made, two_sides

from lora.audio.loading import AudioSettings, FileAudio, Span, encode_flac, fingerprint, load, waveform_hash
from lora.corpora.recordings.beside import Timed
from lora.corpora.recordings.segments import Segment
from lora.corpora.recordings.subtitles import subtitle_segments
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.units import SAMPLE_RATE_HZ

DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip]]:
    """Five minutes and more of AN4 and LibriSpeech as one recording."""
    if not DATA.exists():
        pytest.skip("needs shared/data")
    found = []
    for name, count in (("an4/test.jsonl", 60), ("librispeech/heldout.jsonl", 15)):
        for one in list(read(DATA / name, Rules(max_s=40)))[:count]:
            found.append((one.id, one.text or "", load(one.audio, AudioSettings()), one.speaker_id or ""))
    long, clips = joined([(f"c{number:03d}", *rest) for number, (_, *rest) in enumerate(found)])
    assert len(long) > 300 * SAMPLE_RATE_HZ
    file = tmp_path_factory.mktemp("corpus") / "long.flac"
    file.write_bytes(encode_flac(long))
    return file, clips


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip]]:
    """An hour and a half of LibriSpeech and AN4 as one recording."""
    if not DATA.exists():
        pytest.skip("needs shared/data")
    found = []
    for name in ("librispeech/heldout", "an4/train", "librispeech/replay", "an4/test"):
        for one in read(DATA / f"{name}.jsonl", Rules(max_s=40)):
            found.append((f"c{len(found):04d}", one.text or "", load(one.audio, AudioSettings()), one.speaker_id or ""))
    long, clips = joined(found)
    assert len(long) > 90 * 60 * SAMPLE_RATE_HZ
    file = tmp_path_factory.mktemp("hours") / "long.flac"
    file.write_bytes(encode_flac(long))
    return file, clips


@pytest.mark.parametrize("sound", ["packaged", "corpus"])
@pytest.mark.parametrize("name", FORMS)
def test_clips_come_back_by_sample_text_and_speaker(name: str, sound: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file, clips = request.getfixturevalue(sound)
    form = FORMS[name]
    (tmp_path / "in").mkdir()
    back = list(made(form.name, form.write(tmp_path / "in", file, clips), "--padding", 0, "--max-seconds", 60, *form.options))
    assert [one.text for one in back] == [" ".join(clip.text.split()) for clip in clips]
    sounds = [waveform_hash(load(one.audio, AudioSettings())) for one in back]
    assert sounds == [waveform_hash(clip.samples) for clip in clips]
    assert [one.speaker_id for one in back] == [clip.speaker if form.speakers else None for clip in clips]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_clips_of_ninety_minutes_come_back(name: str, hours: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = hours
    form = FORMS[name]
    (tmp_path / "in").mkdir()
    back = list(made(form.name, form.write(tmp_path / "in", file, clips), "--padding", 0, "--max-seconds", 60, *form.options))
    assert [one.text for one in back] == [" ".join(clip.text.split()) for clip in clips]
    assert [waveform_hash(load(one.audio, AudioSettings())) for one in back] == [waveform_hash(clip.samples) for clip in clips]


def test_padding_reaches_to_the_middle_of_a_pause_and_never_into_a_neighbour(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    (tmp_path / "in").mkdir()
    source = as_nemo(tmp_path / "in", file, clips[:3])
    long = load(FileAudio(file), AudioSettings())
    half = int(PAUSE_S / 2 * SAMPLE_RATE_HZ)
    for padding, before in ((0.1, 1600), (9, half)):
        back = list(made("nemo", source, "--padding", padding, "--max-seconds", 60, "--overwrite"))
        middle = load(back[1].audio, AudioSettings())
        start, end = (round(time * SAMPLE_RATE_HZ) for time in (clips[1].start_s, clips[1].end_s))
        assert waveform_hash(middle) == waveform_hash(long[start - before : end + before])
        first = load(back[0].audio, AudioSettings())
        assert waveform_hash(first) == waveform_hash(long[: round(clips[0].end_s * SAMPLE_RATE_HZ) + before]), "before it is nothing"


def test_adjacent_and_overlapping_segments_get_no_padding_and_are_reported(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, _ = packaged
    for name, lines in {
        "segments": "a rec 1 3\nb rec 3 5\nc rec 4.5 6\n",
        "text": "a one\nb two\nc three\n",
        "utt2spk": "a anna\nb ben\nc cleo\n",
        "wav.scp": f"rec {file}\n",
    }.items():
        (tmp_path / name).write_text(lines)
    result = imported("kaldi", tmp_path, "--padding", 0.2, "--output", tmp_path / "m.jsonl")
    assert result.code == 0, result.err
    assert "b and c overlap by 0.50 s, ben and cleo" in result.out
    lengths = [one.declared_s for one in read(tmp_path / "m.jsonl", Rules())]
    assert lengths == [2.2, 2.0, 1.7]


def test_what_lasts_too_long_is_left_out_by_name_and_stops_nothing(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    source = as_nemo(tmp_path, file, clips)
    longest = max(clip.end_s - clip.start_s for clip in clips)
    result = imported("nemo", source, "--output", tmp_path / "m.jsonl", "--max-seconds", longest - 0.1)
    assert result.code == 0, result.err
    assert f"lasts {longest:.1f} s, over --max-seconds" in result.out
    assert "left out 1 bad rows" in result.out
    assert len(read(tmp_path / "m.jsonl", Rules(max_s=60))) == len(clips) - 1


def test_all_that_is_wrong_is_named_at_once_and_skip_bad_leaves_it_out(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, _ = packaged
    (tmp_path / "wav.scp").write_text(f"rec {file}\npipe sph2pipe -f wav {tmp_path / 'made'} |\ngone nowhere.wav\n")
    times = (
        "good rec 0 2",
        "late rec 0 9999",
        "zero rec 3 3",
        "back rec 5 4",
        "neg rec -1 2",
        "gone gone 0 1",
        "p pipe 0 1",
        "nan rec nan 2",
    )
    names = [line.split()[0] for line in times]
    (tmp_path / "segments").write_text("\n".join(times) + "\n")
    (tmp_path / "text").write_text("".join(f"{name} hello\n" for name in names) + "other hello\n")
    output = tmp_path / "out" / "m.jsonl"
    result = imported("kaldi", tmp_path, "--output", output)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    for part in (
        "not written, for 8 bad rows",
        "pipe: is a command, and nothing is executed",
        "gone: nowhere.wav: no such file",
        "late: goes from 0 to 9999 s, and long.flac lasts",
        "zero: goes from 3 to 3 s, which is no time",
        "back: goes from 5 to 4 s",
        "neg: starts at -1 s, before the recording",
        "nan: its times are no numbers",
        "other: is not in segments",
    ):
        assert part in result.err, part
    assert not output.parent.exists() or not list(output.parent.iterdir())
    result = imported("kaldi", tmp_path, "--output", output, "--skip-bad")
    assert result.code == 0, result.err
    assert [one.id for one in read(output, Rules())] == ["good"]
    assert not (tmp_path / "made").exists()


def test_a_recording_in_which_nobody_speaks_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", np.zeros(9 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nhello\n\n2\n00:00:04,000 --> 00:00:06,000\nthere\n")
    result = imported("subtitles", tmp_path, "--output", tmp_path / "m.jsonl")
    assert (result.code, result.out) == (2, "")
    assert "talk.wav" in result.err
    assert "no speech found in its 2 segments" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.srt", "talk.wav"]


def texts(tmp_path: Path, name: str, content: str) -> list[tuple[str, float, float | None]]:
    (tmp_path / name).write_text(content)
    found = list(subtitle_segments(Timed(tmp_path / name, tmp_path / "x.wav", "x", None)))
    return [(one.text, one.start_s, one.end_s) for one in found if isinstance(one, Segment)]


def test_rolling_captions_are_said_once(tmp_path: Path) -> None:
    rolling = (
        "WEBVTT\nKind: captions\n\n00:00:00.000 --> 00:00:02.000 align:start position:0%\n \nso<00:00:00.500><c> it begins</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\nso it begins\n \n\n"
        "00:00:02.010 --> 00:00:04.000\nso it begins\nand<00:00:03.000><c> goes on</c>\n\n"
        "00:00:04.000 --> 00:00:04.010\nand goes on\n \n\n00:09.000 --> 00:10.000\nand goes on\n"
    )
    assert texts(tmp_path, "a.vtt", rolling) == [("so it begins", 0.0, 2.01), ("and goes on", 2.01, 4.01), ("and goes on", 9.0, 10.0)]


def test_marks_of_subtitles_are_no_words(tmp_path: Path) -> None:
    content = (
        "WEBVTT\n\nSTYLE\n::cue(v) { color: red }\n\nREGION\nid:fred\n\nintro\n00:01.000 --> 00:02.000 region:fred\n"
        "<c.yellow.bg_blue>Fish &amp; chips</c> &lt;3,&nbsp;it&#39;s <i>good</i>\n\n"
        "00:03.000 --> 00:04.000\n<ruby>word<rt>reading</rt></ruby> &notaname; AT&T\n\n01:00:05.000 --> 01:00:06.000\n&lrm;\n"
    )
    assert texts(tmp_path, "a.vtt", content) == [("Fish & chips <3, it's good", 1.0, 2.0), ("word &notaname; AT&T", 3.0, 4.0)]
    srt = '1\n00:00:01,000 --> 00:00:02,000 X1:10 Y1:20\n{\\an8}<font color="red">One</font>\n\n'
    srt += "- two\n\n2\n01:00:03,500 --> 01:00:04,000\n7\n"
    assert texts(tmp_path, "a.srt", srt) == [("One two", 1.0, 2.0), ("7", 3603.5, 3604.0)]


def test_bad_subtitles_are_refused_by_one_line(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, _ = packaged
    (tmp_path / "long.flac").write_bytes(file.read_bytes())
    cue = "00:00:01,000 --> 00:00:02,000\nhello\n"
    cases = {
        "long.srt": ("", "holds no cue with times"),
        "long.vtt": (cue, "does not begin with WEBVTT"),
        "alone.srt": (cue, "lacks its recording, alone.wav or the like, beside it"),
        "long.en.srt": ("00:61:00,000 --> x\nhello\n" + cue, "long.en.srt line 1: its times cannot be read"),
        "long.de.srt": ("00:00:01,000 --> 02:00:02,000\nhello\n", "goes from 1 to 7202 s, and long.flac lasts"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content)
        result = imported("subtitles", tmp_path / name, "--output", tmp_path / "m.jsonl")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
        assert message in result.err
    result = imported("subtitles", tmp_path, "--output", tmp_path / "m.jsonl")
    assert result.code == 2
    assert "other subtitles" in result.err
    assert not list(tmp_path.glob("m*"))


def test_two_voices_in_one_cue_are_left_out_by_name(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Anna>Hello\n<v Ben>Yes\n\n00:02.000 --> 00:04.000\n<v Ben>Go on.\n"
    )
    result = imported("subtitles", tmp_path / "a.vtt", "--recording", packaged[0], "--output", tmp_path / "m.jsonl")
    assert result.code == 0, result.err
    assert "Anna and Ben speak in one cue" in result.out
    assert [(one.text, one.speaker_id) for one in read(tmp_path / "m.jsonl", Rules())] == [("Go on.", "Ben")]


def test_rows_of_the_official_trainer_and_rows_that_contradict_themselves(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    (tmp_path / "one.flac").write_bytes(encode_flac(clips[0].samples))
    length_s = clips[0].end_s - clips[0].start_s
    rows = [
        {"path": "one.flac", "transcript": clips[0].text, "seconds": round(length_s, 2), "speaker": 7},
        {
            "wav": str(file),
            "text": clips[1].text,
            "offset": clips[1].start_s,
            "duration": clips[1].end_s - clips[1].start_s,
            "id": "second",
        },
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = made("nemo", tmp_path / "m.jsonl", "--max-seconds", 60)
    assert (first.id, first.speaker_id, second.id, second.speaker_id) == ("one-1", "7", "second", None)
    bad = [
        {"path": "one.flac", "transcript": "a", "text": "b"},
        {"path": "one.flac", "text": "a", "seconds": length_s + 3},
        {"path": "one.flac", "text": "a", "offset": "x", "duration": 1},
        {"path": "one.flac"},
        {"text": "a"},
        {"audio_filepath": "gone.flac", "text": "a", "offset": 0, "duration": 1},
    ]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad) + "[1]\n{\n")
    result = imported("nemo", tmp_path / "bad.jsonl", "--output", tmp_path / "out.jsonl")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "for 8 bad rows" in result.err
    for part in (
        "text and transcript, which differ",
        "give the part's `offset`",
        "offset: must be a number",
        "has no `text`",
        "no such file",
    ):
        assert part in result.err, part


def test_ljspeech_takes_quotes_as_they_are(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    _, clips = packaged
    (tmp_path / "wavs").mkdir()
    for number, clip in enumerate(clips[:2], start=1):
        soundfile.write(tmp_path / "wavs" / f"LJ-{number}.wav", clip.samples, SAMPLE_RATE_HZ)
    (tmp_path / "metadata.csv").write_text('LJ-1|In 1455 he said "so|In fourteen fifty-five he said "so\nLJ-2|"Done, he|"Done, he said\n')
    assert [one.text for one in made("ljspeech", tmp_path, "--max-seconds", 60)] == ['In 1455 he said "so', '"Done, he']
    normalised = made("ljspeech", tmp_path / "metadata.csv", "--normalised", "--max-seconds", 60)
    assert [one.text for one in normalised] == ['In fourteen fifty-five he said "so', '"Done, he said']
    output = tmp_path / "domain.jsonl"
    result = moonshine_lora("manifest", "domain", "--csv", tmp_path / "metadata.csv", "--output", output, "--max-seconds", 60)
    assert result.code == 0, result.err
    assert len(read(output, Rules(max_s=60))) == 2
    (tmp_path / "metadata.csv").write_text("LJ-1|one|two|three\nLJ-9|gone\n")
    result = imported("ljspeech", tmp_path, "--output", tmp_path / "bad.jsonl")
    assert result.code == 2
    assert "line 1: has 4 cells" in result.err
    assert "no recording wavs/LJ-9.wav" in result.err


def test_a_folder_may_hold_transcripts_and_subtitles(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    place = tmp_path / "r" / "anna"
    place.mkdir(parents=True)
    as_srt(place, file, clips[:2])
    (place / "short.flac").write_bytes(encode_flac(clips[2].samples))
    (place / "short.txt").write_text(clips[2].text)
    output = tmp_path / "m.jsonl"
    result = moonshine_lora("manifest", "domain", "--from-folder", tmp_path / "r", "--output", output, "--max-seconds", 60)
    assert result.code == 0, result.err
    found = read(output, Rules(max_s=60))
    assert [one.text for one in found] == [clip.text for clip in (clips[2], *clips[:2])]
    assert found.speakers() == {"anna"}


def test_rows_may_point_into_a_long_file(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    (tmp_path / "long.flac").write_bytes(file.read_bytes())
    rows = [{"audio_filepath": "long.flac", "offset": c.start_s, "duration": c.end_s - c.start_s, "text": c.text} for c in clips]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = read(tmp_path / "m.jsonl", Rules(max_s=60))
    found = validate(manifest, Rules(max_s=60), AudioSettings())
    assert [one.sha256 for one in found] == [waveform_hash(clip.samples) for clip in clips]
    assert len({fingerprint(one.audio, AudioSettings()) for one in manifest}) == len(clips)
    merged = tmp_path / "merged" / "m.jsonl"
    result = moonshine_lora("manifest", "merge", tmp_path / "m.jsonl", "--output", merged)
    assert result.code == 0, result.err
    assert [one.sha256 for one in validate(read(merged, Rules(max_s=60)), Rules(max_s=60), AudioSettings())] == [
        one.sha256 for one in found
    ]


def test_parts_that_are_none_are_refused(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    (tmp_path / "long.flac").write_bytes(packaged[0].read_bytes())
    for extra, message in (
        ({"offset": 1}, "offset: is the start of a part in seconds, from 0, and needs its `duration`"),
        ({"offset": -1, "duration": 2}, "offset: is the start"),
        ({"offset": 1, "duration": 9999}, "is over --max-seconds"),
        ({"offset": 9998, "duration": 2}, "and the part ends at 10000.00 s"),
        ({"offset": 1, "duration": 2, "audio_filepath": "long.flac"}, "stands beside `audio`"),
    ):
        (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "long.flac", "text": "hello", **extra}) + "\n")
        result = moonshine_lora("transcribe", "--model-id", "packaged:moonshine-tiny", "--manifest", tmp_path / "m.jsonl")
        assert result.code == 2
        assert message in result.err
    assert Span.between(10.4, 22.5) == Span(166400, 193600)


def test_marks_are_taken_out_and_named_or_kept(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, _ = packaged
    lines = ["a %uh well [laughs] yes", "b so <unk> it", "c [music]", "d {gray / grey}"]
    (tmp_path / "wav.scp").write_text(f"rec {file}\n")
    (tmp_path / "segments").write_text("".join(f"{line[0]} rec {place} {place + 1}\n" for place, line in enumerate(lines)))
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    output = tmp_path / "m.jsonl"
    result = imported("kaldi", tmp_path, "--output", output)
    assert result.code == 0, result.err
    assert "b: words are missing where it says '<unk>'; left out" in result.out
    assert "c: holds marks and no word ('[music]'); left out" in result.out
    assert [one.text for one in read(output, Rules())] == ["uh well yes", "{gray / grey}"]
    imported("kaldi", tmp_path, "--output", output, "--keep-conventions", "--overwrite")
    assert [one.text for one in read(output, Rules())] == [line[2:] for line in lines]
    imported("kaldi", tmp_path, "--output", output, "--allow-empty-text", "--overwrite")
    assert [one.text for one in read(output, Rules(allow_empty_text=True))] == ["uh well yes", "", "{gray / grey}"]


def test_words_of_a_forced_aligner_are_the_transcript_again(tmp_path: Path) -> None:
    if not DATA.exists():
        pytest.skip("needs shared/data")
    known = {
        Path(str(one.audio)).stem: one
        for name in ("heldout", "replay")
        for one in read(DATA / "librispeech" / f"{name}.jsonl", Rules(max_s=40))
    }
    grids = [grid for grid in sorted((DATA / "alignments").glob("*.TextGrid")) if grid.stem in known][:6]
    (tmp_path / "in").mkdir()
    (tmp_path / "sound").mkdir()
    for grid in grids:
        (tmp_path / "in" / grid.name).write_bytes(grid.read_bytes())
        (tmp_path / "sound" / f"{grid.stem}.flac").write_bytes(known[grid.stem].audio.content())
    options = ("--tier", "words", "--audio-dir", tmp_path / "sound", "--max-seconds", 40)
    back = list(made("textgrid", tmp_path / "in", "--join", 10, *options))
    assert [one.text for one in back] == [(known[grid.stem].text or "").lower() for grid in grids]
    cut = list(made("textgrid", tmp_path / "in", "--join", 0.3, *options, "--overwrite"))
    assert len(cut) > 2 * len(back)
    assert " ".join(one.text or "" for one in cut) == " ".join(one.text or "" for one in back)


@pytest.mark.parametrize("command", chosen("moonshine-lora", needs="timed"), ids=str)
def test_documented_commands(command: object, packaged: tuple[Path, list[Clip]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder as docs/recordings.md describes it."""
    file, clips = packaged
    short = [clip for clip in clips if clip.end_s - clip.start_s < 29]
    call = two_sides(tmp_path, file, short[:4])
    for name in (
        "interviews",
        "family",
        "labelled",
        "uploads",
        "corpus/audio",
        "cv-corpus/en/clips",
        "calls",
        "sessions",
        "aligned",
        "talks/anna",
        "talks/ben",
        "corpus/data/train",
        "LJSpeech-1.1/wavs",
        "data",
    ):
        (tmp_path / name).mkdir(parents=True)
    as_srt(tmp_path / "talks/anna", file, short)
    as_vtt(tmp_path / "talks/ben", file, short)
    as_vtt(tmp_path, file, short).rename(tmp_path / "interview.vtt")
    (tmp_path / "long.flac").rename(tmp_path / "interview.wav")
    as_nemo(tmp_path / "corpus", file, short).rename(tmp_path / "corpus/train.json")
    as_kaldi(tmp_path / "corpus/data/train", file, short)
    as_textgrid(tmp_path / "sessions", file, [replace(clip, speaker=("anna", "ben")[place % 2]) for place, clip in enumerate(short)])
    as_textgrid(tmp_path / "aligned", file, [replace(word, speaker="words") for clip in short for word in words_of(clip)])
    as_elan(tmp_path / "interviews", file, short)
    eaf = tmp_path / "interviews/long.eaf"
    eaf.write_text(eaf.read_text().replace('-words"', '_utterance"'))
    as_chat(tmp_path / "family", file, short)
    cha = tmp_path / "family/long.cha"
    cha.write_text(cha.read_text().replace("S00", "MOT").replace("S01", "FAT"))
    as_audacity(tmp_path / "labelled", file, short)
    as_label_studio(tmp_path / "uploads", file, short).rename(tmp_path / "export.json")
    as_stm(tmp_path / "corpus", file, short).rename(tmp_path / "corpus/dev.stm")
    as_ctm(tmp_path / "corpus/audio", file, short).rename(tmp_path / "corpus/dev.ctm")
    (tmp_path / "cv-corpus/en/clips/cv_1.flac").write_bytes(encode_flac(short[0].samples))
    (tmp_path / "cv-corpus/en/train.tsv").write_text("client_id\tpath\tsentence\nc1\tcv_1.flac\tHello.\n")
    as_srt(tmp_path / "calls", call, short[:4])
    (tmp_path / "LJSpeech-1.1/wavs/LJ001-0007.flac").write_bytes(encode_flac(short[0].samples))
    (tmp_path / "LJSpeech-1.1/metadata.csv").write_text('LJ001-0007|In 1455 he said "so|In fourteen fifty-five he said "so\n')
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.text)[3:]  # type: ignore[attr-defined]
    result = moonshine_lora(*words)
    assert result.code == 0, result.err
    counts = {"ljspeech": 1, "common-voice": 1, "talks": 2 * len(short), "calls": 4}
    count = next((count for word, count in counts.items() if word in words), len(short))
    assert len(read(Path(words[-1]), Rules())) == count
