"""What a process does for its surroundings, and what the project changes for a whole process."""

import gc
import os
import platform
import re
import subprocess
import sys
import warnings

import pytest
from running import ROOT

from lora.system.process_settings import GC_OBJECTS, process_settings

SCATTERED = """
from lora.system.process import give_back_memory

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

blocks = [bytes([1]) * 60_000 for _ in range(3000)]
last = blocks[-1]  # stands behind the others, so that they cannot simply be cut off
full = resident_mb()
del blocks
kept = resident_mb()
give_back_memory()
print(full - kept, full - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps no freed memory for itself")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True)
    of_itself, asked = map(float, done.stdout.split())
    assert of_itself < 50
    assert asked > 150


def test_settings_of_the_process_end_with_the_command_and_the_users_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    before = gc.get_threshold(), list(warnings.filters)
    with process_settings():
        assert gc.get_threshold()[0] == GC_OBJECTS
        assert warnings.filters != before[1]
    assert (gc.get_threshold(), list(warnings.filters)) == before
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_the_python_api_sets_them_before_pytorch_is_imported() -> None:
    script = """
import gc, os, sys
before = gc.get_threshold()
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), gc.get_threshold()[0])
sys.meta_path.insert(0, Finder())
import lora
lora.load
print(gc.get_threshold() == before)
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"1000 {GC_OBJECTS}", "True"]


CHANGES = re.compile(
    r"os\.environ(\[[^]]+\] =|\.setdefault|\.update| \|=)|os\.putenv|\bgc\.(set_threshold|freeze|disable)|\.setLevel\(|set_verbosity"
    r"|^\s*warnings\.(filterwarnings|simplefilter)|disable_progress_bars|set_num_threads\("
)
ELSEWHERE = {
    "system/parallel.py": "threads",
    "export/graphs.py": "warnings within a block",
    "sweep/study.py": "warnings within a block",
}


def test_no_other_module_changes_the_process() -> None:
    sources = [*(ROOT / "src" / "lora").rglob("*.py"), *(ROOT / "packages" / "lora-cli" / "src").rglob("*.py")]
    found = {file for file in sources if any(CHANGES.search(line) for line in file.read_text().splitlines())}
    allowed = {"system/process_settings.py", *ELSEWHERE}
    assert {str(file.relative_to(ROOT / "src" / "lora")) for file in found} == allowed
