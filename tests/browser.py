"""A real Chromium for tests of pages, from a package registry: no browser has to be installed, and none is downloaded elsewhere.

The npm package `@sparticuz/chromium` carries a headless Chromium for Linux on x86-64 with the few libraries it needs. Elsewhere, or
to test with another browser, `MOONSHINE_LORA_CHROMIUM` names the program of a Chromium or Chrome.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import brotli
from filelock import FileLock
from playwright.sync_api import Browser, sync_playwright

from lora.system.files import atomic_folder, cache_dir, sha256_bytes

VARIABLE: Final = "MOONSHINE_LORA_CHROMIUM"
PACKAGE: Final = "@sparticuz/chromium@153.0.0"
SHA256: Final = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"

FONTS: Final = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><dir>/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""
"""The package's own font and the system's: Chromium does not start without any."""

# No sandbox, for CI runs as root; nothing that calls home, for there is no network.
_ARGUMENTS = ("--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


class NoBrowserError(Exception):
    """There is no browser to be had here; the message says what to do."""


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """A running browser, started with `more` arguments. Raises `NoBrowserError`."""
    program, environment = _program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_ARGUMENTS, *more], env=os.environ | environment)
        try:
            yield browser
        finally:
            browser.close()


def _program() -> tuple[Path, dict[str, str]]:
    """The browser's program, and what its environment needs."""
    if explicit := os.environ.get(VARIABLE):
        return Path(explicit), {}
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NoBrowserError(f"{PACKAGE} is for Linux on x86-64; name a Chromium or Chrome with {VARIABLE}=/path/to/program")
    if shutil.which("npm") is None:
        raise NoBrowserError(f"npm is needed to fetch {PACKAGE}; install it, or name a Chromium or Chrome with {VARIABLE}=/path/to/program")
    folder = cache_dir() / "browsers" / PACKAGE.split("/")[1].replace("@", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _fetch(folder)
    return folder / "chromium", {"LD_LIBRARY_PATH": str(folder / "al2023" / "lib"), "FONTCONFIG_FILE": str(folder / "fonts" / "fonts.conf")}


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-npm-") as name, atomic_folder(folder) as temporary:
        done = subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=name, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoBrowserError(f"`npm pack {PACKAGE}` failed: {done.stderr.strip() or done.stdout.strip()}")
        (archive,) = Path(name).glob("*.tgz")
        content = archive.read_bytes()
        if (found := sha256_bytes(content)) != SHA256:
            raise NoBrowserError(f"{PACKAGE}: SHA-256 {found}, expected {SHA256}")
        with tarfile.open(fileobj=io.BytesIO(content)) as package:
            parts = {Path(member.name).name: package.extractfile(member) for member in package if member.name.endswith(".br")}
            unpacked = {part: brotli.decompress(stream.read()) for part, stream in parts.items() if stream is not None}
        (temporary / "chromium").write_bytes(unpacked["chromium.br"])
        (temporary / "chromium").chmod(0o755)
        for part in ("al2023", "swiftshader", "fonts"):
            with tarfile.open(fileobj=io.BytesIO(unpacked[f"{part}.tar.br"])) as inner:
                inner.extractall(temporary / part, filter="data")
        (temporary / "fonts" / "fonts.conf").write_text(FONTS)
