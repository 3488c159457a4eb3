"""Adapters of other tools: the `adapter.safetensors` of moonshine-voice's own trainer, and plain PEFT folders.

The official file holds, for each layer of the decoder or the encoder, one `down` `[rank, in]` that query, key and value share, and an
`up` `[out, rank]` for each of the three. The update of a weight is `alpha / rank * up @ down`; neither number is in the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lora.audio.loading import AudioSettings
from lora.checkpoints.model_folder import require_no_pickle
from lora.checkpoints.provenance import PROVENANCE_FILE
from lora.errors import CheckpointError, ExportError
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.system.files import atomic_file, atomic_folder
from lora.text.normaliser import normaliser_version
from lora.training import adapter as adapters
from lora.training import adapter_files
from lora.training.adapter import Adapted, Provenance

ROLES = ("q_proj", "k_proj", "v_proj")
STACKS = ("decoder", "encoder")

_SITE = re.compile(rf"model\.(?P<stack>{'|'.join(STACKS)})\.layers\.(?P<layer>\d+)\.self_attn\.(?P<role>{'|'.join(ROLES)})")
_KEY = re.compile(rf"(?P<stack>{'|'.join(STACKS)})\.(?P<layer>\d+)\.(down|({'|'.join(ROLES)})\.up)")
_KEEPS_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations after which an update is what the adapter holds; others also change the base model's weights."""


def load_official(speech: LoadedModel, file: Path, alpha: float | None = None) -> Adapted:
    """Puts an official adapter into its base model. `alpha` is the value it was trained with; None is that trainer's default, the rank.

    Raises `CheckpointError` when the file is no such adapter, or of a model of other sizes.
    """
    import peft

    state = _read(file)
    prefixes = sorted({name.rsplit(".", 1)[0] for name in state if name.endswith(".down")})
    modules = dict(speech.model.named_modules())
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for prefix in prefixes:
        stack, layer = prefix.split(".")
        for role in ROLES:
            site = f"model.{stack}.layers.{layer}.self_attn.{role}"
            weights[site] = (state[f"{prefix}.down"].float(), state[f"{prefix}.{role}.up"].float())
            _require_fitting(file, site, modules.get(site), *weights[site])
    ranks = {down.shape[0] for down, _ in weights.values()}
    if len(ranks) > 1:
        raise CheckpointError(f"{file}: has layers of the ranks {', '.join(map(str, sorted(ranks)))}; an official adapter has one rank")
    rank = ranks.pop()
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(weights), bias="none")  # type: ignore[arg-type]
    wrapped = peft.get_peft_model(speech.model, settings)
    with torch.no_grad():
        for site, (down, up) in weights.items():
            module: Any = speech.model.get_submodule(site)
            module.lora_A["default"].weight.copy_(down)
            module.lora_B["default"].weight.copy_(up)
    return Adapted(speech, wrapped, tuple(weights))


def load_peft(speech: LoadedModel, folder: Path) -> Adapted:
    """Puts a LoRA adapter that PEFT saved into its base model; one with a provenance file must belong to that model.

    Raises `CheckpointError` when it is no LoRA adapter or does not fit.
    """
    if (folder / PROVENANCE_FILE).is_file():
        return adapters.load(speech, folder)
    if (start := adapter_files.read_settings(folder).init_lora_weights) not in _KEEPS_THE_BASE:
        raise CheckpointError(
            f"{folder}: {start!r} changes the base model too; save it with PEFT's `path_initial_model_for_weight_conversion` first"
        )
    wrapped = adapter_files.put_in(speech, folder)
    return Adapted(speech, wrapped, tuple(name for name, module in speech.model.named_modules() if hasattr(module, "lora_A")))


def official_state(adapted: Adapted) -> dict[str, Tensor]:
    """The adapter as the official trainer keeps it, its strength in `up`, so that it loads with `alpha` equal to the rank.

    Where query, key and value have a `down` each, the file holds all of them one below the other, and zeros in `up` choose: the rank is
    three times as high, the update the same.

    Raises `ExportError` for an adapter with other sites than query, key and value of self-attention, and for DoRA and biases.
    """
    settings = adapted.peft.peft_config["default"]
    if other := [site for site in adapted.sites if _SITE.fullmatch(site) is None]:
        raise ExportError(f"the adapter changes {other[0]}; the official format holds only q_proj, k_proj and v_proj of self-attention")
    if settings.use_dora or settings.bias != "none" or settings.lora_bias:
        raise ExportError("the adapter uses DoRA or trains biases; the official format holds plain LoRA only")
    found = {(match["stack"], int(match["layer"])) for site in adapted.sites if (match := _SITE.fullmatch(site))}
    model = adapted.speech.model.model
    layers = {
        (stack, layer): _shared({role: _factors(getattr(attention, role)) for role in ROLES})
        for stack in sorted({stack for stack, _ in found})
        for layer, attention in enumerate(block.self_attn for block in getattr(model, stack).layers)
    }
    rank = max(down.shape[0] for down, _ in layers.values())
    state = {}
    for (stack, layer), (down, ups) in layers.items():
        missing = rank - down.shape[0]
        state[f"{stack}.{layer}.down"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        for role, up in ups.items():
            state[f"{stack}.{layer}.{role}.up"] = torch.nn.functional.pad(up, (0, missing))
    return state


def opened(speech: LoadedModel, source: Path, alpha: float | None = None) -> Adapted:
    """The adapter of an official file, with the `alpha` that it was trained with, or of a PEFT folder, in its base model.

    Raises `CheckpointError` when it cannot be read or does not fit the model.
    """
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder; give an adapter.safetensors or a PEFT adapter's folder")
    if source.is_file():
        return load_official(speech, source, alpha)
    if alpha is not None:
        raise CheckpointError(f"{source}: its settings hold alpha already; leave out --alpha")
    return load_peft(speech, source)


def convert(adapted: Adapted, output: Path, *, tokens_per_second: float, overwrite: bool = False) -> str:
    """Writes an adapter in another form and says what was written, in one line.

    An `output` that ends in `.safetensors` is an official file, any other a PEFT folder with provenance, which every command takes as
    `--adapter-dir`.

    Raises:
        ExportError: the adapter has no such form, or there is something at `output`.
        RunFolderError: `output` cannot be written.
    """
    if output.exists() and not overwrite:
        raise ExportError(f"{output}: is there already; choose another place or pass --overwrite")
    if output.suffix == ".safetensors":
        state = official_state(adapted)
        with atomic_file(output) as stream:
            stream.write(save(state, metadata={"format": "pt"}))
        rank = next(weight.shape[0] for name, weight in state.items() if name.endswith(".down"))
        return f"{output}: {len(state)} tensors; load it with rank {rank} and alpha {rank}"
    checkpoint = adapted.speech.checkpoint
    provenance = Provenance(
        base_model_id=checkpoint.model_id,
        base_revision=checkpoint.revision,
        base_sha256=checkpoint.sha256,
        audio=AudioSettings(),
        decode=DecodeSettings(tokens_per_second=tokens_per_second),
        text_style="none",
        normaliser=normaliser_version(),
    )
    with atomic_folder(output) as folder:
        adapters.save(adapted, folder, provenance)
    return f"{output}: {len(adapted.sites)} sites of {checkpoint.model_id}"


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of an official file, each layer complete."""
    require_no_pickle(file)
    try:
        state: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error}); copy it again") from error
    adapter_files.check_values(file, state)
    if unknown := sorted(name for name in state if _KEY.fullmatch(name) is None):
        raise CheckpointError(f"{file}: holds {unknown[0]}, which no official adapter has; give the adapter.safetensors of that trainer")
    if not state:
        raise CheckpointError(f"{file}: holds no tensors; copy it again")
    layers = {".".join(name.split(".")[:2]) for name in state}
    wanted = {f"{layer}.{part}" for layer in layers for part in ("down", *(f"{role}.up" for role in ROLES))}
    if missing := sorted(wanted - state.keys()):
        raise CheckpointError(f"{file}: lacks {missing[0]}; copy it again")
    return state


def _require_fitting(file: Path, site: str, module: Any, down: Tensor, up: Tensor) -> None:
    if module is None:
        raise CheckpointError(f"{file}: has an update of {site}, which this model does not have; give its base model")
    outer, inner = module.weight.shape
    if down.shape[-1] != inner or up.shape != (outer, down.shape[0]):
        raise CheckpointError(
            f"{file}: updates {site} with {list(up.shape)} by {list(down.shape)}, the model's weight is {outer} by {inner}; "
            "give its base model"
        )


def _factors(module: Any) -> tuple[Tensor, Tensor]:
    """`down` and scaled `up` of a layer, on the CPU; of rank 0 where it has no update."""
    if not hasattr(module, "lora_A"):
        outer, inner = module.weight.shape
        return torch.zeros(0, inner), torch.zeros(outer, 0)
    scale = module.scaling["default"]
    return module.lora_A["default"].weight.detach().cpu(), scale * module.lora_B["default"].weight.detach().cpu()


def _shared(factors: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """One `down` for all roles, and the `up` of each."""
    downs = [down for down, _ in factors.values()]
    if all(torch.equal(down, downs[0]) for down in downs):
        return downs[0].clone(), {role: up for role, (_, up) in factors.items()}
    ups, place, rank = {}, 0, sum(down.shape[0] for down in downs)
    for role, (down, up) in factors.items():
        ups[role] = torch.nn.functional.pad(up, (place, rank - place - down.shape[0]))
        place += down.shape[0]
    return torch.cat(downs), ups
