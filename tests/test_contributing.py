"""The map in CONTRIBUTING.md leads to what it says: each place exists and holds what the question asks for."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from clones import clone, surroundings, uv
from running import ROOT

from lora import __version__

MAP = dict(re.findall(r"^\| ([^|]+\?) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))

HOLDS = {
    "Where is a line of a manifest checked?": "def _check_text",
    "Where is a recording decoded?": "def decode(",
    "Where does every waveform get its rate, channel and level?": "def load(",
    "Where are all recordings of a manifest checked?": "def validate(",
    "What keeps a recording out of two sets?": "def require_no_near_copies(",
    "Where is a setting defined, with its default and help?": "class TrainConfig",
    "What turns an error into one line and an exit code?": "def _one_line(",
    "What decides the exit code of a run?": "EXIT_CODES",
    "In which order does a run do things?": "def experiment(",
    "Where is a checkpoint found and checked?": "def resolve(",
    "Where is the rank applied?": "def attach(",
    "Where is the update computed in the forward pass?": "lora_",
    "Where is the training loop, and how is the best step chosen?": "def train(",
    "Where does greedy decoding happen?": "def transcribe(",
    "What is normalised before words are counted?": "def normalise(",
    "Where are errors counted?": "def score_utterance(",
    "Where do intervals come from?": "bootstrap",
    "What is kept for later runs, and under which key?": "def key(",
    "Where does an interrupted run resume?": "def newest(",
    "Where is long audio cut at pauses, and where do word times come from?": "def pieces(",
    "Where are subtitles written?": "def captions(",
    "Where is a run or an adapter uploaded to the hub?": "def require_access(",
    "What starts and ends a recording in the voice app?": "class Talking",
    "Where would I add a form of subtitles to read, or another tool's corpus?": "",
    "Where would I add an export target?": "def write_target(",
}
"""What stands in the first place that answers; nothing of a folder."""


def test_the_map_answers_these_questions() -> None:
    assert list(MAP) == list(HOLDS)


@pytest.mark.parametrize("question", HOLDS)
def test_the_answer_is_where_the_map_says(question: str) -> None:
    first = ROOT / re.findall(r"`([^`]+)`", MAP[question])[0]
    assert first.exists()
    assert not HOLDS[question] or HOLDS[question] in first.read_text()


def test_every_check_before_a_commit_runs_on_this_tree(tmp_path: Path) -> None:
    """In a clone, so that what is fixed in passing is nobody's work; mypy and tests are what `make type` and `make test` run anyway."""
    place = clone(tmp_path)
    environment = surroundings(SKIP="mypy,quick-tests", PRE_COMMIT_HOME=str(tmp_path / "hooks"), UV_PROJECT_ENVIRONMENT=str(ROOT / ".venv"))
    environment["PATH"] += f":{Path(uv()).parent}"
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=place, check=True)
    program = [str(ROOT / ".venv" / "bin" / "pre-commit"), "run", "--all-files"]
    done = subprocess.run(program, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 3


def test_both_packages_have_one_version_and_their_licence_beside_them() -> None:
    projects = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, ROOT / "packages" / "lora-cli")]
    assert {project["version"] for project in projects} == {__version__}
    assert (ROOT / "packages" / "lora-cli" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
