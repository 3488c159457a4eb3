"""`moonshine-lora manifest import`: recordings with times, as other tools write them, become clips and a manifest."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, get_args

from lora.console import ArgumentParser, number_from_zero
from lora.corpora.build import Bad
from lora.corpora.commands import add_choice, add_output, add_sound, build_chosen, cutter_of
from lora.corpora.local import SpeakerFrom
from lora.corpora.recordings import audacity, chat, elan, nist, subtitles, textgrid
from lora.corpora.recordings.beside import Reader, Where, read_timed
from lora.corpora.recordings.commonvoice import common_voice_segments
from lora.corpora.recordings.cutter import PADDING_S
from lora.corpora.recordings.kaldi import kaldi_segments
from lora.corpora.recordings.labelstudio import label_studio_segments
from lora.corpora.recordings.ljspeech import ljspeech_segments
from lora.corpora.recordings.marks import without_marks
from lora.corpora.recordings.nemo import nemo_segments
from lora.corpora.recordings.segments import Segment
from lora.corpora.recordings.words import WORD_PAUSE_S, joined
from lora.errors import ConfigError, ManifestError
from lora.text.conventions import Notation

Segments = Iterator[Segment | Bad]


@dataclass(frozen=True, slots=True)
class Form:
    """A form of recordings with times: its flags, what it gives, and whose marks its texts hold."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    segments: Callable[[argparse.Namespace], Segments]
    notation: Notation = "general"


def import_recordings(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """`moonshine-lora manifest import FORM SOURCE`: cuts recordings at the times that a source gives."""
    parser = ArgumentParser(prog=prog, description="Cut recordings at the times that subtitles or a corpus give, as a manifest of clips.")
    forms = parser.add_subparsers(dest="form", metavar="FORM", required=True)
    for name, form in FORMS.items():
        command = forms.add_parser(name, help=form.help, description=form.help[0].upper() + form.help[1:] + ".")
        form.add_arguments(command)
        _add_common(command)
    options = parser.parse_args(arguments)
    if options.channel == "split" and options.track is not None:
        raise ConfigError("--track: a recording that is split has one track; leave it out")
    cutter = cutter_of(options, options.padding)
    segments = _as_said(FORMS[options.form], options)
    options.channel, options.track = None, None  # the cutter's now
    return build_chosen(cutter(segments), options, cutter)


def _as_said(form: Form, options: argparse.Namespace) -> Segments:
    segments = form.segments(options)
    if getattr(options, "join", None) is not None:
        segments = joined(segments, options.join, options.max_seconds)
    if options.keep_conventions:
        return segments
    return without_marks(segments, form.notation, allow_empty=options.allow_empty_text)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-conventions", action="store_true", help="leave fillers, false starts and marks as their transcribers wrote them"
    )
    group = parser.add_argument_group("cutting")
    group.add_argument(
        "--padding",
        type=number_from_zero,
        default=PADDING_S,
        metavar="T",
        help="seconds added before and after each segment, at most to the middle of the pause beside it (default: %(default)s)",
    )
    add_choice(parser, seed=0)
    add_sound(parser, split="each segment from the channel that it is said on")
    add_output(parser)


def _add_timed(parser: argparse.ArgumentParser, what: str) -> None:
    """Flags of a form with a file for each recording."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help=f"{what}, or a folder of them, each beside its recording")
    parser.add_argument(
        "--recording", type=Path, metavar="FILE", help="the recording of the file (default: the recording of the same name in its folder)"
    )
    _add_audio_dir(parser, "beside each file")
    parser.add_argument(
        "--speaker-from", choices=get_args(SpeakerFrom), help="which folder names the speaker, if files are more than one folder deep"
    )


def _timed(options: argparse.Namespace, suffixes: frozenset[str], what: str, read: Reader) -> Segments:
    split = options.channel == "split"
    return read_timed(options.source, Where(suffixes, what, options.recording, _audio_dir(options), options.speaker_from, split), read)


def _add_subtitles(parser: argparse.ArgumentParser) -> None:
    _add_timed(parser, "an .srt or .vtt file")


def _subtitles(options: argparse.Namespace) -> Segments:
    return _timed(options, subtitles.SUFFIXES, subtitles.WHAT, partial(subtitles.subtitle_segments, longest_s=options.max_seconds))


def _add_tiers(parser: argparse.ArgumentParser, what: str, default: str = "the only one that holds text") -> None:
    parser.add_argument(
        "--tier", action="append", default=[], metavar="NAME", help=f"{what}; may be given again, and may hold * (default: {default})"
    )


def _add_textgrid(parser: argparse.ArgumentParser) -> None:
    _add_timed(parser, "a .TextGrid")
    _add_tiers(parser, "tier to take")
    parser.add_argument("--tier-speakers", action="store_true", help="each tier is a speaker, and its name the speaker's")
    _add_join(parser, None)


def _textgrid(options: argparse.Namespace) -> Segments:
    read = textgrid.textgrid_reader(options.tier, tier_is_speaker=options.tier_speakers)
    return _timed(options, textgrid.SUFFIXES, textgrid.WHAT, read)


def _add_elan(parser: argparse.ArgumentParser) -> None:
    _add_timed(parser, "an .eaf")
    _add_tiers(parser, "tier to take")
    _add_join(parser, None)


def _elan(options: argparse.Namespace) -> Segments:
    return _timed(options, elan.SUFFIXES, elan.WHAT, elan.elan_reader(options.tier))


def _add_list(parser: argparse.ArgumentParser, what: str) -> None:
    """Flags of a form with one file for many recordings."""
    parser.add_argument("source", type=Path, metavar="FILE", help=what)
    _add_audio_dir(parser, "beside it")


def _add_stm(parser: argparse.ArgumentParser) -> None:
    _add_list(parser, "segments: file, channel, speaker, start, end, text")


def _stm(options: argparse.Namespace) -> Segments:
    return nist.stm_segments(options.source, _audio_dir(options))


def _add_ctm(parser: argparse.ArgumentParser) -> None:
    _add_list(parser, "words: file, channel, start, duration, word")
    _add_join(parser, WORD_PAUSE_S)


def _ctm(options: argparse.Namespace) -> Segments:
    return nist.ctm_segments(options.source, _audio_dir(options))


def _add_chat(parser: argparse.ArgumentParser) -> None:
    _add_timed(parser, "a .cha")
    _add_tiers(parser, "code of the speaker to take, such as MOT", "all")


def _chat(options: argparse.Namespace) -> Segments:
    return _timed(options, chat.SUFFIXES, chat.WHAT, chat.chat_reader(options.tier))


def _add_audacity(parser: argparse.ArgumentParser) -> None:
    _add_timed(parser, "an exported label track")
    _add_join(parser, None)


def _audacity(options: argparse.Namespace) -> Segments:
    return _timed(options, audacity.SUFFIXES, audacity.WHAT, audacity.label_segments)


def _add_label_studio(parser: argparse.ArgumentParser) -> None:
    _add_list(parser, "an export as JSON")


def _label_studio(options: argparse.Namespace) -> Segments:
    return label_studio_segments(options.source, _audio_dir(options))


def _add_common_voice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a .tsv beside clips/, or the folder of a language")
    parser.add_argument("--split", metavar="NAME", help="of a folder, which table: train, dev, test, validated or another")


def _common_voice(options: argparse.Namespace) -> Segments:
    return common_voice_segments(options.source, options.split)


def _add_join(parser: argparse.ArgumentParser, default: float | None) -> None:
    shown = "%(default)s" if default is not None else "leave them apart"
    parser.add_argument(
        "--join",
        type=number_from_zero,
        default=default,
        metavar="T",
        help="make one segment of a speaker's pieces, such as words, with no pause over T seconds between; one over --max-seconds is cut "
        f"at its longest pause (default: {shown})",
    )


def _add_nemo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="MANIFEST", help="JSON lines with audio_filepath, text, offset, duration, speaker")
    _add_audio_dir(parser, "beside the manifest")


def _nemo(options: argparse.Namespace) -> Segments:
    return nemo_segments(options.source, _audio_dir(options))


def _add_kaldi(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="DIR", help="a folder with wav.scp, text and, usually, segments and utt2spk")
    _add_audio_dir(parser, "in the folder, or where the command runs")


def _kaldi(options: argparse.Namespace) -> Segments:
    return kaldi_segments(options.source, _audio_dir(options))


def _add_ljspeech(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="metadata.csv, or the folder of metadata.csv and wavs/")
    parser.add_argument("--normalised", action="store_true", help="use the third cell of each row, in which numbers are spelled out")


def _ljspeech(options: argparse.Namespace) -> Segments:
    return ljspeech_segments(options.source, normalised=options.normalised)


def _add_audio_dir(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--audio-dir", type=Path, metavar="DIR", help=f"folder of the recordings (default: {default})")


def _audio_dir(options: argparse.Namespace) -> Path | None:
    folder: Path | None = options.audio_dir
    if folder is not None and not folder.is_dir():
        raise ManifestError(f"--audio-dir {folder}: no such folder")
    return folder


FORMS: Final[dict[str, Form]] = {
    "subtitles": Form("SRT or WebVTT beside a recording", _add_subtitles, _subtitles),
    "textgrid": Form("intervals of Praat's TextGrids", _add_textgrid, _textgrid),
    "elan": Form("annotations of ELAN's tiers", _add_elan, _elan),
    "chat": Form("CHAT files of TalkBank and CHILDES", _add_chat, _chat, "chat"),
    "audacity": Form("Audacity's label tracks", _add_audacity, _audacity),
    "ctm": Form("words of a NIST CTM", _add_ctm, _ctm, "nist"),
    "stm": Form("segments of a NIST STM", _add_stm, _stm, "nist"),
    "label-studio": Form("Label Studio's JSON export", _add_label_studio, _label_studio),
    "nemo": Form("a NeMo manifest, or one of the official Moonshine trainer", _add_nemo, _nemo),
    "kaldi": Form("a Kaldi data directory", _add_kaldi, _kaldi),
    "common-voice": Form("Common Voice as it is unpacked", _add_common_voice, _common_voice),
    "ljspeech": Form("LJSpeech's metadata.csv and wavs/", _add_ljspeech, _ljspeech),
}
"""What each form is called on the command line."""
