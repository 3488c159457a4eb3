"""The service's address and messages: one line of JSON each way. Loads in milliseconds, because hotkeys wait for it."""

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from lora.errors import DictationError

SOCKET_NAME: Final = "moonshine.sock"
COMMANDS: Final = ("toggle", "start", "stop", "cancel", "status")
"""Commands of the service."""

MOST_BYTES: Final = 1 << 20
"""Longest line either side reads."""


def socket_path() -> Path:
    """The service's Unix socket, in the user's folder for running programs.

    Raises `DictationError` if there is no such folder, or if others may enter it.
    """
    if os.name == "nt":
        raise DictationError("the dictation service runs on Linux and macOS; on Windows use moonshine, and copy the text")
    folder = runtime_folder()
    try:
        found = folder.stat()
    except OSError as error:
        raise DictationError(f"{folder}: {error.strerror}; XDG_RUNTIME_DIR has to name a folder of your own") from error
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise DictationError(f"{folder}: others may enter it, so they could listen; give XDG_RUNTIME_DIR a folder of your own (chmod 700)")
    return folder / SOCKET_NAME


def runtime_folder() -> Path:
    """`$XDG_RUNTIME_DIR`, which a login sets; on macOS the user's own temporary folder."""
    if name := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(name)
    if sys.platform == "darwin":
        return Path(tempfile.gettempdir())
    raise DictationError("XDG_RUNTIME_DIR is not set: it names the folder for the service's socket; log in, or set it to a private folder")
