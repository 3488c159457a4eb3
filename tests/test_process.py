"""What a process does for its surroundings."""

import platform
import subprocess
import sys

import pytest

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
