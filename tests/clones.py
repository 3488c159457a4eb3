"""What tests of installing share: uv, a fresh clone, and a reader's first manifests."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from running import ROOT

FIRST_LINES = 6
"""How much of each quickstart manifest a reader's own ones hold."""


def uv() -> str:
    """uv as the Makefile finds it."""
    program = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    assert Path(program).is_file(), "make sync puts uv into .uv where there is none"
    return program


def surroundings(**changed: str) -> dict[str, str]:
    """This process's environment without what points into the environment that the tests run in."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTEST_CURRENT_TEST")}
    inside = str(Path(sys.prefix) / "bin")
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != inside)
    find_links = os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    return inherited | {"PATH": path, "UV_FIND_LINKS": find_links} | changed


def clone(place: Path) -> Path:
    """The working tree as a reader's clone would hold it: what git knows or would add, and nothing that was made."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


def own_manifests(data: Path) -> None:
    """Lays the first lines of the quickstart's manifests beside them, as those of a reader's own domain by several speakers."""
    for name, source in (("domain", "telephone"), ("general", "general")):
        shutil.copytree(data / "quickstart" / source, data / name)
        for file in (data / name).glob("*.jsonl"):
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:FIRST_LINES]))
    for part, speaker in (("train", "anna"), ("test", "ben")):
        rows = [json.loads(line) for line in (data / "domain" / f"{part}.jsonl").read_text().splitlines()]
        spoken = [row | {"speaker_id": f"{speaker}-{number % 2}"} for number, row in enumerate(rows)]
        (data / "domain" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken))


def succeeded(command: Sequence[object], place: Path, environment: dict[str, str], timeout_s: int = 600) -> str:
    """What a command prints that must end well."""
    done = subprocess.run([*map(str, command)], cwd=place, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
