"""What is kept between runs stays within its limit, and the least recently used goes first."""

import os
from pathlib import Path

import pytest

from lora.kept import kept_dir, kept_file, prune


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


def test_a_kept_file_is_in_the_cache_folder_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path))
    assert kept_dir() == tmp_path / "kept"
    assert kept_file("abc", ".safetensors") == tmp_path / "kept" / "ab" / "abc.safetensors"
