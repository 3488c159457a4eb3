"""The folder for transformers.js: what is in it, that the library's own defaults load it, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from running import ROOT

from lora.audio.loading import Waveform, duration
from lora.errors import FetchError, OnDeviceError
from lora.export.about import About
from lora.export.targets import ExportPrecision, write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runtimes.runtime import Clip, require_runtimes
from lora.runtimes.runtime import transcribe as on_device
from lora.runtimes.separate import javascript_packages
from lora.system.files import sha256_file

SETTINGS = {"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
PAGE = {"index.html", "lib/transformers.min.js", "lib/ort-wasm-simd-threaded.mjs", "lib/ort-wasm-simd-threaded.wasm"}


@pytest.mark.parametrize(("precision", "dtype", "ending"), [("u8", "q8", "_quantized"), ("fp32", "fp32", "")])
def test_the_folder_holds_what_pipeline_looks_for(
    random_v1: LoadedModel, precision: ExportPrecision, dtype: str, ending: str, tmp_path: Path
) -> None:
    written = write_target(random_v1, "transformers-js", precision, tmp_path, About("calls & <more>"))
    graphs = {f"onnx/encoder_model{ending}.onnx", f"onnx/decoder_model_merged{ending}.onnx"}
    assert {file.relative_to(tmp_path).as_posix() for file in written} == SETTINGS | TOKENIZER | PAGE | graphs
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": dtype}
    assert config["architectures"] == ["MoonshineForConditionalGeneration"]
    page = (tmp_path / "index.html").read_text()
    assert "<h1>calls &amp; &lt;more&gt;</h1>" in page
    assert "TOKENS_PER_SECOND = 6.5, EXTRA_TOKENS = 8;" in page
    assert "{{" not in page


def test_the_same_model_gives_the_same_folder(random_v1: LoadedModel, tmp_path: Path) -> None:
    hashes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        hashes.append([sha256_file(file) for file in write_target(random_v1, "transformers-js", "u8", tmp_path / name)])
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_8_bits_load_without_options_and_stay_close(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    write_target(tiny, "transformers-js", "u8", tmp_path)
    settings = DecodeSettings(tokens_per_second=6.5)
    some = waveforms[:4]
    clips = [Clip(str(number), clip, settings.cap(duration(clip))) for number, clip in enumerate(some)]
    heard = [one.text for one in on_device("transformers-js", tmp_path, "tiny", clips).heard]
    encoder, decoder = Encoder(tiny), Decoder(tiny)
    with torch.inference_mode():
        said = [transcribe(decoder, encoder([clip]), [duration(clip)], settings)[0].text for clip in some]
    assert sum(a == b for a, b in zip(heard, said, strict=True)) >= 3


def test_the_documented_program_runs(tiny: LoadedModel, waveforms: Sequence[Waveform], tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "quickstart" / "export" / "transformers-js"
    folder.mkdir(parents=True)
    write_target(tiny, "transformers-js", "fp32", folder)
    waveforms[0].astype("<f4").tofile(tmp_path / "clip.f32")
    (tmp_path / "node_modules").symlink_to(javascript_packages() / "node_modules")
    program = (ROOT / "docs" / "export.md").read_text().split("```js\n")[1].split("```")[0]
    sound = 'import fs from "node:fs"; const samples = new Float32Array(new Uint8Array(fs.readFileSync("clip.f32")).buffer);\n'
    (tmp_path / "program.mjs").write_text(sound + program)
    done = subprocess.run(["node", "program.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 5


def test_what_the_library_says_of_a_folder_is_reported_in_one_line(random_v1: LoadedModel, tmp_path: Path) -> None:
    write_target(random_v1, "transformers-js", "fp32", tmp_path)
    (tmp_path / "onnx" / "encoder_model.onnx").unlink()
    clip = Clip("clip", torch.zeros(16_000).numpy(), 8)
    with pytest.raises(OnDeviceError, match=r"transformers-js does not load it \(.*encoder_model.onnx.*\); export it again$"):
        on_device("transformers-js", tmp_path, "tiny", [clip])


def test_what_is_locked_is_complete() -> None:
    """Every package by version and hash, none by an address."""
    import lora.runtimes

    content = json.loads((Path(lora.runtimes.__file__).parent / "javascript" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in content["packages"].items() if name}
    assert packages["node_modules/@huggingface/transformers"]["version"] == "4.3.2"
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages.values())


# --- what is missing ---------------------------------------------------------------------------------------------------------------------


def test_node_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OnDeviceError, match=r"transformers-js: there is no node here; install Node.js 20 or later, which brings it"):
        require_runtimes(["transformers-js"])


def test_npm_that_cannot_fetch_is_one_line_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    with pytest.raises(FetchError) as refused:
        javascript_packages()
    assert str(refused.value).startswith("transformers.js 4.3.2: could not be installed into ")
    assert "or leave out --to transformers-js" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.suffix for path in (tmp_path / "cache" / "runtimes").iterdir()] == [".lock"]


def test_export_asks_for_node_before_it_loads_a_model(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    command = [sys.executable, "-m", "lora.main", "export", "--model-id", "packaged:moonshine-tiny", "--to", "transformers-js"]
    options = ["--output", str(tmp_path / "export"), "--skip-proof"]
    done = subprocess.run(
        [*command, *options], env=os.environ | {"PATH": str(place)}, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: transformers-js: there is no node here; install Node.js 20 or later, which brings it\n",
    )
    assert not (tmp_path / "export").exists()


def test_node_is_here() -> None:
    assert shutil.which("node")
    assert (javascript_packages() / "node_modules" / "onnxruntime-node").is_dir()
