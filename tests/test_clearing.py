"""Clearing the cache removes what was made here and nothing else, wherever it lies."""

import os
import subprocess
from pathlib import Path

import pytest
from running import files_below, moonshine_lora

from lora.system.clearing import OWN

HASH = "ab" * 32
MADE = (
    f"augmented/{HASH}/audio/a.flac",
    "checkpoints/moonshine-tiny/model.safetensors",
    "checkpoints/.moonshine-tiny.abc.part/model.safetensors",
    "corpora/asterisk-core-sounds-en-1.6.1/hello.wav",
    f"kept/ab/{HASH}.safetensors",
    f"kept/ab/.{HASH}.json.abc.part",
    "runtimes/moonshine-voice-0.1.3/lib.so",
    "wheels/moonshine_voice-0.1.0-py3-none-any.whl",
    "wheels/.moonshine_voice-0.1.0-py3-none-any.whl.lock",
)
FOREIGN = ("thesis.txt", "thesis/a.txt", "checkpoints/my-run/step-1.pt", "kept/notes.txt", "kept/ab/letter.txt", "corpora/an4/a.wav")


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x" * 1000)


def clear(cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(cache))
    done = moonshine_lora("cache", "clear")
    assert done.code == 0, done.err
    return done.out


def test_all_that_was_made_goes_with_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *MADE)
    assert {name.split("/")[0] for name in MADE} == set(OWN)
    assert "removed 0.0 MB" in clear(tmp_path, monkeypatch)
    assert not list(tmp_path.iterdir())


def test_what_others_put_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *MADE, *FOREIGN)
    clear(tmp_path, monkeypatch)
    assert {name for name in files_below(tmp_path) if (tmp_path / name).is_file()} == set(FOREIGN)


def test_links_are_neither_followed_nor_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, far = tmp_path / "cache", tmp_path / "far"
    put(far, *MADE)
    put(cache, "wheels/moonshine_voice-0.1.0-py3-none-any.whl")
    (cache / "kept").symlink_to(far / "kept")
    (cache / "checkpoints").mkdir()
    (cache / "checkpoints" / "moonshine-tiny").symlink_to(far / "checkpoints" / "moonshine-tiny")
    before = files_below(far)
    out = clear(cache, monkeypatch)
    assert files_below(far) == before
    assert files_below(cache) >= {"kept", "checkpoints/moonshine-tiny"}
    assert not (cache / "wheels").exists()
    assert f"left alone: {cache / 'kept'}" in out


@pytest.mark.parametrize("where", ["kept", "checkpoints/moonshine-tiny"])
def test_mount_points_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    cache, far = tmp_path / "cache", tmp_path / "far"
    put(far, *MADE)
    (cache / where).mkdir(parents=True)
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "--bind", far / where, cache / where], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("only root may mount")
    try:
        before = files_below(far)
        assert "left alone" in clear(cache, monkeypatch)
        assert files_below(far) == before
    finally:
        subprocess.run(["umount", cache / where], check=True)


def test_a_cache_that_is_not_there_has_nothing_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "removed 0.0 MB" in clear(tmp_path / "absent", monkeypatch)
