"""An export heard by ONNX Runtime: the text is PyTorch's, and neither app nor engine imports PyTorch or transformers."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_cli.voices import choose

from lora.audio.loading import AudioSettings, Waveform, load
from lora.dataset.manifest import Utterance
from lora.display import Display
from lora.errors import AudioError, ConfigError, OnDeviceError
from lora.export.run import ExportRequest, export
from lora.live import Ear
from lora.runtimes.ear import OnnxEar
from lora.transcribe import Request, open_transcriber
from lora.units import SAMPLE_RATE_HZ

MODEL = "packaged:moonshine-tiny"

LATE_S = 2
"""How long a command waits before it imports the app."""

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Ears:
    """The same model in both."""

    folder: Path
    onnx: OnnxEar
    pytorch: Ear


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    folder = tmp_path_factory.mktemp("exports") / "tiny" / "export"
    request = ExportRequest(model_id=MODEL, targets=("onnx",), precision="fp32", output=folder, skip_proof=True)
    export(request, Display(quiet=True))
    torch.set_num_threads(1)
    return Ears(folder, OnnxEar(folder), Ear(open_transcriber(Request(MODEL, None, None, None, "cpu", "float32", 1, None))))


@pytest.fixture(scope="module")
def clips(speech: Sequence[Utterance]) -> list[Waveform]:
    return [load(one.audio, AudioSettings()) for one in speech[:5]]


def test_an_export_says_what_pytorch_says_token_by_token(ears: Ears, clips: list[Waveform]) -> None:
    said = [ears.onnx(clip) for clip in clips]
    assert said == [ears.pytorch(clip) for clip in clips]
    assert all(one.text for one in said)


def test_a_draft_changes_nothing_whether_it_is_right_wrong_or_too_long(ears: Ears, clips: list[Waveform]) -> None:
    clip = clips[1]
    alone = ears.onnx(clip)
    tokens = alone.tokens
    for draft in (tokens, tokens[:5], (*tokens[:4], 500, *tokens[4:]), tokens[3:], (*tokens, *tokens), (7, 8, 9) * 20):
        assert ears.onnx(clip, draft) == alone


def test_a_loop_stops_at_the_cap_as_in_pytorch(ears: Ears) -> None:
    hum = (0.3 * np.sin(2 * np.pi * 200 * np.arange(4 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)).astype(np.float32)
    assert ears.onnx(hum) == ears.pytorch(hum)


def test_a_clip_without_a_frame_or_with_nan_is_refused(ears: Ears) -> None:
    with pytest.raises(AudioError, match=r"0\.056 s is too short"):
        ears.onnx(np.zeros(894, dtype=np.float32))
    ears.onnx.encode(np.zeros(895, dtype=np.float32))
    with pytest.raises(AudioError, match="NaN or infinite"):
        ears.onnx(np.full(16000, np.nan, dtype=np.float32))


def without_pytorch(folder: Path) -> dict[str, str]:
    """An environment in which whoever imports PyTorch or transformers ends."""
    for name in ("torch", "transformers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('{name} is imported')")
    return os.environ | {"PYTHONPATH": str(folder)}


def moonshine(*arguments: object, environment: dict[str, str], start: Sequence[str] = ("-m", "lora_cli.main")) -> Done:
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180, stdin=subprocess.DEVNULL)


def test_app_and_engine_hear_two_exports_without_pytorch_and_say_how_long_the_user_waited(ears: Ears, clip: Path, tmp_path: Path) -> None:
    environment = without_pytorch(tmp_path / "blocked") | {"XDG_STATE_HOME": str(tmp_path / "state")}
    late = ("-c", f"import time; time.sleep({LATE_S}); from lora_cli.main import main; raise SystemExit(main())")
    told = ("--json", "--file", clip, "--compare", "--export-dir", ears.folder, "--export-dir", ears.folder)
    done = moonshine(*told, environment=environment, start=late)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [ready] = [event for event in events if event["event"] == "ready"]
    assert [voice["name"] for voice in ready["voices"]] == ["tiny 1", "tiny 2"]
    assert ready["seconds"] > LATE_S  # it counts from the start of the command
    final = next(event for event in events if event["event"] == "final")
    assert final["text"]
    assert final["text"] == final["other_text"]
    assert events[0]["message"] == "loading ONNX Runtime"
    with_pytorch = moonshine("--json", "--file", clip, environment=environment)
    assert with_pytorch.returncode == 2
    assert "is imported" in with_pytorch.stderr  # so that the test above can fail


def test_an_export_is_a_voice_by_the_name_of_its_run(ears: Ears) -> None:
    (voice,) = choose(None, [], None, None, [ears.folder])
    assert (voice.name, voice.model_id, voice.export_folder) == ("tiny", MODEL, ears.folder)


def test_what_an_export_cannot_go_with_is_refused_in_one_line(ears: Ears, tmp_path: Path) -> None:
    for given in ((MODEL, [], None, None), (None, [tmp_path], None, None), (None, [], tmp_path, None), (None, [], None, "ja")):
        with pytest.raises(ConfigError, match="--export-dir: names model and language already; leave out"):
            choose(*given, [ears.folder])
    with pytest.raises(OnDeviceError, match="holds no export"):
        choose(None, [], None, None, [tmp_path])
    for flags, message in (
        (("--compare",), "--compare: takes two voices"),
        (("--precision", "bfloat16"), "ONNX Runtime computes it on the CPU"),
        (("--device", "cuda"), "ONNX Runtime computes it on the CPU"),
    ):
        refused = moonshine("--plain", "--export-dir", ears.folder, *flags, environment=dict(os.environ))
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_changed_or_shortened_file_is_refused(ears: Ears, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "onnx").mkdir(parents=True)
    for file in ("export.json", "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx", "onnx/tokenizer.json"):
        (folder / file).write_bytes((ears.folder / file).read_bytes())
    encoder = folder / "onnx/encoder_model.onnx"
    content = encoder.read_bytes()
    encoder.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(OnDeviceError, match=r"encoder_model\.onnx is not the file that was exported"):
        OnnxEar(folder)
    encoder.write_bytes(content[:-1])
    with pytest.raises(OnDeviceError, match=r"encoder_model\.onnx is not the file that was exported"):
        choose(None, [], None, None, [folder])
