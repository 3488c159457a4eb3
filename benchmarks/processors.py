"""The same experiment with each instruction set that this processor has, in both precisions; prints a table with ratios to float32.

    python benchmarks/processors.py --data ../shared/data --rounds 3

oneDNN is told to keep to older instructions, so one machine shows what others give. Each run is a process of its own, from an empty cache
of its own, then once more from what that left. bfloat16 is not run where a run would refuse it.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from run import OURS, ROOT, Measured, measure_ours

from lora.console import ArgumentParser, positive_int, run
from lora.model.products import INSTRUCTION_SETS, PRODUCTS_VARIABLE, onednn_instructions
from lora.system.files import cache_dir

CAPS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX")


@dataclass(frozen=True)
class Setting:
    """How a run computes. The instruction set is the newest that it may use."""

    instructions: str
    precision: str
    plain: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, {self.instructions}" + (", plain products" if self.plain else "")

    @contextmanager
    def environment(self) -> Iterator[None]:
        """This setting, and a cache of its own that has the checkpoint."""
        before = dict(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("checkpoints", "wheels"):
                (Path(folder) / name).symlink_to(cache_dir() / name)
            os.environ |= {"ONEDNN_MAX_CPU_ISA": self.instructions, "MOONSHINE_LORA_CACHE": folder}
            if self.plain:
                os.environ[PRODUCTS_VARIABLE] = "plain"
            try:
                yield
            finally:
                os.environ.clear()
                os.environ.update(before)


def settings() -> list[Setting]:
    """float32 with all that there is comes first: the others are compared with it."""
    newest = onednn_instructions()
    there = [cap for cap in reversed(CAPS) if newest and INSTRUCTION_SETS.index(cap) <= INSTRUCTION_SETS.index(newest)]
    first = Setting(there[0], "float32")
    others = [Setting(cap, precision) for cap in there for precision in ("bfloat16", "float32") if (cap, precision) != ("AVX2", "bfloat16")]
    return [first, *(one for one in others if one != first), Setting(there[0], "float32", plain=True)]


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with an4/ and librispeech/")
    parser.add_argument("--rounds", type=positive_int, default=3, help="times that each is run (default 3)")
    options = parser.parse_args()
    found: dict[Setting, list[tuple[Measured, Measured]]] = {setting: [] for setting in settings()}
    for number in range(options.rounds):
        for setting, measured in found.items():
            print(f"round {number + 1} of {options.rounds}: {setting}", file=sys.stderr, flush=True)
            ours = OURS.replace("--precision bfloat16", f"--precision {setting.precision}")
            with setting.environment():
                cold = measure_ours(options.data, ours, "decoder", cold=True, replay=False)
                measured.append((cold, measure_ours(options.data, ours, "decoder", cold=False, replay=False)))
    _print(found)
    return 0


def _print(found: dict[Setting, list[tuple[Measured, Measured]]]) -> None:
    first = _median(next(iter(found.values())))
    print("| | cold, s | warm, s | training, audio s/s | AN4 WER, each run | LibriSpeech WER |\n|---|---|---|---|---|---|")
    for setting, measured in found.items():
        cold, warm, rate = _median(measured)
        wers = sorted({f"{100 * one.wer:.2f}" for pair in measured for one in pair})
        heldout = sorted({f"{100 * one.heldout_wer:.2f}" for pair in measured for one in pair})
        times = f"{cold:.0f} ({first[0] / cold:.2f}x) | {warm:.0f} ({first[1] / warm:.2f}x) | {rate:.0f} ({rate / first[2]:.2f}x)"
        print(f"| {setting} | {times} | {', '.join(wers)} % | {', '.join(heldout)} % |")


def _median(measured: list[tuple[Measured, Measured]]) -> tuple[float, float, float]:
    """Seconds cold and warm, and audio seconds a second of the training."""
    cold = statistics.median(one.wall_s for one, _ in measured)
    warm = statistics.median(one.wall_s for _, one in measured)
    return cold, warm, statistics.median(one.train_rate for pair in measured for one in pair)


if __name__ == "__main__":
    sys.exit(run(main))
