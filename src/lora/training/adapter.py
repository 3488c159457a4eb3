"""LoRA adapters through PEFT: attach, save, load, merge. What is saved loads with plain `peft` too.

With the method `full` there is no adapter: the sites' own weights train, and the whole model is saved as a checkpoint.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora.audio.loading import AudioSettings
from lora.checkpoints import provenance as provenances
from lora.checkpoints.checkpoint import Checkpoint
from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, CHECKPOINT_SETTINGS, CHECKPOINT_WEIGHTS, PROVENANCE_FILE
from lora.config import AdapterConfig
from lora.errors import CheckpointError, ConfigError
from lora.language import code
from lora.model.loading import LoadedModel
from lora.model.parts import SITES
from lora.model.transcript import DecodeSettings
from lora.system.documents import read_json
from lora.system.files import write_json
from lora.text.style import ResolvedStyle
from lora.training import adapter_files

_FACTOR = re.compile(r"\.lora_(?P<side>[AB])\.weight$")


class Provenance(provenances.Origin, frozen=True, kw_only=True, omit_defaults=True):
    """An adapter's base model and the settings it was scored with, saved beside it so that every later use is the same."""

    audio: AudioSettings
    decode: DecodeSettings
    text_style: ResolvedStyle
    normaliser: str


@dataclass(frozen=True, slots=True)
class Site:
    """A layer that is adapted, by its full name."""

    name: str
    rank: int | None
    """None if its own weights train."""
    parameters: int
    """How many of its weights are trained."""

    @property
    def in_encoder(self) -> bool:
        return in_encoder(self.name)


def in_encoder(name: str) -> bool:
    """Whether a module or parameter of that full name is in a layer of the encoder."""
    return ".encoder.layers." in f".{name}"


@dataclass(frozen=True)
class Adapted:
    """A checkpoint with an adapter in place: `speech.model` holds the adapter's layers, `peft` saves and merges them.

    Where the weights themselves train, `peft` is the model.
    """

    speech: LoadedModel
    peft: Any
    sites: tuple[str, ...]
    """Full names of the adapted modules."""
    split_off: Mapping[str, Tensor] = field(default_factory=dict)
    """PiSSA only: the adapter's first weights, by their names in the saved file. The base weights lack their product."""
    full: bool = False
    """Whether the sites' own weights train."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable ones, in a fixed order."""
        return [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

    @property
    def trains_encoder(self) -> bool:
        return any(in_encoder(site) for site in self.sites)


def find_sites(speech: LoadedModel, targets: str) -> tuple[str, ...]:
    """Full names of the linear layers that match `targets`: words of `SITES` joined by commas, or a regular expression.

    Raises `ConfigError` when nothing matches, or when the match takes in the head or the embedding.
    """
    words = targets.split(",")
    pattern = "|".join(f"({SITES[word]})" for word in words) if all(word in SITES for word in words) else targets
    wanted = _compiled(pattern, f"--lora-targets {targets}")
    named = {name: module for name, module in speech.model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    found = tuple(name for name in named if wanted.fullmatch(name))
    if not found:
        example = next(name for name in named if re.fullmatch(SITES["all"], name))
        near = [(word, close[0]) for word in words if word not in SITES and (close := difflib.get_close_matches(word, SITES, n=1))]
        meant = f" (did you mean {near[0][1]!r} for {near[0][0]!r}?)" if near else ""
        raise ConfigError(
            f"--lora-targets {targets}: matches no layer{meant}; take {', '.join(SITES)}, or match full names such as {example}"
        )
    tied = [name for name in found if name == "proj_out" or not isinstance(named[name], nn.Linear)]
    if tied:
        raise ConfigError(f"--lora-targets {targets}: {tied[0]} shares its weights with the embedding or is one; leave it out")
    return found


def plan(speech: LoadedModel, config: AdapterConfig) -> tuple[Site, ...]:
    """The sites of a new adapter, of an adapter to continue, or of the weights to train.

    Raises `ConfigError` for sites that `find_sites` refuses, and for a rank that a site or the initialisation does not allow;
    `CheckpointError` for an adapter of another model, or a damaged one.
    """
    if config.from_adapter is not None:
        return _sites_of(speech, config, Path(config.from_adapter))
    names = find_sites(speech, config.lora_targets)
    if config.method == "full":
        return tuple(Site(name, None, sum(p.numel() for p in speech.model.get_submodule(name).parameters())) for name in names)
    ranks = dict.fromkeys(names, config.lora_r) | _other_ranks(names, config)
    modules = dict(speech.model.named_modules())
    sites = []
    for name, rank in ranks.items():
        setting = "--lora-r" if rank == config.lora_r else "--lora-ranks"
        outputs, inputs = modules[name].weight.shape
        if rank > min(outputs, inputs):
            raise ConfigError(f"{setting} {rank}: is above {min(outputs, inputs)}, the smaller side of {name}; lower it")
        if config.init_lora_weights == "orthogonal" and rank % 2:
            raise ConfigError(f"{setting} {rank}: must be even for --init-lora-weights orthogonal")
        sites.append(Site(name, rank, rank * (outputs + inputs) + (outputs if config.use_dora else 0)))
    return tuple(sites)


def _other_ranks(names: Sequence[str], config: AdapterConfig) -> dict[str, int]:
    """Ranks by `lora_ranks`, such as `encoder=4,mlp=16`; if several parts match a site, the last counts."""
    ranks: dict[str, int] = {}
    for part in config.lora_ranks.split(",") if config.lora_ranks is not None else ():
        said = f"--lora-ranks {config.lora_ranks}: {part!r}"
        word, _, rank = part.rpartition("=")
        if not word or not rank.isascii() or not rank.isdecimal() or int(rank) < 1:
            raise ConfigError(f"{said} is no SITE=RANK, such as encoder=4; several are joined by commas")
        wanted = _compiled(SITES.get(word, word), said)
        chosen = [name for name in names if wanted.fullmatch(name)]
        if not chosen:
            raise ConfigError(f"{said} matches none of the adapted layers; take {', '.join(SITES)}, a full name, or widen --lora-targets")
        ranks |= dict.fromkeys(chosen, int(rank))
    return ranks


def _compiled(pattern: str, said: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{said}: neither one of {', '.join(SITES)} nor a regular expression ({error})") from error


def _sites_of(speech: LoadedModel, config: AdapterConfig, folder: Path) -> tuple[Site, ...]:
    """The sites of a saved adapter, in the order of the model's layers. `lora_targets`, if set, must match them."""
    _require_of_base(speech, folder)
    settings = adapter_files.check(speech, folder)
    parameters: dict[str, int] = {}
    for name, weight in load_file(folder / ADAPTER_WEIGHTS).items():
        if factor := adapter_files.PARAMETER.fullmatch(name):
            parameters[factor["site"]] = parameters.get(factor["site"], 0) + weight.numel()
    if config.lora_targets != AdapterConfig().lora_targets and (other := set(find_sites(speech, config.lora_targets)) ^ parameters.keys()):
        raise ConfigError(
            f"--lora-targets {config.lora_targets}: --from-adapter {folder} has other layers ({min(other)} is in one of the two only); "
            "leave --lora-targets out"
        )
    return tuple(Site(name, settings.rank(name), parameters[name]) for name, _ in speech.model.named_modules() if name in parameters)


def _require_of_base(speech: LoadedModel, folder: Path) -> None:
    checkpoint = speech.checkpoint
    provenances.check(folder, read_provenance(folder), checkpoint.model_id, checkpoint.revision, checkpoint.sha256)


def attach(speech: LoadedModel, config: AdapterConfig, seed: int = 0, sites: Sequence[Site] | None = None) -> Adapted:
    """Puts a fresh adapter, drawn by `seed`, into the model, or one to continue, or makes the weights trainable.

    `sites` are what `plan` gave for this model and these settings; None plans them. A fresh adapter leaves the outputs those of the base
    model at first. Raises `ConfigError` for an adapter that `plan` refuses.
    """
    import peft

    torch.manual_seed(seed)
    if config.from_adapter is not None:
        return load(speech, Path(config.from_adapter), trainable=True)
    sites = plan(speech, config) if sites is None else sites
    if config.method == "full":
        for site in sites:
            speech.model.get_submodule(site.name).requires_grad_(True)
        return Adapted(speech, speech.model, tuple(site.name for site in sites), full=True)
    starts: dict[str, Any] = {"default": True}
    names = tuple(site.name for site in sites)
    others = {site.name: site.rank for site in sites if site.rank is not None and site.rank != config.lora_r}
    settings = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # a float works too
        rank_pattern=others,
        # The same scale everywhere, so that one learning rate suits all ranks.
        alpha_pattern={
            name: config.lora_alpha * _scale_of(config, rank) / _scale_of(config, config.lora_r) for name, rank in others.items()
        },
        lora_dropout=config.lora_dropout,
        target_modules=list(names),
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        init_lora_weights=starts.get(config.init_lora_weights, config.init_lora_weights),
        bias="none",
    )
    wrapped = peft.get_peft_model(speech.model, settings)
    if config.init_lora_weights != "pissa":
        return Adapted(speech, wrapped, names)
    first = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return Adapted(speech, wrapped, names, {name: weight.detach().cpu().clone() for name, weight in first.items() if _FACTOR.search(name)})


def _scale_of(config: AdapterConfig, rank: int) -> float:
    """The divisor of alpha."""
    return math.sqrt(rank) if config.use_rslora else rank


def save(adapted: Adapted, folder: Path, provenance: Provenance) -> None:
    """Writes the adapter as PEFT does, with its provenance. `folder` must exist; the caller makes it appear whole.

    What is written always applies to the base model as published, also after PiSSA.
    """
    for settings in adapted.peft.peft_config.values():
        settings.base_model_name_or_path = provenance.base_model_id
        settings.revision = provenance.base_revision
        settings.inference_mode = True
    adapted.peft.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub for the base model
    if adapted.split_off:
        _write_as_plain_lora(folder, adapted.split_off)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    provenances.write_sealed(folder, provenance, ADAPTER_WEIGHTS, ADAPTER_SETTINGS)


def save_checkpoint(adapted: Adapted, folder: Path, provenance: Provenance) -> None:
    """Writes a model whose weights were trained, and its processor, as a checkpoint that plain transformers loads, with its provenance.

    `folder` must exist; the caller makes it appear whole.
    """
    if provenance.language != "en":
        adapted.speech.model.config.language = code(provenance.language)
    adapted.speech.model.save_pretrained(folder)
    adapted.speech.processor.save_pretrained(folder)
    provenances.write_sealed(folder, provenance, CHECKPOINT_WEIGHTS, CHECKPOINT_SETTINGS)


def _write_as_plain_lora(folder: Path, split_off: Mapping[str, Tensor]) -> None:
    """Turns a saved PiSSA adapter, B A over W - s B0 A0, into its equal over W: s (B A - B0 A0), two factors of twice the rank.

    PEFT would otherwise repeat the split when it loads, which changes the base model and differs from machine to machine.
    """
    file = folder / ADAPTER_WEIGHTS
    weights = load_file(file)
    for name, first in split_off.items():
        rows = _FACTOR.search(name)["side"] == "A"  # type: ignore[index]  # split_off holds factors only
        weights[name] = torch.cat([weights[name], first if rows else -first], dim=0 if rows else 1)
    save_file(weights, file, metadata={"format": "pt"})
    settings = read_json(folder / ADAPTER_SETTINGS, dict[str, Any], CheckpointError)
    grown = math.sqrt(2) if settings["use_rslora"] else 2  # keeps alpha / rank, or alpha / sqrt(rank)
    changed = {
        "init_lora_weights": True,
        "r": 2 * settings["r"],
        "lora_alpha": grown * settings["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in settings["rank_pattern"].items()},
        "alpha_pattern": {name: grown * alpha for name, alpha in settings["alpha_pattern"].items()},
    }
    write_json(folder / ADAPTER_SETTINGS, settings | changed)


def read_provenance(folder: Path) -> Provenance:
    """The provenance of a saved adapter. Raises `CheckpointError` if it is missing or a file was changed."""
    return provenances.read(folder, Provenance)


def provenance_of(checkpoint: Checkpoint) -> Provenance | None:
    """The provenance of a checkpoint that a run has saved; None for any other. Raises `CheckpointError` if its files were changed."""
    if not (checkpoint.folder / PROVENANCE_FILE).is_file():
        return None
    return provenances.read_sealed(checkpoint.folder, Provenance, CHECKPOINT_WEIGHTS, CHECKPOINT_SETTINGS)


def load(speech: LoadedModel, folder: Path, *, trainable: bool = False) -> Adapted:
    """Puts a saved adapter into its base model. Raises `CheckpointError` when it was trained on another one, or is damaged."""
    _require_of_base(speech, folder)
    wrapped = adapter_files.put_in(speech, folder, trainable=trainable)
    # Not `target_modules`: beyond 20 names PEFT keeps only what their ends have in common.
    return Adapted(speech, wrapped, tuple(name for name, module in speech.model.named_modules() if hasattr(module, "lora_A")))


@contextmanager
def merged(adapted: Adapted) -> Iterator[LoadedModel]:
    """The model with the adapter folded into its weights for the block: decoding then costs what the base model costs.

    The weights are put back from a copy, for subtracting what was added would leave rounding errors behind.
    """
    if adapted.full:
        training = adapted.peft.training
        adapted.peft.eval()
        try:
            yield adapted.speech
        finally:
            adapted.peft.train(training)
        return
    layers = [layer for layer in adapted.peft.modules() if hasattr(layer, "base_layer") and hasattr(layer, "lora_A")]
    before: list[Tensor] = [layer.base_layer.weight.detach().clone() for layer in layers]
    training = adapted.peft.training
    adapted.peft.eval()
    adapted.peft.merge_adapter()
    try:
        yield adapted.speech
    finally:
        adapted.peft.unmerge_adapter()
        with torch.no_grad():
            for layer, weight in zip(layers, before, strict=True):
                layer.base_layer.weight.copy_(weight)
        adapted.peft.train(training)


def fold_in(adapted: Adapted) -> None:
    """Merges the adapter into the weights for good and takes its layers out again: `speech.model` is then a plain model."""
    adapted.peft.merge_and_unload()


def is_plain(folder: Path, provenance: Provenance) -> bool:
    """Whether a saved adapter is plain LoRA (products of two factors) whose files match the hashes in its provenance."""
    settings = adapter_files.read_settings(folder)
    named = provenance.sealed is not None and all(map(adapter_files.FACTOR.fullmatch, provenance.sealed.tensors))
    return named and not settings.use_dora and settings.bias == "none"


@torch.no_grad()
def fold_plain(speech: LoadedModel, folder: Path) -> None:
    """Merges an adapter that `is_plain` into the weights for good, to the bit as PEFT does, without the seconds that importing PEFT takes.

    Raises `CheckpointError` when it was trained on another model, or is damaged.
    """
    _require_of_base(speech, folder)
    settings = adapter_files.check(speech, folder)
    for site, (down, up) in adapter_files.factors(folder).items():
        layer: Any = speech.model.get_submodule(site)
        layer.weight += (up.to(speech.device) @ down.to(speech.device)) * settings.scale(site)


def state(adapted: Adapted) -> dict[str, Tensor]:
    """A copy of the adapter's weights."""
    return {name: parameter.detach().clone() for name, parameter in adapted.peft.named_parameters() if parameter.requires_grad}


def restore(adapted: Adapted, weights: dict[str, Tensor]) -> None:
    """Restores weights that `state` returned."""
    parameters = dict(adapted.peft.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
