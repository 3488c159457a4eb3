"""Transcripts of files or a manifest with any checkpoint and adapter, or with an export in its runtime; scored where references exist."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from lora.audio.channels import Channel
from lora.audio.decoding import stored_format
from lora.audio.loading import AudioSettings, FileAudio, duration, load, require_file
from lora.checkpoints.checkpoint import resolve
from lora.dataset.checking import as_checked, validate
from lora.dataset.manifest import MIN_S, Rules, Utterance, read
from lora.errors import AudioError, CheckpointError, ConfigError, TooLongError
from lora.evaluation.evaluate import Evaluator, Example, score_transcripts
from lora.language import Language, metric, traits
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel, choose_device, load_for_use, load_model, load_processor_for_use, require_vocabulary
from lora.model.products import require_precision
from lora.model.transcript import DecodeSettings, Transcript
from lora.passages import Passage
from lora.report.terms import alarms, recall
from lora.runs.export_record import Exported, read_exported, require_unchanged
from lora.runtimes.runtime import Clip, RuntimeName
from lora.runtimes.runtime import transcribe as transcribe_on_device
from lora.scoring.counts import Counts, Freed, Tags, UtteranceScore, score_utterance, total
from lora.scoring.doubtful import Mark, marks, speech_in, summary
from lora.scoring.terms import TermScore, score_terms
from lora.system.device import Device, Precision
from lora.text.equivalents import Equivalents
from lora.text.terms import Terms
from lora.training import adapter as adapters
from lora.units import Seconds


@dataclass(frozen=True, slots=True)
class Request:
    """What to transcribe with what. `processor_folder` replaces the checkpoint's own processor."""

    model_id: str
    revision: str | None
    adapter_folder: Path | None
    processor_folder: Path | None
    device: Device
    precision: Precision
    batch_size: int
    tokens_per_second: float | None
    """Only for a model that is not from a run; a run's model is decoded as it was scored."""
    language: Language | None = None
    """Else that of the run that made adapter or checkpoint; without one English."""


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the output. Rates and `errors` are None if there is no reference."""

    id: str
    audio: str
    seconds: Seconds
    text: str
    capped: bool | None
    """None if a runtime does not tell."""
    reference: str | None = None
    wer: float | None = None
    """As a reader counts, as `errors` are: what is said the same way is the same."""
    errors: Counts | None = None
    standard_wer: float | None = None
    """As published rates count."""
    transcribe_s: Seconds | None = None
    """Time to the transcript in a runtime; None in PyTorch, where clips are decoded together."""
    channel: Channel | None = None
    track: int | None = None
    """Of the file; None if none was chosen."""
    marks: tuple[Mark, ...] = ()
    """Reasons why the transcript is doubtful."""
    terms: tuple[str, ...] = ()
    """Terms of the user's list that were heard; empty without a list."""
    passages: tuple[Passage, ...] = ()
    """Where a recording was cut, or word times were asked for: its pieces."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All rows and, where references exist, the corpus score over the rows that have one."""

    model_id: str
    adapter: str | None
    decode: DecodeSettings
    audio: AudioSettings
    utterances: tuple[Transcription, ...]
    scored: int = 0
    wer: float | None = None
    """The standard rate, which published ones compare with."""
    reader_wer: float | None = None
    """As a reader counts: numbers, units and compounds as they are said; tags count."""
    freed: Freed | None = None
    """Errors that a reader does not count because the user's table or alternatives say so."""
    tags: Tags | None = None
    reader: str | None = None
    """Rules of the reader's count."""
    cer: float | None = None
    raw_wer: float | None = None
    raw_cer: float | None = None
    normaliser: str | None = None
    terms: TermScore | None = None
    """How the user's terms were found; None without a list or without references."""
    runtime: str | None = None
    """Name of the on-device runtime; None for PyTorch."""
    real_time_factor: float | None = None
    """Real-time factor of a runtime."""


@dataclass(frozen=True)
class Transcriber:
    """A loaded model, its adapter folded in, with the settings that belong to it."""

    speech: LoadedModel
    decode: DecodeSettings
    audio: AudioSettings
    request: Request

    @property
    def language(self) -> Language:
        return self.speech.language

    @property
    def hearing(self) -> "Hearing":
        adapter = self.request.adapter_folder
        return Hearing(self.request.model_id, str(adapter) if adapter else None, self.decode, self.audio, self.language)

    def __call__(self, utterances: Sequence[Utterance], lengths_s: Sequence[Seconds]) -> Result:
        """Transcribes utterances; those with a text are scored."""
        examples = [Example(utterance, length_s, ()) for utterance, length_s in zip(utterances, lengths_s, strict=True)]
        features = LiveFeatures(self.speech, self.audio)
        found = Evaluator(self.speech, features, self.decode, self.request.batch_size).transcribe(examples)
        return result(examples, [Said(transcript.text, transcript.capped) for transcript in found], self.hearing)


@dataclass(frozen=True)
class RuntimeTranscriber:
    """An export in the runtime that it was made for, with the settings that its model was scored with."""

    runtime: RuntimeName
    folder: Path
    exported: Exported

    @property
    def audio(self) -> AudioSettings:
        return self.exported.audio

    @property
    def language(self) -> Language:
        return self.exported.language

    def __call__(self, utterances: Sequence[Utterance], lengths_s: Sequence[Seconds]) -> Result:
        """Transcribes utterances one by one; those with a text are scored. Raises `OnDeviceError` if the runtime fails."""
        examples = [Example(utterance, length_s, ()) for utterance, length_s in zip(utterances, lengths_s, strict=True)]
        decode = DecodeSettings(tokens_per_second=self.exported.tokens_per_second)
        clips = [Clip(one.utterance.id, load(one.utterance.audio, self.audio), decode.cap(one.length_s)) for one in examples]
        heard = transcribe_on_device(self.runtime, self.folder / self.runtime, self.exported.architecture or "", clips).heard
        hearing = Hearing(self.exported.model_id, self.exported.adapter_sha256, decode, self.audio, self.language)
        found = result(examples, [Said(one.text, one.capped, one.seconds) for one in heard], hearing)
        factor = sum(one.seconds for one in heard) / sum(lengths_s)
        return msgspec.structs.replace(found, runtime=self.runtime, real_time_factor=factor)


def open_runtime(runtime: RuntimeName, folder: Path) -> RuntimeTranscriber:
    """Checks an export folder for a runtime. Raises `OnDeviceError` when it holds no export for it, or its files are others."""
    exported = read_exported(folder)
    require_unchanged(folder, runtime, exported)
    return RuntimeTranscriber(runtime, folder, exported)


def open_transcriber(request: Request) -> Transcriber:
    """Loads model and adapter and settles how they decode.

    Raises `CheckpointError` when the adapter belongs to another model, when decode settings are given that it was not made with, or
    when a folder holds no adapter or no processor; `ConfigError` when checkpoint or adapter are for another language.
    """
    provenance = adapters.read_provenance(request.adapter_folder) if request.adapter_folder else None
    if request.processor_folder is not None and not any(request.processor_folder.glob("*processor_config.json")):
        raise CheckpointError(f"{request.processor_folder}: holds no processor; give a run's processor/ folder")
    device = choose_device(request.device)
    require_precision(device, request.precision)
    checkpoint = resolve(request.model_id, request.revision)
    if request.adapter_folder is None:
        provenance = adapters.provenance_of(checkpoint)
    made = request.adapter_folder or checkpoint.folder
    language = request.language or (provenance.language if provenance else "en")
    if provenance is not None and language != provenance.language:
        spelled = traits(provenance.language).name
        raise ConfigError(f"--language {language}: {made} was trained for {spelled}; leave the flag out")
    plain = request.adapter_folder is None or provenance is None or adapters.is_plain(request.adapter_folder, provenance)
    speech = (load_for_use if plain else load_model)(checkpoint, device, request.precision, language)
    if request.processor_folder is not None:
        processor = load_processor_for_use(request.processor_folder)
        require_vocabulary(processor, speech.model, request.processor_folder)
        speech = replace(speech, processor=processor)
    if provenance is None:
        cap = request.tokens_per_second or traits(language).tokens_per_second
        return Transcriber(speech, DecodeSettings(tokens_per_second=cap), AudioSettings(), request)
    if request.tokens_per_second not in (None, provenance.decode.tokens_per_second):
        raise CheckpointError(f"{made}: was scored with --tokens-per-second {provenance.decode.tokens_per_second:g}; leave the flag out")
    if request.adapter_folder is not None and plain:
        adapters.fold_plain(speech, request.adapter_folder)
    elif request.adapter_folder is not None:
        adapters.fold_in(adapters.load(speech, request.adapter_folder))
    return Transcriber(speech, provenance.decode, provenance.audio, request)


def from_manifest(path: Path, rules: Rules, audio: AudioSettings) -> tuple[tuple[Utterance, ...], list[Seconds]]:
    """Utterances of a manifest with their durations, checked."""
    manifest = read(path, rules)
    recordings = validate(manifest, rules, audio)
    return as_checked(manifest, recordings).utterances, [recording.length_s for recording in recordings]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of each file is heard: None if only one is to be had."""

    channel: Channel | Literal["split"] | None = None
    """`split` hears every channel by itself."""
    track: int | None = None


def from_files(paths: Sequence[Path], max_s: float, audio: AudioSettings, choice: Choice) -> tuple[tuple[Utterance, ...], list[Seconds]]:
    """An utterance for each audio file, or for each of its channels.

    Raises `AudioError` for one that is missing, unreadable, too short or too long, or of which a part has to be chosen.
    """
    found = named(paths, choice)
    return found, [_length(one.audio, max_s, audio) for one in found if isinstance(one.audio, FileAudio)]


def named(paths: Sequence[Path], choice: Choice) -> tuple[Utterance, ...]:
    """An utterance for each audio file, or for each of its channels. Raises `AudioError` for a missing file."""
    found = list[Utterance]()
    for line, path in enumerate(paths, start=1):
        for source in _parts(path, choice):
            name = f"{path}#{source.channel}" if choice.channel == "split" else str(path)
            found.append(Utterance(name, source, None, None, line))
    return tuple(found)


def _parts(path: Path, choice: Choice) -> list[FileAudio]:
    require_file(path)
    if choice.channel != "split":
        return [FileAudio(path, choice.channel, choice.track)]
    return [FileAudio(path, number + 1, choice.track) for number in range(stored_format(path, choice.track).channels)]


def _length(source: FileAudio, max_s: float, audio: AudioSettings) -> Seconds:
    says = f"Moonshine takes {MIN_S:g} to {max_s:g} s at a time, cut it at pauses"
    try:
        length_s = duration(load(source, audio, max_s))
    except TooLongError as error:
        raise AudioError(f"{source}: lasts {error.lasts}; {says}") from error
    if length_s < MIN_S:
        raise AudioError(f"{source}: lasts {length_s:.2f} s; {says}")
    return length_s


def summary_lines(result: Result, language: Language) -> Iterator[str]:
    """The summary below a result's rows: doubtful transcripts, error rates, terms, speed."""
    if (marked := summary(row.marks for row in result.utterances)) is not None:
        yield f"{len(result.utterances)} utterances, {marked}"
    if result.wer is not None and result.cer is not None:
        words = f"WER {100 * result.wer:.2f} %, " if metric(language) == "WER" else ""
        yield f"{words}CER {100 * result.cer:.2f} % over {result.scored} utterances"
    if result.reader_wer is not None and result.tags is not None and result.freed is not None:
        tags = f"; {result.tags.said} tags written, {result.tags.written} in the references" if result.tags != Tags() else ""
        freed = result.freed.by_alternatives + result.freed.by_equivalents
        without = f"; alternatives and equivalents remove {freed} errors" if freed else ""
        yield f"{metric(language)} {100 * result.reader_wer:.2f} % as a reader counts{without}{tags}"
    if result.terms is not None:
        yield f"terms found: {recall(result.terms)}; false alarms in 1,000 words: {alarms(result.terms)}"
    if result.real_time_factor is not None:
        yield f"{result.runtime}: real-time factor {result.real_time_factor:.3f}"


@dataclass(frozen=True, slots=True)
class Said:
    """A transcript, from PyTorch or a runtime."""

    text: str
    capped: bool | None
    transcribe_s: Seconds | None = None
    passages: tuple[Passage, ...] = ()
    speech: bool | None = None
    """Whether there is any; None if nobody has looked."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What transcribed, and how: the head of a result."""

    model_id: str
    adapter: str | None
    decode: DecodeSettings
    audio: AudioSettings
    language: Language


def result(examples: Sequence[Example], said: Sequence[Said], hearing: Hearing) -> Result:
    """Rows and scores of what was said."""
    audio, language = hearing.audio, hearing.language
    referenced = [(e, Transcript(s.text, (), bool(s.capped))) for e, s in zip(examples, said, strict=True) if e.utterance.text is not None]
    score = score_transcripts([e for e, _ in referenced], [t for _, t in referenced], language) if referenced else None
    errors = {row.id: row for row in score.utterances} if score else {}
    spoken = score is not None and score.standard.reference_length > 0
    heard = [
        one.speech if one.speech is not None else speech_in([example.utterance.audio], audio)[0]
        for example, one in zip(examples, said, strict=True)
    ]
    return Result(
        model_id=hearing.model_id,
        adapter=hearing.adapter,
        decode=hearing.decode,
        audio=audio,
        utterances=tuple(
            _row(example, one, errors.get(example.utterance.id), marks(speech, one.text, one.capped, language))
            for example, one, speech in zip(examples, said, heard, strict=True)
        ),
        scored=len(referenced),
        wer=score.wer if score and spoken else None,
        reader_wer=score.reader_wer if score and score.words.reference_length else None,
        freed=score.freed if score else None,
        tags=score.tags if score else None,
        reader=score.reader if score else None,
        cer=score.cer if score and spoken else None,
        raw_wer=score.raw_wer if score and spoken else None,
        raw_cer=score.raw_cer if score and spoken else None,
        normaliser=score.normaliser if score else None,
    )


def read_again(result: Result, equivalents: Equivalents, language: Language) -> Result:
    """The result with the user's table of equivalents in the reader's count; everything else is unchanged."""
    rows, scores = [], []
    for row in result.utterances:
        if row.reference is not None:
            score = score_utterance(
                id=row.id,
                speaker_id=None,
                seconds=row.seconds,
                reference=row.reference,
                hypothesis=row.text,
                language=language,
                equivalents=equivalents,
            )
            scores.append(score)
            row = msgspec.structs.replace(row, errors=score.words, wer=_rate(score.words))
        rows.append(row)
    if not scores:
        return result
    found = total(scores, language, equivalents)
    rate = _rate(found.words)
    return msgspec.structs.replace(result, utterances=tuple(rows), reader_wer=rate, freed=found.freed, reader=found.reader)


def with_terms(result: Result, terms: Terms, language: Language) -> Result:
    """The result with the user's terms: those heard in each row, and how many of those spoken are found."""
    rows = tuple(msgspec.structs.replace(row, terms=tuple(found.term for found in terms.found(row.text))) for row in result.utterances)
    scores = [
        score_utterance(id=row.id, speaker_id=None, seconds=row.seconds, reference=row.reference, hypothesis=row.text, language=language)
        for row in rows
        if row.reference is not None
    ]
    found = score_terms(terms, total(scores, language), 0) if scores else None
    return msgspec.structs.replace(result, utterances=rows, terms=found)


def _rate(counts: Counts) -> float | None:
    return counts.rate if counts.reference_length else None


def _row(example: Example, said: Said, score: UtteranceScore | None, marked: tuple[Mark, ...]) -> Transcription:
    return Transcription(
        id=example.utterance.id,
        audio=str(example.utterance.audio),
        seconds=example.length_s,
        text=said.text,
        capped=said.capped,
        reference=example.utterance.text,
        wer=_rate(score.words) if score else None,
        errors=score.words if score else None,
        standard_wer=_rate(score.standard) if score else None,
        transcribe_s=said.transcribe_s,
        channel=example.utterance.audio.channel,
        track=example.utterance.audio.track,
        marks=marked,
        passages=said.passages,
    )
