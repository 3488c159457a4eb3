"""What is kept between runs stays within its limit, and the least recently used goes first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora.system import cache as kept_module
from lora.system.cache import VERSIONS, Kept, code_digest, kept_dir, kept_file, key, prune


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_pruning_keeps_the_latest_files_within_the_limit(tmp_path: Path) -> None:
    suffixes = [".safetensors", ".json", ".mp3", ".npy", ".safetensors"]  # one of them as an earlier version wrote it
    written = [kept_file(f"{number:02d}", suffix, tmp_path) for number, suffix in enumerate(suffixes)]
    for age, file in enumerate(written):
        file.parent.mkdir()
        file.write_bytes(bytes(100))
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    assert prune(500, tmp_path) == 0
    assert prune(250, tmp_path) == 300
    assert files(tmp_path) == written[:2]
    assert prune(0, tmp_path) == 200
    assert files(tmp_path) == []


def test_pruning_keeps_no_file_that_is_older_than_one_it_removes(tmp_path: Path) -> None:
    for number, size in enumerate([100, 300, 50]):
        file = tmp_path / "00" / f"{number}.safetensors"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(size))
        os.utime(file, (1_000_000 - number, 1_000_000 - number))
    assert prune(200, tmp_path) == 350
    assert [file.name for file in files(tmp_path)] == ["0.safetensors"]


def test_pruning_passes_over_files_that_another_run_takes_away_meanwhile(tmp_path: Path) -> None:
    """A link that leads nowhere is listed and has no state, as a file that goes between the two."""
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / "0.safetensors").write_bytes(bytes(100))
    for name in ("1.safetensors", ".2.safetensors.part"):
        (tmp_path / "00" / name).symlink_to(tmp_path / "gone")
    assert prune(100, tmp_path) == 0
    assert prune(0, tmp_path) == 100


def test_a_kept_file_is_in_the_cache_folder_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path))
    assert kept_dir() == tmp_path / "kept"
    assert kept_file("abc", ".safetensors") == tmp_path / "kept" / "ab" / "abc.safetensors"


@pytest.mark.parametrize("payload", [b"", b"\n", b"words", bytes(range(256)) * 40])
def test_what_is_written_is_read(tmp_path: Path, payload: bytes) -> None:
    kept = Kept(tmp_path)
    file = kept.file(key("lora.system.cache", "input"), ".bin")
    assert not kept.has(file)
    assert kept.read(file) is None
    kept.write(file, payload)
    assert kept.has(file)
    assert kept.read(file) == payload
    assert kept.damaged == []


def test_any_flipped_bit_and_any_cut_is_found(tmp_path: Path) -> None:
    kept, payload = Kept(tmp_path), bytes(range(40))
    file = kept.file("ab", ".bin")
    kept.write(file, payload)
    whole = file.read_bytes()
    flips = [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    damaged = [*flips, *(whole[:end] for end in range(len(whole))), whole + b"x"]
    for content in damaged:
        file.write_bytes(content)
        assert kept.read(file) is None
        assert not file.exists()
    assert len(kept.damaged) == len(damaged)


def test_a_key_depends_on_maker_and_inputs() -> None:
    keys = [
        key("lora.units"),
        key("lora.errors"),
        key("lora.units", 1),
        key("lora.units", "1"),
        key("lora.units", 1, 2),
        key("lora.units", [1, 2]),
    ]
    assert len(set(keys)) == len(keys)
    assert key("lora.units", 1) == key("lora.units", 1)


MAKERS = ("lora.evaluation.base_scores", "lora.model.encoder_outputs")
TOGETHER = f"""
import gc, sys
from concurrent.futures import ThreadPoolExecutor
from lora.system.cache import code_digest

sys.setswitchinterval(1e-6)
gc.set_threshold(20)
gc.callbacks.append(lambda *_: sum(range(200)))  # Python code in the midst of a syntax tree, as finalizers are
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(code_digest, {MAKERS} * 8))
"""


def test_threads_may_ask_for_digests_together() -> None:
    done = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [code_digest(name) for name in MAKERS] * 8


DIGESTS = f"from lora.system.cache import code_digest; print(*(code_digest(name) for name in {MAKERS}))"


def digests(package: Path) -> list[str]:
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(package)})
    return done.stdout.split()


def test_an_edit_of_the_code_that_decides_a_result_gives_another_key(tmp_path: Path) -> None:
    """Of scores: the token cap, the normaliser, the scorer. Of encoder outputs: what encodes. Not what only judges."""
    shutil.copytree(Path(kept_module.__file__).parents[1], tmp_path / "lora")
    before = digests(tmp_path)
    assert before == [code_digest(name) for name in MAKERS]
    for module, changed in {
        "model/greedy": [True, False],
        "text/normaliser": [True, False],
        "scoring/counts": [True, False],
        "model/encoder": [True, True],
        "model/products": [True, True],
        "audio/loading": [True, True],
        "scoring/gate": [False, False],
    }.items():
        file = tmp_path / "lora" / f"{module}.py"
        source = file.read_text()
        file.write_text(source + "\nEDITED = True\n")
        assert [one != other for one, other in zip(before, digests(tmp_path), strict=True)] == changed, module
        file.write_text(source)


KEY = "from lora.system.cache import key; print(key('lora.units', 1))"


@pytest.mark.parametrize("package", VERSIONS)
def test_a_key_depends_on_the_version_of_each_library(tmp_path: Path, package: str) -> None:
    """Python takes a package's version from the first folder of its path that names one."""
    installed = tmp_path / f"{package.replace('-', '_')}-99.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99.0\n")
    before = os.environ.get("PYTHONPATH", "")
    keys = [
        subprocess.run(
            [sys.executable, "-c", KEY], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
        ).stdout
        for path in (before, os.pathsep.join([str(tmp_path), before]))
    ]
    assert len(set(keys)) == 2
