"""One process works in a folder; another one is told which, and a killed one is in nobody's way."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora.errors import RunFolderError
from lora.system.artifacts import LOCK_FILE
from lora.system.locking import Hold, Holder, held, may_live, refuse_held

HOLDER = """
import sys, time
from pathlib import Path
from lora.system.locking import held
with held(Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_that_is_held_is_refused_with_process_and_machine(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    for attempt in (lambda: refuse_held(tmp_path), lambda: Hold().take(tmp_path)):
        with pytest.raises(RunFolderError, match=rf"is in use, process {holder.pid} on {socket.gethostname()} since"):
            attempt()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == holder.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_holds_nothing(tmp_path: Path, holder: "subprocess.Popen[str]", number: int) -> None:
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    refuse_held(tmp_path)
    with held(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', "\xff"])
def test_a_lock_file_that_holds_something_else_says_so_or_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content.encode("latin-1"))
    if not content:
        refuse_held(tmp_path)
    else:
        with pytest.raises(RunFolderError, match=r"run\.lock: "):
            refuse_held(tmp_path)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_removed_or_replaced_meanwhile_is_noticed(tmp_path: Path, replaced: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    hold = Hold()
    hold.take(folder)
    hold.require()
    folder.rename(tmp_path / "away")
    if replaced:
        folder.mkdir()
        (folder / LOCK_FILE).write_text("{}")
    assert not hold.stands()
    with pytest.raises(RunFolderError, match="was removed or replaced"):
        hold.require()
    hold.release()
    assert (folder / LOCK_FILE).exists() == replaced


def test_a_copy_that_holds_nothing_requires_nothing() -> None:
    hold = Hold()
    hold.require()
    hold.release()
    assert not hold.stands()


def test_without_locks_that_count_machine_and_process_decide() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id")
    here, start = socket.gethostname(), boot.read_text().strip() if boot.exists() else None
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    cases = [
        (here, start, os.getppid(), True),
        (here, start, int(gone.stdout), False),
        (here, "an earlier start", os.getppid(), False),
        ("elsewhere", "another start", 1, True),
    ]
    for host, of, pid, lives in cases:
        holder = Holder(pid=pid, host=host, boot=of, since="2026-01-01T00:00:00+00:00")
        assert may_live(holder, locks=False) == lives, holder
        assert not may_live(holder, locks=True)
