"""Time and memory of the check of a manifest with many rows: `python benchmarks/checking.py --clips FOLDER [--other TREE]`.

Each row is a file of its own name (links to the clips of FOLDER, which holds a `train.jsonl`). TREE is another checkout of this project, of
any age, that is measured in turn with this one, by this environment. This one checks twice: from an empty cache, and again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

HERE = Path(__file__).parents[1]
CHECK = """
import resource, sys, time
from pathlib import Path
try:
    from lora.audio.loading import AudioSettings
    from lora.dataset.manifest import Rules, read
    from lora.dataset.checking import validate
    from lora.dataset.near_copies import near_copies
except ModuleNotFoundError:  # before there were sub-packages
    from lora.audio import AudioSettings
    from lora.manifest import Rules, read, validate
    near_copies = None
start = time.perf_counter()
manifest = read(Path(sys.argv[1]), Rules())
if near_copies is None:
    validate(manifest, Rules(), AudioSettings())
else:
    if sys.argv[2] != "other":
        from lora.system.cache import Kept
        found = validate(manifest, Rules(), AudioSettings(), prints=True, kept=Kept(Path(sys.argv[1]).parent / "kept"))
    else:
        found = validate(manifest, Rules(), AudioSettings(), prints=True)
    sum(1 for _ in near_copies([[one.sound for one in found], [one.sound for one in found[:100]]]))
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(time.perf_counter() - start, sum(one.ru_utime + one.ru_stime for one in used), sum(one.ru_maxrss for one in used) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--other", type=Path)
    options = parser.parse_args()
    trees = {"this": HERE, "again": HERE} | ({"other": options.other.resolve()} if options.other else {})
    with tempfile.TemporaryDirectory() as name:
        manifest = _rows(options.clips, Path(name), options.rows)
        taken: dict[str, list[list[float]]] = {tree: [] for tree in trees}
        for _ in range(options.rounds):
            shutil.rmtree(Path(name, "kept"), ignore_errors=True)
            for tree, path in trees.items():
                taken[tree].append(_check(tree, path, manifest))
    print(f"{options.rows} rows, medians of {options.rounds} rounds in turn")
    medians = {tree: [statistics.median(column) for column in zip(*rounds, strict=True)] for tree, rounds in taken.items()}
    for tree, (wall, cpu, memory) in medians.items():
        print(f"{tree:6} {wall:7.1f} s, {cpu:7.1f} s of CPU, {memory:6.0f} MB in it and its largest child")
    if "other" in medians:
        for tree in ("this", "again"):
            ratios = " ".join(f"{own / other:.2f}" for own, other in zip(medians[tree], medians["other"], strict=True))
            print(f"{tree} / other: {ratios}")


def _rows(clips: Path, folder: Path, count: int) -> Path:
    given = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()]
    copies = {row["audio"]: folder / Path(row["audio"]).name for row in given}
    for audio, copy in copies.items():
        copy.write_bytes((clips / audio).read_bytes())
    manifest = folder / "rows.jsonl"
    with manifest.open("w") as file:
        for number, row in enumerate(islice(cycle(given), count)):
            audio = folder / f"{number}{copies[row['audio']].suffix}"
            os.link(copies[row["audio"]], audio)
            duration = row["duration"] + number * 1e-8  # no two parts of the manifest are the same to what is kept
            file.write(json.dumps({"audio": audio.name, "text": row["text"], "id": str(number), "duration": duration}) + "\n")
    return manifest


def _check(name: str, tree: Path, manifest: Path) -> list[float]:
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    done = subprocess.run([sys.executable, "-c", CHECK, str(manifest), name], env=environment, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


if __name__ == "__main__":
    main()
