"""Runs the numeric tests as they would run on other processors: `make test-processors`.

    python tests/processors.py

oneDNN keeps to older instructions when it is told to, so one machine shows what most processors give: each instruction set that this one
has, with packed and with plain products, on one thread and on two, and with new memory filled with NaN until somebody sets it. Prints a
line for each, and one that adds up all; exits with 1 when a test failed. `pytest` itself runs on this machine as it is.
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora.model.products import INSTRUCTION_SETS, onednn_instructions

FILES = ("test_arithmetic.py", "test_products.py", "test_encoder.py", "test_decoder.py", "test_decode.py", "test_features.py")
CAPS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16")
LIMIT_S = 1200


@dataclass(frozen=True)
class Machine:
    """What the tests are made to believe."""

    cap: str | None
    products: str | None
    threads: int

    def __str__(self) -> str:
        return f"{self.cap or 'as it is':16} {self.products or 'packed':6} products, {self.threads} thread{'s' * (self.threads > 1)}"

    def environment(self) -> dict[str, str]:
        added = {"ONEDNN_MAX_CPU_ISA": self.cap, "MOONSHINE_LORA_PRODUCTS": self.products}
        wanted = {name: value for name, value in added.items() if value is not None}
        return {
            **os.environ,
            **wanted,
            "GOMP_SPINCOUNT": "1000",
            "MOONSHINE_LORA_TEST_THREADS": str(self.threads),
            "MOONSHINE_LORA_TEST_POISON": "1",
        }


def machines() -> list[Machine]:
    """Each instruction set with each kind of product; packed ones, which batches share in use, on two threads."""
    here = onednn_instructions()
    there = INSTRUCTION_SETS[: INSTRUCTION_SETS.index(here)] if here else ()
    caps = [*(cap for cap in CAPS if cap in there), None]
    return [machine for cap in caps for machine in (Machine(cap, None, 2), Machine(cap, "plain", 1))]


def run(machine: Machine) -> tuple[int, int]:
    """Tests that passed and failed; 1 failure where they did not come to an end."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(folder / name) for name in FILES)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=machine.environment())
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout.splitlines()[-1])}
    told = ", ".join(f"{counts.get(kind, 0)} {kind}" for kind in ("passed", "failed", "skipped"))
    output = "" if done.returncode == 0 else f"\n{done.stdout[-6000:]} {done.stderr[-2000:]}"
    print(f"{machine}: {told} in {time.monotonic() - started:.0f} s{output}", flush=True)
    return counts.get("passed", 0), max(counts.get("failed", 0), int(done.returncode != 0))


def main() -> int:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each keeps little more than one core busy
        passed, failed = (sum(part) for part in zip(*pool.map(run, machines()), strict=True))
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
