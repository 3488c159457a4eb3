"""Which voices there are is settled from folders alone, and what cannot go together is refused before anything is loaded."""

import json
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from lora_cli.voices import DEFAULT_MODEL, choose
from safetensors.numpy import save_file

from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, Origin, write_sealed
from lora.errors import CheckpointError, ConfigError
from lora.language import Language


def adapter(folder: Path, base: str = DEFAULT_MODEL, sha256: str = "0" * 64, language: Language = "en") -> Path:
    """An adapter of one small layer, sealed as those of a run are."""
    folder.mkdir(parents=True)
    factors = {"lora_A": np.ones((1, 4), dtype=np.float32), "lora_B": np.zeros((4, 1), dtype=np.float32)}
    save_file({f"base_model.model.proj.{name}.weight": factor for name, factor in factors.items()}, folder / ADAPTER_WEIGHTS)
    (folder / ADAPTER_SETTINGS).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["proj"]}))
    origin = Origin(base_model_id=base, base_revision=None, base_sha256=sha256, language=language)
    write_sealed(folder, origin, ADAPTER_WEIGHTS, ADAPTER_SETTINGS)
    return folder


def test_without_a_choice_it_is_the_packaged_model() -> None:
    (voice,) = choose(None, [], None)
    assert (voice.name, voice.model_id, voice.adapter_folder) == ("moonshine-tiny", "packaged:moonshine-tiny", None)


def test_a_run_gives_what_was_trained_and_its_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "doctors" / "lora_adapter")
    tuned, base = choose(None, [], tmp_path / "doctors")
    assert (tuned.name, tuned.model_id, tuned.adapter_folder) == ("doctors", DEFAULT_MODEL, folder)
    assert tuned.processor_folder == tmp_path / "doctors" / "processor"
    assert (base.name, base.model_id, base.adapter_folder) == ("moonshine-tiny", DEFAULT_MODEL, None)


def test_a_run_that_trained_whole_weights_gives_its_checkpoint_and_its_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "doctors" / "checkpoint")
    tuned, base = choose(None, [], tmp_path / "doctors")
    assert (tuned.name, tuned.model_id, tuned.adapter_folder) == ("doctors", str(folder), None)
    assert (base.name, base.model_id) == ("moonshine-tiny", DEFAULT_MODEL)


def test_a_base_model_hears_the_language_of_its_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "x", language="ja")
    assert [voice.language for voice in choose(None, [folder], None)] == ["ja", "ja"]
    assert [voice.language for voice in choose("owner/model-ja", [], None, "ja")] == ["ja"]
    with pytest.raises(ConfigError, match="--language: a run and an adapter say it themselves"):
        choose(None, [folder], None, "ja")


def test_adapters_come_in_their_order_then_each_base_once(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "b"), adapter(tmp_path / "a"), adapter(tmp_path / "c", "packaged:moonshine-base")]
    assert [voice.name for voice in choose(None, folders, None)] == ["b", "a", "c", "moonshine-tiny", "moonshine-base"]


def test_voices_of_one_name_are_numbered(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "one" / "x"), adapter(tmp_path / "two" / "x")]
    assert [voice.name for voice in choose(None, folders, None)] == ["x 1", "x 2", "moonshine-tiny"]


def test_a_run_with_a_model_or_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run: names model and adapter already"):
        choose(DEFAULT_MODEL, [], tmp_path)
    with pytest.raises(ConfigError, match="leave out --model-id and --adapter-dir"):
        choose(None, [tmp_path], tmp_path)


def test_a_folder_without_a_run_or_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no lora_adapter/"):
        choose(None, [], tmp_path)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        choose(None, [tmp_path / "none"], None)


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"trained on packaged:moonshine-tiny, not on packaged:moonshine-base; give that --model-id"):
        choose("packaged:moonshine-base", [folder], None)
    local = str(resolve(DEFAULT_MODEL).folder)
    with pytest.raises(CheckpointError, match=r"was trained on packaged:moonshine-tiny \(weights 00000000\), not on .* \(weights "):
        choose(local, [folder], None)


def test_an_adapter_of_the_same_weights_in_another_place_is_taken(tmp_path: Path) -> None:
    checkpoint = resolve(DEFAULT_MODEL)
    folder = adapter(tmp_path / "adapter", sha256=checkpoint.sha256)
    tuned, _ = choose(str(checkpoint.folder), [folder], None)
    assert tuned.model_id == str(checkpoint.folder)


def test_choosing_does_not_load_torch(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    code = f"import sys; from pathlib import Path; from lora_cli.voices import choose; choose(None, [Path({str(folder)!r})], None)"
    done = run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
