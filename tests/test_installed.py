"""The wheels of both packages, put by pip into an empty environment of each Python: what an installed package must do without a checkout.

`make test-install` runs it. `INSTALL_VERSIONS` says which versions of what we build on: `tested` (the default), `newest` or `lowest`.
"""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from clones import clone, own_manifests, succeeded, surroundings, uv
from running import ANY_VERDICT, ROOT

pytestmark = pytest.mark.install

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
VERSIONS = os.environ.get("INSTALL_VERSIONS", "tested")
MODEL = ("--model-id", "packaged:moonshine-tiny")
M4A = """
import sys, av
source, target = sys.argv[1:]
with av.open(source) as sound, av.open(target, "w") as made:
    stream = made.add_stream("aac", rate=16000)
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=16000, frame_size=1024)
    for frame in sound.decode(audio=0):
        for part in resampler.resample(frame):
            made.mux(stream.encode(part))
    made.mux(stream.encode(None))
"""


@dataclass(frozen=True)
class Installed:
    """An environment, and a folder of a reader who has nothing but it."""

    programs: Path
    place: Path

    def run(self, program: str, *arguments: object) -> str:
        environment = surroundings() | {"PATH": f"{self.programs}:/usr/bin:/bin"}
        return succeeded([self.programs / program, *arguments], self.place, environment)


def interpreter(version: str) -> str:
    """The program of that Python. Skips, and says so, where neither the system has it nor uv can fetch it."""
    if (found := ask_uv("find", "--no-project", version) or of_pyenv(version)) is None and ask_uv("install", version) is not None:
        found = ask_uv("find", "--no-project", version)
    if found is None:
        pytest.skip(f"Python {version} was not to be had: the system has none, and uv could fetch none")
    return found


def ask_uv(*question: str) -> str | None:
    """What `uv python` answers; None where it fails."""
    done = subprocess.run([uv(), "python", *question], cwd="/", env=surroundings(), capture_output=True, text=True, timeout=300)
    return done.stdout.strip() if done.returncode == 0 else None


def of_pyenv(version: str) -> str | None:
    """The newest of that version that pyenv has made; its programs on the PATH answer only where they are switched on."""
    made = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    return max(map(str, made), default=None)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both packages, built from a clone."""
    made = tmp_path_factory.mktemp("wheels")
    succeeded(
        [uv(), "build", "--all-packages", "--wheel", "--quiet", "--out-dir", made], clone(tmp_path_factory.mktemp("clone")), surroundings()
    )
    return sorted(made.glob("*.whl"))


@pytest.fixture(scope="module", params=PYTHONS)
def installed(request: pytest.FixtureRequest, wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = tmp_path_factory.mktemp(f"python{request.param}")
    succeeded([interpreter(request.param), "-m", "venv", made / "venv"], made, surroundings())
    succeeded([*installer(made), *wheels], made, surroundings(), timeout_s=1800)
    (made / "place").mkdir()
    return Installed(made / "venv" / "bin", made / "place")


def installer(made: Path) -> Sequence[object]:
    """The command that takes the wheels: pip, but for the lowest versions, which only uv looks for."""
    python = made / "venv" / "bin" / "python"
    root, app = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (ROOT, ROOT / "packages" / "lora-cli"))
    if VERSIONS == "lowest":  # uv takes the lowest of what it is asked for itself, not of what a wheel asks for
        asked = [*root["project"]["dependencies"], *app["project"]["dependencies"]]
        (made / "asked.txt").write_text("\n".join(one for one in asked if one != "moonshine-lora"))
        lowest = ("--resolution", "lowest-direct", "--requirements", made / "asked.txt")
        return [uv(), "pip", "install", "--quiet", "--python", python, *lowest]
    tested = root["tool"]["uv"]["constraint-dependencies"] if VERSIONS == "tested" else ()
    (made / "tested.txt").write_text("\n".join(tested))
    return [python, "-m", "pip", "install", "--quiet", "--constraint", made / "tested.txt"]


def test_the_whole_flow_without_a_checkout(installed: Installed) -> None:
    run, place = installed.run, installed.place
    shown = run("python", "-c", "import sys, torch, transformers as t; print(sys.version.split()[0], torch.__version__, t.__version__)")
    print("Python, torch, transformers:", shown)
    assert "usage: moonshine-lora" in run("moonshine-lora", "--help")
    assert "usage: moonshine" in run("moonshine", "--help")
    assert run("moonshine", "--version")

    # Manifests: the quickstart's, merged, and of a folder of recordings.
    run("moonshine-lora", "data", "--output", "data/quickstart")
    own_manifests(place / "data")
    own = place / "own"
    (own / "anna").mkdir(parents=True)
    rows = [json.loads(line) for line in (place / "data/domain/train.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[:3]):
        sound = place / "data" / "domain" / row["audio"]
        shutil.copy(sound, own / "anna" / f"{number}{sound.suffix}")
        (own / "anna" / f"{number}.txt").write_text(row["text"])
    run("moonshine-lora", "manifest", "domain", "--from-folder", "own", "--output", "own.jsonl")
    assert len((place / "own.jsonl").read_text().splitlines()) == 3
    parts = [f"data/domain/{part}.jsonl" for part in ("train", "test")]
    run("moonshine-lora", "manifest", "merge", *parts, "--output", "data/merged.jsonl")
    assert len((place / "data/merged.jsonl").read_text().splitlines()) == 12

    # An experiment of four updates with a preset, its report, and transcripts by what it trained; m4a belongs to the installation.
    quick = ("--max-steps", 4, "--eval-interval", 2, "--batch-size", 2, "--device", "cpu", "--replay-targets", "transcript", *ANY_VERDICT)
    assert "accepted" in run("moonshine-lora", "experiment", "--config", "domain", "--output-dir", "outputs/run", *quick)
    assert "report.html" in run("moonshine-lora", "report", "outputs/run")
    assert run("moonshine-lora", "compare", "outputs/run")
    first = own / "anna" / f"0{sound.suffix}"
    run("python", "-c", M4A, first, "clip.m4a")
    tuned = ("--adapter-dir", "outputs/run/lora_adapter")
    heard = run("moonshine-lora", "transcribe", *MODEL, *tuned, "--audio", first, "clip.m4a").splitlines()
    assert len(heard) == 2
    assert all(line.split("\t")[1] for line in heard)
    assert len(run("moonshine-lora", "transcribe", *MODEL, "--manifest", "data/domain/test.jsonl").splitlines()) == 6
    assert '"final"' in run("moonshine", "--json", "--file", first)
