"""The settings of a run: one frozen schema that gives the TOML file, the flags, their help and their validation. No torch.

A setting has one name: `[train] batch_size = 8` in a file is `--batch-size 8` on the command line, and the flag wins. Unknown
keys are refused with the closest known one.
"""

import argparse
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lora.audio.effects import CODECS, Codec
from lora.audio.loading import AudioSettings
from lora.consistency import flag, require_consistent_adapter, require_consistent_augmentation, require_consistent_gate
from lora.dataset.manifest import Rules
from lora.dataset.splits import SplitBy
from lora.errors import ConfigError
from lora.language import LANGUAGES, Language
from lora.presets import presets
from lora.system.documents import read_toml
from lora.text.style import TextStyle
from lora.text.tags import TagRule

Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
ReplayTargets = Literal["base-model", "transcript"]
GateRule = Literal["interval", "point"]
Guardrail = Literal["wer", "drift"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]

TRACKERS: tuple[Tracker, ...] = typing.get_args(Tracker)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: frozen, and a misspelt key is an error."""


class ModelConfig(Section, frozen=True, kw_only=True):
    """Which checkpoint, and how it computes."""

    model_id: Annotated[str, Meta(description="hub id (owner/name), local folder, or packaged:moonshine-tiny, packaged:moonshine-base")]
    revision: Annotated[str | None, Meta(description="commit, tag or branch of a hub checkpoint")] = None
    language: Annotated[Language, Meta(description="language of all speech: decides normaliser, token cap, and CER for ja and zh")] = "en"
    device: Annotated[Device, Meta(description="where to compute; auto takes cuda, then mps, then cpu, and records which")] = "auto"
    precision: Annotated[
        Precision, Meta(description="arithmetic of products with frozen weights; bfloat16 is faster where the processor has it")
    ] = "float32"


class DataConfig(Section, frozen=True, kw_only=True):
    """Which speech, and what is asked of it."""

    train_manifest: Annotated[str, Meta(description="domain speech to train on")]
    domain_manifest: Annotated[str, Meta(description="domain test set; reported, never trained on or chosen by")]
    heldout_manifest: Annotated[str, Meta(description="general speech that guards against forgetting; reported only")]
    dev_manifest: Annotated[str | None, Meta(description="domain speech that chooses the best step; else held out of the training set")] = (
        None
    )
    replay_manifest: Annotated[str | None, Meta(description="general speech mixed into training against forgetting")] = None
    dev_fraction: Annotated[Ratio, Meta(description="share of the training set held out when there is no dev manifest")] = 0.1
    split_by: Annotated[SplitBy, Meta(description="hold out whole speakers, or single utterances when the speakers are the target")] = (
        "speaker"
    )
    max_seconds: Annotated[float, Meta(gt=0, le=60, description="longest utterance accepted, in seconds")] = 30.0
    text_style: Annotated[
        TextStyle, Meta(description="training transcripts: auto lower-cases those in capitals, lower all; none keeps them")
    ] = "auto"
    tags: Annotated[
        TagRule,
        Meta(description="tags in transcripts, such as <COMMA> or [noise]: take them out (drop), teach and score them (keep), or refuse"),
    ] = "refuse"
    rms_dbfs: Annotated[
        Annotated[float, Meta(ge=-60, le=-3)] | None,
        Meta(description="bring every waveform to this RMS level (dB full scale), everywhere the adapter is used"),
    ] = None
    allow_empty_text: Annotated[
        bool, Meta(description="accept empty texts: silence, which teaches to be quiet, and where any word is an insertion")
    ] = False
    check_texts: Annotated[
        bool,
        Meta(description="refuse, by row, texts that the base model finds no likelier than those of other clips"),
    ] = False
    allow_outside_paths: Annotated[bool, Meta(description="accept audio paths that leave the manifest's folder")] = False
    synthetic_domain: Annotated[
        bool, Meta(description="accept synthesised speech as the domain test; the verdict then holds for such speech only")
    ] = False

    def audio(self) -> AudioSettings:
        return AudioSettings(rms_dbfs=self.rms_dbfs)

    def rules(self, language: Language) -> Rules:
        """Of speech that trains, chooses or is scored by its transcripts."""
        return Rules(
            max_s=self.max_seconds,
            allow_outside=self.allow_outside_paths,
            language=language,
            allow_empty_text=self.allow_empty_text,
            tags=self.tags,
        )

    def heldout_rules(self, language: Language, guardrail: Guardrail) -> Rules:
        rules = self.rules(language)
        if guardrail == "drift":
            return replace(rules, require_text=False, tags="keep")  # nobody looks at its texts
        return replace(rules, missing_text="is missing; every utterance needs its transcript, unless --guardrail drift is set")

    def replay_rules(self, language: Language, targets: ReplayTargets) -> Rules:
        rules = self.rules(language)
        return rules if targets == "transcript" else replace(rules, require_text=False, tags="keep")  # as above


class AugmentConfig(Section, frozen=True, kw_only=True):
    """Varied copies of the training speech; the originals stay. Off while `augment_copies` is 0."""

    augment_copies: Annotated[int, Meta(ge=0, le=100, description="varied copies of each training utterance")] = 0
    speed_min: Annotated[float, Meta(ge=0.5, le=2, description="slowest playback drawn; pitch moves with speed")] = 1.0
    speed_max: Annotated[float, Meta(ge=0.5, le=2, description="fastest playback drawn")] = 1.0
    pitch_min: Annotated[float, Meta(ge=-12, le=12, description="lowest pitch drawn, in semitones from the voice's own; speed stays")] = 0.0
    pitch_max: Annotated[float, Meta(ge=-12, le=12, description="highest pitch drawn, in semitones")] = 0.0
    gain_db: Annotated[float, Meta(ge=0, le=30, description="level changes by at most this, up or down")] = 0.0
    noise_dir: Annotated[str | None, Meta(description="folder of background noise to mix in")] = None
    noise_probability: Annotated[Ratio, Meta(description="share of copies with background noise")] = 0.5
    snr_min_db: Annotated[float, Meta(ge=-20, le=60, description="loudest noise drawn: speech power over noise power")] = 5.0
    snr_max_db: Annotated[float, Meta(ge=-20, le=60, description="softest noise drawn")] = 20.0
    impulse_dir: Annotated[str | None, Meta(description="folder of room impulse responses to reverberate with")] = None
    impulse_probability: Annotated[Ratio, Meta(description="share of copies with reverberation")] = 0.5
    telephone_probability: Annotated[Ratio, Meta(description="share of copies sent through an 8 kHz telephone line")] = 0.0
    telephone_codecs: Annotated[
        str, Meta(description="codecs drawn from for telephone copies: none, mulaw, alaw, gsm, opus; joined by commas")
    ] = "none,mulaw,alaw,gsm"
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
    """What is trained: a LoRA adapter, in PEFT's terms, or the weights themselves."""

    method: Annotated[
        Literal["lora", "full"], Meta(description="lora trains an adapter; full the sites' own weights, and saves a checkpoint")
    ] = "lora"
    lora_r: Annotated[int, Meta(ge=1, le=4096, description="rank of the update")] = 8
    lora_ranks: Annotated[
        str | None, Meta(description="other ranks for some sites, such as encoder=4,mlp=16; of several that name a layer the last counts")
    ] = None
    lora_alpha: Annotated[float, Meta(gt=0, description="scale: the update is multiplied by alpha / rank")] = 16.0
    lora_dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout on the update's input")] = 0.0
    lora_targets: Annotated[
        str,
        Meta(
            description="decoder, its parts self, cross, mlp; encoder; both or all; several joined by commas; or a pattern of module names"
        ),
    ] = "decoder"
    use_dora: Annotated[bool, Meta(description="weight-decomposed LoRA (DoRA)")] = False
    use_rslora: Annotated[bool, Meta(description="rank-stabilised scale, alpha / sqrt(rank)")] = False
    init_lora_weights: Annotated[Literal["default", "gaussian", "pissa", "orthogonal"], Meta(description="how the update starts")] = (
        "default"
    )


class TrainConfig(Section, frozen=True, kw_only=True):
    """The optimisation."""

    epochs: Annotated[float, Meta(gt=0, le=1_000_000, description="passes over the training set")] = 3.0
    max_steps: Annotated[Count | None, Meta(description="stop after so many optimizer updates, whatever the epochs say")] = None
    learning_rate: Annotated[float, Meta(gt=0, description="peak for decoder sites, reached after the warm-up")] = 1e-3
    encoder_learning_rate: Annotated[float, Meta(gt=0, description="peak for encoder sites")] = 1e-4
    full_learning_rate: Annotated[float, Meta(gt=0, description="peak for all sites with --method full")] = 1e-5
    gradient_checkpointing: Annotated[
        bool, Meta(description="encoder sites: compute activations again for the gradient; less memory, more time")
    ] = False
    warmup_steps: Annotated[int, Meta(ge=0, le=1_000_000_000, description="optimizer updates of linear warm-up")] = 20
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Meta(gt=0, description="clip the gradient's norm")] = 1.0
    batch_size: Annotated[Count, Meta(description="domain utterances in a batch")] = 8
    gradient_accumulation_steps: Annotated[
        Count, Meta(description="batches in an optimizer update; a trailing partial update is stepped")
    ] = 1
    strength_sweep: Annotated[
        bool, Meta(description="after training keep the largest share of the update that spares the guard; needs a replay manifest")
    ] = False
    replay_ratio: Annotated[float, Meta(ge=0, le=4, description="replay utterances for each domain utterance")] = 0.25
    replay_targets: Annotated[
        ReplayTargets, Meta(description="what replay teaches: the base model's own transcripts (keeps its style), or those given")
    ] = "base-model"
    eval_interval: Annotated[Count | None, Meta(description="optimizer updates between dev evaluations; else half an epoch")] = None
    checkpoint_interval: Annotated[
        Count | None, Meta(description="optimizer updates between checkpoints for --resume; else at every dev evaluation")
    ] = None
    patience: Annotated[Count, Meta(description="dev evaluations without a better one before training stops")] = 4
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="seeds splits, order, initialisation and dropout")] = 0


class EvalConfig(Section, frozen=True, kw_only=True):
    """Greedy decoding, the same for baseline, dev, tuned, transcribe and live."""

    eval_batch_size: Annotated[Count, Meta(description="utterances decoded together at most; results do not depend on it")] = 128
    tokens_per_second: Annotated[
        Annotated[float, Meta(gt=0, le=50)] | None,
        Meta(description="cap on tokens per second of audio; else 6.5 for English, 13 for other languages"),
    ] = None
    equivalents: Annotated[str | None, Meta(description="file of forms that count as the same to a reader, a group a line: a = b")] = None
    terms: Annotated[str | None, Meta(description="list of terms, one a line: how many are found, and how often one is heard falsely")] = (
        None
    )


class GateConfig(Section, frozen=True, kw_only=True):
    """What accepts an adapter. Points are percentage points of word error rate."""

    rule: Annotated[
        GateRule, Meta(description="interval: the 95 % intervals decide, or say that the sets are too small; point: the changes alone do")
    ] = "interval"
    guardrail: Annotated[
        Guardrail, Meta(description="held-out speech is scored against its transcripts (wer), or against the base model's (drift)")
    ] = "wer"
    min_domain_gain_points: Annotated[
        float, Meta(description="point: domain WER must fall by at least this; interval: less than this is no gain worth more test speech")
    ] = 1.0
    max_heldout_rise_points: Annotated[float, Meta(description="guardrail wer: held-out WER may rise by at most this")] = 0.2
    heldout_margin_points: Annotated[
        float, Meta(description="rule interval, guardrail wer: the upper end of the held-out change may be at most this")
    ] = 0.5
    max_drift_points: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="guardrail drift: the tuned model may differ from the base model's transcripts by at most this WER"),
    ] = None
    max_false_alarms: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="of --terms: the tuned model may hear this many falsely in 1,000 words of the held-out speech"),
    ] = None
    min_term_recall: Annotated[
        Annotated[float, Meta(ge=0, le=100)] | None,
        Meta(description="of --terms: the tuned model must find this share of those spoken in the domain, in percent"),
    ] = None


class OutputConfig(Section, frozen=True, kw_only=True):
    """Where the run is written."""

    output_dir: Annotated[str, Meta(description="run folder; must be new or empty")]
    overwrite: Annotated[bool, Meta(description="replace the run that the folder holds")] = False
    feature_cache_gb: Annotated[
        float, Meta(ge=0, le=1_000_000, description="GB of features, scores and sound kept for later runs; oldest go first")
    ] = 10.0
    trackers: Annotated[
        str | None, Meta(description=f"also log to {', '.join(TRACKERS)}; several joined by commas. The run's own files are always written")
    ] = None

    push_to_hub: Annotated[
        str | None, Meta(description="publish an accepted run in this model repository (owner/name); access is checked before training")
    ] = None
    hub_private: Annotated[bool, Meta(description="the model repository is private, when --push-to-hub makes it")] = True
    card_license: Annotated[str | None, Meta(description="licence in the model card's head, as the hub names it: mit, cc-by-4.0")] = None
    card_datasets: Annotated[
        str | None, Meta(description="hub names of the speech trained on, in the model card's head; several joined by commas")
    ] = None

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
        return given if given is not None else LANGUAGES[self.model.language].tokens_per_second


def add_flags(parser: argparse.ArgumentParser, schema: type[msgspec.Struct] = RunConfig) -> None:
    """Adds a flag for each setting of a schema of sections. A flag that is not given leaves no trace in the namespace."""
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
            help_text = f"{help_text} (default {setting.default})".strip()
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


def build(given: dict[str, Any], file: Path | None) -> RunConfig:
    """Like `from_flags`, with settings as `{"train.epochs": "3"}`; strings are converted as on a command line."""
    merged: dict[str, dict[str, Any]] = _read_toml(file) if file is not None else {}
    for dotted, value in given.items():
        section_name, name = dotted.split(".")
        merged.setdefault(section_name, {})[name] = _converted(section_name, name, value)
    return _checked(merged, str(file) if file else "the command line")


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
            reason = str(error).replace("Expected", "must be").replace(", got `str`", "").replace(" | null", "").replace("`", "")
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
        raise ConfigError(f"{origin}: {str(error).replace('`$.', '`')}") from error
    for section, setting in _settings():
        value = getattr(getattr(config, section.name), setting.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{origin}: {flag(setting.name)} must be a finite number, not {value}")
    require_consistent_gate(config, origin)
    require_consistent_adapter(config.adapter, origin)
    require_consistent_augmentation(config.augment, config.data.rms_dbfs, origin)
    config.output.tracker_names()
    return config


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
