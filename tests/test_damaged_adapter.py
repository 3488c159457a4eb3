"""An adapter whose files are not what was saved is refused in one line, wherever it is taken from."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig, get_peft_model
from running import refusal
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.provenance import PROVENANCE_FILE, Origin, read
from lora.config import AdapterConfig
from lora.errors import CheckpointError
from lora.export.official import load_official, load_peft
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings
from lora.training.adapter import Provenance, attach, load, provenance_of, read_provenance, save, save_checkpoint

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
FACTOR = "base_model.model.model.decoder.layers.1.self_attn.q_proj.lora_B.weight"


def fresh(speech: LoadedModel) -> LoadedModel:
    return load_model(speech.checkpoint, speech.device, speech.precision)


def provenance(speech: LoadedModel) -> Provenance:
    return Provenance(
        base_model_id=speech.checkpoint.model_id,
        base_revision=None,
        base_sha256=speech.checkpoint.sha256,
        audio=AudioSettings(),
        decode=DecodeSettings(tokens_per_second=6.5),
        text_style="none",
        normaliser="test",
    )


@pytest.fixture
def folder(random_v1: LoadedModel, tmp_path: Path) -> Path:
    """A saved adapter with random weights."""
    adapted = attach(fresh(random_v1), AdapterConfig(lora_r=4))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    made = tmp_path / "adapter"
    made.mkdir()
    save(adapted, made, provenance(random_v1))
    return made


@pytest.fixture
def plain(folder: Path) -> Path:
    """The same adapter as another tool would have saved it."""
    (folder / PROVENANCE_FILE).unlink()
    return folder


Weights = dict[str, Tensor]
Change = Callable[[Path], None]


def weights(change: Callable[[Weights], object]) -> Change:
    def applied(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return applied


def values(file: str, path: str, value: object) -> Change:
    """Puts a value into a JSON file, at a path such as `decode.tokens_per_second`."""

    def applied(folder: Path) -> None:
        read = json.loads((folder / file).read_text())
        *parents, last = path.split(".")
        place: dict[str, Any] = read
        for name in parents:
            place = place[name]
        place[last] = value
        (folder / file).write_text(json.dumps(read))

    return applied


def settings(**changed: object) -> Change:
    def applied(folder: Path) -> None:
        for name, value in changed.items():
            values(SETTINGS, name, value)(folder)

    return applied


def renamed(state: Weights) -> None:
    for name in [name for name in state if ".layers.1." in name]:
        state[name.replace(".layers.1.", ".layers.7.")] = state.pop(name)


def prefixed(state: Weights) -> None:
    state["x" + FACTOR] = state.pop(FACTOR)


def lost(state: Weights) -> None:
    del state[FACTOR]


def cell(value: float) -> Callable[[Weights], None]:
    def change(state: Weights) -> None:
        state[FACTOR][0, 0] = value

    return change


def flipped(bit: int) -> Callable[[Weights], None]:
    def change(state: Weights) -> None:
        state[FACTOR].view(torch.int32)[1, 1] ^= 1 << bit

    return change


def cut(share: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def transposed(state: Weights) -> None:
    state[FACTOR] = state[FACTOR].T.contiguous()


def whole_numbers(state: Weights) -> None:
    state[FACTOR] = state[FACTOR].to(torch.int32)


def swapped(state: Weights) -> None:
    other = FACTOR.replace(".q_proj.", ".k_proj.")
    state[FACTOR], state[other] = state[other], state[FACTOR]


def text_bit(file: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        content = (folder / file).read_text()
        assert old in content
        (folder / file).write_text(content.replace(old, new, 1))

    return change


EITHER = [
    ("missing", lambda folder: (folder / WEIGHTS).unlink(), "adapter_model.safetensors: is missing; copy"),
    ("cut to half", cut(0.5), "not a whole safetensors file"),
    ("cut to nothing", cut(0), "not a whole safetensors file"),
    ("cut in its header", cut(0.01), "not a whole safetensors file"),
    ("pickled", pickled, "adapter_model.bin: is a pickle, which can run code when it is read"),
    ("a layer renamed", weights(renamed), "lacks|has no such layer"),
    ("a factor renamed", weights(prefixed), "lacks"),
    ("a factor lost", weights(lost), "lacks"),
    ("not a number", weights(cell(float("nan"))), "not finite|is damaged"),
    ("infinite", weights(cell(float("-inf"))), "not finite|is damaged"),
    ("a bit of an exponent", weights(flipped(30)), "is damaged|not finite"),
    ("transposed", weights(transposed), "take|is damaged"),
    ("whole numbers", weights(whole_numbers), "is damaged|not floating-point"),
    ("another rank", settings(r=8), "is damaged|take"),
    ("a rank of all memory", settings(r=65536, rank_pattern={".*": 4}), "is damaged|none of the weights have"),
    ("a rank of a pattern that is none", settings(rank_pattern={"[": 4}), "is damaged|rank_pattern"),
    ("a scale of a pattern that is none", settings(alpha_pattern={"(": 4}), "is damaged|alpha_pattern"),
    ("targets of a pattern that is none", settings(target_modules="*"), "is damaged|target_modules"),
    ("a negative rank", settings(r=-1), "is damaged|>= 1"),
    ("a negative scale", settings(lora_alpha=-1), "is damaged|> 0"),
    ("a negative dropout", settings(lora_dropout=-1), "is damaged|>= 0"),
    ("another type", settings(peft_type="IA3"), "is damaged|only LORA adapters"),
    ("no type", settings(peft_type=None), "is damaged|only LORA adapters"),
    ("layers twice", settings(layer_replication=[[0, 1], [0, 1]]), "is damaged|makes another model of the base"),
    ("targets of another model", settings(target_modules=["query"]), "is damaged|does not fit"),
    ("targets of no type", settings(target_modules=[1, {}]), "is damaged|Expected"),
    ("DoRA without magnitudes", settings(use_dora=True), "is damaged|lacks"),
]


@pytest.mark.parametrize(("change", "message"), [pytest.param(*case[1:], id=case[0]) for case in EITHER])
def test_an_adapter_of_this_project_that_was_changed_is_refused(random_v1: LoadedModel, folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(fresh(random_v1), folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [pytest.param(*case[1:], id=case[0]) for case in EITHER])
def test_a_plain_adapter_that_cannot_be_right_is_refused(random_v1: LoadedModel, plain: Path, change: Change, message: str) -> None:
    change(plain)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_peft(fresh(random_v1), plain)
    assert str(plain) in str(caught.value)


SEALED = [
    ("the last bit of a weight", weights(flipped(0))),
    ("two weights swapped", weights(swapped)),
    ("another scale", settings(lora_alpha=9)),
    ("a layer named twice", settings(alpha_pattern={"fc1": 3})),
    ("another token rate", values(PROVENANCE_FILE, "decode.tokens_per_second", 13)),
    ("another level", values(PROVENANCE_FILE, "audio.rms_dbfs", -20)),
    ("another language", text_bit(PROVENANCE_FILE, '"text_style": "none"', '"text_style": "lower"')),
    ("another base", values(PROVENANCE_FILE, "base_sha256", "0" * 64)),
]


@pytest.mark.parametrize("change", [pytest.param(case[1], id=case[0]) for case in SEALED])
def test_what_looks_right_but_is_not_what_was_saved_is_refused(random_v1: LoadedModel, folder: Path, change: Change) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=r"(is damaged or another one|was changed after it was saved).*; copy the whole folder again"):
        load(fresh(random_v1), folder)
    with pytest.raises(CheckpointError):
        read(folder, Origin)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("decode.tokens_per_second", -1),
        ("decode.tokens_per_second", 0),
        ("decode.tokens_per_second", 1e308),
        ("decode.tokens_per_second", "6.5"),
        ("audio.rms_dbfs", 5),
        ("language", "xx"),
        ("sealed", {}),
        ("sealed", 1),
    ],
)
def test_values_that_no_provenance_has_are_refused(random_v1: LoadedModel, folder: Path, path: str, value: object) -> None:
    values(PROVENANCE_FILE, path, value)(folder)
    with pytest.raises(CheckpointError, match=re.escape(PROVENANCE_FILE)):
        load(fresh(random_v1), folder)


def test_an_adapter_from_before_there_were_hashes_is_still_taken(random_v1: LoadedModel, folder: Path) -> None:
    values(PROVENANCE_FILE, "sealed", None)(folder)
    assert read_provenance(folder) == provenance(random_v1)
    assert load(fresh(random_v1), folder).sites
    weights(lost)(folder)
    with pytest.raises(CheckpointError, match=r"lacks 1 of 40 weights, among them .*layers\.1\.self_attn\.q_proj\.lora_B\.weight"):
        load(fresh(random_v1), folder)


def test_the_base_model_s_name_may_change(random_v1: LoadedModel, folder: Path) -> None:
    """A local base model moves, and the adapter goes with it."""
    values(PROVENANCE_FILE, "base_model_id", "/elsewhere")(folder)
    assert load(fresh(random_v1), folder).sites


@pytest.mark.parametrize("config", [IA3Config, LoHaConfig], ids=["IA3", "LoHa"])
def test_real_adapters_of_other_types_are_refused(random_v1: LoadedModel, tmp_path: Path, config: type[PeftConfig]) -> None:
    options: dict[str, Any] = {"target_modules": ["q_proj"], **({"feedforward_modules": []} if config is IA3Config else {})}
    get_peft_model(fresh(random_v1).model, config(**options)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"peft_type is '(IA3|LOHA)'; only LORA adapters can be used"):
        load_peft(fresh(random_v1), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "lora_only"},
        {"rank_pattern": {"k_proj": 2}},
        {"lora_bias": True},
        {"modules_to_save": ["fc1"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_plain_adapters_of_every_kind_are_taken(random_v1: LoadedModel, tmp_path: Path, options: dict[str, Any]) -> None:
    targets = {"target_modules": ["q_proj", "k_proj"], "init_lora_weights": False}
    get_peft_model(fresh(random_v1).model, LoraConfig(r=4, **targets, **options)).save_pretrained(tmp_path)
    assert load_peft(fresh(random_v1), tmp_path).sites


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_official_adapters_with_impossible_values_are_refused(random_v1: LoadedModel, tmp_path: Path, value: float) -> None:
    state = {f"decoder.{layer}.down": torch.ones(2, 32) for layer in range(2)}
    state |= {f"decoder.{layer}.{role}_proj.up": torch.ones(32, 2) for layer in range(2) for role in "qkv"}
    state["decoder.1.k_proj.up"][3, 1] = value
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder\.1\.k_proj\.up holds"):
        load_official(fresh(random_v1), tmp_path / "adapter.safetensors")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("config.json", '"attention_dropout": 0.0', '"attention_dropout": 0.5'), (PROVENANCE_FILE, "6.5", "6.4")],
)
def test_a_checkpoint_of_a_run_that_was_changed_is_refused(random_v1: LoadedModel, tmp_path: Path, file: str, old: str, new: str) -> None:
    adapted = attach(fresh(random_v1), AdapterConfig(method="full"))
    save_checkpoint(adapted, tmp_path, provenance(random_v1))
    assert provenance_of(resolve(str(tmp_path))) is not None
    content = (tmp_path / file).read_text()
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new))
    with pytest.raises(CheckpointError, match=r"damaged or another one|was changed after it was saved"):
        provenance_of(resolve(str(tmp_path)))


def test_every_command_refuses_a_damaged_adapter_in_one_line(random_v1: LoadedModel, folder: Path, tmp_path: Path) -> None:
    weights(flipped(3))(folder)
    model = ("--model-id", random_v1.checkpoint.folder)
    for command in (
        ("transcribe", *model, "--adapter-dir", folder, "--audio", tmp_path / "none.wav"),
        ("export", *model, "--adapter-dir", folder, "--to", "merged", "--output", tmp_path / "out", "--skip-proof"),
        ("adapter", "convert", folder, tmp_path / "out.safetensors", *model),
    ):
        assert "adapter_model.safetensors: is damaged or another one" in refusal(*command)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.safetensors").exists()
    shutil.rmtree(folder)
