"""Runtimes in folders of their own, filled on first use with what is pinned by hash here.

moonshine-voice brings a command `moonshine`, which is the voice app's name here, and the later one wins. transformers.js comes from npm.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

from filelock import FileLock

from lora.checkpoints.wheels import last_meaningful_line
from lora.errors import FetchError, OnDeviceError
from lora.system.destination import writing_errors
from lora.system.files import atomic_folder, cache_dir

REQUIREMENT: Final = "moonshine-voice==0.1.5"
HASHES: Final = {
    REQUIREMENT: (  # its wheels for all systems
        "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
        "605300afe33eb7920301e73f11e0ea7493770eb655f389ba65be4aa1db8dedd6",
        "7fc9a84e827360ddb85c2735f44a1502c5575c27dcb476a2555646cd20a70e9d",
        "9866b1956d12fff11923ad42f1140bcb314bf05bf8d8576fb7b3aa819ec40e51",
        "fd9fa38ab58c6a8e64eb43b81b0f491138159c7ce45584bb0736ed7efa539766",
    ),
    "platformdirs==4.14.8": (
        "1e34af590de4d978631b751eb2202f2fee4497537a17c1720b12fcf57b331392",
        "96893d686e84e9e6f358a9ea41a8de544df66dbf2ba6cda250e7dc73acf85b9b",
    ),
}
"""SHA-256 of each file that may be installed. numpy, the only other package that transcribing needs, is here already."""


def voice_packages() -> Path:
    """The folder to import `moonshine_voice` from, with what it needs. pip fills it on first use, with the user's own settings.

    Only files with the hashes of `HASHES` are installed, wherever they come from.

    Raises `FetchError` when pip cannot.
    """
    return _filled(REQUIREMENT.replace("==", "-"), _install)


TRANSFORMERS_JS: Final = "4.3.2"
LOCKED: Final = ("package.json", "package-lock.json")
"""What npm installs: transformers.js and all that it needs, each by version and hash."""


def javascript_packages() -> Path:
    """The folder that holds `node_modules` with transformers.js. npm fills it on first use, with the user's own settings.

    Raises `OnDeviceError` if Node.js is missing, `FetchError` when npm cannot.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise OnDeviceError(f"transformers-js: there is no {program} here; install Node.js 20 or later, which brings it")
    return _filled(f"transformers-js-{TRANSFORMERS_JS}", _install_javascript)


def _install_javascript(folder: Path) -> None:
    for name in LOCKED:
        (folder / name).write_text((files("lora.runtimes") / "javascript" / name).read_text(encoding="utf-8"), encoding="utf-8")
    command = [shutil.which("npm") or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        said = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise FetchError(
            f"transformers.js {TRANSFORMERS_JS}: could not be installed into {folder.parent} ({said[0] if said else 'no message'}); "
            "check the network, and npm's registry and proxy settings with `npm config list`, or leave out --to transformers-js"
        )


def _filled(name: str, install: Callable[[Path], None]) -> Path:
    folder = cache_dir() / "runtimes" / name
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # a second process waits instead of installing it too
            if not folder.is_dir():
                with atomic_folder(folder) as made:
                    install(made)
    return folder


def _install(folder: Path) -> None:
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--only-binary=:all:", "--target", str(folder)]
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-") as place:
        wanted = Path(place) / "requirements.txt"
        wanted.write_text("".join(f"{name} {' '.join(f'--hash=sha256:{one}' for one in hashes)}\n" for name, hashes in HASHES.items()))
        command = [sys.executable, "-m", "pip", "install", *options, "--no-deps", "--require-hashes", "--requirement", str(wanted)]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        raise FetchError(
            f"{REQUIREMENT}: could not be installed into {folder.parent} ({last_meaningful_line(result.stderr or result.stdout)}); "
            "check the network, and pip's index and proxy settings with `pip config list`, or leave out --to moonshine-voice"
        )
