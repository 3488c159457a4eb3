"""`moonshine-lora align`: a long recording and what was read in it become clips with text, and a manifest of them."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lora.audio.loading import EncodedAudio, FileAudio, encode_flac
from lora.console import add_device, language_code, one_channel, positive_int, positive_number
from lora.corpora.build import Bad, Choice, Item, build, describe
from lora.corpora.recordings.segments import read_text
from lora.errors import AlignmentError, ConfigError
from lora.longform.script import tokens
from lora.system.terminal import say

if TYPE_CHECKING:
    from lora.longform.clips import Clip, Source

MOST_ERRORS: Final = 0.3
"""Share of a clip's letters that may differ. Tiny mishears 5 to 10 % of those of read speech; other speech differs in 70 % and more."""

LEAST_MATCHED: Final = 0.2
"""Share of the heard words that must match: below, the script belongs to another recording."""

SHOWN: Final = 20
BATCH: Final = 32
"""How many pieces are decoded together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `moonshine-lora align`."""
    from lora.longform.command import add_model_flags

    parser.add_argument("recording", type=Path, metavar="RECORDING", help="a recording of any length")
    parser.add_argument("script", type=Path, metavar="SCRIPT", help="what is said in it, as plain text: a script, a chapter, minutes")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the manifest to write; its clips go into <stem>_audio/")
    add_model_flags(parser)
    parser.add_argument("--language", type=language_code, metavar="LANG", help="language of the speech (default: the adapter's, or en)")
    parser.add_argument("--speaker", metavar="NAME", help="who speaks, for splits by speaker")
    parser.add_argument("--channel", type=one_channel, metavar="1|2|mix", help="one channel, or the mean of all")
    parser.add_argument("--track", type=positive_int, metavar="N", help="which of several audio tracks, counted from 1")
    parser.add_argument("--max-seconds", type=positive_number, default=30.0, metavar="X", help="longest clip, 5 to 30 s (default: 30)")
    parser.add_argument(
        "--max-errors",
        type=positive_number,
        default=MOST_ERRORS,
        metavar="X",
        help="leave out clips if a larger share of their letters differs from what the model hears (default: %(default)s)",
    )
    add_device(parser)
    parser.add_argument("--left-out", type=Path, metavar="FILE", help="write all clips that are left out, with the reason, as .tsv")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --output")


def execute(options: argparse.Namespace) -> int:
    """Aligns, cuts, and reports what was left out."""
    from lora.longform.command import require_longest, take_run
    from lora.system.files import atomic_file, require_writable

    require_longest(options.max_seconds)
    take_run(options)
    if options.model_id is None:
        raise ConfigError("--model-id is not set; give it, or --run")
    script = tokens(read_text(options.script))
    if not script:
        raise AlignmentError(f"{options.script}: holds no word")
    for path in (options.output, options.left_out):
        if path is not None:
            require_writable(path)
    source, found = _aligned(options, script)
    taken = [clip for clip in found if clip.match.reason is None]
    items, choice = _items(options, source, taken), Choice(max_s=options.max_seconds)
    summary = build(items, choice, options.output, "path", overwrite=options.overwrite)
    for line in describe(options.output, replace(summary, bad=[])):
        say(line)
    left = [clip for clip in found if clip.match.reason is not None]
    if left:
        say(f"left out {len(left)} of {len(found)} clips:")
    for clip in left[:SHOWN]:
        say(f"  {clip.times}: {clip.match.reason}")
    if len(left) > SHOWN:
        say(f"  and {len(left) - SHOWN} more; --left-out FILE writes all")
    if options.left_out is not None:
        with atomic_file(options.left_out) as stream:
            lines = [f"{c.passage.start_s:.2f}\t{c.passage.end_s:.2f}\t{c.match.reason}\t{c.passage.text}\n" for c in left]
            stream.write(("start\tend\treason\theard\n" + "".join(lines)).encode())
    return 0


def _aligned(options: argparse.Namespace, script: Sequence[str]) -> tuple["Source", list["Clip"]]:
    from lora.longform.clips import Source, aligned
    from lora.longform.pieces import pieces
    from lora.longform.recording import Listener
    from lora.transcribe import Request, open_transcriber

    model, adapter = options.model_id, options.adapter_dir
    transcriber = open_transcriber(
        Request(model, options.revision, adapter, None, options.device, "float32", BATCH, None, options.language)
    )
    file = FileAudio(options.recording, options.channel, options.track)
    listener = Listener(transcriber, timed=True, mended=False)
    (heard,) = listener(pieces(0, file, options.max_seconds, transcriber.audio))
    if not heard.speech:
        raise AlignmentError(f"{options.recording}: no speech found; check that it is the right recording, channel and track")
    source = Source(file, listener, script, options.max_errors)
    found = aligned(source, heard.passages)
    taken = sum(clip.match.stop - clip.match.start for clip in found if clip.match.reason is None)
    if taken < LEAST_MATCHED * sum(len(passage.text.split()) for passage in heard.passages):
        raise AlignmentError(f"{options.script}: is not what {options.recording} says: {taken} words of it are heard; give the right one")
    return source, found


def _items(options: argparse.Namespace, source: "Source", clips: Sequence["Clip"]) -> Iterator[Item | Bad]:
    """The clips with their sound, read as needed: never the whole recording."""
    for number, (clip, samples) in enumerate(zip(clips, source.sounds(clips), strict=True), start=1):
        name = f"{options.recording.stem}-{number:04d}"
        text = " ".join(source.script[clip.match.start : clip.match.stop])
        yield Item(name, EncodedAudio(encode_flac(samples), f"{name}.flac"), text, options.speaker, clip.times)
