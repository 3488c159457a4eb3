"""The settings of a run: one frozen schema that gives the TOML file, the flags, their help and their validation. No torch.

A setting has one name: `[train] batch_size = 8` in a file is `--batch-size 8` on the command line, and the flag wins. Unknown
keys are refused with the closest known one.
"""

import argparse
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lora.audio.effects import CODECS, Codec
from lora.audio.loading import AudioSettings
from lora.consistency import (
    flag,
    require_consistent_adapter,
    require_consistent_augmentation,
    require_consistent_gate,
    require_consistent_start,
    require_consistent_teaching,
)
from lora.dataset.manifest import Rules
from lora.dataset.splits import SplitBy
from lora.errors import ConfigError
from lora.language import LANGUAGE_PATTERN, Language, known_languages, traits
from lora.presets import presets
from lora.scoring.rules import GateConfig
from lora.system.device import Device, Precision
from lora.system.documents import read_toml
from lora.text.style import TextStyle
from lora.text.tags import TagRule

Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
ReplayTargets = Literal["base-model", "transcript"]
Teach = Literal["transcripts", "terms"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]

TRACKERS: tuple[Tracker, ...] = typing.get_args(Tracker)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: frozen, and a misspelt key is an error."""


class ModelConfig(Section, frozen=True, kw_only=True):
    """The checkpoint and how to compute with it."""

    model_id: Annotated[str, Meta(description="hub id (owner/name), local folder, or packaged:moonshine-tiny, packaged:moonshine-base")]
    revision: Annotated[str | None, Meta(description="commit, tag or branch of a hub checkpoint")] = None
    language: Annotated[
        Language,
        Meta(description="language of all speech, other:CODE for one without rules of its own; decides normaliser, token cap and metric"),
    ] = "en"
    device: Annotated[Device, Meta(description="device to compute on; auto takes the first available of cuda, mps, cpu")] = "auto"
    precision: Annotated[
        Precision, Meta(description="precision of products with frozen weights; bfloat16 is faster on processors that support it")
    ] = "float32"


class DataConfig(Section, frozen=True, kw_only=True):
    """The speech and how it is checked."""

    train_manifest: Annotated[str, Meta(description="domain speech to train on")]
    domain_manifest: Annotated[str, Meta(description="domain test set; never used for training or for choosing a step")]
    heldout_manifest: Annotated[
        str, Meta(description="general test set that shows forgetting; never used for training or for choosing a step")
    ]
    dev_manifest: Annotated[
        str | None, Meta(description="domain speech that chooses the best step (default: held out of the training set)")
    ] = None
    replay_manifest: Annotated[str | None, Meta(description="general speech mixed into training to prevent forgetting")] = None
    dev_fraction: Annotated[Ratio, Meta(description="share of the training set held out without --dev-manifest")] = 0.1
    split_by: Annotated[SplitBy, Meta(description="hold out whole speakers, or single utterances (to adapt to these very speakers)")] = (
        "speaker"
    )
    max_seconds: Annotated[float, Meta(gt=0, le=60, description="longest utterance allowed, in seconds")] = 30.0
    text_style: Annotated[
        TextStyle, Meta(description="training transcripts: auto lower-cases those in capitals, lower lower-cases all, none keeps them")
    ] = "auto"
    tags: Annotated[
        TagRule,
        Meta(description="tags in transcripts, such as <COMMA> or [noise]: drop removes, keep trains and scores, refuse is an error"),
    ] = "refuse"
    rms_dbfs: Annotated[
        Annotated[float, Meta(ge=-60, le=-3)] | None,
        Meta(description="scale every waveform to this RMS level (dB full scale), also wherever the adapter is used"),
    ] = None
    allow_empty_text: Annotated[bool, Meta(description="allow empty texts, for recordings without speech")] = False
    check_texts: Annotated[
        bool,
        Meta(description="refuse texts that seem to belong to other recordings, judged by the base model"),
    ] = False
    allow_outside_paths: Annotated[bool, Meta(description="allow audio paths outside the manifest's folder")] = False
    synthetic_domain: Annotated[
        bool, Meta(description="allow synthesised speech as the domain test; the verdict is then valid for such speech only")
    ] = False

    def audio(self) -> AudioSettings:
        return AudioSettings(rms_dbfs=self.rms_dbfs)


class AugmentConfig(Section, frozen=True, kw_only=True):
    """How clips are varied. A run adds `augment_copies` varied copies of each training utterance to the originals (0: none)."""

    augment_copies: Annotated[int, Meta(ge=0, le=100, description="augmented copies of each training utterance")] = 0
    speed_min: Annotated[float, Meta(ge=0.5, le=2, description="lowest speed; changes the pitch too")] = 1.0
    speed_max: Annotated[float, Meta(ge=0.5, le=2, description="highest speed")] = 1.0
    pitch_min: Annotated[float, Meta(ge=-12, le=12, description="lowest pitch change in semitones; keeps the speed")] = 0.0
    pitch_max: Annotated[float, Meta(ge=-12, le=12, description="highest pitch change in semitones")] = 0.0
    gain_db: Annotated[float, Meta(ge=0, le=30, description="largest change of the level, up or down")] = 0.0
    noise_dir: Annotated[str | None, Meta(description="folder of background noise")] = None
    noise_probability: Annotated[Ratio, Meta(description="share of copies with background noise")] = 0.5
    snr_min_db: Annotated[float, Meta(ge=-20, le=60, description="lowest signal-to-noise ratio")] = 5.0
    snr_max_db: Annotated[float, Meta(ge=-20, le=60, description="highest signal-to-noise ratio")] = 20.0
    impulse_dir: Annotated[str | None, Meta(description="folder of room impulse responses")] = None
    impulse_probability: Annotated[Ratio, Meta(description="share of copies with reverberation")] = 0.5
    telephone_probability: Annotated[Ratio, Meta(description="share of copies that sound like an 8 kHz telephone line")] = 0.0
    telephone_codecs: Annotated[str, Meta(description="codecs for telephone copies, joined by commas: none, mulaw, alaw, gsm, opus")] = (
        "none,mulaw,alaw,gsm"
    )
    concat_probability: Annotated[Ratio, Meta(description="share of copies that join several training utterances")] = 0.0
    concat_clips: Annotated[int, Meta(ge=2, le=20, description="most utterances in a joined copy")] = 3

    def changes_speed(self) -> bool:
        return (self.speed_min, self.speed_max) != (1.0, 1.0)

    def changes_pitch(self) -> bool:
        return (self.pitch_min, self.pitch_max) != (0.0, 0.0)

    def codecs(self) -> tuple[Codec, ...]:
        """The codecs that are named. Raises `ConfigError` for one that does not exist."""
        names = tuple(name.strip() for name in self.telephone_codecs.split(","))
        for name in names:
            if name not in CODECS:
                known = ", ".join(CODECS)
                raise ConfigError(f"--telephone-codecs {self.telephone_codecs}: no codec is named {name!r}; known are {known}")
        return tuple(codec for codec in CODECS if codec in names)


class AdapterConfig(Section, frozen=True, kw_only=True):
    """What is trained: a LoRA adapter or the weights themselves. Names as in PEFT."""

    method: Annotated[
        Literal["lora", "full"],
        Meta(description="lora trains an adapter; full trains the target modules' own weights and saves a checkpoint"),
    ] = "lora"
    from_adapter: Annotated[
        str | None, Meta(description="folder of an adapter of the same base model to continue; its layers, ranks and scale are kept")
    ] = None
    lora_r: Annotated[int, Meta(ge=1, le=4096, description="rank of the update")] = 8
    lora_ranks: Annotated[
        str | None, Meta(description="ranks of single target modules, such as encoder=4,mlp=16; the last one that matches a layer counts")
    ] = None
    lora_alpha: Annotated[float, Meta(gt=0, description="scale: the update is multiplied by alpha / rank")] = 16.0
    lora_dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout on the update's input")] = 0.0
    lora_targets: Annotated[
        str,
        Meta(
            description="layers: decoder, its parts self, cross, mlp, encoder, both or all; several joined by commas; or a regex of names"
        ),
    ] = "decoder"
    use_dora: Annotated[bool, Meta(description="weight-decomposed LoRA (DoRA)")] = False
    use_rslora: Annotated[bool, Meta(description="rank-stabilised scale, alpha / sqrt(rank)")] = False
    init_lora_weights: Annotated[
        Literal["default", "gaussian", "pissa", "orthogonal"], Meta(description="initialisation of the adapter")
    ] = "default"


class TrainConfig(Section, frozen=True, kw_only=True):
    """The optimisation."""

    epochs: Annotated[float, Meta(gt=0, le=1_000_000, description="passes over the training set")] = 3.0
    max_steps: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000_000)] | None,
        Meta(description="stop after this many optimizer updates; overrides --epochs; 0 judges --from-adapter as it is"),
    ] = None
    learning_rate: Annotated[float, Meta(gt=0, description="peak learning rate of target modules in the decoder")] = 1e-3
    encoder_learning_rate: Annotated[float, Meta(gt=0, description="peak learning rate of target modules in the encoder")] = 1e-4
    full_learning_rate: Annotated[float, Meta(gt=0, description="peak learning rate with --method full")] = 1e-5
    gradient_checkpointing: Annotated[
        bool, Meta(description="recompute the encoder's activations for the gradient: less memory, more time")
    ] = False
    warmup_steps: Annotated[int, Meta(ge=0, le=1_000_000_000, description="linear warm-up, in optimizer updates")] = 20
    weight_decay: Annotated[float, Meta(ge=0, description="weight decay of AdamW")] = 0.0
    max_grad_norm: Annotated[float, Meta(gt=0, description="clip the gradient's norm")] = 1.0
    batch_size: Annotated[Count, Meta(description="domain utterances in a batch")] = 8
    gradient_accumulation_steps: Annotated[
        Count, Meta(description="batches per optimizer update; an incomplete last update is applied too")
    ] = 1
    strength_sweep: Annotated[
        bool,
        Meta(description="after training, scale the update down until the guard's WER stays within its limit; needs --replay-manifest"),
    ] = False
    replay_ratio: Annotated[float, Meta(ge=0, le=4, description="replay utterances per domain utterance")] = 0.25
    replay_targets: Annotated[
        ReplayTargets,
        Meta(description="labels of replay speech: the base model's own transcripts, which keep its style, or the manifest's"),
    ] = "base-model"
    teach: Annotated[
        Teach,
        Meta(
            description="what the training speech teaches: whole transcripts, or only the terms of --terms in them, while all other "
            "tokens keep the probabilities that they had before"
        ),
    ] = "transcripts"
    eval_interval: Annotated[Count | None, Meta(description="optimizer updates between dev evaluations (default: half an epoch)")] = None
    checkpoint_interval: Annotated[
        Count | None, Meta(description="optimizer updates between checkpoints for --resume (default: at every dev evaluation)")
    ] = None
    patience: Annotated[Count, Meta(description="stop after this many dev evaluations without a better one")] = 4
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="seed of splits, data order, initialisation and dropout")] = 0


class EvalConfig(Section, frozen=True, kw_only=True):
    """Greedy decoding, the same for baseline, dev and tuned model, `transcribe` and the voice app."""

    eval_batch_size: Annotated[Count, Meta(description="largest batch in decoding; does not change the results")] = 128
    tokens_per_second: Annotated[
        Annotated[float, Meta(gt=0, le=50)] | None,
        Meta(description="limit on tokens per second of audio (default: 6.5 for English, 13 for other languages)"),
    ] = None
    equivalents: Annotated[str | None, Meta(description="file of forms that count as the same, one group per line: a = b")] = None
    terms: Annotated[
        str | None,
        Meta(description="list of terms, one per line: the run measures how many are found, and how many false alarms there are"),
    ] = None


class OutputConfig(Section, frozen=True, kw_only=True):
    """Where to write the run."""

    output_dir: Annotated[str, Meta(description="run folder; must be new or empty")]
    overwrite: Annotated[bool, Meta(description="replace the run in the folder")] = False
    feature_cache_gb: Annotated[
        float, Meta(ge=0, le=1_000_000, description="size limit of the cache in GB; the oldest files are removed first")
    ] = 10.0
    trackers: Annotated[str | None, Meta(description=f"also log to {', '.join(TRACKERS)}; several joined by commas")] = None

    push_to_hub: Annotated[
        str | None, Meta(description="publish an accepted run to this model repository (owner/name); access is checked before training")
    ] = None
    hub_private: Annotated[bool, Meta(description="create the repository of --push-to-hub as private")] = True
    card_license: Annotated[str | None, Meta(description="licence in the model card, by the hub's name: mit, cc-by-4.0")] = None
    card_datasets: Annotated[str | None, Meta(description="datasets in the model card, by the hub's names; several joined by commas")] = (
        None
    )

    def datasets(self) -> list[str]:
        """The names for the card."""
        return [name.strip() for name in self.card_datasets.split(",")] if self.card_datasets is not None else []

    def tracker_names(self) -> tuple[Tracker, ...]:
        """The trackers that are asked for, each once. Raises `ConfigError` for one that does not exist."""
        if self.trackers is None:
            return ()
        names = [name.strip() for name in self.trackers.split(",")]
        for name in names:
            if name not in TRACKERS:
                known = ", ".join(TRACKERS)
                raise ConfigError(f"--trackers {self.trackers}: no tracker is named {name!r}{_near(name, TRACKERS)}; known are {known}")
        return tuple(name for name in TRACKERS if name in names)


class RunConfig(Section, frozen=True, kw_only=True):
    """All settings of one run."""

    model: ModelConfig
    data: DataConfig
    output: OutputConfig
    augment: AugmentConfig = AugmentConfig()
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    gate: GateConfig = GateConfig()

    @property
    def tokens_per_second(self) -> float:
        """The cap that is set, or the language's."""
        given = self.eval.tokens_per_second
        return given if given is not None else traits(self.model.language).tokens_per_second

    def rules(self) -> Rules:
        """Rules for a manifest whose transcripts are used for training, choosing or scoring."""
        data = self.data
        return Rules(
            max_s=data.max_seconds,
            allow_outside=data.allow_outside_paths,
            language=self.model.language,
            allow_empty_text=data.allow_empty_text,
            tags=data.tags,
        )

    def heldout_rules(self) -> Rules:
        """Rules for the held-out manifest, whose texts are not used under the guardrail `drift`."""
        if self.gate.guardrail == "drift":
            return replace(self.rules(), require_text=False, tags="keep")
        return replace(self.rules(), missing_text="is missing; every utterance needs its transcript, unless --guardrail drift is set")

    def replay_rules(self) -> Rules:
        """Rules for the replay manifest, whose texts are not used if the base model labels it."""
        return self.rules() if self.train.replay_targets == "transcript" else replace(self.rules(), require_text=False, tags="keep")


def add_flags(parser: argparse.ArgumentParser, schema: type[msgspec.Struct] = RunConfig) -> None:
    """Adds a flag for each setting of a schema of sections. A flag that is not given is absent from the namespace."""
    for section in msgspec.structs.fields(schema):
        _add_section(parser, section, ())


def add_section(parser: argparse.ArgumentParser, name: str, leave_out: Collection[str] = ()) -> None:
    """Adds the flags of one section of `RunConfig`, for a command that takes no others; `section_of` reads them."""
    section = next(one for one in msgspec.structs.fields(RunConfig) if one.name == name)
    _add_section(parser, section, leave_out)


def _add_section(parser: argparse.ArgumentParser, section: msgspec.structs.FieldInfo, leave_out: Collection[str]) -> None:
    group = parser.add_argument_group(f"[{section.name}]", (section.type.__doc__ or "").split("\n")[0])
    for setting in msgspec.structs.fields(section.type):
        if setting.name in leave_out:
            continue
        kind, help_text = _kind_and_help(setting.type)
        if not setting.required and setting.default is not None:
            help_text = f"{help_text} (default: {setting.default})".strip()
        options: dict[str, Any] = {
            "dest": f"{section.name}.{setting.name}",
            "default": argparse.SUPPRESS,
            "help": help_text.replace("%", "%%"),
        }
        form: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"metavar": _metavar(kind)}
        group.add_argument(flag(setting.name), **options, **form)


def section_of(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """The settings of a section that flags give. Raises `ConfigError` for one of the wrong type or out of range."""
    given = {dotted.split(".")[1]: value for dotted, value in vars(arguments).items() if dotted.startswith(f"{name}.")}
    return {setting: _converted(name, setting, value) for setting, value in given.items()}


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings by their dotted names."""
    sections: dict[str, dict[str, Any]] = msgspec.to_builtins(config)
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def from_flags(arguments: argparse.Namespace, file: Path | None) -> RunConfig:
    """The run's settings: defaults, then the TOML file, then the flags.

    Raises `ConfigError` for a missing file, invalid TOML, unknown keys, wrong types, values out of range and missing settings.
    """
    given = {name: value for name, value in vars(arguments).items() if "." in name}
    return build(given, file)


def build(given: dict[str, Any], file: Path | None, usual: Mapping[str, Any] = MappingProxyType({})) -> RunConfig:
    """Like `from_flags`, with settings as `{"train.epochs": "3"}`; strings are converted as on a command line.

    `usual` are a command's own defaults, for settings that neither the file nor `given` holds.
    """
    merged: dict[str, dict[str, Any]] = _read_toml(file) if file is not None else {}
    held = {f"{section}.{name}" for section, values in merged.items() for name in values}
    given = {name: value for name, value in usual.items() if name not in held} | given
    for dotted, value in given.items():
        section_name, name = dotted.split(".")
        merged.setdefault(section_name, {})[name] = _converted(section_name, name, value)
    return _checked(merged, str(file) if file else "the command line")


def changed(config: RunConfig, settings: Mapping[str, Any], origin: str) -> RunConfig:
    """The settings with some other values, by their dotted names. Raises `ConfigError`, which names `origin`, as `build` does."""
    merged: dict[str, dict[str, Any]] = msgspec.to_builtins(config)
    for name, value in settings.items():
        section, setting = name.split(".")
        merged[section][setting] = _converted(section, setting, value)
    return _checked(merged, origin)


def dotted(name: str) -> str:
    """The section of a setting and its name: `train.epochs` for `epochs`. Raises `ConfigError` for one that does not exist."""
    found = {setting.name: f"{section.name}.{setting.name}" for section, setting in _settings()}
    if name not in found:
        raise ConfigError(f"unknown setting {name!r}{_near(name, found)}; `moonshine-lora experiment --help` lists them")
    return found[name]


def kind_of(setting: str) -> Any:
    """The plain type of a setting's values, by its dotted name."""
    return next(_kind_and_help(one.type)[0] for section, one in _settings() if f"{section.name}.{one.name}" == setting)


def _read_toml(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        raise ConfigError(f"{file}: no such config file; give one, or a preset ({', '.join(presets())})")
    content = read_toml(file, ConfigError)
    sections = {section.name: section.type for section in msgspec.structs.fields(RunConfig)}
    for name, values in content.items():
        if name not in sections:
            raise ConfigError(f"{file}: unknown section [{name}]{_near(name, sections)}; known are {', '.join(sections)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {name} must be a section, written [{name}]")
        known = sections[name].__struct_fields__
        for key in values:
            if key not in known:
                raise ConfigError(f"{file}: unknown key {key!r} in [{name}]{_near(key, known) or _elsewhere(key)}")
    return content


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _elsewhere(key: str) -> str:
    everywhere = {setting.name: section.name for section, setting in _settings()}
    if key in everywhere:
        return f"; it belongs into [{everywhere[key]}]"
    close = difflib.get_close_matches(key, list(everywhere), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r} in [{everywhere[close[0]]}]?" if close else ""


def _settings() -> Iterator[tuple[msgspec.structs.FieldInfo, msgspec.structs.FieldInfo]]:
    for section in msgspec.structs.fields(RunConfig):
        for setting in msgspec.structs.fields(section.type):
            yield section, setting


def _converted(section_name: str, name: str, value: Any) -> Any:
    kind = next(setting.type for section, setting in _settings() if (section.name, setting.name) == (section_name, name))
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        plain, _ = _kind_and_help(kind)
        if typing.get_origin(plain) is Literal:
            reason = f"must be one of {', '.join(typing.get_args(plain))}"
        else:
            reason = _plainly(error).replace("Expected", "must be").replace(", got `str`", "").replace(" | null", "").replace("`", "")
        raise ConfigError(f"{flag(name)} {str(value)[:100]}: {reason}") from error


def _checked(merged: dict[str, dict[str, Any]], origin: str) -> RunConfig:
    for section, setting in _settings():
        if setting.required and setting.name not in merged.get(section.name, {}):
            raise ConfigError(
                f"{setting.name} is not set; give {flag(setting.name)}, or write {setting.name} under [{section.name}] in a --config file"
            )
    try:
        config = msgspec.convert(merged, RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {_plainly(error).replace('`$.', '`')}") from error
    for section, setting in _settings():
        value = getattr(getattr(config, section.name), setting.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{origin}: {flag(setting.name)} must be a finite number, not {value}")
    require_consistent_gate(config, origin)
    require_consistent_adapter(config.adapter, origin)
    require_consistent_start(config, origin)
    require_consistent_teaching(config, origin)
    require_consistent_augmentation(config.augment, config.data.rms_dbfs, origin)
    config.output.tracker_names()
    return config


def _plainly(error: msgspec.ValidationError) -> str:
    return str(error).replace(f"`str` matching regex {LANGUAGE_PATTERN!r}", known_languages())


def _kind_and_help(annotated: Any) -> tuple[Any, str]:
    """The plain type and the description of a setting: `Annotated` and the `None` of optional settings are taken off."""
    help_text = ""
    while True:
        if typing.get_origin(annotated) is Annotated:
            annotated, *extras = typing.get_args(annotated)
            help_text = next((e.description for e in extras if isinstance(e, Meta) and e.description), help_text)
        elif typing.get_origin(annotated) in (types.UnionType, typing.Union):
            annotated = next(part for part in typing.get_args(annotated) if part is not type(None))
        else:
            return annotated, help_text


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return {int: "N", float: "X", str: "TEXT"}[kind]
