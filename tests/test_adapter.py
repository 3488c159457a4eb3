"""Adapters: a no-op until trained, nothing else trains, merging is exact and undone, and what is saved is what was trained."""

import json
import re
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import msgspec
import peft
import pytest
import reference
import torch
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq

from lora.audio.loading import AudioSettings, Waveform
from lora.checkpoints.provenance import PROVENANCE_FILE
from lora.config import AdapterConfig
from lora.errors import CheckpointError, ConfigError
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.loading import LoadedModel, load_model, pad_labels
from lora.model.transcript import DecodeSettings
from lora.text.normaliser import normaliser_version
from lora.training.adapter import (
    SITES,
    Adapted,
    Provenance,
    attach,
    find_sites,
    load,
    merged,
    plan,
    read_provenance,
    restore,
    save,
    state,
)

TOKENS = torch.tensor([[1, 372, 471, 278, 1900, 310, 3064]])
LABELS = [471, 278, 1900, 310, 3064, 29892, 2]

VARIANTS = [
    AdapterConfig(),
    AdapterConfig(use_rslora=True),
    AdapterConfig(use_dora=True),
    AdapterConfig(init_lora_weights="gaussian"),
    AdapterConfig(init_lora_weights="orthogonal"),
    AdapterConfig(init_lora_weights="pissa"),
    AdapterConfig(init_lora_weights="pissa", use_rslora=True, lora_r=4),
    AdapterConfig(init_lora_weights="pissa", use_dora=True),
    AdapterConfig(init_lora_weights="pissa", lora_targets="all"),
    AdapterConfig(lora_targets="all", use_dora=True),
    AdapterConfig(lora_targets="both", lora_ranks="encoder=4,mlp=2"),
    AdapterConfig(lora_targets="both", lora_ranks="encoder=4,mlp=2", init_lora_weights="pissa", use_rslora=True),
]


def variant_name(config: AdapterConfig) -> str:
    words = [name for name in ("use_dora", "use_rslora") if getattr(config, name)]
    return "-".join([config.init_lora_weights, *words, config.lora_targets, *([config.lora_ranks] if config.lora_ranks else [])])


def fresh(speech: LoadedModel) -> LoadedModel:
    """A copy that a test may change."""
    return replace(speech, model=deepcopy(speech.model))


def logits(speech: LoadedModel, samples: Waveform) -> Tensor:
    """Logits for fixed tokens over one clip, through encoder, decoder and head."""
    with torch.inference_mode():
        decoder = Decoder(speech)
        hidden: Tensor = speech.head(decoder(TOKENS, decoder.listen(Encoder(speech)([samples]))))
    return hidden


def distance(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().max().item()


def backward(adapted: Adapted, samples: Waveform) -> None:
    encoded = Encoder(adapted.speech)([samples])
    loss = Decoder(adapted.speech).loss_sum(encoded, pad_labels([LABELS], adapted.speech.device))
    (loss / len(LABELS)).backward()


def trained(speech: LoadedModel, config: AdapterConfig, samples: Waveform, steps: int = 2) -> Adapted:
    """A fresh adapter after some large updates."""
    adapted = attach(fresh(speech), config)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=1e-2)
    adapted.peft.train()
    for _ in range(steps):
        optimizer.zero_grad()
        backward(adapted, samples)
        optimizer.step()
    adapted.peft.eval()
    return adapted


def provenance(speech: LoadedModel) -> Provenance:
    return Provenance(
        base_model_id=speech.checkpoint.model_id,
        base_revision=None,
        base_sha256=speech.checkpoint.sha256,
        audio=AudioSettings(rms_dbfs=-26.0),
        decode=DecodeSettings(tokens_per_second=6.5),
        text_style="lower",
        normaliser=normaliser_version(),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "lora_adapter"
    made.mkdir()
    return made


# --- an adapter that has not been trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_an_untrained_adapter_changes_nothing(random_speech: LoadedModel, waveforms: Sequence[Waveform], config: AdapterConfig) -> None:
    adapted = attach(fresh(random_speech), config)
    adapted.peft.eval()
    change = distance(logits(adapted.speech, waveforms[0]), logits(random_speech, waveforms[0]))
    if config.init_lora_weights in ("pissa", "orthogonal") or config.use_dora:
        assert change < 2e-4  # the base weights are split and summed again, or normalised and scaled again
    else:
        assert change == 0


def test_an_untrained_adapter_changes_nothing_in_the_real_model(tiny: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = attach(fresh(tiny), AdapterConfig(lora_targets="all"))
    adapted.peft.eval()
    assert torch.equal(logits(adapted.speech, waveforms[0]), logits(tiny, waveforms[0]))


def test_the_seed_decides_how_an_adapter_starts(random_v1: LoadedModel) -> None:
    def start(seed: int) -> list[Tensor]:
        return list(state(attach(fresh(random_v1), AdapterConfig(), seed)).values())

    torch.manual_seed(123)
    first = start(5)
    assert all(torch.equal(a, b) for a, b in zip(first, start(5), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, start(6), strict=True))


# --- what trains --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [*SITES, "encoder,mlp"])
def test_only_the_adapter_trains(random_speech: LoadedModel, targets: str) -> None:
    adapted = attach(fresh(random_speech), AdapterConfig(lora_targets=targets))
    training = {name for name, parameter in adapted.peft.named_parameters() if parameter.requires_grad}
    assert training
    assert all(".lora_" in name for name in training)
    adapted_modules = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in training}
    assert adapted_modules == set(adapted.sites)
    assert len(adapted.parameters()) == 2 * len(adapted.sites)


def test_decoder_sites_leave_the_encoder_without_gradients(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = attach(fresh(random_speech), AdapterConfig(lora_targets="decoder"))
    assert not adapted.trains_encoder
    backward(adapted, waveforms[0])
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in adapted.speech.encoder.parameters())
    assert all(parameter.grad is not None for parameter in adapted.parameters())


@pytest.mark.parametrize("targets", ["encoder", "all", "self,encoder"])
def test_encoder_sites_are_known_and_get_gradients(random_speech: LoadedModel, waveforms: Sequence[Waveform], targets: str) -> None:
    adapted = attach(fresh(random_speech), AdapterConfig(lora_targets=targets))
    assert adapted.trains_encoder
    backward(adapted, waveforms[0])
    second_factors = [p for n, p in adapted.speech.encoder.named_parameters() if "lora_B" in n]
    assert second_factors
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in second_factors)


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_training_changes_the_outputs_and_not_the_base(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], config: AdapterConfig
) -> None:
    adapted = attach(fresh(random_speech), config)
    before = {name: parameter.clone() for name, parameter in adapted.peft.named_parameters() if not parameter.requires_grad}
    start = logits(adapted.speech, waveforms[0])
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=1e-2)
    for _ in range(2):
        backward(adapted, waveforms[0])
        optimizer.step()
    assert distance(logits(adapted.speech, waveforms[0]), start) > 1e-2
    assert all(torch.equal(before[name], parameter) for name, parameter in adapted.peft.named_parameters() if name in before)


def test_restoring_gives_back_the_state_that_was_taken(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = trained(random_v1, AdapterConfig(), waveforms[0])
    taken, before = state(adapted), logits(adapted.speech, waveforms[0])
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(1.0)
    assert distance(logits(adapted.speech, waveforms[0]), before) > 1e-2
    restore(adapted, taken)
    assert torch.equal(logits(adapted.speech, waveforms[0]), before)


# --- merging ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_merged_equals_unmerged_and_leaves_every_weight_as_it_was(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], config: AdapterConfig
) -> None:
    adapted = trained(random_speech, config, waveforms[0])
    weights = {name: tensor.clone() for name, tensor in adapted.peft.state_dict().items()}
    unmerged = logits(adapted.speech, waveforms[0])
    with merged(adapted) as speech:
        once = logits(speech, waveforms[0])
    with merged(adapted) as speech:
        twice = logits(speech, waveforms[0])
    assert distance(once, unmerged) < 1e-3
    assert distance(unmerged, logits(random_speech, waveforms[0])) > 1e-2
    assert torch.equal(once, twice)
    assert torch.equal(logits(adapted.speech, waveforms[0]), unmerged)
    after = adapted.peft.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_merging_adds_scaled_b_a(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = trained(random_v1, AdapterConfig(lora_r=4, lora_alpha=12.0), waveforms[0])
    layer = adapted.speech.model.get_submodule(adapted.sites[0])
    base = layer.base_layer.weight.clone()  # type: ignore[union-attr,operator]
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # type: ignore[index,union-attr]
    with merged(adapted):
        torch.testing.assert_close(layer.base_layer.weight, base + 12.0 / 4 * update)  # type: ignore[union-attr]


def fail_while_merged(adapted: Adapted) -> None:
    with merged(adapted) as speech:
        assert not speech.model.training
        raise KeyError("inside")


@pytest.mark.parametrize("training", [True, False])
def test_merging_evaluates_and_puts_the_mode_back(random_v1: LoadedModel, training: bool) -> None:
    adapted = attach(fresh(random_v1), AdapterConfig())
    adapted.peft.train(training)
    with pytest.raises(KeyError, match="inside"):
        fail_while_merged(adapted)
    assert adapted.peft.training is training
    assert not any(module.merged for module in adapted.peft.modules() if hasattr(module, "lora_A"))


# --- sites --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "v1", "v2"),
    [
        ("decoder", 2 * (8 + 2), 2 * (8 + 2)),
        ("self", 2 * 4, 2 * 4),
        ("cross", 2 * 4, 2 * 4),
        ("mlp", 2 * 2, 2 * 2),
        ("encoder", 2 * (4 + 2), 3 * (4 + 2)),
        ("all", 2 * (4 + 2) + 2 * (8 + 2), 3 * (4 + 2) + 2 * (8 + 2)),
        ("both", 2 * (4 + 2) + 2 * (8 + 2), 3 * (4 + 2) + 2 * (8 + 2)),
        ("self,cross", 2 * 8, 2 * 8),
        (r"model\.decoder\.layers\.1\..*v_proj", 2, 2),
    ],
)
def test_site_words_name_the_same_parts_in_both_generations(
    random_v1: LoadedModel, random_v2: LoadedModel, targets: str, v1: int, v2: int
) -> None:
    for speech, count in ((random_v1, v1), (random_v2, v2)):
        sites = find_sites(speech, targets)
        assert len(sites) == len(set(sites)) == count
        modules = dict(speech.model.named_modules())
        assert all(isinstance(modules[site], torch.nn.Linear) for site in sites)


def test_all_takes_in_every_other_site_word(random_speech: LoadedModel) -> None:
    every = set(find_sites(random_speech, "all"))
    for word in SITES:
        assert set(find_sites(random_speech, word)) <= every
    assert not any("proj_out" in site or "embed" in site for site in every)


@pytest.mark.parametrize("targets", ["q_proj", "decoders", "model.nothing", "decoder,encoders", ""])
def test_sites_that_match_nothing_are_refused_with_an_example(random_speech: LoadedModel, targets: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"matches no layer( \(did you mean .*\))?; take decoder, self, cross, .* such as model\.\w+\.layers\.0\.self_attn\.",
    ):
        find_sites(random_speech, targets)


def test_an_invalid_pattern_is_refused(random_v1: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"--lora-targets \(: neither one of decoder, .* nor a regular expression"):
        find_sites(random_v1, "(")


@pytest.mark.parametrize("targets", ["proj_out", r"model\.decoder\.embed_tokens", ".*"])
def test_head_and_embedding_are_refused(random_speech: LoadedModel, targets: str) -> None:
    with pytest.raises(ConfigError, match="shares its weights with the embedding or is one; leave it out"):
        find_sites(random_speech, targets)


def test_a_rank_above_the_layers_is_refused(random_v1: LoadedModel) -> None:
    with pytest.raises(
        ConfigError, match=r"--lora-r 33: is above 32, the smaller side of model\.decoder\.layers\.0\.self_attn\.q_proj; lower it"
    ):
        attach(fresh(random_v1), AdapterConfig(lora_r=33))
    assert attach(fresh(random_v1), AdapterConfig(lora_r=32)).sites


def test_an_odd_rank_is_refused_for_an_orthogonal_start(random_v1: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="--lora-r 3: must be even for --init-lora-weights orthogonal"):
        attach(fresh(random_v1), AdapterConfig(lora_r=3, init_lora_weights="orthogonal"))


def test_a_rank_is_that_of_the_last_part_that_names_the_site(random_speech: LoadedModel) -> None:
    config = AdapterConfig(lora_targets="both", lora_r=8, lora_ranks=r"encoder=4,mlp=16,model\.decoder\.layers\.1\.mlp\.fc1=2")
    ranks = {site.name: site.rank for site in plan(random_speech, config)}
    assert ranks.keys() == set(find_sites(random_speech, "both"))
    assert {rank for name, rank in ranks.items() if ".encoder." in name} == {4}
    assert {rank for name, rank in ranks.items() if "decoder.layers" in name and "_attn" in name} == {8}
    assert {name: rank for name, rank in ranks.items() if "decoder.layers" in name and ".mlp." in name} == {
        "model.decoder.layers.0.mlp.fc1": 16,
        "model.decoder.layers.0.mlp.fc2": 16,
        "model.decoder.layers.1.mlp.fc1": 2,
        "model.decoder.layers.1.mlp.fc2": 16,
    }


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_planned_ranks_and_parameters_are_those_of_the_adapter(random_speech: LoadedModel, config: AdapterConfig) -> None:
    adapted, sites = attach(fresh(random_speech), config), plan(random_speech, config)
    modules = dict(adapted.speech.model.named_modules())
    for site in sites:
        layer = modules[site.name]
        assert layer.lora_A["default"].weight.shape[0] == site.rank  # type: ignore[index,union-attr]
        assert sum(parameter.numel() for parameter in layer.parameters() if parameter.requires_grad) == site.parameters
    assert sum(site.parameters for site in sites) == sum(parameter.numel() for parameter in adapted.parameters())


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_scale_of_an_update_does_not_depend_on_its_rank(random_v1: LoadedModel, use_rslora: bool) -> None:
    config = AdapterConfig(lora_targets="both", lora_ranks="encoder=4,mlp=16", use_rslora=use_rslora)
    layers = [module for module in attach(fresh(random_v1), config).peft.modules() if hasattr(module, "lora_A")]
    assert {module.lora_A["default"].weight.shape[0] for module in layers} == {4, 8, 16}
    assert [module.scaling["default"] for module in layers] == pytest.approx([16 / (8**0.5 if use_rslora else 8)] * len(layers))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ("encoder=4", r"'encoder=4' matches none of the adapted layers; take decoder, .*, or widen --lora-targets"),
        ("mlp", r"'mlp' is no SITE=RANK, such as encoder=4"),
        ("mlp=", r"'mlp=' is no SITE=RANK"),
        ("=4", r"'=4' is no SITE=RANK"),
        ("mlp=0", r"'mlp=0' is no SITE=RANK"),
        ("mlp=-1", r"'mlp=-1' is no SITE=RANK"),
        ("mlp=2.5", r"'mlp=2.5' is no SITE=RANK"),
        ("mlp=4,", r"'' is no SITE=RANK"),
        ("(=4", r"'\(=4': neither one of decoder, .* nor a regular expression"),
        ("mlp=33", r"--lora-ranks 33: is above 32, the smaller side of model\.decoder\.layers\.0\.mlp\.fc1; lower it"),
    ],
)
def test_ranks_that_cannot_be_are_refused(random_v1: LoadedModel, ranks: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(random_v1, AdapterConfig(lora_ranks=ranks))


# --- saving and loading -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_a_saved_adapter_gives_the_same_outputs_over_the_published_base(
    random_speech: LoadedModel, waveforms: Sequence[Waveform], folder: Path, config: AdapterConfig
) -> None:
    adapted = trained(random_speech, config, waveforms[0])
    expected = logits(adapted.speech, waveforms[0])
    save(adapted, folder, provenance(random_speech))
    loaded = load(fresh(random_speech), folder)
    loaded.peft.eval()
    assert sorted(loaded.sites) == sorted(adapted.sites)
    assert loaded.trains_encoder == adapted.trains_encoder
    found = logits(loaded.speech, waveforms[0])
    if config.init_lora_weights == "pissa":
        assert distance(found, expected) < 5e-4
    else:
        assert torch.equal(found, expected)
    with loaded.peft.disable_adapter(), torch.inference_mode():
        bare, published = (
            reference.loss_sum(s, reference.encoded(s, waveforms[:1]), torch.tensor([LABELS])) for s in (loaded.speech, random_speech)
        )
    assert torch.equal(bare, published)


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_a_saved_adapter_loads_with_plain_peft(tiny: LoadedModel, waveforms: Sequence[Waveform], folder: Path, init: str) -> None:
    config = AdapterConfig(init_lora_weights=init)  # type: ignore[arg-type]
    adapted = trained(tiny, config, waveforms[0], steps=1)
    save(adapted, folder, provenance(tiny))
    base = AutoModelForSpeechSeq2Seq.from_pretrained(tiny.checkpoint.folder, dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(base, folder).eval()
    values = torch.from_numpy(waveforms[0])[None]
    with torch.inference_mode():
        found = plain(input_values=values, decoder_input_ids=TOKENS).logits
    expected = logits(adapted.speech, waveforms[0])
    assert distance(expected, logits(tiny, waveforms[0])) > 0.05
    assert distance(found, expected) < 1e-3


def test_an_untrained_pissa_adapter_is_saved_as_one_that_does_nothing(
    random_v1: LoadedModel, waveforms: Sequence[Waveform], folder: Path
) -> None:
    save(attach(fresh(random_v1), AdapterConfig(init_lora_weights="pissa")), folder, provenance(random_v1))
    loaded = load(fresh(random_v1), folder)
    assert distance(logits(loaded.speech, waveforms[0]), logits(random_v1, waveforms[0])) < 1e-5


def test_saving_does_not_change_the_adapter(random_speech: LoadedModel, waveforms: Sequence[Waveform], folder: Path) -> None:
    adapted = trained(random_speech, AdapterConfig(init_lora_weights="pissa"), waveforms[0])
    before = logits(adapted.speech, waveforms[0])
    save(adapted, folder, provenance(random_speech))
    assert torch.equal(logits(adapted.speech, waveforms[0]), before)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    save(adapted, folder, provenance(random_speech))
    assert first.keys() == {"adapter_config.json", "adapter_model.safetensors", PROVENANCE_FILE}
    assert (folder / "adapter_model.safetensors").read_bytes() == first["adapter_model.safetensors"]


def test_a_saved_adapter_names_its_base_and_comes_with_its_provenance(random_v1: LoadedModel, folder: Path) -> None:
    wanted = msgspec.structs.replace(provenance(random_v1), base_revision="0123456789abcdef")
    save(attach(fresh(random_v1), AdapterConfig()), folder, wanted)
    assert msgspec.structs.replace(read_provenance(folder), sealed=None) == wanted
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == random_v1.checkpoint.model_id
    assert settings["revision"] == "0123456789abcdef"


def test_bfloat16_adapters_train_save_and_load(random_speech: LoadedModel, waveforms: Sequence[Waveform], folder: Path) -> None:
    half = load_model(random_speech.checkpoint, random_speech.device, "bfloat16")
    adapted = trained(half, AdapterConfig(lora_targets="all"), waveforms[0])
    save(adapted, folder, provenance(half))
    loaded = load(fresh(half), folder)
    assert torch.equal(logits(loaded.speech, waveforms[0]), logits(adapted.speech, waveforms[0]))


def test_an_adapter_of_another_base_is_refused_and_both_are_named(random_v1: LoadedModel, random_v2: LoadedModel, folder: Path) -> None:
    save(attach(fresh(random_v1), AdapterConfig()), folder, provenance(random_v1))
    with pytest.raises(CheckpointError) as caught:
        load(fresh(random_v2), folder)
    message = str(caught.value)
    for speech in (random_v1, random_v2):
        assert re.search(rf"{re.escape(speech.checkpoint.model_id)} \(weights {speech.checkpoint.sha256[:8]}\)", message)
    assert "was trained on" in message
    assert "give that --model-id" in message


def test_a_folder_without_adapter_or_provenance_is_refused(random_v1: LoadedModel, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapter \(no adapter_config\.json\); give a run's lora_adapter/ folder"):
        load(random_v1, folder)
    save(attach(fresh(random_v1), AdapterConfig()), folder, provenance(random_v1))
    (folder / PROVENANCE_FILE).rename(folder.parent / PROVENANCE_FILE)
    with pytest.raises(CheckpointError, match=rf"has no {re.escape(PROVENANCE_FILE)}"):
        load(random_v1, folder)
    shutil.copy(folder.parent / PROVENANCE_FILE, folder)
    (folder / PROVENANCE_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="base_model_id"):
        load(random_v1, folder)
