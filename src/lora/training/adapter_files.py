"""The files of a LoRA adapter, whoever saved it, checked before and after PEFT loads it into a model."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, tensor_names
from lora.errors import CheckpointError
from lora.model.loading import MOST, LoadedModel
from lora.system.documents import read_json

_MOST_RANK: Final = 1024
"""Limit on a rank that no weight confirms: a damaged number would otherwise exhaust the memory."""

FACTOR: Final = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<side>[AB])\.weight")
PARAMETER: Final = re.compile(r"base_model\.model\.(?P<site>.+)\.(lora_[AB]\.weight|lora_magnitude_vector)(\.weight)?")
"""The trained tensors of a site: two factors, and with DoRA a magnitude for each output."""

_REMEDY: Final = "copy or save the adapter again"

_Rank = Annotated[int, msgspec.Meta(ge=1, le=65536)]
_Alpha = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of `adapter_config.json` that decide what the adapter does."""

    peft_type: str
    r: _Rank = 8
    lora_alpha: _Alpha = 8.0
    lora_dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Alpha] | None = None
    target_modules: str | list[str] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    layer_replication: list[Any] | None = None

    def rank(self, site: str) -> int:
        """The rank of a site, by PEFT's own rule for patterns."""
        named = (rank for key, rank in (self.rank_pattern or {}).items() if re.fullmatch(rf"(.*\.)?({key})", site))
        return next(named, self.r)

    def scale(self, site: str) -> float:
        """The scale of the product of a site's factors, by PEFT's own rules."""
        named = (alpha for key, alpha in (self.alpha_pattern or {}).items() if re.fullmatch(rf"(.*\.)?({key})", site))
        rank = self.rank(site)
        return next(named, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def patterns(self) -> Iterator[tuple[str, str]]:
        """All that PEFT takes for patterns of module names, each with the setting that holds it."""
        for name, keys in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            yield from ((name, key) for key in keys or ())
        if isinstance(self.target_modules, str):
            yield "target_modules", self.target_modules


def read_settings(folder: Path) -> Settings:
    """The settings of a LoRA adapter. Raises `CheckpointError` for another kind of adapter and for values that no adapter can have."""
    file = folder / ADAPTER_SETTINGS
    said = read_json(file, dict[str, Any], CheckpointError)
    if said.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type is {said.get('peft_type')!r}; only LORA adapters can be used, train one")
    try:
        settings = msgspec.convert(said, Settings)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{file}: {error}; {_REMEDY}") from error
    for name, pattern in settings.patterns():
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{file}: {name} holds {pattern[:80]!r}, which is no pattern ({error}); {_REMEDY}") from error
    if settings.layer_replication:
        raise CheckpointError(f"{file}: layer_replication makes another model of the base; take an adapter without it")
    return settings


def check(speech: LoadedModel, folder: Path) -> Settings:
    """The settings of an adapter that fits the model: names and shapes of its factors, and their values.

    Raises `CheckpointError` with the first thing that is wrong.
    """
    settings, file = read_settings(folder), folder / ADAPTER_WEIGHTS
    tensor_names(file)  # refuses an incomplete file
    weights = load_file(file)
    check_values(file, weights)
    fit = _Fit(file, settings, speech.checkpoint.model_id, dict(speech.model.named_modules()))
    ranks = {fit.rank(name, weight) for name, weight in weights.items()} - {None}
    highest = max([settings.r, *(settings.rank_pattern or {}).values()])
    if highest > max([_MOST_RANK, *(rank for rank in ranks if rank is not None)]):
        raise CheckpointError(f"{folder / ADAPTER_SETTINGS}: has the rank {highest}, which none of the weights have; {_REMEDY}")
    return settings


def check_values(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` for weights that are no numbers, not finite, or too large to be weights."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise CheckpointError(f"{file}: {name} holds {weight.dtype}, not floating-point numbers; {_REMEDY}")
        largest = weight.float().abs().max().item() if weight.numel() else 0.0
        if not math.isfinite(largest):
            raise CheckpointError(f"{file}: {name} holds values that are not finite; {_REMEDY}, or train again")
        if largest > MOST:
            raise CheckpointError(f"{file}: {name} holds {largest:.3g}, which no training gives: the file is damaged; {_REMEDY}")


def factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The two factors of each site, float32 `[rank, inputs]` and `[outputs, rank]`, of files that `check` has passed."""
    weights = load_file(folder / ADAPTER_WEIGHTS)
    sites = {found["site"]: None for name in weights if (found := FACTOR.fullmatch(name))}
    named = {site: [weights[f"base_model.model.{site}.lora_{side}.weight"].float() for side in "AB"] for site in sites}
    return {site: (down, up) for site, (down, up) in named.items()}


def check_names(adapted: Any, folder: Path) -> None:
    """Raises `CheckpointError` unless the file's weights are exactly those that the model with the adapter in it has."""
    import peft

    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    found = set(tensor_names(folder / ADAPTER_WEIGHTS))
    if lacking := sorted(expected - found):
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: lacks {len(lacking)} of {len(expected)} weights, among them {lacking[0]}; {_REMEDY}"
        )
    if unknown := sorted(name for name in found - expected if "embed" not in name):  # PEFT saves the embedding too, where it has changed
        raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: holds {unknown[0]}, which its settings do not name; {_REMEDY}")


@dataclass(frozen=True, slots=True)
class _Fit:
    """What the factors of an adapter have to fit: the model's layers and the adapter's own settings."""

    file: Path
    settings: Settings
    model_id: str
    layers: Mapping[str, nn.Module]

    def rank(self, name: str, weight: Tensor) -> int | None:
        """The rank of a factor; None for what is none. Raises `CheckpointError` when it does not fit its layer or the settings."""
        factor = FACTOR.fullmatch(name)
        if factor is None:
            return None
        layer = self.layers.get(factor["site"])
        if layer is None:
            raise CheckpointError(
                f"{self.file}: changes {factor['site']}; does not fit {self.model_id}, which has no such layer; give its base model"
            )
        if not isinstance(layer, nn.Linear):
            return None
        rank = self.settings.rank(factor["site"])
        wanted = [rank, layer.in_features] if factor["side"] == "A" else [layer.out_features, rank]
        if list(weight.shape) != wanted:
            raise CheckpointError(
                f"{self.file}: {name} is {list(weight.shape)}; does not fit {self.model_id} and rank {rank} of {ADAPTER_SETTINGS}, which "
                f"take {wanted}; give its base model, or copy the adapter again"
            )
        return rank


def put_in(speech: LoadedModel, folder: Path, *, trainable: bool = False) -> Any:
    """The model with the adapter in it, as PEFT wraps it. Raises `CheckpointError` for an adapter that `check` or PEFT refuses."""
    import peft

    check(speech, folder)
    try:
        wrapped = peft.PeftModel.from_pretrained(speech.model, folder, is_trainable=trainable)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder}: does not fit {speech.checkpoint.model_id} ({reason}); give its base model") from error
    check_names(wrapped, folder)
    return wrapped
