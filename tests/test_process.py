"""What a process does for its surroundings."""

import os
import platform
import subprocess
import sys

import pytest

SCATTERED = """
from lora.process import give_back_memory

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


ARENAS = """
import ctypes, threading
from lora.process import prepare_process

prepare_process()
threads = [threading.Thread(target=lambda: [bytes(n) for n in range(600, 3000)]) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no arenas")
@pytest.mark.parametrize(("wanted", "alone"), [({}, True), ({"MALLOC_ARENA_MAX": "8"}, False)])
def test_threads_share_freed_memory_unless_the_user_wants_otherwise(wanted: dict[str, str], *, alone: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | wanted
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout.count("<heap nr=") == 1) is alone
