"""Reads and checks everything before the expensive part starts: settings, folder, device, speech, checkpoint, sites. Writes only what
the check of recordings caches."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lora import publish
from lora.checkpoints.checkpoint import Checkpoint, resolve
from lora.config import RunConfig
from lora.dataset.amount import is_little
from lora.display import Display
from lora.errors import ConfigError, TermsError
from lora.model.loading import LoadedModel, choose_device, load_model
from lora.model.products import PRODUCT_DTYPES, require_precision, time_beside_float32
from lora.model.transcript import DecodeSettings
from lora.runs import record as records
from lora.runs.folder import check, require_same, resumable
from lora.runs.record import CheckpointInfo, ManifestInfo, RunRecord
from lora.runs.tracking import require as require_trackers
from lora.scoring.reader_errors import table
from lora.system import distributed
from lora.system.artifacts import STATES_FOLDER
from lora.system.cache import Kept
from lora.system.locking import Hold
from lora.text.equivalents import Equivalents
from lora.text.terms import Terms, read_terms
from lora.training import adapter as adapters
from lora.training import strength as strengths
from lora.training.adapter import Site
from lora.training.augment import Augmenter
from lora.training.sets import SpeechSet, SpeechSets, plan_copies, read_sets, trained_sentences
from lora.training.teaching import require_sentences
from lora.training.token_cap import require_room


@dataclass(frozen=True)
class Prepared:
    """A run that has been read and checked, before anything expensive starts."""

    config: RunConfig
    sets: SpeechSets
    augmenter: Augmenter | None
    checkpoint: Checkpoint
    speech: LoadedModel
    sites: tuple[Site, ...]
    decode: DecodeSettings
    kept: Kept = field(default_factory=Kept)
    equivalents: Equivalents | None = None
    terms: Terms | None = None
    unfinished: RunRecord | None = None
    """The unfinished run to resume, if any."""
    hold: Hold = field(default_factory=Hold, compare=False)
    """The main process's hold on the run folder, once the run has begun."""

    @property
    def folder(self) -> Path:
        return Path(self.config.output.output_dir)

    @property
    def checkpoints(self) -> Path:
        return self.folder / STATES_FOLDER


def prepare(config: RunConfig, display: Display, *, resume: bool = False) -> Prepared:
    """Reads and checks everything: run folder, device, manifests with their audio, checkpoint, adapter sites.
    Writes only what the check of recordings caches.

    Raises a `LoraError` that says what to fix.
    """
    folder = Path(config.output.output_dir)
    unfinished = distributed.from_main(lambda: resumable(folder, config) if resume else check(folder, config.output.overwrite))
    require_outlets(config)
    prepared = ready(config, display)
    if unfinished is not None:
        require_same(unfinished, opening_record(prepared))
    return replace(prepared, unfinished=unfinished)


def require_outlets(config: RunConfig) -> None:
    """Raises the `LoraError` of a tracker or hub that the run could not send its results to."""
    require_trackers(config.output.tracker_names())
    if config.output.push_to_hub is not None:
        publish.require_access(config.output.push_to_hub)


def ready(config: RunConfig, display: Display) -> Prepared:
    """Reads and checks what training needs, as `prepare` does, but without a run folder."""
    device = choose_device(config.model.device)
    require_precision(device, config.model.precision)
    if config.train.strength_sweep:
        strengths.check(
            method=config.adapter.method,
            use_dora=config.adapter.use_dora,
            init_lora_weights=config.adapter.init_lora_weights,
            has_guard=config.data.replay_manifest is not None,
        )
    equivalents = table(Path(config.eval.equivalents), config.model.language) if config.eval.equivalents is not None else None
    terms = read_terms(Path(config.eval.terms), config.model.language) if config.eval.terms is not None else None
    checkpoint = resolve(config.model.model_id, config.model.revision)  # before hours of audio are decoded for a name mistyped
    kept = Kept()
    with display.stage("read", "Reading manifests and audio"):
        sets = read_sets(config, kept)
        augmenter = plan_copies(sets, config)
        for line in _description(sets):
            display.line(line)
        if config.train.teach == "terms" and terms is not None and (untaught := require_sentences(terms, sets.train.manifest)):
            display.line(untaught)
        if augmenter is not None:
            display.line(f"augmentation: {config.augment.augment_copies} copies of each training utterance, made when training starts")
    with display.stage("load", f"Loading {config.model.model_id} on {device.type}"):
        speech = load_model(checkpoint, device, config.model.precision, config.model.language)
        if terms is not None:
            require_writable(terms, speech)
        sites = planned_sites(speech, config)
        display.line(f"computing in {speech.computing}")
        if speech.precision != "float32" and device.type == "cpu" and (ratio := time_beside_float32(PRODUCT_DTYPES[speech.precision])) > 1:
            display.line(f"{speech.precision} products take {ratio:.1f} times as long as float32's here: --precision float32 is faster")
        display.line(f"adapter: {len(sites)} layers, {sites[0].name} to {sites[-1].name}")
        decode = DecodeSettings(tokens_per_second=config.tokens_per_second)
        for line in require_room(sets, speech, decode, chosen=config.eval.tokens_per_second is not None):
            display.line(line)
    return Prepared(config, sets, augmenter, checkpoint, speech, sites, decode, kept, equivalents=equivalents, terms=terms)


def planned_sites(speech: LoadedModel, config: RunConfig) -> tuple[Site, ...]:
    """The layers to adapt. Raises `ConfigError` as `adapters.plan` does, and for gradient checkpointing without an adapted encoder."""
    sites = adapters.plan(speech, config.adapter)
    if config.train.gradient_checkpointing and not any(site.in_encoder for site in sites):
        raise ConfigError(
            f"--gradient-checkpointing: --lora-targets {config.adapter.lora_targets} has no encoder sites, whose memory it saves; "
            "leave it out"
        )
    return sites


def with_settings(prepared: Prepared, config: RunConfig) -> Prepared:
    """The same speech with other settings of adapter, training and augmentation, and the base model loaded anew: training changes it."""
    speech = load_model(prepared.checkpoint, prepared.speech.device, config.model.precision, config.model.language)
    return replace(
        prepared, config=config, speech=speech, sites=planned_sites(speech, config), augmenter=plan_copies(prepared.sets, config)
    )


def require_writable(terms: Terms, speech: LoadedModel) -> None:
    """Raises `TermsError` for a term that the model's tokenizer cannot spell: it could never be found in a transcript."""
    for term in terms:
        if (back := speech.text(speech.labels(term.written)[:-1])) != term.written:
            raise TermsError(
                f"{terms.path}: the tokenizer of {speech.checkpoint.model_id} cannot write {term.written!r}, it gives {back!r}; "
                "leave the term out, or spell it otherwise"
            )


def _description(sets: SpeechSets) -> Iterator[str]:
    """Describes what was read, in lines for a person."""
    for name, part in sets.named().items():
        yield f"{name:8} {len(part):6} utterances {part.seconds / 60:7.1f} min   {part.manifest.path}"
    for path, tags in {part.manifest.path: part.manifest.tags for part in sets.named().values()}.items():
        if tags:
            yield f"{path}: {tags}"
    yield sets.styled.sentence
    for name, count in trained_sentences(sets).items():
        if count:
            yield f"{name}: {count} of {len(sets.named()[name])} sentences are also in the training set"
    if (little := _how_little(sets.train)) is not None:
        yield little


def _how_little(train: SpeechSet) -> str | None:
    """A warning that the training set is smaller than any known to help; None for a larger one."""
    if not is_little(len(train), train.seconds):
        return None
    utterances = f"{len(train)} utterance{'s' if len(train) != 1 else ''}"
    return f"very little to train on: {utterances}, {train.seconds:.1f} s; expect these sentences learned by heart and little else"


def write_augmented(config: RunConfig, count: int, display: Display) -> tuple[Path, int]:
    """Writes `count` varied copies of the training speech beside the run folder, for listening; returns where, and how many.

    Trains nothing and needs no model. Raises a `LoraError` that says what to fix.
    """
    with display.stage("read", "Reading manifests and audio"):
        sets = read_sets(config, Kept())
        augmenter = plan_copies(sets, config)
    if augmenter is None:
        raise ConfigError("--write-augmented: there are no copies to write; give --augment-copies and an effect")
    output = Path(config.output.output_dir)
    folder = output.with_name(f"{output.name}-augmented")
    with display.stage("augment", "Augmenting"):
        written = augmenter.write_examples(folder, count)
    return folder, written


def opening_record(prepared: Prepared) -> RunRecord:
    """The record of a run that is about to start."""
    device, checkpoint = prepared.speech.device, prepared.checkpoint
    device_name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.processor() or platform.machine()} {device.type}"
    )
    trained = trained_sentences(prepared.sets)
    return RunRecord(
        status="running",
        command=records.command(),
        started_at=records.now(),
        config=prepared.config,
        checkpoint=CheckpointInfo(
            model_id=checkpoint.model_id, kind=checkpoint.kind, revision=checkpoint.revision, sha256=checkpoint.sha256
        ),
        manifests={
            name: ManifestInfo(
                path=str(part.manifest.path),
                sha256=part.manifest.sha256,
                utterances=len(part),
                seconds=part.seconds,
                speakers=len(part.manifest.speakers()),
                sentences_trained=trained.get(name, 0),
            )
            for name, part in prepared.sets.named().items()
        },
        environment=records.environment(device.type, device_name, torch.get_num_threads(), prepared.speech.computing),
        text_style=prepared.sets.style,
        text_style_counts=prepared.sets.styled.sentence,
    )
