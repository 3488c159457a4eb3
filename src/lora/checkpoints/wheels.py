"""Wheels that carry published weights: fetched through pip, checked by hash, read as zip archives and never installed."""

import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from lora.errors import FetchError
from lora.system.destination import writing_errors
from lora.system.files import cache_dir, sha256_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One published wheel. `platforms` are its platform tags, empty for pure Python; `sha256` is the file's, in hex."""

    distribution: str
    version: str
    platforms: tuple[str, ...]
    sha256: str

    @property
    def filename(self) -> str:
        """The name the wheel format gives the file; all wheels here are for any Python 3."""
        return f"{self.distribution.replace('-', '_')}-{self.version}-py3-none-{'.'.join(self.platforms) or 'any'}.whl"

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


# 0.1.0 is the last release with weights inside; 0.1.3 and later carry none.
MOONSHINE_VOICE: Final = Wheel(
    "moonshine-voice", "0.1.0", ("manylinux_2_34_x86_64",), "0f833deb43bad5dcfb4cfd3257b6df83ef9abd3f27be3199622fe41932e8d916"
)
MOONSHINE_CPP: Final = Wheel(
    "moonshine-cpp", "0.1.4", ("manylinux2014_x86_64",), "f7afc662bdd3ef98815ee3b940438b456e77d5a77cea5396ed9c572785412ebd"
)
USEFUL_MOONSHINE_ONNX: Final = Wheel(
    "useful-moonshine-onnx", "20251121", (), "b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2"
)


def fetch(wheel: Wheel) -> Path:
    """Returns the verified file of `wheel`, downloading it into the cache where it is not there yet.

    pip does the download, so its index, proxy and certificate settings hold; the platform is named, so every system gets the same file.

    Raises:
        FetchError: pip could not download it, or its SHA-256 or that of the cached file is not the expected one.
    """
    path = cache_dir() / "wheels" / wheel.filename
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # a second process waits instead of downloading the same file
            if not path.exists():
                _download(wheel, path)
            elif (actual := sha256_file(path)) != wheel.sha256:
                raise FetchError(f"{path}: cached wheel has SHA-256 {actual}, expected {wheel.sha256}; delete the file and run again")
    return path


def read_member(wheel: Wheel, name: str) -> bytes:
    """Returns the content of the file `name` inside `wheel`, fetching the wheel first where needed.

    Raises:
        FetchError: the wheel cannot be had, or holds no such file.
    """
    path = fetch(wheel)
    with zipfile.ZipFile(path) as archive:
        try:
            return archive.read(name)
        except KeyError as error:
            raise FetchError(f"{path}: no file {name!r} inside") from error


def _download(wheel: Wheel, path: Path) -> None:
    _log.info("downloading %s with pip", wheel.requirement)
    # Beside the target, so that the final rename stays on one file system and is atomic.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as folder:
        downloaded = _pip_download(wheel, Path(folder))
        if (actual := sha256_file(downloaded)) != wheel.sha256:
            raise FetchError(
                f"{wheel.requirement}: downloaded {downloaded.name} has SHA-256 {actual}, expected {wheel.sha256}; "
                "the index pip is set up with serves another file: check `pip config list`"
            )
        downloaded.replace(path)


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    platforms = [argument for platform in wheel.platforms for argument in ("--platform", platform)]
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--no-deps", "--only-binary=:all:", *platforms]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wheel.requirement]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise FetchError(
            f"{wheel.requirement}: could not be downloaded ({last_meaningful_line(result.stderr or result.stdout)}); "
            "check the network, and pip's index and proxy settings with `pip config list`, then run again"
        )
    return wheels[0]


def last_meaningful_line(output: str) -> str:
    """The line in which pip says why it stopped: a broken connection, else its last ERROR line, else its last line that is no hint."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # Without a network pip ends in "No matching distribution found", which blames the package; the warning before it has the reason.
    broken = [line[line.index("connection broken by") :] for line in lines if "connection broken by" in line]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    others = [line for line in lines if not line.startswith(("[notice]", "DEPRECATION:", "WARNING:"))]
    return (broken or errors or others or ["pip said nothing"])[-1]
