"""Wheels are fetched through the real pip, from the index of this machine or from a folder standing in for one."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lora.checkpoints import wheels
from lora.checkpoints.wheels import MOONSHINE_CPP, MOONSHINE_VOICE, USEFUL_MOONSHINE_ONNX, fetch, read_member
from lora.errors import FetchError
from lora.system.files import cache_dir, sha256_file

SMALL = USEFUL_MOONSHINE_ONNX


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pip that knows no index but the folder returned."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel_in_index(offline_index: Path, real_wheel: Path) -> Path:
    return Path(shutil.copy(real_wheel, offline_index))


@pytest.fixture(scope="session")
def real_wheel() -> Path:
    """The wheel in the cache of this machine; of session scope, so it is there before a test moves the cache away."""
    return fetch(SMALL)


def cached() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "wheels").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("wheel", [MOONSHINE_VOICE, USEFUL_MOONSHINE_ONNX, pytest.param(MOONSHINE_CPP, marks=pytest.mark.slow)])
def test_known_wheel_is_fetched_from_the_index_and_verified(wheel: wheels.Wheel) -> None:
    path = fetch(wheel)
    assert path == cache_dir() / "wheels" / wheel.filename
    assert sha256_file(path) == wheel.sha256


def test_filenames_are_those_of_the_wheel_format() -> None:
    assert MOONSHINE_VOICE.filename == "moonshine_voice-0.1.0-py3-none-manylinux_2_34_x86_64.whl"
    assert MOONSHINE_CPP.filename == "moonshine_cpp-0.1.4-py3-none-manylinux2014_x86_64.whl"
    assert USEFUL_MOONSHINE_ONNX.filename == "useful_moonshine_onnx-20251121-py3-none-any.whl"


@pytest.mark.usefixtures("wheel_in_index")
def test_pip_settings_of_the_user_are_honoured() -> None:
    assert sha256_file(fetch(SMALL)) == SMALL.sha256
    assert cached() == [SMALL.filename]


def test_cached_wheel_needs_no_index(wheel_in_index: Path) -> None:
    first = fetch(SMALL)
    wheel_in_index.unlink()
    assert fetch(SMALL) == first


def test_platform_wheel_is_fetched_whatever_this_platform_is(offline_index: Path) -> None:
    foreign = replace(SMALL, platforms=("win_arm64",))
    with zipfile.ZipFile(offline_index / foreign.filename, "w") as archive:
        archive.writestr(
            "useful_moonshine_onnx-20251121.dist-info/METADATA", "Metadata-Version: 2.1\nName: useful-moonshine-onnx\nVersion: 20251121\n"
        )
        archive.writestr("useful_moonshine_onnx-20251121.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-win_arm64\n")
    foreign = replace(foreign, sha256=sha256_file(offline_index / foreign.filename))
    assert fetch(foreign).name.endswith("win_arm64.whl")


@pytest.mark.usefixtures("offline_index")
def test_unknown_to_the_index_says_what_and_what_to_do() -> None:
    with pytest.raises(FetchError) as refusal:
        fetch(SMALL)
    message = str(refusal.value)
    assert "useful-moonshine-onnx==20251121" in message
    assert "No matching distribution found" in message
    assert "pip config list" in message
    assert "\n" not in message
    assert cached() == []


@pytest.mark.usefixtures("offline_index")
def test_unreachable_index_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match=r"connection broken by .*refused"):
        fetch(SMALL)


def test_downloaded_wheel_with_another_hash_is_refused_and_not_kept(wheel_in_index: Path) -> None:
    with zipfile.ZipFile(wheel_in_index, "a") as archive:
        archive.writestr("moonshine_onnx/more.txt", "tampered")
    with pytest.raises(FetchError) as refusal:
        fetch(SMALL)
    assert SMALL.sha256 in str(refusal.value)
    assert sha256_file(wheel_in_index) in str(refusal.value)
    assert cached() == []


@pytest.mark.usefixtures("wheel_in_index")
def test_cached_wheel_with_another_hash_is_refused_by_name() -> None:
    path = fetch(SMALL)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FetchError, match="delete the file") as refusal:
        fetch(SMALL)
    assert str(path) in str(refusal.value)
    assert SMALL.sha256 in str(refusal.value)
    assert sha256_file(path) in str(refusal.value)


@pytest.mark.usefixtures("wheel_in_index")
def test_two_processes_may_fetch_at_once() -> None:
    program = "from lora.checkpoints.wheels import *; print(fetch(USEFUL_MOONSHINE_ONNX))"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert printed == {str(cache_dir() / "wheels" / SMALL.filename)}
    assert cached() == [SMALL.filename]


def test_members_are_read_without_installing() -> None:
    before = set(sys.modules)
    assert read_member(SMALL, "moonshine_onnx/assets/tokenizer.json").startswith(b"{")
    assert "moonshine_onnx" not in set(sys.modules) - before


def test_missing_member_is_named() -> None:
    with pytest.raises(FetchError, match="no file 'moonshine_onnx/nothing' inside"):
        read_member(SMALL, "moonshine_onnx/nothing")
