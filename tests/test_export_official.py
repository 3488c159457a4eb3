"""An adapter means the same in every form: the official trainer's formula gives the weights that PEFT merges."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from running import moonshine_lora, the_error
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.config import AdapterConfig
from lora.errors import CheckpointError, ExportError
from lora.export.official import ROLES, convert, load_official, load_peft, official_state, opened
from lora.model.loading import LoadedModel, load_model
from lora.training.adapter import Adapted, attach, fold_in, load, read_provenance

RANK = 4
ROUNDING = 1e-6


def fresh(speech: LoadedModel) -> LoadedModel:
    return load_model(speech.checkpoint, torch.device("cpu"), "float32")


def drawn(speech: LoadedModel, stacks: tuple[str, ...] = ("decoder",), rank: int = RANK) -> dict[str, Tensor]:
    """An official adapter of random weights."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    for stack in stacks:
        for index, layer in enumerate(getattr(speech.model.model, stack).layers):
            outer, inner = layer.self_attn.q_proj.weight.shape
            state[f"{stack}.{index}.down"] = torch.randn(rank, inner, generator=generator)
            for role in ROLES:
                state[f"{stack}.{index}.{role}.up"] = torch.randn(outer, rank, generator=generator)
    return state


def applied(speech: LoadedModel, state: Mapping[str, Tensor], alpha: float, rank: int) -> dict[str, Tensor]:
    """All weights after the update that the official trainer defines: `W += alpha / rank * up @ down`."""
    model = fresh(speech).model
    with torch.no_grad():
        for name in [name for name in state if name.endswith(".down")]:
            stack, index, _ = name.split(".")
            attention = getattr(model.model, stack).layers[int(index)].self_attn
            for role in ROLES:
                getattr(attention, role).weight.add_(alpha / rank * (state[f"{stack}.{index}.{role}.up"] @ state[name]))
    return dict(model.state_dict())


def folded(adapted: Adapted) -> dict[str, Tensor]:
    fold_in(adapted)
    return dict(adapted.speech.model.state_dict())


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(weight, second[name]) for name, weight in first.items())


def own(speech: LoadedModel, targets: str, **settings: object) -> Adapted:
    """An adapter of this project with random weights."""
    adapted = attach(fresh(speech), AdapterConfig(lora_targets=targets, lora_r=RANK, **settings))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapted


QKV = r"model\.decoder\.layers\.\d+\.self_attn\.[qkv]_proj"


# --- there -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacks", [("decoder",), ("encoder",), ("decoder", "encoder")], ids="-".join)
@pytest.mark.parametrize("alpha", [None, 8.0, 3.0])
def test_an_official_adapter_gives_exactly_the_weights_its_trainer_gives(
    random_speech: LoadedModel, stacks: tuple[str, ...], alpha: float | None, tmp_path: Path
) -> None:
    state = drawn(random_speech, stacks)
    save_file(state, tmp_path / "adapter.safetensors")
    found = folded(load_official(fresh(random_speech), tmp_path / "adapter.safetensors", alpha))
    assert same(found, applied(random_speech, state, alpha or RANK, RANK))
    assert not same(found, dict(random_speech.model.state_dict()))


def test_a_converted_adapter_is_one_of_this_project(random_speech: LoadedModel, tmp_path: Path) -> None:
    state = drawn(random_speech)
    save_file(state, tmp_path / "adapter.safetensors")
    convert(opened(fresh(random_speech), tmp_path / "adapter.safetensors", 8.0), tmp_path / "peft", tokens_per_second=6.5)
    assert read_provenance(tmp_path / "peft").base_sha256 == random_speech.checkpoint.sha256
    assert same(folded(load(fresh(random_speech), tmp_path / "peft")), applied(random_speech, state, 8.0, RANK))


def test_there_and_back_is_the_same_file(random_speech: LoadedModel, tmp_path: Path) -> None:
    state = drawn(random_speech, ("decoder", "encoder"))
    save_file(state, tmp_path / "adapter.safetensors")
    convert(opened(fresh(random_speech), tmp_path / "adapter.safetensors"), tmp_path / "peft", tokens_per_second=6.5)
    convert(opened(fresh(random_speech), tmp_path / "peft"), tmp_path / "back.safetensors", tokens_per_second=6.5)
    assert same(load_file(tmp_path / "back.safetensors"), state)


def test_a_peft_adapter_of_another_tool_gets_a_provenance(random_v1: LoadedModel, tmp_path: Path) -> None:
    plain = get_peft_model(fresh(random_v1).model, LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False))
    plain.save_pretrained(tmp_path / "theirs")
    convert(opened(fresh(random_v1), tmp_path / "theirs"), tmp_path / "ours", tokens_per_second=6.5)
    expected = dict(plain.merge_and_unload().state_dict())
    assert same(folded(load(fresh(random_v1), tmp_path / "ours")), expected)


# --- back ------------------------------------------------------------------------------------------------------------------------------


def test_own_adapters_keep_their_update_with_three_times_the_rank(random_speech: LoadedModel) -> None:
    adapted = own(random_speech, QKV, lora_alpha=2 * RANK)
    state = official_state(adapted)
    found, expected = applied(random_speech, state, 3 * RANK, 3 * RANK), folded(adapted)
    assert {weight.shape[0] for name, weight in state.items() if name.endswith(".down")} == {3 * RANK}
    scale = max(weight.abs().max() for weight in expected.values())
    assert max((found[name] - weight).abs().max() for name, weight in expected.items()) < ROUNDING * scale


def test_layers_and_roles_without_an_update_keep_their_weights(random_v1: LoadedModel) -> None:
    adapted = own(random_v1, r"model\.decoder\.layers\.1\.self_attn\.q_proj", lora_alpha=RANK)
    state = official_state(adapted)
    found, expected = applied(random_v1, state, RANK, RANK), folded(adapted)
    assert len(state) == 2 * (1 + len(ROLES))
    for name, weight in random_v1.model.state_dict().items():
        changed = name == "model.decoder.layers.1.self_attn.q_proj.weight"
        assert torch.equal(found[name], expected[name] if changed else weight)
        assert torch.equal(found[name], weight) != changed


# --- the trainer itself ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("moonshine_voice")
def test_the_trainer_s_own_file_and_merge_agree_with_ours(random_v2: LoadedModel, tmp_path: Path) -> None:
    theirs = importlib.import_module("moonshine_voice.lora.adapter")
    model = fresh(random_v2).model
    sites = theirs.add_lora(model, rank=RANK, alpha=2 * RANK, seed=3, sites="both")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in theirs.adapter_parameters(sites):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_file(theirs.adapter_state(sites), tmp_path / "adapter.safetensors")
    theirs.merge_and_restore(model, sites)
    assert same(folded(load_official(fresh(random_v2), tmp_path / "adapter.safetensors", 2.0 * RANK)), dict(model.state_dict()))


@pytest.mark.usefixtures("moonshine_voice")
def test_the_trainer_loads_what_we_write(random_v2: LoadedModel, tmp_path: Path) -> None:
    theirs = importlib.import_module("moonshine_voice.lora.adapter")
    save_file(drawn(random_v2), tmp_path / "adapter.safetensors")
    adapted = load_official(fresh(random_v2), tmp_path / "adapter.safetensors", 2.0 * RANK)
    model, state = fresh(random_v2).model, official_state(adapted)
    sites = theirs.add_lora(model, rank=RANK)
    theirs.load_adapter_state(sites, state, "cpu")
    theirs.merge_and_restore(model, sites)
    assert same(dict(model.state_dict()), folded(adapted))


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["decoder", "mlp", "cross"])
def test_other_sites_than_the_official_ones_are_refused(random_v1: LoadedModel, targets: str) -> None:
    with pytest.raises(ExportError, match="the official format holds only q_proj, k_proj and v_proj of self-attention"):
        official_state(own(random_v1, targets))


def test_dora_is_refused(random_v1: LoadedModel) -> None:
    with pytest.raises(ExportError, match="uses DoRA or trains biases"):
        official_state(own(random_v1, QKV, use_dora=True))


def test_an_official_adapter_of_another_model_is_refused(random_v1: LoadedModel, random_v2: LoadedModel, tmp_path: Path) -> None:
    save_file(drawn(random_v2, ("encoder",)), tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"updates model\.encoder\.layers\.0\.self_attn\.q_proj with \[48, 4\] by \[4, 48\]"):
        load_official(fresh(random_v1), tmp_path / "adapter.safetensors")
    deeper = drawn(random_v1)
    deeper |= {name.replace("decoder.1.", "decoder.2."): weight.clone() for name, weight in deeper.items() if ".1." in name}
    save_file(deeper, tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.decoder\.layers\.2\.self_attn\.q_proj, which this model does not have"):
        load_official(fresh(random_v1), tmp_path / "adapter.safetensors")


def other_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"model.norm.weight": torch.ones(2)}


def incomplete(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if "k_proj" not in name}


def empty(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict.fromkeys(set[str](), state["decoder.0.down"])


def two_ranks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    second = {name: weight for name, weight in state.items() if name.startswith("decoder.1.")}
    return state | {name: weight[:2] if name.endswith(".down") else weight[:, :2].contiguous() for name, weight in second.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_tensors, r"holds model\.norm\.weight, which no official adapter has"),
        (incomplete, r"lacks decoder\.0\.k_proj\.up"),
        (empty, "holds no tensors"),
        (two_ranks, "has layers of the ranks 2, 4"),
    ],
)
def test_a_file_that_is_no_official_adapter_is_refused(
    random_v1: LoadedModel, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    save_file(change(drawn(random_v1)), tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_official(fresh(random_v1), tmp_path / "adapter.safetensors")


def test_peft_adapters_that_mean_something_else_are_refused(random_v1: LoadedModel, random_v2: LoadedModel, tmp_path: Path) -> None:
    for name, settings in (("pissa", {"init_lora_weights": "pissa"}), ("wide", {})):
        speech = fresh(random_v1 if name == "pissa" else random_v2)
        get_peft_model(speech.model, LoraConfig(r=2, target_modules=["q_proj"], **settings)).save_pretrained(tmp_path / name)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="'pissa' changes the base model too"):
        load_peft(fresh(random_v1), tmp_path / "pissa")
    with pytest.raises(CheckpointError, match=r"does not fit .*; give its base model"):
        load_peft(fresh(random_v1), tmp_path / "wide")


def test_the_command_converts_and_refuses_in_one_line(random_v1: LoadedModel, tmp_path: Path) -> None:
    model = ("--model-id", random_v1.checkpoint.folder)
    official, folder = tmp_path / "adapter.safetensors", tmp_path / "peft"
    save_file(drawn(random_v1), official)
    done = moonshine_lora("adapter", "convert", official, folder, *model)
    assert (done.code, done.out) == (0, f"{folder}: 6 sites of {random_v1.checkpoint.folder}\n")
    again = moonshine_lora("adapter", "convert", folder, tmp_path / "back.safetensors", *model)
    assert again.out == f"{tmp_path / 'back.safetensors'}: 8 tensors; load it with rank {RANK} and alpha {RANK}\n"
    for arguments, message in (
        ((official, folder), f"error: {folder}: is there already; choose another place or pass --overwrite"),
        ((tmp_path / "none", tmp_path / "new"), f"error: {tmp_path / 'none'}: no such file or folder"),
        ((folder, tmp_path / "new", "--alpha", 4), f"error: {folder}: its settings hold alpha already"),
    ):
        refused = moonshine_lora("adapter", "convert", *arguments, *model)
        assert refused.code == 2
        assert the_error(refused).startswith(message)
    assert not (tmp_path / "new").exists()
    assert moonshine_lora("adapter", "convert", official, folder, *model, "--overwrite").code == 0


def test_a_damaged_file_is_refused(random_v1: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_official(fresh(random_v1), tmp_path / "adapter.safetensors")
