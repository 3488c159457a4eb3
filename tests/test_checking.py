"""Recordings checked in processes of their own: the same finds as in one process, and one line when such a process ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import soundfile
from running import write_rows

from lora.audio.loading import AudioSettings
from lora.dataset import checking
from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Recording, Rules, read
from lora.errors import ManifestError, WorkerError
from lora.system.cache import Kept
from lora.system.workers import Workers
from lora.units import SAMPLE_RATE_HZ, Seconds


def spoken(folder: Path, count: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for number in range(count):
        length = SAMPLE_RATE_HZ // 2 + 800 * number
        soundfile.write(folder / f"{number}.flac", 0.1 * rng.standard_normal(length), SAMPLE_RATE_HZ)
        rows.append({"audio": f"{number}.flac", "text": f"number {number}"})
    return rows


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MANY", 1)
    monkeypatch.setattr(checking, "TOGETHER", 3)
    monkeypatch.setattr(checking, "cores", lambda: 2)


def manifest(folder: Path, rows: list[dict[str, object]]) -> Manifest:
    return read(write_rows(folder / "m.jsonl", rows), Rules())


def test_processes_find_what_one_process_finds(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    given = manifest(tmp_path, spoken(tmp_path, 20))
    alone = validate(given, Rules(), AudioSettings(), prints=True)
    request.getfixturevalue("in_processes")
    assert validate(given, Rules(), AudioSettings(), prints=True) == alone
    assert len({one.sha256 for one in alone}) == 20
    assert all(one.sound for one in alone)


# --- kept for the next check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True])
def test_a_second_check_decodes_nothing_and_finds_the_same(processes: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What it finds is what was kept: written otherwise, it finds that."""
    if processes:
        request.getfixturevalue("in_processes")
    given, kept = manifest(tmp_path, spoken(tmp_path, 8)), Kept(tmp_path / "kept")
    found = validate(given, Rules(), AudioSettings(), prints=True, kept=kept)
    assert found == validate(given, Rules(), AudioSettings(), prints=True)
    assert validate(given, Rules(), AudioSettings(), prints=True, kept=kept) == found
    for file in kept.folder.rglob("*.msgpack"):
        content = kept.read(file)
        assert content is not None
        other = [replace(one, length_s=Seconds(1.0)) for one in recordings(content)]
        kept.write(file, msgspec.msgpack.encode(other))
    assert {one.length_s for one in validate(given, Rules(), AudioSettings(), prints=True, kept=kept)} == {1.0}
    assert validate(given, Rules(), AudioSettings(), prints=False, kept=kept) == tuple(replace(one, sound=b"") for one in found)


def test_only_recordings_that_changed_are_decoded_again(tmp_path: Path) -> None:
    given, kept = manifest(tmp_path, spoken(tmp_path, 3)), Kept(tmp_path / "kept")
    before = validate(given, Rules(), AudioSettings(), kept=kept)
    (file,) = kept.folder.rglob("*.msgpack")
    kept.write(file, msgspec.msgpack.encode([replace(one, length_s=Seconds(1.0)) for one in before]))
    soundfile.write(tmp_path / "1.flac", 0.1 * np.random.default_rng(4).standard_normal(12_000), SAMPLE_RATE_HZ)
    after = validate(given, Rules(), AudioSettings(), kept=kept)
    assert [one.length_s for one in after] == [1.0, 0.75, 1.0]
    assert [one.stored_sha256 == two.stored_sha256 for one, two in zip(before, after, strict=True)] == [True, False, True]
    assert validate(given, Rules(), AudioSettings(), kept=kept) == after


def recordings(content: bytes) -> list[Recording]:
    return msgspec.msgpack.decode(content, type=list[Recording])


@pytest.mark.parametrize("what", ["sound", "text", "duration", "limit", "level"])
def test_whatever_is_changed_is_checked_again(what: str, tmp_path: Path) -> None:
    rows, kept = spoken(tmp_path, 3), Kept(tmp_path / "kept")
    validate(manifest(tmp_path, rows), Rules(), AudioSettings(), kept=kept)
    if what == "sound":
        soundfile.write(tmp_path / "1.flac", np.zeros(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    rows[1] |= {"text": {"text": "word " * 40}, "duration": {"duration": 9.0}}.get(what, {})
    rules, settings = Rules(max_s=0.54 if what == "limit" else 30), AudioSettings(rms_dbfs=-1.0 if what == "level" else None)
    given = manifest(tmp_path, rows)
    if what == "level":
        validate(given, rules, settings, kept=kept)
        assert len(list(kept.folder.rglob("*.msgpack"))) == 2
        return
    with pytest.raises(ManifestError, match="over --max-seconds" if what == "limit" else "line 2: "):
        validate(given, rules, settings, kept=kept)
    assert len(list(kept.folder.rglob("*.msgpack"))) == 1, "what is wrong is not kept"


@pytest.mark.parametrize("processes", [False, True])
def test_a_damaged_kept_file_is_made_again_and_reported(processes: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if processes:
        request.getfixturevalue("in_processes")
    given, kept = manifest(tmp_path, spoken(tmp_path, 3)), Kept(tmp_path / "kept")
    found = validate(given, Rules(), AudioSettings(), kept=kept)
    (file,) = kept.folder.rglob("*.msgpack")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert validate(given, Rules(), AudioSettings(), kept=kept) == found
    assert kept.damaged == [file]
    assert kept.read(file) is not None


# --- in processes -----------------------------------------------------------------------------------------------------------------------


def test_processes_name_every_bad_line_as_one_process_does(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = spoken(tmp_path, 12)
    (tmp_path / "3.flac").write_bytes(b"")
    soundfile.write(tmp_path / "7.flac", np.zeros(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    rows[10]["duration"] = 9.0
    given = manifest(tmp_path, rows)
    with pytest.raises(ManifestError) as alone:
        validate(given, Rules(), AudioSettings())
    request.getfixturevalue("in_processes")
    with pytest.raises(ManifestError) as found:
        validate(given, Rules(), AudioSettings())
    assert str(found.value) == str(alone.value)
    assert all(f"line {line}:" in str(found.value) for line in (4, 8, 11))


def exit_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def refuse_two(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return 2 * number


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.usefixtures("importable")
def test_results_come_in_the_order_of_what_was_given() -> None:
    with Workers(refuse_two, 2) as workers:
        assert list(workers.map([5, 9, 1, 4])) == [10, 18, 2, 8]


@pytest.mark.usefixtures("importable")
def test_an_exception_of_a_process_is_raised_where_the_result_is_wanted() -> None:
    with Workers(refuse_two, 2) as workers, pytest.raises(ValueError, match="two is refused"):
        list(workers.map([1, 2, 3]))


@pytest.mark.usefixtures("importable")
def test_a_process_that_ends_is_reported_with_its_signal() -> None:
    with Workers(exit_at_three, 2) as workers, pytest.raises(WorkerError, match="SIGKILL"):
        list(workers.map([1, 2, 3, 4]))


@pytest.mark.usefixtures("in_processes")
def test_a_process_that_is_killed_ends_the_check_with_one_line(tmp_path: Path) -> None:
    """As the kernel does where memory runs out."""
    given = manifest(tmp_path, [{**row, "id": f"{row['audio']} {turn}"} for turn in range(60) for row in spoken(tmp_path, 20)])
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            for child in psutil.Process().children():
                if "lora.system.workers" in " ".join(child.cmdline()):
                    child.kill()
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(ManifestError, match=r"m\.jsonl: a process that decodes its recordings ended \(SIGKILL\)"):
            validate(given, Rules(), AudioSettings())
    finally:
        stop.set()
        killer.join()
    assert not [child for child in psutil.Process().children() if "lora.system.workers" in " ".join(child.cmdline())]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_wanted_it(tmp_path: Path, sent: signal.Signals) -> None:
    script = tmp_path / "asks.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from lora.system.workers import Workers
            with Workers(time.sleep, 2) as workers:
                print(*(one._process.pid for one in workers._all), flush=True)
                list(workers.map([0.2] * 1000))
            """
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        started = [int(pid) for pid in asking.stdout.readline().split()]
        asking.send_signal(sent)
        asking.wait(30)
    assert len(started) == 2
    gone, alive = psutil.wait_procs([psutil.Process(pid) for pid in started if psutil.pid_exists(pid)], timeout=30)
    assert not alive, gone


def test_a_users_script_is_not_run_again_in_the_processes(tmp_path: Path) -> None:
    """The pools of the standard library would do so where the script guards nothing."""
    write_rows(tmp_path / "m.jsonl", spoken(tmp_path, 6))
    script = tmp_path / "user.py"
    script.write_text(
        textwrap.dedent(
            """
            from pathlib import Path
            from lora.audio.loading import AudioSettings
            from lora.dataset import checking
            from lora.dataset.manifest import Rules, read
            print("begins")
            checking.MANY, checking.TOGETHER, checking.cores = 1, 2, lambda: 2
            print(len(checking.validate(read(Path("m.jsonl"), Rules()), Rules(), AudioSettings())))
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begins", "6"]
    assert done.stderr == ""
