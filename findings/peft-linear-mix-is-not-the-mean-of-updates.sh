#!/usr/bin/env bash
# peft 0.21.2: add_weighted_adapter(..., combination_type="linear") does not give the weighted sum of the adapters' updates.
#
# It adds the factors A and the factors B, each with the square root of its weight. An adapter mixed with itself at weights 0.5 and 0.5 thus
# comes back twice as strong, for (A/sqrt2 + A/sqrt2)(B/sqrt2 + B/sqrt2) is 2AB, and two adapters give cross terms that neither has.
# "cat" gives the sum of plain LoRA updates. With rank-stabilised scaling (use_rslora) it does not: the factors carry their adapters' scale
# already, and the mix, of the ranks' sum, is scaled once more by that sum's square root.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.23.0 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'P'
import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def updates(rslora):
    """Two adapters of rank 16 on one layer, and what a mix of them adds to its weight."""
    torch.manual_seed(1)
    config = lambda: LoraConfig(r=16, lora_alpha=16, target_modules=["0"], use_rslora=rslora, init_lora_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(24, 24, bias=False)), config(), adapter_name="one")
    model.add_adapter("two", config())
    layer = model.base_model.model[0]

    def mix(names, kind):
        model.add_weighted_adapter(names, [0.5] * len(names), f"{kind}{len(layer.lora_A)}", combination_type=kind)
        return layer.get_delta_weight(f"{kind}{len(layer.lora_A) - 1}").detach()

    one, two = layer.get_delta_weight("one").detach(), layer.get_delta_weight("two").detach()
    return one, two, mix


def ratio(found, wanted):
    return (found.norm() / wanted.norm()).item()


print("peft", peft.__version__, "torch", torch.__version__)
one, two, mix = updates(rslora=False)
doubled = mix(["one", "one"], "linear")
print(f"plain LoRA, half and half of one adapter with itself, linear: {ratio(doubled, one):.3f} times the adapter")
assert torch.allclose(doubled, 2 * one, atol=1e-4), "expected twice the adapter"
mean = (one + two) / 2
both = mix(["one", "two"], "linear")
print(f"plain LoRA, half and half of two adapters, linear: error {ratio(both - mean, mean):.2f} of the mean's size")
assert ratio(both - mean, mean) > 0.3, "expected cross terms"
joined = mix(["one", "two"], "cat")
print(f"plain LoRA, half and half of two adapters, cat: error {ratio(joined - mean, mean):.6f}")
assert torch.allclose(joined, mean, atol=1e-4)
one, two, mix = updates(rslora=True)
mean, joined = (one + two) / 2, mix(["one", "two"], "cat")
print(f"rank-stabilised LoRA of rank 16, cat: {ratio(joined, mean):.3f} times the mean")
assert torch.allclose(joined, 32**0.5 * mean, rtol=1e-3, atol=1e-3), "expected the square root of the summed ranks, 32"
P
