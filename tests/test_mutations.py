"""The script that puts faults into a copy of the tree: what it says of tests that see them, of tests that do not, and of its own table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import ROOT, TABLE, Mutation, chosen, places

SCRIPT = Path(__file__).parent / "mutations.py"
PARTS = 8
"""Of the table, so that one takes minutes."""


@pytest.mark.parametrize("mutation", TABLE, ids=lambda mutation: mutation.name)
def test_a_fault_has_one_place_in_the_sources_and_tests_that_are_there(mutation: Mutation) -> None:
    assert len(places(ROOT, mutation)) == 1
    assert mutation.new != mutation.old
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_names_of_faults_differ() -> None:
    assert len({mutation.name for mutation in TABLE}) == len(TABLE)


SMALL = """
import sys
from pathlib import Path

import mutations
from mutations import Mutation

TESTS = ("tests/test_small.py::test_sum",)
TABLE = {
    "caught": Mutation("another sum", "one + other", "one - other", TESTS),
    "survived": Mutation("another product", "one * other", "one / other", TESTS),
    "gone": Mutation("no such text", "one % other", "other", TESTS),
    "broken": Mutation("no Python", "one + other", "one +", TESTS),
    "unfit": Mutation("tests that fail anyway", "one + other", "one", ("tests/test_small.py::test_wrong",)),
}

if __name__ == "__main__":
    mutations.LIBRARIES = ("pytest",)
    sys.exit(mutations.tried(Path(sys.argv[1]), [TABLE[name] for name in sys.argv[2:]]))
"""

FILES = {
    "src/lora/__init__.py": "def sum(one, other):\n    return one + other\n\n\ndef product(one, other):\n    return one * other\n",
    "tests/test_small.py": "import lora\n\n\ndef test_sum():\n    assert lora.sum(2, 3) == 5\n\n\ndef test_wrong():\n    assert False\n",
}


@pytest.mark.parametrize(
    ("table", "told", "code"),
    [
        ("caught", ["caught    another sum", "1 mutations: 1 caught"], 0),
        ("caught survived", ["caught    another sum", "survived  another product", "2 mutations: 1 caught, 1 survived"], 1),
        ("gone", ["found 0 times no such text", "1 mutations: 1 found 0 times"], 1),
        ("broken", ["not run   no Python", "1 mutations: 1 not run"], 1),
        ("unfit", ["error: without any mutation these tests do not pass: tests/test_small.py::test_wrong"], 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_survives_and_what_does_not_fit_ends_in_an_error(table: str, told: list[str], code: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    script = tmp_path / "small.py"
    script.write_text(SMALL)
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    command = [sys.executable, script, root, *table.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == told, done.stderr
    assert done.returncode == code


def test_the_parts_of_the_table_are_the_table() -> None:
    parts = [chosen([f"{part}/{PARTS}"]) for part in range(1, PARTS + 1)]
    assert sorted(mutation.name for part in parts for mutation in part) == sorted(mutation.name for mutation in TABLE)


@pytest.mark.long
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_every_fault_is_seen_by_the_tests_that_make_test_runs(part: int) -> None:
    done = subprocess.run([sys.executable, SCRIPT, f"{part}/{PARTS}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
