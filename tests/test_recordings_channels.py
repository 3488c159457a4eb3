"""Recordings of several channels become manifests: the channel that a file names, a speaker on each side."""

from dataclasses import replace
from pathlib import Path

import soundfile
from timed import (
    FORMS,
    Clip,
    as_srt,
    clock,
)
from timed_import import imported, made, two_sides

from lora.audio.loading import AudioSettings, FileAudio, load, waveform_hash
from lora.dataset.manifest import Rules, read
from lora.units import SAMPLE_RATE_HZ


def test_an_stm_takes_the_channel_that_it_names(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    call = two_sides(tmp_path, file, clips[:4])
    (tmp_path / "call.stm").write_text(
        "".join(f"call {'AB'[n % 2]} s{n % 2} {c.start_s:.3f} {c.end_s:.3f} {c.text}\n" for n, c in enumerate(clips[:4]))
    )
    assert call.exists()
    options = ("--padding", 0, "--max-seconds", 60, "--overwrite")
    for channel, kept in (((), clips[:4]), (("--channel", 2), clips[1:4:2]), (("--channel", "split"), clips[:4])):
        back = list(made("stm", tmp_path / "call.stm", *options, *channel))
        assert [waveform_hash(load(one.audio, AudioSettings())) for one in back] == [waveform_hash(clip.samples) for clip in kept]
    soundfile.write(call, load(FileAudio(call, 1), AudioSettings()), SAMPLE_RATE_HZ)
    result = imported("stm", tmp_path / "call.stm", "--output", tmp_path / "m.jsonl")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "has no channel 2, only 1" in result.err


def test_a_speaker_on_each_side_becomes_two_speakers(packaged: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    file, clips = packaged
    call = two_sides(tmp_path, file, clips[:4])
    (tmp_path / "in").mkdir()
    expected = [waveform_hash(clip.samples) for clip in clips[:4]]
    for form, speakers in (
        (FORMS["srt"], ["long-1", "long-2"] * 2),
        (FORMS["chat"], ["anna", "ben"] * 2),
    ):
        named = [replace(clip, speaker=("anna", "ben")[place % 2]) for place, clip in enumerate(clips[:4])]
        source = form.write(tmp_path / "in", call, named)
        options = ("--padding", 0, "--max-seconds", 60, "--channel", "split", "--overwrite")
        back = list(made(form.name, source, *options))
        assert [one.speaker_id for one in back] == speakers
        assert [waveform_hash(load(one.audio, AudioSettings())) for one in back] == expected
    result = imported("subtitles", tmp_path / "in" / "long.srt", "--output", tmp_path / "m.jsonl")
    assert result.code == 2
    assert "hold different sounds" in result.err
    result = imported("subtitles", tmp_path / "in" / "long.srt", "--output", tmp_path / "m.jsonl", "--channel", "split", "--track", 1)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--track: a recording that is split has one track" in result.err


def test_segments_of_both_sides_at_once_are_unclear_and_subtitles_may_be_of_one_side(
    packaged: tuple[Path, list[Clip]], tmp_path: Path
) -> None:
    file, clips = packaged
    call = two_sides(tmp_path, file, clips[:2])
    both = f"1\n{clock(clips[0].start_s, ',')} --> {clock(clips[1].end_s, ',')}\nboth\n"
    (tmp_path / "call.srt").write_text(both)
    output = tmp_path / "m.jsonl"
    result = imported("subtitles", call.with_suffix(".srt"), "--output", output, "--channel", "split", "--max-seconds", 60, "--padding", 0)
    assert "so its side is unclear; left out" in result.out + result.err
    (tmp_path / "call.srt").unlink()
    for side, clip in ((1, clips[0]), (2, clips[1])):
        (tmp_path / f"call.{side}.srt").write_text(f"1\n{clock(clip.start_s, ',')} --> {clock(clip.end_s, ',')}\n{clip.text}\n")
    result = imported("subtitles", tmp_path, "--output", output, "--channel", "split", "--max-seconds", 60, "--padding", 0)
    assert result.code == 0, result.err
    back = list(read(output, Rules(max_s=60)))
    assert [waveform_hash(load(one.audio, AudioSettings())) for one in back] == [waveform_hash(clip.samples) for clip in clips[:2]]
    (tmp_path / "mono").mkdir()
    result = imported("subtitles", as_srt(tmp_path / "mono", file, clips), "--output", tmp_path / "n.jsonl", "--channel", "split")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "holds one channel, which cannot be split" in result.err
