"""Training of a streaming model: ours and Useful Sensors' own trainer, same architecture, sites, batch size and speech, interleaved.

    python benchmarks/streaming.py --peer-python PYTHON --data ../shared/data --rounds 2

PYTHON is the interpreter of an environment that holds `moonshine-voice[lora]==0.1.5`. The weights are random (streaming tiny, 44.1 M
parameters): speed does not depend on them. Ours is three epochs with the encoding; the peer's rate is what it prints.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lora.checkpoints.checkpoint import resolve
from lora.console import ArgumentParser, positive_int, run
from lora.errors import LoraError

ROOT = Path(__file__).parents[1]
STEPS = 120
BATCH = 8
EPOCHS = 3
TEST_CLIPS = 4
SITES = r".*decoder.*self_attn\.(q|k|v)_proj"


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="interpreter that has moonshine-voice[lora]")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with an4/")
    parser.add_argument("--rounds", type=positive_int, default=2, help="times that each is run (default 2)")
    parser.add_argument("--ours", default="--precision bfloat16", help="our settings (default --precision bfloat16)")
    options = parser.parse_args()
    manifest = options.data / "an4/train.jsonl"
    for needed in (options.peer_python, manifest):
        if not needed.exists():
            raise LoraError(f"{needed}: is not there; name it with --peer-python or --data")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    batch_s = BATCH * sum(row["duration"] for row in rows) / len(rows)
    peer, ours, trained = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder, "model"))
        tests = _tests(Path(folder), manifest.parent)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            peer.append(batch_s * _peer(options.peer_python, model, manifest, Path(folder)))
            whole, alone = _ours(model, manifest, tests, Path(folder), options.ours.split())
            ours.append(whole)
            trained.append(alone)
    print("| streaming tiny, audio s/s | median | ratio |\n|---|---|---|")
    base = statistics.median(peer)
    for name, values in (("peer", peer), (f"ours, {EPOCHS} epochs with encoding", ours), ("ours, encoder outputs known", trained)):
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(values) / base:.1f}x |")
    return 0


def _model(folder: Path) -> Path:
    import torch
    from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration, MoonshineStreamingProcessor

    from lora.model.loading import load_processor

    torch.manual_seed(0)
    config = MoonshineStreamingConfig(num_key_value_heads=8, decoder_start_token_id=1)
    MoonshineStreamingForConditionalGeneration(config).save_pretrained(folder)
    packaged = load_processor(resolve("packaged:moonshine-tiny").folder)
    MoonshineStreamingProcessor(packaged.feature_extractor, packaged.tokenizer).save_pretrained(folder)
    return folder


def _tests(folder: Path, source: Path) -> list[Path]:
    """Two tiny test sets of clips that training does not hold: random weights decode to the cap, and only training is timed."""
    others = [json.loads(line) for line in (source / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    files = []
    for number in range(2):
        chosen = others[number * TEST_CLIPS : (number + 1) * TEST_CLIPS]
        file = folder / f"test{number}.jsonl"
        file.write_text("".join(json.dumps(row | {"audio": str((source / row["audio"]).resolve())}) + "\n" for row in chosen))
        files.append(file)
    return files


def _peer(python: Path, model: Path, manifest: Path, folder: Path) -> float:
    """Optimizer steps a second."""
    command = [str(python), "-m", "moonshine_voice.lora", "--train-manifest", str(manifest), "--no-replay", "--model", str(model)]
    command += ["--max-steps", str(STEPS), "--eval-every", "1000", "--device", "cpu", "--dev-hours", "0.02"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    found = re.findall(r"\(([\d.]+) steps/s\)", done.stdout)
    if done.returncode or not found:
        raise LoraError(f"the peer failed: {(done.stderr or done.stdout)[-500:]}")
    return float(found[-1])


def _ours(model: Path, manifest: Path, tests: Sequence[Path], folder: Path, settings: Sequence[str]) -> tuple[float, float]:
    """Audio seconds a second of three epochs with the encoding, and without."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "lora.runners.experiment", "--model-id", str(model), "--output-dir", str(folder / "ours")]
        command += ["--overwrite", "--train-manifest", str(manifest), "--allow-outside-paths", "--lora-targets", SITES]
        command += ["--domain-manifest", str(tests[0]), "--heldout-manifest", str(tests[1]), "--dev-fraction", "0.02"]
        command += ["--batch-size", str(BATCH), "--max-steps", str(STEPS), "--eval-interval", "1000", "--tokens-per-second", "1", *settings]
        environment = os.environ | {"MOONSHINE_LORA_CACHE": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode not in (0, 3, 4):
            raise LoraError(f"ours failed: {done.stderr[-500:]}")
    said = json.loads((folder / "ours/experiment_metrics.json").read_text(encoding="utf-8"))
    rate = said["train_audio_seconds_per_second"]
    sound = sum(info["seconds"] for info in said["manifests"].values())
    return EPOCHS / (EPOCHS / rate + said["runtime_seconds"]["encode"] / sound), rate


if __name__ == "__main__":
    sys.exit(run(main))
