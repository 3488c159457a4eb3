"""The commands behind `scripts/`: their flags, and what they call. Nothing heavy is imported before a command runs."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from lora.console import ArgumentParser, channel_or_split, int_from_zero, number_from_zero, positive_int, positive_number
from lora.corpora.build import BAD_SHOWN, Bad, Choice, Item, Summary, build, describe, merge
from lora.corpora.hub import LIBRISPEECH, HubSource, items
from lora.corpora.local import SpeakerFrom, folder_items
from lora.corpora.recordings.beside import Where, folder_timed, found_recording
from lora.corpora.recordings.cutter import PADDING_S, Cutter
from lora.corpora.recordings.kaldi import is_kaldi, kaldi_segments
from lora.corpora.recordings.ljspeech import is_ljspeech, ljspeech_segments
from lora.corpora.recordings.subtitles import SUFFIXES, WHAT, subtitle_segments, without_transcript
from lora.corpora.tables import CsvSource, Delimiter, Quotes, csv_items
from lora.dataset.manifest import MIN_S, Rules
from lora.errors import ConfigError
from lora.system.terminal import say

HUB_COLUMNS = HubSource("", "")
CSV_COLUMNS = CsvSource(Path())


def build_manifest(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """`scripts/build_manifest.py`: a split of a speech dataset as a manifest."""
    parser = ArgumentParser(prog=prog, description="Write a split of a speech dataset, from the hub or a local folder, as a manifest.")
    _add_dataset(parser, config=None, split="test.clean")
    _add_columns(parser)
    add_choice(parser, seed=0)
    add_sound(parser)
    add_output(parser)
    options = parser.parse_args(arguments)
    return build_chosen(_hub_items(options), options)


def build_domain_manifest(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """`scripts/build_domain_manifest.py`: the same for domain speech, which may also be a folder or a table of own recordings."""
    parser = ArgumentParser(
        prog=prog,
        description="Write domain speech as a manifest: a dataset of the hub or a local copy, a folder of recordings, or a table.",
    )
    own = parser.add_mutually_exclusive_group()
    own.add_argument(
        "--from-folder",
        type=Path,
        metavar="DIR",
        help="audio files with their transcripts in .txt, or subtitles in .srt or .vtt files beside them; a subfolder's name is the "
        "speaker's; or a Kaldi data directory",
    )
    own.add_argument("--csv", type=Path, metavar="FILE", help="a table with the columns file, text, speaker; .tsv for tabs; or LJSpeech's")
    _add_own(parser)
    _add_dataset(parser, config="other", split="test")
    _add_columns(parser)
    add_choice(parser, seed=42)
    add_sound(parser)
    add_output(parser)
    options = parser.parse_args(arguments)
    cutter = cutter_of(options)
    return build_chosen(_domain_items(options, cutter), options, cutter)


def merge_manifests(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """`scripts/merge_manifests.py`: several manifests as one, every recording once."""
    parser = ArgumentParser(prog=prog, description="Merge manifests into one that holds every recording once.")
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--allow-outside-paths", action="store_true", help="allow audio paths outside a manifest's folder")
    parser.add_argument("--skip-bad", action="store_true", help="skip unusable lines, and list them")
    add_output(parser)
    options = parser.parse_args(arguments)
    summary = merge(
        options.manifests,
        options.output,
        options.audio,
        overwrite=options.overwrite,
        allow_outside=options.allow_outside_paths,
        skip_bad=options.skip_bad,
    )
    return _report(options, summary)


def _add_own(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("own recordings")
    group.add_argument(
        "--speaker-from", choices=get_args(SpeakerFrom), help="which folder names the speaker, if files are more than one folder deep"
    )
    group.add_argument("--audio-dir", type=Path, metavar="DIR", help="folder of the table's recordings (default: the table's folder)")
    group.add_argument(
        "--delimiter", choices=get_args(Delimiter), help="what separates the table's columns (default: depends on its suffix)"
    )
    group.add_argument(
        "--quotes",
        choices=get_args(Quotes),
        help="whether quotes enclose the table's cells or are plain characters (default: plain with tabs, otherwise csv)",
    )


def _add_dataset(parser: argparse.ArgumentParser, *, config: str | None, split: str) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument("--dataset", default=LIBRISPEECH, help="hub id or local folder in the same layout (default: %(default)s)")
    group.add_argument("--config", default=config, help="the dataset's configuration" + (f" (default: {config})" if config else ""))
    group.add_argument("--split", default=split, help="e.g. test.clean, or test with --config clean (default: %(default)s)")
    group.add_argument("--revision", help="commit, tag or branch on the hub (default: the newest)")
    group.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="read only the I-th of N shares of the split's files, for a corpus in parts (default: all)",
    )


def _add_columns(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns")
    for name, default in (("audio", "audio"), ("text", "text"), ("speaker", "speaker_id"), ("id", "id")):
        without = ", or none to do without" if name in ("speaker", "id") else ""
        group.add_argument(f"--{name}-column", metavar="NAME", help=f"column with the {name}{without} (default: {default})")


def add_choice(parser: argparse.ArgumentParser, *, seed: int) -> None:
    group = parser.add_argument_group("choice")
    group.add_argument("--samples", type=positive_int, metavar="N", help="draw N random recordings (default: take all)")
    group.add_argument("--seed", type=int_from_zero, default=seed, metavar="S", help="seed of the random choice (default: %(default)s)")
    group.add_argument("--limit", type=positive_int, metavar="N", help="take the first N recordings and read no further")
    group.add_argument("--hours", type=positive_number, metavar="H", help="take the first H hours")
    for flag, limit, what in (("--min-seconds", float(MIN_S), "shorter"), ("--max-seconds", Rules().max_s, "longer")):
        group.add_argument(flag, type=number_from_zero, default=limit, metavar="T", help=f"skip {what} recordings (default: %(default)s)")
    group.add_argument("--skip-bad", action="store_true", help="skip unusable rows, and list them")
    group.add_argument("--allow-empty-text", action="store_true", help="allow recordings without a text, for silence")


def add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, required=True, metavar="FILE", help="the manifest to write")
    group.add_argument(
        "--audio",
        choices=("inline", "path"),
        default="path",
        help="write audio files into <output's stem>_audio/, or the samples into the manifest itself (default: %(default)s)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing files")


def add_sound(
    parser: argparse.ArgumentParser, split: str = "every channel a recording of its own, with NAME.1.txt and NAME.2.txt beside NAME.wav"
) -> None:
    group = parser.add_argument_group("sound")
    group.add_argument(
        "--channel",
        type=channel_or_split,
        metavar="1|2|split|mix",
        help=f"one channel, the mean of all, or {split} (default: the mean, if all channels hold the same sound)",
    )
    group.add_argument("--track", type=positive_int, metavar="N", help="number of the audio track, from 1")


def _domain_items(options: argparse.Namespace, cutter: Cutter) -> Iterator[Item | Bad]:
    for name, source in (("speaker_from", "from_folder"), ("audio_dir", "csv"), ("delimiter", "csv"), ("quotes", "csv")):
        if getattr(options, name) is not None and getattr(options, source) is None:
            raise ConfigError(f"--{name.replace('_', '-')}: is for --{source.replace('_', '-')}; leave it out")
    if options.part is not None and (options.from_folder or options.csv) is not None:
        raise ConfigError("--part: is for a dataset's files; leave it out")
    if options.from_folder is not None:
        if given := [flag for flag in ("audio", "text", "speaker", "id") if getattr(options, f"{flag}_column") is not None]:
            raise ConfigError(f"--{given[0]}-column: a folder has no columns; leave it out")
        return _folder_items(options, cutter)
    if options.csv is not None and _says_nothing_of_the_table(options) and is_ljspeech(options.csv):
        return cutter(ljspeech_segments(options.csv))
    if options.csv is not None:
        return csv_items(
            CsvSource(
                options.csv,
                audio_column=options.audio_column or CSV_COLUMNS.audio_column,
                text_column=options.text_column or CSV_COLUMNS.text_column,
                speaker_column=_optional(options.speaker_column, CSV_COLUMNS.speaker_column),
                id_column=_optional(options.id_column, CSV_COLUMNS.id_column),
                audio_dir=options.audio_dir,
                delimiter=options.delimiter,
                quotes=options.quotes,
            )
        )
    return _hub_items(options)


def _says_nothing_of_the_table(options: argparse.Namespace) -> bool:
    """Whether no flag sets the format of a table, so that it is detected."""
    flags = ("audio_column", "text_column", "speaker_column", "id_column", "audio_dir", "delimiter", "quotes")
    return all(getattr(options, flag) is None for flag in flags)


def _folder_items(options: argparse.Namespace, cutter: Cutter) -> Iterator[Item | Bad]:
    """Recordings with transcripts beside them, and those that have subtitles in their place; or a Kaldi data directory."""
    folder: Path = options.from_folder
    split = options.channel == "split"
    if folder.is_dir() and is_kaldi(folder):
        if options.speaker_from is not None or split:
            raise ConfigError("--speaker-from and --channel split are not for a Kaldi data directory, whose utt2spk names the speakers")
        return cutter(kaldi_segments(folder))
    subtitles = [] if split or not folder.is_dir() else without_transcript(folder)
    if not subtitles:
        return folder_items(folder, options.speaker_from, split=split)
    recordings = frozenset(filter(None, map(found_recording, subtitles)))
    plain = folder_items(folder, options.speaker_from, elsewhere=recordings)
    timed = folder_timed(folder, Where(SUFFIXES, WHAT, speaker_from=options.speaker_from), subtitle_segments, subtitles)
    return itertools.chain(plain, cutter(timed))


def _hub_items(options: argparse.Namespace) -> Iterator[Item | Bad]:
    return items(
        HubSource(
            options.dataset,
            options.split,
            config=options.config,
            audio_column=options.audio_column or HUB_COLUMNS.audio_column,
            text_column=options.text_column or HUB_COLUMNS.text_column,
            speaker_column=_optional(options.speaker_column, HUB_COLUMNS.speaker_column),
            id_column=_optional(options.id_column, HUB_COLUMNS.id_column),
            revision=options.revision,
            part=options.part,
        )
    )


def _part(text: str) -> tuple[int, int]:
    """An `argparse` type: number and count of a part."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be a part's number and how many there are, such as 3/10, not {text}")
    return int(number), int(count)


def _optional(given: str | None, default: str | None) -> str | None:
    if given is None:
        return default
    return None if given == "none" else given


def _parts(source: Iterator[Item | Bad], options: argparse.Namespace) -> Iterator[Item | Bad]:
    """The items with the channel and track that the flags name."""
    for item in source:
        yield item if isinstance(item, Bad) else replace(item, audio=item.audio.part(options.channel, options.track))


def cutter_of(options: argparse.Namespace, padding_s: float = PADDING_S) -> Cutter:
    """What cuts long recordings by these flags."""
    channel = None if options.channel == "split" else options.channel
    split = options.channel == "split"
    return Cutter(padding_s, options.max_seconds, options.min_seconds, channel, options.track, split)


def build_chosen(source: Iterator[Item | Bad], options: argparse.Namespace, cutter: Cutter | None = None) -> int:
    """Writes the manifest that the flags ask for, and says what is in it, with what `cutter` saw. Raises as `build` does."""
    if options.channel == "split":
        if getattr(options, "from_folder", None) is None or options.track is not None:
            raise ConfigError("--channel split is for --from-folder, without --track: each channel has a transcript of its own there")
    elif (options.channel or options.track) is not None:
        source = _parts(source, options)
    if options.min_seconds > options.max_seconds:
        raise ConfigError(f"--min-seconds {options.min_seconds:g} is over --max-seconds {options.max_seconds:g}")
    if options.samples is not None and (options.limit or options.hours) is not None:
        raise ConfigError("--samples draws from all recordings, --limit and --hours take the first ones; leave either out")
    choice = Choice(
        samples=options.samples,
        seed=options.seed,
        limit=options.limit,
        hours=options.hours,
        min_s=options.min_seconds,
        max_s=options.max_seconds,
        skip_bad=options.skip_bad,
        allow_empty_text=options.allow_empty_text,
    )
    code = _report(options, build(source, choice, options.output, options.audio, overwrite=options.overwrite))
    overlaps = cutter.overlaps if cutter is not None else []
    for line in overlaps[:BAD_SHOWN]:
        say(line)
    if len(overlaps) > BAD_SHOWN:
        say(f"and {len(overlaps) - BAD_SHOWN} more overlap")
    return code


def _report(options: argparse.Namespace, summary: Summary) -> int:
    for line in describe(options.output, summary):
        say(line)
    return 0
