#!/usr/bin/env bash
# transformers 5: a Moonshine checkpoint that is loaded and saved again no longer says `partial_rotary_factor` where it was.
#
# Published checkpoints (base: 0.62) have it in config.json itself. transformers 5 reads it from there, and writes it under
# `rope_parameters` only. Programs that read config.json themselves, converters among them, take their default then, such as 1.0 or 0.9:
# the model rotates other channels, loads without a warning, and says other words. transformers 5 itself, given a configuration without
# either name, takes 0.9 too, which is tiny's factor and not base's.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2>/dev/null
"$folder/venv/bin/python" -W ignore - "$folder" <<'P'
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

print("transformers", transformers.__version__)
folder = Path(sys.argv[1], "model")
folder.mkdir()
# As published: the factor of base in config.json itself, the sizes small and the weights random.
sizes = {"hidden_size": 104, "intermediate_size": 64, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}
published = {"model_type": "moonshine", "partial_rotary_factor": 0.62, "rope_theta": 10000.0, "initializer_range": 0.2, **sizes}
(folder / "config.json").write_text(json.dumps(published))
torch.manual_seed(1)
model = MoonshineForConditionalGeneration(MoonshineConfig.from_pretrained(folder)).eval()
turned = len(model.model.decoder.rotary_emb.inv_freq)
print("channels in pairs that are turned, of a head of 52:", turned)
assert turned == int(52 * 0.62) // 2
model.save_pretrained(folder)
saved = json.loads((folder / "config.json").read_text())
print("saved again: partial_rotary_factor", saved.get("partial_rotary_factor"), "- rope_parameters", saved["rope_parameters"])
assert "partial_rotary_factor" not in saved, "expected it to be gone"
assert saved["rope_parameters"]["partial_rotary_factor"] == 0.62
del saved["rope_parameters"]  # what a reader knows that does not look there
(folder / "config.json").write_text(json.dumps(saved))
other = MoonshineForConditionalGeneration.from_pretrained(folder).eval()
print("without either name:", len(other.model.decoder.rotary_emb.inv_freq), "pairs, and no warning")
assert len(other.model.decoder.rotary_emb.inv_freq) == int(52 * 0.9) // 2
torch.manual_seed(2)
sound, tokens = torch.randn(1, 16000), torch.tensor([[1, 5, 9]])
with torch.inference_mode():
    one, two = (each(input_values=sound, decoder_input_ids=tokens).logits for each in (model, other))
print("the same weights, the largest difference of a logit:", round((one - two).abs().max().item(), 3))
assert not torch.allclose(one, two, atol=1e-2), "expected other logits"
P
