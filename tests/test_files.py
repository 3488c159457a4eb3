"""Files and folders appear whole or not at all, whenever a signal arrives."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from pathlib import Path

from lora.files import atomic_file, atomic_folder


def terminate(number, frame):
    raise SystemExit(143)


def watch(event, arguments):
    if waiting and event == sys.argv[2] and any(sys.argv[3] in str(argument) for argument in arguments[:2]):
        waiting.clear()
        called.append(event.split(".")[-1])


def interrupt(frame, event, function):
    if event == "c_return" and called and function.__name__ == called[0]:
        called.clear()
        os.kill(os.getpid(), signal.SIGTERM)


waiting, called = [], []
signal.signal(signal.SIGTERM, terminate)
sys.addaudithook(watch)
sys.setprofile(interrupt)
place = Path(sys.argv[1])
waiting.append(True)
if sys.argv[4] == "file":
    with atomic_file(place / "it") as stream:
        stream.write(b"new")
else:
    with atomic_folder(place / "it") as folder:
        (folder / "content").write_text("new")
"""


def interrupted(place: Path, event: str, path: str, kind: str) -> int:
    """The exit code of a writer that gets SIGTERM right after the first such system call with that in its path."""
    return subprocess.run([sys.executable, "-c", PROGRAM, place, event, path, kind], check=False).returncode


@pytest.mark.parametrize(("kind", "event"), [("file", "open"), ("folder", "os.mkdir"), ("folder", "os.chmod"), ("file", "os.chmod")])
def test_a_signal_while_something_is_made_leaves_nothing(tmp_path: Path, kind: str, event: str) -> None:
    assert interrupted(tmp_path, event, ".part", kind) == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("event", "path"), [("os.mkdir", ".old"), ("os.rename", ".old"), ("os.rename", ".part"), ("os.rmdir", ".old")])
def test_a_signal_while_a_folder_is_replaced_leaves_the_new_one_alone(tmp_path: Path, event: str, path: str) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    assert interrupted(tmp_path, event, path, "folder") == 143
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*"))] == ["it", "it/content"]
    assert (tmp_path / "it" / "content").read_text() == "new"


def test_a_signal_before_a_folder_is_replaced_leaves_the_old_one_alone(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    assert interrupted(tmp_path, "open", "content", "folder") == 143
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*"))] == ["it", "it/content"]
    assert (tmp_path / "it" / "content").read_text() == "old"
