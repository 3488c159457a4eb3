"""`moonshine-lora manifest import`: recordings with times, as other tools write them, become clips and a manifest."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

from lora.console import ArgumentParser, number_from_zero
from lora.corpora.build import Bad
from lora.corpora.commands import add_choice, add_output, add_sound, build_chosen, cutter_of
from lora.corpora.local import SpeakerFrom
from lora.corpora.recordings.kaldi import kaldi_segments
from lora.corpora.recordings.ljspeech import ljspeech_segments
from lora.corpora.recordings.nemo import nemo_segments
from lora.corpora.recordings.segments import PADDING_S, Segment
from lora.corpora.recordings.subtitles import folder_segments, recording_of, subtitle_segments
from lora.errors import ConfigError, ManifestError

Segments = Iterator[Segment | Bad]


def import_recordings(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """`moonshine-lora manifest import FORM SOURCE`: cuts recordings at the times that a source gives."""
    parser = ArgumentParser(prog=prog, description="Cut recordings at the times that subtitles or a corpus give, as a manifest of clips.")
    forms = parser.add_subparsers(dest="form", metavar="FORM", required=True)
    for name, (help_text, add_own, _) in FORMS.items():
        form = forms.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        add_own(form)
        _add_common(form)
    options = parser.parse_args(arguments)
    cutter = cutter_of(options, options.padding)
    segments = FORMS[options.form][2](options)
    options.channel, options.track = (options.channel if options.channel == "split" else None), None  # the cutter's now
    return build_chosen(cutter(segments), options, cutter)


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cutting")
    group.add_argument(
        "--padding",
        type=number_from_zero,
        default=PADDING_S,
        metavar="T",
        help="seconds added before and after each segment, at most to the middle of the pause beside it (default: %(default)s)",
    )
    add_choice(parser, seed=0)
    add_sound(parser)
    add_output(parser)


def _add_subtitles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="an .srt or .vtt file, or a folder of recordings with theirs")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="what the subtitles are of (default: the file of their name beside)")
    parser.add_argument(
        "--speaker-from", choices=get_args(SpeakerFrom), help="folder that names the speaker, where files lie deeper than one folder"
    )


def _subtitles(options: argparse.Namespace) -> Segments:
    source: Path = options.source
    if source.is_dir():
        if options.recording is not None:
            raise ConfigError("--recording: is for one subtitle file; in a folder each lies beside its recording")
        return folder_segments(source, options.speaker_from)
    if options.speaker_from is not None:
        raise ConfigError("--speaker-from: is for a folder; leave it out")
    if not source.is_file():
        raise ManifestError(f"{source}: no such file or folder")
    return subtitle_segments(source, options.recording or recording_of(source), source.stem, None)


def _add_nemo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="MANIFEST", help="JSON lines with audio_filepath, text, offset, duration, speaker")
    _add_audio_dir(parser, "beside the manifest")


def _nemo(options: argparse.Namespace) -> Segments:
    return nemo_segments(options.source, _audio_dir(options))


def _add_kaldi(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="DIR", help="a folder with wav.scp and text, and mostly segments and utt2spk")
    _add_audio_dir(parser, "in the folder, or where the command runs")


def _kaldi(options: argparse.Namespace) -> Segments:
    return kaldi_segments(options.source, _audio_dir(options))


def _add_ljspeech(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="metadata.csv, or the folder that holds it and wavs/")
    parser.add_argument("--normalised", action="store_true", help="take the third cell of each row, where numbers are words")


def _ljspeech(options: argparse.Namespace) -> Segments:
    return ljspeech_segments(options.source, normalised=options.normalised)


def _add_audio_dir(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--audio-dir", type=Path, metavar="DIR", help=f"what the recordings' paths are relative to (default: {default})")


def _audio_dir(options: argparse.Namespace) -> Path | None:
    folder: Path | None = options.audio_dir
    if folder is not None and not folder.is_dir():
        raise ManifestError(f"--audio-dir {folder}: no such folder")
    return folder


_Form = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Segments]]

FORMS: Final[dict[str, _Form]] = {
    "subtitles": ("SRT or WebVTT beside a recording", _add_subtitles, _subtitles),
    "nemo": ("a NeMo manifest, or one of the official Moonshine trainer", _add_nemo, _nemo),
    "kaldi": ("a Kaldi data directory", _add_kaldi, _kaldi),
    "ljspeech": ("LJSpeech's metadata.csv and wavs/", _add_ljspeech, _ljspeech),
}
"""What each form is called in a list, its flags, and its segments."""
