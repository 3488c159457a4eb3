"""Finds and runs other programs that set the clipboard, press keys and know windows; names missing ones."""

import shutil
import subprocess
from typing import Final

from lora.errors import DeliveryError

RUN_S: Final = 10.0
"""Time limit for one; they take milliseconds."""

PACKAGES: Final = {"wl-copy": "wl-clipboard", "wl-paste": "wl-clipboard"}
"""Packages whose name differs from the program's."""


def found(*programs: str) -> bool:
    """Whether all of them are installed."""
    return all(shutil.which(program) for program in programs)


def run(*command: str, sent: bytes | None = None) -> bytes:
    """The output of a program. Raises `DeliveryError` with its error message if it fails."""
    try:
        done = subprocess.run(command, input=sent, capture_output=True, check=False, timeout=RUN_S)
    except subprocess.TimeoutExpired as error:
        raise DeliveryError(f"{command[0]} did not end within {RUN_S:.0f} s") from error
    except OSError as error:
        raise DeliveryError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise DeliveryError(f"{command[0]}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def to_install(*programs: str) -> str:
    """How to get what is missing."""
    missing = [PACKAGES.get(program, program) for program in programs if not found(program)]
    return f"install {' and '.join(dict.fromkeys(missing))} (Debian, Ubuntu: apt install {' '.join(dict.fromkeys(missing))})"
