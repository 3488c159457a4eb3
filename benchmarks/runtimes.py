"""Tiny in every runtime and precision that we export to, side by side: size, time for a second of sound, memory, the same text.

    python benchmarks/runtimes.py --manifest ../shared/data/an4/test.jsonl --rounds 3

Each runtime has a process of its own, in which a first clip warms it up; the clips then go through one by one. In each round every runtime
has its turn, in another order. A time is that of all clips of a round, the median over the rounds. moonshine-voice and
useful-moonshine-onnx take as many cores as they like, the others one.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora.console import ArgumentParser, positive_int, run

ROOT = Path(__file__).parents[1]

CONTESTANTS = (
    *(("gguf", precision) for precision in ("u8", "fp16", "fp32")),
    *(("transformers-js", precision) for precision in ("u8", "fp32")),
    *(("moonshine-voice", "u8"), ("onnx", "u8"), ("sherpa-onnx", "u8"), ("sherpa-onnx", "fp32")),
)


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=ROOT.parent / "shared/data/an4/test.jsonl", help="clips (default AN4's)")
    parser.add_argument("--clips", type=positive_int, default=40, help="how many of them, evenly spaced (default 40)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="times that each is run (default 3)")
    options = parser.parse_args()
    from lora.audio.loading import AudioSettings, duration, load
    from lora.dataset.manifest import Rules, read
    from lora.model.transcript import DecodeSettings
    from lora.runtimes.runtime import RUNTIMES, Clip, require_runtimes

    require_runtimes(RUNTIMES)
    utterances = read(options.manifest, Rules(require_text=False)).utterances
    count = min(options.clips, len(utterances))
    chosen = [utterances[number * len(utterances) // count] for number in range(count)]
    sounds = [load(utterance.audio, AudioSettings()) for utterance in chosen]
    settings = DecodeSettings(tokens_per_second=6.5)
    clips = [Clip(one.id, sound, settings.cap(duration(sound))) for one, sound in zip(chosen, sounds, strict=True)]
    sound_s = sum(duration(sound) for sound in sounds)
    with tempfile.TemporaryDirectory() as place:
        folders, said = _exports(Path(place), sounds, settings)
        found = _rounds(folders, clips, options.rounds)
    print(f"{count} clips, {sound_s:.0f} s, {options.rounds} rounds\n")
    print("| tiny | MB | time for a second of sound, s | fastest to slowest round | loading, s | memory, MB | texts as in PyTorch |")
    print("|---|---|---|---|---|---|---|")
    for name, (megabytes, results) in found.items():
        times = [sum(heard.seconds for heard in result.heard) / sound_s for result in results]
        same = sum(heard.text == text for heard, text in zip(results[0].heard, said, strict=True))
        loading, memory = statistics.median(result.load_s for result in results), max(result.peak_bytes for result in results)
        print(
            f"| {name} | {megabytes:.1f} | {statistics.median(times):.4f} | {min(times):.4f} to {max(times):.4f} | {loading:.2f} "
            f"| {memory / 1e6:.0f} | {same} of {count} |"
        )
    return 0


def _exports(place: Path, sounds: list[Any], settings: Any) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """A folder for each contestant, and what PyTorch says of the clips."""
    import torch

    from lora.audio.loading import duration
    from lora.checkpoints.checkpoint import resolve
    from lora.export.targets import write_target
    from lora.model.decoder import Decoder
    from lora.model.encoder import Encoder
    from lora.model.greedy import transcribe
    from lora.model.loading import load_model

    speech = load_model(resolve("packaged:moonshine-tiny"), torch.device("cpu"), "float32")
    folders = {}
    for name, precision in CONTESTANTS:
        folders[name, precision] = place / f"{name}-{precision}"
        folders[name, precision].mkdir()
        write_target(speech, name, precision, folders[name, precision])  # type: ignore[arg-type]  # they are such
    encoder, decoder = Encoder(speech), Decoder(speech)
    with torch.inference_mode():
        return folders, [transcribe(decoder, encoder([sound]), [duration(sound)], settings)[0].text for sound in sounds]


def _rounds(folders: dict[tuple[str, str], Path], clips: list[Any], rounds: int) -> dict[str, tuple[float, list[Any]]]:
    """Of each contestant its size without the page, and what each round gave."""
    from lora.runtimes.runtime import transcribe

    found: dict[str, tuple[float, list[Any]]] = {}
    for (name, precision), folder in folders.items():
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.parent.name != "lib"]
        found[f"{name} {precision}"] = (sum(sizes) / 1e6, [])
    for number in range(rounds):
        order = list(folders)[:: -1 if number % 2 else 1]
        for name, precision in order:
            print(f"round {number + 1} of {rounds}: {name} {precision}", file=sys.stderr, flush=True)
            result = transcribe(name, folders[name, precision], "tiny", clips)  # type: ignore[arg-type]  # a runtime's name
            found[f"{name} {precision}"][1].append(result)
    return found


if __name__ == "__main__":
    sys.exit(run(main))
