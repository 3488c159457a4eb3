"""What each command loads: importing is most of the time that a short command takes. Modules are counted, not seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from records import completed

from lora.audio.loading import Waveform, encode_flac
from lora.checkpoints.checkpoint import Checkpoint
from lora.runs.record import write

COMPILER = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")
"""Parts of PyTorch that it loads when it compiles or shares tensors. `transformers` loads them all."""

NEVER_WITHOUT_TRAINING = ("transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "pandas", "huggingface_hub", *COMPILER)
COMPUTING = ("torch", "tokenizers", "safetensors", "onnxruntime", "av", *NEVER_WITHOUT_TRAINING)
ANY = ("numpy", "msgspec", "jinja2", "soundfile", "rich", *COMPUTING)

RUN = """
import json, os, sys
from lora.main import main
try:
    code = main()
except SystemExit as ended:
    code = ended.code
with open(os.environ["LOADED"], "w") as file:
    json.dump([code, sorted(sys.modules)], file)
"""


def loaded(folder: Path, *arguments: object) -> set[str]:
    """All modules that a process has loaded when the command has ended well."""
    report = folder / "loaded.json"
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"LOADED": str(report)}, capture_output=True, text=True, check=True)
    code, modules = json.loads(report.read_text())
    assert code == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    ("arguments", "absent", "most"),
    [
        (["--help"], ANY, 150),
        (["data", "--help"], ANY, 150),
        (["push", "--help"], ANY, 150),
        (["serve", "--help"], ANY, 170),
        (["export", "--help"], ("numpy", *COMPUTING), 210),
        (["cache", "show"], ("numpy", *COMPUTING), 210),
        (["manifest", "merge", "--help"], COMPUTING, 450),
        (["experiment", "--help"], COMPUTING, 450),
        (["compare", "RUN"], COMPUTING, 550),
        (["report", "RUN"], COMPUTING, 600),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_computes_with_no_model_loads_little(
    tmp_path: Path, arguments: Sequence[str], absent: Sequence[str], most: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(completed(), run)
    modules = loaded(tmp_path, *(run if word == "RUN" else word for word in arguments))
    assert not modules & set(absent)
    assert len(modules) <= most, f"{len(modules)} modules"


def test_transcribing_loads_pytorch_and_neither_transformers_nor_its_compiler(
    tiny_checkpoint: Checkpoint, tuned: Path, waveforms: Sequence[Waveform], tmp_path: Path
) -> None:
    clip = tmp_path / "clip.flac"
    clip.write_bytes(encode_flac(waveforms[0]))
    modules = loaded(
        tmp_path, "transcribe", "--model-id", tiny_checkpoint.model_id, "--adapter-dir", tuned, "--word-times", "--audio", clip
    )
    assert {"torch", "tokenizers", "soundfile"} <= modules
    assert not modules & set(NEVER_WITHOUT_TRAINING)
    assert len({name for name in modules if not name.startswith(("torch", "numpy"))}) <= 800
