"""Our 8-bit export of tiny and the published files side by side in moonshine-voice: the same clips, in turns, in one process.

    python benchmarks/export.py --manifest ../shared/data/an4/test.jsonl --rounds 5

The published files are those of the wheel `moonshine-voice==0.1.0`, and what is exported is the checkpoint made of them, so that both say
nearly the same. Each round takes every clip through both, the first of the two in turns. A time is that of all clips of a round; the
ratio is of the medians over the rounds. Every clip goes through both once before the clock starts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lora.console import ArgumentParser, positive_int, run

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=ROOT.parent / "shared/data/an4/test.jsonl", help="clips (default AN4's)")
    parser.add_argument("--clips", type=positive_int, default=40, help="how many of them, evenly spaced (default 40)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="times that each is run (default 5)")
    options = parser.parse_args()
    from lora.audio.loading import AudioSettings, load
    from lora.dataset.manifest import Rules, read
    from lora.runtimes.runtime import require_runtimes

    require_runtimes(["moonshine-voice"])
    manifest = read(options.manifest, Rules(require_text=False)).utterances
    count = min(options.clips, len(manifest))
    clips = [load(manifest[number * len(manifest) // count].audio, AudioSettings()) for number in range(count)]
    sound_s = sum(len(clip) for clip in clips) / 16_000
    with tempfile.TemporaryDirectory() as place:
        folders = {"published": _published(Path(place, "published")), "ours": _ours(Path(place, "ours"))}
        sizes = {name: {file.name: file.stat().st_size for file in sorted(folder.iterdir())} for name, folder in folders.items()}
        transcribers = {name: _transcriber(folder) for name, folder in folders.items()}
        texts = {name: [_text(transcriber, clip) for clip in clips] for name, transcriber in transcribers.items()}
        rounds = [_round(transcribers, clips, number, options.rounds) for number in range(options.rounds)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in folders}
    print(f"{count} clips, {sound_s:.0f} s, {options.rounds} rounds\n")
    print("| tiny, u8, moonshine-voice | published | ours | ratio |\n|---|---|---|---|")
    print(f"| time of a round, s | {medians['published']:.2f} | {medians['ours']:.2f} | {medians['ours'] / medians['published']:.3f} |")
    spread = {name: f"{min(times[name] for times in rounds):.2f} to {max(times[name] for times in rounds):.2f}" for name in folders}
    print(f"| fastest to slowest round, s | {spread['published']} | {spread['ours']} | |")
    factors = {name: median / sound_s for name, median in medians.items()}
    print(f"| time for a second of sound, s | {factors['published']:.4f} | {factors['ours']:.4f} | |")
    for file in sizes["ours"]:
        theirs, own = sizes["published"][file], sizes["ours"][file]
        print(f"| {file}, MB | {theirs / 1e6:.2f} | {own / 1e6:.2f} | {own / theirs:.3f} |")
    theirs, own = (sum(sizes[name].values()) for name in ("published", "ours"))
    print(f"| together, MB | {theirs / 1e6:.2f} | {own / 1e6:.2f} | {own / theirs:.3f} |")
    print(f"\nthe same text on {sum(a == b for a, b in zip(*texts.values(), strict=True))} of {count} clips")
    return 0


def _published(folder: Path) -> Path:
    from lora.checkpoints.wheels import MOONSHINE_VOICE, read_member
    from lora.runtimes.runtime import FILES

    folder.mkdir()
    for file in FILES["moonshine-voice"]:
        (folder / file).write_bytes(read_member(MOONSHINE_VOICE, f"moonshine_voice/assets/tiny-en/{file}"))
    return folder


def _ours(folder: Path) -> Path:
    import torch

    from lora.checkpoints.checkpoint import resolve
    from lora.export.targets import write_target
    from lora.model.loading import load_model

    folder.mkdir()
    write_target(load_model(resolve("packaged:moonshine-tiny"), torch.device("cpu"), "float32"), "moonshine-voice", "u8", folder)
    return folder


def _transcriber(folder: Path) -> Any:
    from lora.runtimes.separate import voice_packages

    sys.path.append(str(voice_packages()))
    from moonshine_voice import ModelArch, Transcriber

    from lora.runtimes.engines import VOICE_OPTIONS

    return Transcriber(str(folder), ModelArch.TINY, options=VOICE_OPTIONS | {"max_tokens_per_second": 13})


def _text(transcriber: Any, clip: Any) -> str:
    return " ".join(line.text.strip() for line in transcriber.transcribe_without_streaming(clip.tolist(), 16_000).lines)


def _round(transcribers: dict[str, Any], clips: list[Any], number: int, rounds: int) -> dict[str, float]:
    """Seconds that each took for all clips, taken clip by clip in turns."""
    print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    times = dict.fromkeys(transcribers, 0.0)
    for place, clip in enumerate(clips):
        order = list(transcribers)
        if (number + place) % 2:
            order.reverse()
        for name in order:
            started = time.perf_counter()
            _text(transcribers[name], clip)
            times[name] += time.perf_counter() - started
    return times


if __name__ == "__main__":
    sys.exit(run(main))
