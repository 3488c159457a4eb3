"""The Python interface: a model that transcribes files, and a run from settings."""

import subprocess
import sys
from pathlib import Path

import pytest
from running import Manifests, moonshine_lora

import lora
from lora.errors import AudioError, ConfigError

DATA = Path(__file__).parents[2] / "shared" / "data" / "librispeech" / "audio"
TINY = "packaged:moonshine-tiny"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, lora; print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_model_transcribes_files_as_the_command_does(tmp_path: Path) -> None:
    files = sorted(DATA.glob("*.flac"))[:2]
    found = lora.load(TINY).transcribe(*files, word_times=True)
    done = moonshine_lora("transcribe", "--model-id", TINY, "--audio", *map(str, files), "--output", str(tmp_path / "said.txt"))
    assert done.code == 0
    assert all(one.text in (tmp_path / "said.txt").read_text() for one in found)
    assert all(len(one.text.split()) > 3 for one in found)
    assert [one.audio for one in found] == [str(file) for file in files]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such audio file"):
        lora.load(TINY).transcribe(tmp_path / "none.wav")


def test_a_run_from_settings_ends_with_its_record(sets: Manifests, tmp_path: Path) -> None:
    record = lora.experiment(
        "quickstart",
        train_manifest=sets.train,
        dev_manifest=sets.dev,
        domain_manifest=sets.domain,
        heldout_manifest=sets.heldout,
        replay_manifest=sets.replay,
        max_steps=2,
        output_dir=tmp_path / "run",
    )
    assert record.status == "completed"
    assert (tmp_path / "run" / "lora_adapter" / "adapter_model.safetensors").is_file()


def test_unknown_settings_are_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'epoch'.*epochs"):
        lora.experiment("quickstart", epoch=3)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lora.nothing  # noqa: B018
