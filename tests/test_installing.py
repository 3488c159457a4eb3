"""The commands of both READMEs in the order in which they stand, in an empty clone: afterwards all of them still work."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import tomli_w
from clones import clone, own_manifests, succeeded, surroundings, uv
from running import ROOT

from lora.corpora import quickstart
from lora.system.files import sha256_file

READMES = (ROOT / "README.md", ROOT / "packages" / "lora-cli" / "README.md")
ELSEWHERE = {"cpu-builds"}
"""PyTorch's own site is not asked by tests; see below."""
LINES = 12
"""Of each quickstart manifest: what is run is looked at, not what comes of it."""


def documented() -> list[str]:
    """Commands as they stand in the READMEs, line by line."""
    found = []
    for readme in READMES:
        for needs, text in re.findall(r"(?:<!-- needs: ([\w-]+) -->\n)?^```bash\n(.*?)^```", readme.read_text(), re.S | re.M):
            found += [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and needs not in ELSEWHERE]
    return found


def short_quickstart(folder: Path) -> None:
    """The quickstart's data with a few lines of each manifest, which `make data` finds whole."""
    quickstart.prepare(folder)
    stamp = json.loads((folder / quickstart.STAMP).read_text())
    for file in quickstart.manifests(folder).paths():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:LINES]))
        stamp["sha256"][file.relative_to(folder).as_posix()] = sha256_file(file)
    (folder / quickstart.STAMP).write_text(json.dumps(stamp))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose quickstart makes two updates on little speech and accepts what comes of them."""
    made = clone(tmp_path_factory.mktemp("clone"))
    short_quickstart(made / "data" / "quickstart")
    preset = made / "configs" / "quickstart.toml"
    settings = tomllib.loads(preset.read_text())
    settings["train"] |= {"max_steps": 2, "eval_interval": 2}
    settings["gate"] |= {"min_domain_gain_points": -10000, "max_heldout_rise_points": 10000}
    preset.write_text(tomli_w.dumps(settings))
    return made


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """A user's who has uv. `make test` only collects the tests here."""
    own = surroundings(UV_TOOL_DIR=str(place / "tools"), UV_TOOL_BIN_DIR=str(place / "tools-bin"), PYTEST_ADDOPTS="--collect-only -q")
    path = f"{place / '.venv' / 'bin'}:{place / 'tools-bin'}:{own['PATH']}:{Path(uv()).parent}"
    return own | {"PATH": path, "WORKERS": "1"}


def installed(place: Path, environment: dict[str, str]) -> str:
    return succeeded([uv(), "pip", "freeze"], place, environment)


def carried_out(command: str, place: Path, environment: dict[str, str]) -> str:
    if command.startswith("uv run moonshine-lora experiment"):
        command += " --dry-run"
    return succeeded(["bash", "-c", command], place, environment)


@pytest.mark.slow
def test_no_command_of_the_readmes_undoes_another(place: Path, environment: dict[str, str]) -> None:
    for command in documented():
        carried_out(command, place, environment)
        if command == "make run":
            own_manifests(place / "data")
    before = installed(place, environment)
    for command in documented():
        carried_out(command, place, environment)
    assert installed(place, environment) == before
    # What people do besides, in either folder, removes nothing either.
    app = place / "packages" / "lora-cli"
    for folder, command in ((place, "uv sync"), (place, "uv sync --extra export"), (app, "uv sync"), (app, "uv run moonshine --version")):
        succeeded(["bash", "-c", command], folder, environment)
        assert installed(place, environment) == before, f"{command} in {folder}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["uv run moonshine --help", "uv run moonshine-lora --help"])
def test_the_first_command_in_a_fresh_clone_works(command: str, tmp_path: Path) -> None:
    environment = surroundings()
    environment["PATH"] += f":{Path(uv()).parent}"
    assert "usage: moonshine" in succeeded(["bash", "-c", command], clone(tmp_path), environment)


def test_with_cpu_builds_everything_is_installed_and_nothing_put_in_their_place() -> None:
    planned = subprocess.run(
        ["make", "-n", "run"], cwd=ROOT, env=surroundings(UV_TORCH_BACKEND="cpu"), capture_output=True, text=True, check=True
    ).stdout
    assert "pip install" in planned
    development = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    extras = next(own for own in development if own.startswith("moonshine-lora["))
    assert f"--editable '.{extras.removeprefix('moonshine-lora')}' --editable packages/lora-cli" in planned
    assert " sync" not in planned
