"""How much memory a training set takes for each utterance: the manifest, what the check found, and labels.

The audio files are links to one file of a few bytes: nothing here decodes them.
"""

import argparse
import gc
import os
import tempfile
import tracemalloc
from pathlib import Path

import torch

from lora.checkpoints.checkpoint import resolve
from lora.dataset.manifest import Recording, Row, Rules, read, write
from lora.model.loading import load_model
from lora.text.style import resolve_style
from lora.training.sets import checked_set, examples
from lora.units import Seconds

TEXT = "the quick brown fox jumps over the lazy dog and runs on through the field"
LINKS = 60_000
"""File systems allow about so many links to one file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    speech = load_model(resolve("packaged:moonshine-tiny"), torch.device("cpu"), "float32")
    with tempfile.TemporaryDirectory() as name:
        manifest = _manifest(Path(name), options.rows)
        tracemalloc.start()
        before = 0

        def say(what: str) -> None:
            nonlocal before
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
            print(f"{what:40} {(taken - before) / options.rows:7.0f} bytes an utterance")
            before = taken

        content = read(manifest, Rules(language="en"))
        say("manifest")
        found = (Recording(Seconds(6 + n / 1e9), os.urandom(32).hex(), stored_sha256=os.urandom(32).hex()) for n in range(len(content)))
        part = checked_set(content, tuple(found))
        del content, found
        say("recordings, with their hashes")
        made = examples(speech, part, resolve_style("none", [], "en"))
        say(f"labels, {sum(len(one.labels) for one in made) / len(made):.0f} tokens each")
        print(f"{'all':40} {before / options.rows:7.0f} bytes an utterance")


def _manifest(folder: Path, count: int) -> Path:
    def row(number: int) -> Row:
        name = f"audio/{number // 1000:04d}-{1000 + number // 40}-{number:07d}.flac"
        source = folder / "audio" / str(number // LINKS)
        if not source.exists():
            source.write_bytes(b"flac")
        (folder / name).hardlink_to(source)
        return Row(audio=name, text=f"{TEXT} {number}", speaker_id=str(number // 400), id=Path(name).stem, duration=6.0, language="en")

    (folder / "audio").mkdir()
    write(folder / "train.jsonl", map(row, range(count)))
    return folder / "train.jsonl"


if __name__ == "__main__":
    main()
