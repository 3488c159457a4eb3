"""Several adapters of one base model as one: the weighted sum of their updates, exactly.

PEFT's own `add_weighted_adapter` is not used: its `linear` mix multiplies sums of factors, which is not the sum of the updates, and it
scales rank-stabilised adapters otherwise than it runs them (peft 0.21.2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, tuned_by, write_sealed
from lora.errors import CheckpointError, ConfigError, ExportError
from lora.system.files import atomic_folder, write_json
from lora.training import adapter_files
from lora.training.adapter import Provenance, read_provenance

_SAME: Final = ("base_sha256", "language", "audio", "decode", "normaliser")
"""What adapters must have in common, because one model decodes and is scored with one set of settings."""


def combine(folders: Sequence[Path], weights: Sequence[float] | None, output: Path, *, overwrite: bool = False) -> tuple[float, ...]:
    """Writes an adapter whose update is the sum of the given ones, each times its weight, and returns the weights (default: the mean).

    `folders` are adapters or runs. The rank of a layer is the sum of theirs.

    Raises:
        ConfigError: there are fewer than two adapters, or another number of weights.
        CheckpointError: an adapter is damaged, they do not belong together, or their updates cannot be added up.
        ExportError: there is something at `output`.
    """
    if len(folders) < 2:
        given = f"{folders[0]} is the only adapter" if folders else "no adapter is given"
        raise ConfigError(f"{given}; name two or more")
    if weights is not None and len(weights) != len(folders):
        raise ConfigError(f"--weights: {len(weights)} for {len(folders)} adapters; give one for each, in the same order")
    if output.exists() and not overwrite:
        raise ExportError(f"{output}: is there already; choose another place or pass --overwrite")
    shares = tuple(weights) if weights is not None else (1 / len(folders),) * len(folders)
    adapters = [_adapter(folder) for folder in folders]
    provenance = _common(adapters)
    rows: dict[str, list[Tensor]] = {}
    columns: dict[str, list[Tensor]] = {}
    for adapter, share in zip(adapters, shares, strict=True):
        for site, (down, up) in _factors(adapter).items():
            rows.setdefault(site, []).append(down)
            columns.setdefault(site, []).append(share * up)
    with atomic_folder(output) as folder:
        _write(folder, {site: (torch.cat(rows[site]), torch.cat(columns[site], dim=1)) for site in rows}, provenance)
    return shares


def _adapter(folder: Path) -> Path:
    """The adapter's folder, which a run's folder holds."""
    if (folder / ADAPTER_SETTINGS).is_file():
        return folder
    found = tuned_by(folder).adapter_folder
    if found is None:
        raise CheckpointError(f"{folder}: has trained whole weights (--method full), which are no update to add up; combine adapters")
    return found


def _common(adapters: Sequence[Path]) -> Provenance:
    """The provenance of all; the style of the transcripts that they were trained on may differ.

    Raises `CheckpointError` if they differ in what decides a transcript or a score.
    """
    provenances = [read_provenance(adapter) for adapter in adapters]
    for adapter, provenance in zip(adapters, provenances, strict=True):
        for name in _SAME:
            first, other = getattr(provenances[0], name), getattr(provenance, name)
            if first != other:
                raise CheckpointError(
                    f"{adapter}: has {name} {_short(other)}, and {adapters[0]} has {_short(first)}; only adapters of one base model that "
                    "hear and write alike can be combined"
                )
    styles = {provenance.text_style for provenance in provenances}
    return msgspec.structs.replace(provenances[0], text_style=styles.pop() if len(styles) == 1 else "none", sealed=None)


def _short(value: object) -> str:
    return str(value)[:60]


def _factors(adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """By site, `[rank, inputs]` and `[outputs, rank]`, whose product is the update. Raises `CheckpointError` for DoRA and biases."""
    settings = adapter_files.read_settings(adapter)
    if settings.use_dora or settings.bias != "none":
        raise CheckpointError(f"{adapter}: uses DoRA or trains biases, whose update is no product of two factors; combine plain LoRA")
    adapter_files.check_values(adapter / ADAPTER_WEIGHTS, load_file(adapter / ADAPTER_WEIGHTS))
    return {site: (down, settings.scale(site) * up) for site, (down, up) in adapter_files.factors(adapter).items()}


def _write(folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], provenance: Provenance) -> None:
    """An adapter whose scale is 1 everywhere: alpha is the rank."""
    import peft

    ranks = {site: down.shape[0] for site, (down, _) in factors.items()}
    usual = max(ranks.values())
    others = {site: rank for site, rank in sorted(ranks.items()) if rank != usual}
    settings = peft.LoraConfig(
        r=usual, lora_alpha=usual, rank_pattern=others, alpha_pattern=dict(others), target_modules=sorted(ranks), inference_mode=True
    )
    settings.base_model_name_or_path, settings.revision = provenance.base_model_id, provenance.base_revision
    written: dict[str, Any] = settings.to_dict()  # type: ignore[no-untyped-call]
    write_json(folder / ADAPTER_SETTINGS, written | {"target_modules": sorted(ranks), "peft_type": "LORA"})
    save_file(
        {
            f"base_model.model.{site}.lora_{side}.weight": weight.contiguous()
            for site, pair in factors.items()
            for side, weight in zip("AB", pair, strict=True)
        },
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    write_sealed(folder, provenance, ADAPTER_WEIGHTS, ADAPTER_SETTINGS)
