#!/usr/bin/env bash
# moonshine-voice 0.1.5: with `word_timestamps` on, a line gets times of words only where the voice activity detector has ended it.
#
# A file that stops while somebody speaks has its last line without any, though its text is there. Half a second of silence behind the
# same samples gives the same text with times. With `vad_threshold` 0, which leaves a clip uncut, no line has times, silence or not:
# whoever switches the detector off to have a clip transcribed as it is loses them, and nothing is said.
#
# The wheel of 0.1.5 has no model; that of 0.1.0 has one, and its decoder gets here the outputs that times are computed from.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" "$@" --quiet --disable-pip-version-check 2>/dev/null; }
pip install moonshine-voice==0.1.5 onnx==1.23.0 onnxruntime==1.32.0 soundfile==0.13.1
pip install --no-deps --target "$folder/older" moonshine-voice==0.1.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'P'
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime
import soundfile

print("moonshine-voice", version("moonshine-voice"))
folder = Path(sys.argv[1])
assets = folder / "older/moonshine_voice/assets"
model = shutil.copytree(assets / "tiny-en", folder / "model")


def session(source: Path, written: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(written)
    onnxruntime.InferenceSession(str(source), options)


session(model / "decoder_model_merged.ort", folder / "decoder.onnx")
decoder = onnx.load(folder / "decoder.onnx")
(branching,) = (node for node in decoder.graph.node if node.op_type == "If")
names: list[str] = []
for branch in (attribute.g for attribute in branching.attribute):
    weights = [node.output[0] for node in branch.node if node.op_type == "Softmax" and "encoder_attn" in node.name]
    names = [f"cross_attentions.{layer}" for layer in range(len(weights))]
    branch.name = branch.name or "branch"
    for found, name in zip(weights, names, strict=True):
        branch.node.append(onnx.helper.make_node("Identity", [found], [name]))
        branch.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
branching.output.extend(names)
decoder.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
onnx.save(decoder, folder / "with.onnx")
session(folder / "with.onnx", model / "decoder_with_attention.ort")

from moonshine_voice import ModelArch, Transcriber

speech, rate = soundfile.read(assets / "beckett.wav", dtype="float32")
assert rate == 16000
cut_off = speech[: 4 * rate].tolist()  # somebody is speaking there


def heard(what: str, samples: list[float], **more: str) -> tuple[str, int, int]:
    """The text of the last line, its words, and how many of them have times."""
    transcriber = Transcriber(str(model), ModelArch.TINY, options={"word_timestamps": "true", **more})
    last = transcriber.transcribe_without_streaming(samples, rate).lines[-1]
    found = last.text.strip(), len(last.text.split()), len(last.words or [])
    print(f"{what}: {found[0]!r}, {found[2]} of {found[1]} words have times")
    return found


silence = [0.0] * (rate // 2)
ends = heard("the file ends in speech", cut_off)
rests = heard("half a second of silence behind it", cut_off + silence)
uncut = heard("the same, vad_threshold 0", cut_off + silence, vad_threshold="0.0")
assert ends[:2] == rests[:2], "expected the same text"
assert ends[2] == 0, "expected a text without times"
assert rests[2] == rests[1] > 0, "expected times of all words"
assert uncut[1] > 0 and uncut[2] == 0, "expected a text without times"
P
