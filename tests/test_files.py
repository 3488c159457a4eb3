"""Files and folders appear whole or not at all, whenever a signal arrives, and only where a file or folder may be."""

import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora.errors import RunFolderError
from lora.system.destination import is_mount, is_shared, stays, writing_errors
from lora.system.files import atomic_folder, require_writable, sha256_bytes, sha256_file, write_json, write_text

PROGRAM = """
import os, signal, sys
from pathlib import Path

from lora.system.files import atomic_file, atomic_folder


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


@pytest.mark.parametrize(("event", "path"), [("os.rmdir", ".part")])
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


# --- kills between names -----------------------------------------------------------------------------------------------------------------

REPLACE = """
import sys
from pathlib import Path

from lora.system.files import atomic_folder

with atomic_folder(Path(sys.argv[1]) / "it") as folder:
    (folder / "content").write_text("new")
"""


def traced(place: Path, *inject: str) -> int:
    """The exit code of a program that replaces a folder while the system does what `inject` says, in strace's words."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not here")
    options = [part for one in inject for part in ("-e", f"inject={one}")]
    return subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "trace=rename,renameat2,rmdir,unlinkat", *options, sys.executable, "-c", REPLACE, place],
        check=False,
        stderr=subprocess.DEVNULL,
    ).returncode


@pytest.mark.parametrize(("call", "content"), [("renameat2", "old"), ("unlinkat", "new"), ("rmdir", "new")])
def test_a_kill_while_a_folder_is_replaced_leaves_one_of_the_two(tmp_path: Path, call: str, content: str) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    traced(tmp_path, f"{call}:signal=SIGKILL:when=1")
    assert (tmp_path / "it" / "content").read_text() == content
    with atomic_folder(tmp_path / "it") as folder:
        (folder / "content").write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["it"], "what the killed process left is gone"
    assert (tmp_path / "it" / "content").read_text() == "newer"


def test_a_signal_at_the_exchange_ends_the_process_with_the_new_folder_in_place(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    traced(tmp_path, "renameat2:signal=SIGINT:when=1")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["it", "it/content"]
    assert (tmp_path / "it" / "content").read_text() == "new"


def test_where_names_cannot_be_exchanged_a_folder_is_replaced_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "content").write_text("old")
    assert traced(tmp_path, "renameat2:error=EINVAL") == 0
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["it", "it/content"]
    assert (tmp_path / "it" / "content").read_text() == "new"


# --- what is left behind -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_and_what_another_one_writes_stays(tmp_path: Path, kind: str) -> None:
    left, held = tmp_path / ".it.abandoned.part", tmp_path / ".it.busy.part"
    other = tmp_path / ".item.abandoned.part"
    for path in (left, held, other):
        if kind == "file":
            path.write_text("half")
        else:
            path.mkdir()
            (path / "half").write_text("half")
    handle = os.open(held, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write(tmp_path / "it", kind)
    os.close(handle)
    assert sorted(path.name for path in tmp_path.iterdir()) == [held.name, other.name, "it"]


def write(path: Path, kind: str, text: str = "new") -> None:
    if kind == "file":
        write_text(path, text)
    else:
        with atomic_folder(path) as folder:
            (folder / "content").write_text(text)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_many_writers_of_one_name_leave_one_whole_result(tmp_path: Path, kind: str) -> None:
    failures: list[RunFolderError] = []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                write(tmp_path / "it", kind, str(number) * 1000)
        except RunFolderError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    text = (tmp_path / "it" if kind == "file" else tmp_path / "it" / "content").read_text()
    assert len(text) == 1000
    assert len(set(text)) == 1


# --- where an output may go --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def specials(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """What is no file and no folder, and must never be replaced."""
    places = {name: tmp_path / name for name in ("pipe", "socket", "device", "dangling", "loop")}
    os.mkfifo(places["pipe"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(places["socket"]))
        places["dangling"].symlink_to(tmp_path / "nothing")
        places["loop"].symlink_to(places["loop"])
        try:
            os.mknod(places["device"], stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:  # only root may
            places["device"] = Path(os.devnull)
        yield places


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", ["pipe", "socket", "device", "dangling", "loop"])
def test_devices_pipes_and_links_to_nothing_are_refused_and_stay(specials: dict[str, Path], name: str, kind: str) -> None:
    place = specials[name]
    before = place.lstat()
    for refused in (lambda: write(place, kind), lambda: require_writable(place)) if kind == "file" else (lambda: write(place, kind),):
        with pytest.raises(RunFolderError, match=name):
            refused()
    assert (place.lstat().st_mode, place.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.devnull)
    with pytest.raises(RunFolderError, match="link: is a device"):
        write_text(tmp_path / "link", "text")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path, kind: str) -> None:
    (tmp_path / "far").mkdir()
    write(tmp_path / "far" / "it", kind, "old")
    (tmp_path / "link").symlink_to(Path("far") / "it")
    write(tmp_path / "link", kind)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / ("it" if kind == "file" else "it/content")).read_text() == "new"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["it"]


def test_a_folder_around_the_working_directory_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    for text in ("old", "new"):
        write(Path(), "folder", text)
        write(tmp_path, "folder", text)
        assert Path("content").read_text() == text
    assert tmp_path.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["content"]


@pytest.mark.parametrize("small_disk", [1024], indirect=True)
def test_a_mount_point_is_filled(small_disk: Path) -> None:
    assert is_mount(small_disk)
    for text in ("old", "new"):
        write(small_disk, "folder", text)
        assert [path.name for path in small_disk.iterdir()] == ["content"]
        assert (small_disk / "content").read_text() == text
    assert is_mount(small_disk)
    assert [path.name for path in small_disk.parent.iterdir()] == [small_disk.name]


def test_a_part_of_the_same_disk_that_is_mounted_is_a_mount_point(tmp_path: Path) -> None:
    real, place = tmp_path / "real", tmp_path / "place with spaces"
    real.mkdir()
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", real, place], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount")
    try:
        assert is_mount(place)
        assert not is_mount(real)
        write(place, "folder")
        assert (real / "content").read_text() == "new"
    finally:
        subprocess.run(["umount", place], check=True)


def test_files_come_in_the_order_in_which_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moved: list[str] = []
    with atomic_folder(Path()) as folder:
        for number, name in enumerate(("sound", "a-table", "mark")):
            (folder / name).write_text(name)
            os.utime(folder / name, ns=(number, number))
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        moved.append(f"{self.name} {'out' if Path(target).parent != tmp_path.relative_to(tmp_path) else 'in'}")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    with atomic_folder(Path()) as folder:
        for number, name in enumerate(("sound", "mark")):
            (folder / name).write_text(name)
            os.utime(folder / name, ns=(number, number))
    assert moved == ["mark out", "a-table out", "sound out", "sound in", "mark in"]


def test_without_replace_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with atomic_folder(tmp_path / "it", replace=False) as folder:
        (folder / "content").write_text("first")
    with pytest.raises(RunFolderError, match="not empty"), atomic_folder(tmp_path / "it", replace=False) as folder:
        (folder / "content").write_text("second")
    assert (tmp_path / "it" / "content").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_file_has_the_mode_that_the_umask_asks_for(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "file", {})
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inner").mkdir()
            for name in ("private", "inner/private"):
                (folder / name).write_text("text")
                (folder / name).chmod(0o600)
            (folder / "program").write_text("#!/bin/sh")
            (folder / "program").chmod(0o700)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    wanted = {"file": 0o666, "folder": 0o777, "folder/inner": 0o777, "folder/private": 0o666, "folder/inner/private": 0o666}
    assert modes.pop("folder/program") & 0o111
    assert modes == {name: mode & ~umask for name, mode in wanted.items()}


@pytest.mark.parametrize(
    "code",
    [
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EIO",
        "EBUSY",
        "EXDEV",
        "ENAMETOOLONG",
        "EMFILE",
        "ENOMEM",
        "EROFS",
        "ESTALE",
        "EACCES",
        "EINVAL",
        "ENOTEMPTY",
    ],
)
def test_what_a_disk_refuses_is_one_line_with_a_remedy(tmp_path: Path, code: str) -> None:
    number = getattr(errno, code)
    with pytest.raises(RunFolderError, match=r"it: .+; ") as refused, writing_errors(tmp_path / "it"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(refused.value)


def test_a_name_as_long_as_the_disk_allows_is_written_and_a_longer_one_refused(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    for kind in ("file", "folder"):
        with pytest.raises(RunFolderError, match="name is too long"):
            write(tmp_path / ("x" * 256), kind)
        with pytest.raises(RunFolderError, match="NUL"):
            write(tmp_path / "x\0y", kind)


def test_a_file_longer_than_the_limit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from lora.console import run; from lora.system.files import write_text;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "sys.exit(run(lambda: write_text(Path(sys.argv[1]), 'x' * 5000)))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "it"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "it: the file would be longer" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_local_disks_are_known_from_shared_ones(tmp_path: Path) -> None:
    assert not is_shared(tmp_path)
    assert not stays(tmp_path)


def test_hashes_of_bytes_and_files_are_those_of_the_standard(tmp_path: Path) -> None:
    """The examples of FIPS 180-4: `abc`, and a message of two blocks."""
    for parts, digest in (
        ([b"ab", b"", b"c"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            [b"abcdbcdecdefdefgefghfghighijhij", b"kijkljklmklmnlmnomnopnopq"],
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ):
        assert sha256_bytes(*parts) == digest
        (tmp_path / "file").write_bytes(b"".join(parts))
        assert sha256_file(tmp_path / "file") == digest
