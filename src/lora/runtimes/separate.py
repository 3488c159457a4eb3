"""moonshine-voice in a folder of its own: it brings a command `moonshine`, which is the voice app's name here, and the later one wins."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from filelock import FileLock

from lora.destination import writing_errors
from lora.errors import FetchError
from lora.files import atomic_folder, cache_dir
from lora.wheels import last_meaningful_line

REQUIREMENT: Final = "moonshine-voice==0.1.5"


def voice_packages() -> Path:
    """The folder to import `moonshine_voice` from, with what it needs. pip fills it on first use, with the user's own settings.

    Raises `FetchError` when pip cannot.
    """
    folder = cache_dir() / "runtimes" / REQUIREMENT.replace("==", "-")
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # a second process waits instead of installing it too
            if not folder.is_dir():
                with atomic_folder(folder) as made:
                    _install(made)
    return folder


def _install(folder: Path) -> None:
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--only-binary=:all:", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        raise FetchError(
            f"{REQUIREMENT}: could not be installed into {folder.parent} ({last_meaningful_line(result.stderr or result.stdout)}); "
            "check the network, and pip's index and proxy settings with `pip config list`, or leave out --to moonshine-voice"
        )
