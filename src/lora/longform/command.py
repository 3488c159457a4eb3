"""`moonshine-lora transcribe`: flags, checks before anything is loaded, and what is printed."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lora.console import TAGS_FLAG, add_computing, channel_or_split, language_code, positive_int, positive_number, tokens_per_second
from lora.language import Language, metric
from lora.system.terminal import say, shown

if TYPE_CHECKING:
    from lora.transcribe import Result, RuntimeTranscriber, Transcriber

LEAST_CERTAIN: Final = 5
"""How many uncertain passages are listed."""

SHORTEST_S: Final = 5.0
LONGEST_S: Final = 30.0
"""What Moonshine was trained on. Of longer clips it leaves words out, or adds some at both ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `moonshine-lora transcribe`."""
    from lora.runtimes.runtime import RUNTIMES

    add_model_flags(parser)
    parser.add_argument("--runtime", choices=RUNTIMES, help="transcribe with an exported model in this runtime, instead of --model-id")
    parser.add_argument("--export-dir", type=Path, metavar="DIR", help="with --runtime: the output folder of `moonshine-lora export`")
    parser.add_argument(
        "--processor-dir", type=Path, metavar="DIR", help="a run's processor/ folder, instead of the checkpoint's processor"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", type=Path, metavar="FILE", help="transcribe a manifest, and score lines that have a text")
    source.add_argument("--audio", type=Path, nargs="+", metavar="FILE", help="transcribe audio files")
    parser.add_argument(
        "--channel",
        type=channel_or_split,
        metavar="1|2|split|mix",
        help="with --audio: one channel, every channel by itself, or their mean (default: the mean, if all hold the same sound)",
    )
    parser.add_argument("--track", type=positive_int, metavar="N", help="with --audio: number of the audio track, from 1")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write all results as .json, one utterance per line as .jsonl, text as .txt, a table as .tsv; of one recording subtitles as "
        ".srt or .vtt, tiers as .TextGrid or .eaf",
    )
    parser.add_argument(
        "--word-times",
        action="store_true",
        help="give each word its time and a confidence, in .json, .jsonl and .tsv; .srt shows single words, .vtt holds their times",
    )
    add_computing(parser)
    parser.add_argument("--eval-batch-size", type=positive_int, default=32, metavar="N", help="largest batch in decoding (default: 32)")
    parser.add_argument(
        "--tokens-per-second",
        type=tokens_per_second,
        metavar="X",
        help="without an adapter: limit on tokens per second of audio (default: 6.5 for English, 13 for other languages)",
    )
    parser.add_argument("--language", type=language_code, metavar="LANG", help="language of the speech (default: the adapter's, or en)")
    parser.add_argument(
        "--max-seconds",
        type=positive_number,
        default=30.0,
        metavar="X",
        help="with --audio: longest piece that a recording is cut into at pauses, 5 to 30 s; with --manifest: longest utterance allowed "
        "(default: 30)",
    )
    parser.add_argument("--allow-outside-paths", action="store_true", help="allow audio paths outside the manifest's folder")
    parser.add_argument("--tags", **TAGS_FLAG)
    parser.add_argument("--equivalents", type=Path, metavar="FILE", help="file of forms that count as the same, one group per line: a = b")
    parser.add_argument(
        "--terms", type=Path, metavar="FILE", help="list of terms, one per line: measure how many are found, and false alarms"
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name a model, for all commands that transcribe."""
    parser.add_argument("--run", type=Path, metavar="RUN", help="a run's folder: its tuned model")
    parser.add_argument("--model-id", metavar="TEXT", help="instead of a run: hub id, local folder or packaged:moonshine-tiny")
    parser.add_argument("--revision", metavar="TEXT", help="commit, tag or branch of a hub checkpoint")
    parser.add_argument("--adapter-dir", type=Path, metavar="DIR", help="an adapter of --model-id, such as a run's lora_adapter/ folder")


def take_run(options: argparse.Namespace) -> None:
    """Puts the model of `--run` in the place of the flags that would name it.

    Raises `ConfigError` if both are given, `CheckpointError` for a folder without a tuned model.
    """
    from lora.checkpoints.provenance import tuned_by
    from lora.errors import ConfigError

    if options.run is None:
        return
    for name in ("model_id", "revision", "adapter_dir", "language"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--run names model, adapter and language; leave out --{name.replace('_', '-')}")
    found = tuned_by(options.run)
    options.model_id, options.revision, options.adapter_dir = found.model_id, found.revision, found.adapter_folder


def execute(options: argparse.Namespace) -> int:
    """Transcribes, prints, and writes `--output`."""
    from lora.errors import ConfigError
    from lora.system.files import require_writable

    _require_one_model(options)
    if options.manifest is not None and (options.channel or options.track) is not None:
        raise ConfigError("--channel and --track are for --audio; a manifest's rows have the fields `channel` and `track`")
    _require_lengths(options)
    if options.output is not None:
        from lora.longform.output import require_kind

        split = options.channel == "split"  # several results of one file
        require_kind(options.output, None if options.manifest is not None else 2 if split else len(options.audio))
        require_writable(options.output)
    from lora.model.loading import choose_device
    from lora.system import distributed

    with distributed.joined(choose_device(options.device)):
        _shared(options)
    return 0


def _require_lengths(options: argparse.Namespace) -> None:
    """Raises `ConfigError` for pieces that the model does not do well, and for times that a runtime cannot tell."""
    from lora.errors import ConfigError
    from lora.longform.output import needs_words

    if options.runtime is not None:
        if options.word_times or needs_words(options.output):
            raise ConfigError(
                "--word-times, .srt, .vtt, .TextGrid and .eaf need the decoder's attention, which runtimes keep; leave out --runtime"
            )
        return
    if options.audio is not None:
        require_longest(options.max_seconds)


def require_longest(longest_s: float) -> None:
    """Raises `ConfigError` for a longest piece that the model does not do well."""
    from lora.errors import ConfigError

    if not SHORTEST_S <= longest_s <= LONGEST_S:
        raise ConfigError(
            f"--max-seconds {longest_s:g}: recordings are cut into pieces of up to {SHORTEST_S:g} to {LONGEST_S:g} s; "
            "of longer ones the model leaves words out, and of shorter ones it hears too little"
        )


def _shared(options: argparse.Namespace) -> None:
    """All processes transcribe; the main one prints."""
    from lora.longform.output import write_result
    from lora.scoring.reader_errors import table
    from lora.system import distributed
    from lora.text.terms import read_terms
    from lora.transcribe import open_runtime, read_again, with_terms

    transcriber = open_runtime(options.runtime, options.export_dir) if options.runtime else _with_pytorch(options)
    language = transcriber.language
    equivalents = table(options.equivalents, language) if options.equivalents is not None else None
    terms = read_terms(options.terms, language) if options.terms is not None else None
    result = _result(options, transcriber)
    if equivalents is not None:
        result = read_again(result, equivalents, language)
    if terms is not None:
        result = with_terms(result, terms, language)
    if not distributed.is_main():
        return
    if options.output is not None:
        write_result(result, options.output, language, word_times=options.word_times)
    _tell(result, language)
    if options.word_times:
        for line in _least_certain(result):
            say(line, sys.stderr)


def _result(options: argparse.Namespace, transcriber: "Transcriber | RuntimeTranscriber") -> "Result":
    from lora.dataset.manifest import Rules
    from lora.longform.output import needs_words
    from lora.longform.recording import timed_clips, transcribe_files
    from lora.transcribe import Choice, RuntimeTranscriber, from_files, from_manifest, named

    choice, timed = Choice(options.channel, options.track), options.word_times or needs_words(options.output)
    if options.manifest is None:
        if isinstance(transcriber, RuntimeTranscriber):
            return transcriber(*from_files(options.audio, options.max_seconds, transcriber.audio, choice))
        return transcribe_files(transcriber, named(options.audio, choice), options.max_seconds, timed=timed)
    rules = Rules(
        max_s=options.max_seconds,
        require_text=False,
        allow_outside=options.allow_outside_paths,
        language=transcriber.language,
        tags=options.tags,
    )
    utterances, lengths_s = from_manifest(options.manifest, rules, transcriber.audio)
    if timed and not isinstance(transcriber, RuntimeTranscriber):
        return timed_clips(transcriber, utterances)
    return transcriber(utterances, lengths_s)


def _tell(result: "Result", language: Language) -> None:
    """Transcripts on standard output, a line each; rates and doubts on standard error."""
    from lora.transcribe import summary_lines

    for row in result.utterances:
        rate = [f"{metric(language)} {100 * row.wer:.1f} %"] if row.wer is not None else []
        print("\t".join([shown(row.id), shown(row.text), *rate, *(f"[{mark}]" for mark in row.marks)]))
    for line in summary_lines(result, language):
        say(line, sys.stderr)


def _least_certain(result: "Result") -> Iterator[str]:
    """The passages of whose words the model is least sure, where there are more than are told."""
    passages = [(row, passage, passage.words) for row in result.utterances for passage in row.passages if passage.words]
    if len(passages) <= LEAST_CERTAIN:
        return
    yield "least certain:"
    mean = {id(passage): sum(word.confidence for word in said) / len(said) for _, passage, said in passages}
    for row, passage, _ in sorted(passages, key=lambda one: mean[id(one[1])])[:LEAST_CERTAIN]:
        times = f"{passage.start_s:.1f} to {passage.end_s:.1f} s"
        yield f"  {100 * mean[id(passage)]:.0f} %  {shown(row.id)}, {times}: {shown(passage.text)}"


def _with_pytorch(options: argparse.Namespace) -> "Transcriber":
    from lora.transcribe import Request, open_transcriber

    return open_transcriber(
        Request(
            model_id=options.model_id,
            revision=options.revision,
            adapter_folder=options.adapter_dir,
            processor_folder=options.processor_dir,
            device=options.device,
            precision=options.precision,
            batch_size=options.eval_batch_size,
            tokens_per_second=options.tokens_per_second,
            language=options.language,
        )
    )


def _require_one_model(options: argparse.Namespace) -> None:
    """Raises `ConfigError` if the model is unclear or a flag would be ignored, `OnDeviceError` if the runtime is missing."""
    from lora.errors import ConfigError
    from lora.runtimes.runtime import require_runtimes

    if options.runtime is None:
        if options.export_dir is not None:
            raise ConfigError("--export-dir needs --runtime, which says what it is to run in")
        take_run(options)
        if options.model_id is None:
            raise ConfigError("--model-id is not set; give it, or --run, or --runtime with --export-dir")
        return
    if options.run is not None:
        raise ConfigError("--run is computed by PyTorch; with --runtime give --export-dir, such as RUN/export")
    if options.export_dir is None:
        raise ConfigError(f"--runtime {options.runtime} needs --export-dir, the folder that `moonshine-lora export` made")
    for name in ("model_id", "revision", "adapter_dir", "processor_dir", "tokens_per_second", "language"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is part of the export; leave it out with --runtime")
    require_runtimes([options.runtime])
    if (options.device, options.precision) not in (("auto", "float32"), ("cpu", "float32")):
        raise ConfigError("--device and --precision are PyTorch's; leave them out with --runtime")
