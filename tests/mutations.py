"""Faults that tests must see: `python tests/mutations.py [WORD ...]` puts each into a copy of the tree and runs the tests that should fail.

Prints each as caught or survived, and counts. Exit code 1 when one survives, when its text is not found exactly once in the sources, or
when its tests do not pass without it. With words, only those whose name holds one of them; `3/8` is the third of eight parts of the table.
"""

import functools
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mutation_table import TABLE, Mutation

ROOT = Path(__file__).parents[1]
SOURCES = ("src/lora", "packages/lora-cli/src/lora_cli")
AT_A_TIME = 2
LONGEST_S = 300
LIBRARIES = (
    *("accelerate", "hypothesis", "jiwer", "peft", "pytest", "safetensors.torch", "torch", "whisper_normalizer.english"),
    *("transformers.models.moonshine.modeling_moonshine", "transformers.models.moonshine_streaming.modeling_moonshine_streaming"),
)
"""What tests import and no mutation is in."""
PASSED, FAILED, NOT_RUN = 0, 1, 2
"""What comes of tests. A module that cannot be imported shows nothing but that."""


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of all that git tracks or would track, which a test may change. What it keeps is its own; the models are linked to."""
    from lora.system.files import cache_dir  # not in the processes that run tests: each imports the product from its own copy

    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        place = Path(name) / "tree"
        for file in map(os.fsdecode, filter(None, listed.split(b"\0"))):
            if (root / file).is_file():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / file, place / file)
        (Path(name) / "cache").mkdir()
        for part in ("checkpoints", "wheels"):
            (cache_dir() / part).mkdir(parents=True, exist_ok=True)
            (Path(name) / "cache" / part).symlink_to(cache_dir() / part)
        if (root.parent / "shared").exists():
            (Path(name) / "shared").symlink_to(root.parent / "shared")
        yield place


def run_tests(tree: Path, tests: Sequence[str]) -> int | None:
    """What comes of tests in a copy; None where it does not end. Libraries are loaded once, for all copies."""
    output = tree.parent / "output"
    process = _processes().Process(target=_pytest, args=(tree, tuple(tests), output))
    process.start()
    process.join(LONGEST_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    if process.exitcode not in (PASSED, FAILED):
        print(output.read_text(errors="replace")[-3000:], file=sys.stderr)
    return process.exitcode


@functools.cache
def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


def _pytest(tree: Path, tests: tuple[str, ...], output: Path) -> None:
    """What a process does: nothing of the product was imported in it before."""
    sources = [str((tree / source).parent) for source in SOURCES]
    sys.path[:0] = sources
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(sources),
        "MOONSHINE_LORA_CACHE": str(tree.parent / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sys.dont_write_bytecode = True
    os.chdir(tree)
    with output.open("wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    import pytest

    seen = _Seen()
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests], plugins=[seen])
    module = sys.modules.get("lora")
    assert module is None or Path(str(module.__file__)).is_relative_to(tree), module
    sys.stdout.flush()
    os._exit(PASSED if code == 0 else FAILED if seen.failed else NOT_RUN)


class _Seen:
    """A plugin of pytest: whether a test was run and failed."""

    failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.failed


def places(root: Path, mutation: Mutation) -> list[Path]:
    """Where its text stands, once for each time."""
    files = sorted(file for source in SOURCES for file in (root / source).rglob("*.py"))
    return [file for file in files for _ in range(file.read_text(encoding="utf-8").count(mutation.old))]


def outcome(root: Path, mutation: Mutation) -> str:
    """`caught`, `survived`, or what is wrong with the mutation itself."""
    found = places(root, mutation)
    if len(found) != 1:
        return f"found {len(found)} times"
    with copied(root) as tree:
        file = tree / found[0].relative_to(root)
        file.write_text(file.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        code = run_tests(tree, mutation.tests)
    return {PASSED: "survived", FAILED: "caught", None: "no end"}.get(code, "not run")


def passing(root: Path, tests: tuple[str, ...]) -> bool:
    with copied(root) as tree:
        return run_tests(tree, tests) == PASSED


def tried(root: Path, table: Sequence[Mutation]) -> int:
    """Tries all of a table; prints what comes of each, and returns the exit code."""
    counts: dict[str, int] = {}
    wanted = list(dict.fromkeys(mutation.tests for mutation in table))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for tests, passed in zip(wanted, pool.map(lambda tests: passing(root, tests), wanted), strict=True):
            if not passed:
                print(f"error: without any mutation these tests do not pass: {' '.join(tests)}")
                return 1
        for mutation, result in zip(table, pool.map(lambda mutation: outcome(root, mutation), table), strict=True):
            print(f"{result:9} {mutation.name}", flush=True)
            counts[result] = counts.get(result, 0) + 1
    print(f"{len(table)} mutations: " + ", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    return 0 if set(counts) <= {"caught"} else 1


def chosen(words: Sequence[str]) -> list[Mutation]:
    """The mutations that the command's words mean."""
    if len(words) == 1 and (part := re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", words[0])):
        return list(TABLE[int(part[1]) - 1 :: int(part[2])])
    return [one for one in TABLE if not words or any(word in one.name for word in words)]


def main(words: Sequence[str]) -> int:
    return tried(ROOT, chosen(words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
