"""How time and memory grow with the amount of speech and with the length of clips: ours and the usual notebook recipe, side by side.

    python benchmarks/growth.py --peer ../shared/peers/hf_recipe.py --data ../shared/data

Amount: a sixteenth, a quarter and all of AN4's training speech, one epoch, a small test set. Length: AN4's short clips, and LibriSpeech
utterances of one speaker joined up to a length, scored from a cold cache. Both train the same sites with the same batches and rate.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from run import ROOT, VERDICTS, machine, seconds_of, timed

from lora.audio.loading import AudioSettings, Waveform, encode_flac, load
from lora.checkpoints.checkpoint import resolve
from lora.console import ArgumentParser, run
from lora.dataset.manifest import Row, Rules, Utterance, read, write
from lora.errors import LoraError
from lora.system.cache import kept_dir
from lora.units import SAMPLE_RATE_HZ

SHARES = (16, 4, 1)
LENGTHS_S = (10.0, 20.0, 28.0)
SCORED_S = 240.0
"""Speech that is scored for each length of clips."""

PAUSE = np.zeros(int(0.3 * SAMPLE_RATE_HZ), dtype=np.float32)
FEW = 16
"""Clips in the sets that are there because a run must have them."""

SITES = r".*decoder.*self_attn\.(q|k|v)_proj"


@dataclass(frozen=True)
class Measured:
    """One run: wall seconds, peak megabytes, rates of training with encoding and of scoring in audio seconds per second."""

    wall_s: float
    peak_mb: float
    train_rate: float
    score_rate: float


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, default=ROOT.parent / "shared/peers/hf_recipe.py", help="the recipe to measure against")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with an4/ and librispeech/")
    options = parser.parse_args()
    sources = [options.data / name for name in ("an4/train.jsonl", "an4/test.jsonl", "librispeech/heldout.jsonl")]
    for needed in (options.peer, *sources):
        if not needed.is_file():
            raise LoraError(f"{needed}: is not there; name the recipe with --peer and the speech with --data")
    train, test, general = (list(read(file, Rules())) for file in sources)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options.peer, Path(name), train, test)
        print(f"{machine()}; one round; in brackets the ratio to the recipe, above 1 is better\n")
        bench.amounts(train)
        short = _up_to(SCORED_S, ((_waveform(one), one.text or "") for one in test[2 * FEW :]))
        bench.lengths([short, *(_up_to(SCORED_S, _joined(general, length_s)) for length_s in LENGTHS_S)])
    return 0


class Bench:
    """The recipe, and the small sets that every run of ours needs."""

    def __init__(self, peer: Path, folder: Path, train: Sequence[Utterance], test: Sequence[Utterance]) -> None:
        self._peer_program, self._folder = peer, folder
        self._few = {
            name: self._written(name, [(_waveform(one), one.text or "") for one in part])
            for name, part in (("train", train[:FEW]), ("dev", test[:FEW]), ("heldout", test[FEW : 2 * FEW]), ("domain", train[-FEW:]))
        }

    def amounts(self, speech: Sequence[Utterance]) -> None:
        print("| training speech, minutes | recipe, audio s/s | ours, audio s/s | recipe, MB | ours, MB | recipe, whole run, s | ours, s |")
        print("|---|---|---|---|---|---|---|")
        speech = speech[:-FEW]
        for share in SHARES:
            part = self._written(f"share-{share}", ((_waveform(one), one.text or "") for one in speech[::share]))
            peer, ours = self._peer(part, self._few["domain"], "1"), self._ours(part, self._few["domain"], "1")
            print(
                f"| {seconds_of(part) / 60:.0f} | {peer.train_rate:.0f} | {ours.train_rate:.0f} ({ours.train_rate / peer.train_rate:.1f}x) "
                f"| {peer.peak_mb:.0f} | {ours.peak_mb:.0f} ({peer.peak_mb / ours.peak_mb:.1f}x) "
                f"| {peer.wall_s:.0f} | {ours.wall_s:.0f} ({peer.wall_s / ours.wall_s:.1f}x) |",
                flush=True,
            )

    def lengths(self, sets: Sequence[Sequence[tuple[Waveform, str]]]) -> None:
        print("\n| clips of, s | `generate`, audio s/s | ours, audio s/s |")
        print("|---|---|---|")
        for number, spoken in enumerate(sets):
            part = self._written(f"length-{number}", spoken)
            peer, ours = self._peer(self._few["train"], part, "0.5"), self._ours(self._few["train"], part, "0.5")
            rates = f"{peer.score_rate:.0f} | {ours.score_rate:.0f} ({ours.score_rate / peer.score_rate:.1f}x)"
            print(f"| {seconds_of(part) / len(spoken):.1f} | {rates} |", flush=True)

    def _written(self, name: str, clips: Iterable[tuple[Waveform, str]]) -> Path:
        folder = self._folder / name
        folder.mkdir()
        rows = []
        for number, (samples, text) in enumerate(clips):
            file = folder / f"{number:04}.flac"
            file.write_bytes(encode_flac(samples))
            rows.append(Row(audio=file.name, text=text, id=f"{name}-{number}", duration=len(samples) / SAMPLE_RATE_HZ))
        write(folder / "manifest.jsonl", rows)
        return folder / "manifest.jsonl"

    def _peer(self, train: Path, test: Path, epochs: str) -> Measured:
        command = [sys.executable, str(self._peer_program), "--model", str(resolve("packaged:moonshine-tiny").folder), "--lower"]
        command += ["--targets", SITES, "--epochs", epochs, "--train", str(train), "--test", str(test)]
        wall_s, peak_mb, output = timed(command)
        said = json.loads(output.strip().splitlines()[-1])
        return Measured(wall_s, peak_mb, said["train_audio_s_per_s"], seconds_of(test) / said["baseline_eval_s"])

    def _ours(self, train: Path, test: Path, epochs: str) -> Measured:
        shutil.rmtree(kept_dir(), ignore_errors=True)
        output = self._folder / "run"
        command = [sys.executable, "-m", "lora.runners.experiment", "--model-id", "packaged:moonshine-tiny", "--precision", "bfloat16"]
        command += ["--train-manifest", str(train), "--domain-manifest", str(test), "--split-by", "utterance", "--overwrite"]
        command += ["--dev-manifest", str(self._few["dev"]), "--heldout-manifest", str(self._few["heldout"]), "--lora-targets", SITES]
        command += ["--epochs", epochs, "--eval-interval", "100000", "--output-dir", str(output)]
        wall_s, peak_mb, _ = timed(command, accepted=VERDICTS)
        said = json.loads((output / "experiment_metrics.json").read_text(encoding="utf-8"))
        stages: dict[str, float] = said["runtime_seconds"]
        scored_s = seconds_of(test) + seconds_of(self._few["heldout"])
        encoded_s = scored_s + seconds_of(train) + seconds_of(self._few["dev"])
        encode_rate = encoded_s / stages["encode"]
        return Measured(
            wall_s=wall_s,
            peak_mb=peak_mb,
            train_rate=1 / (1 / said["train_audio_seconds_per_second"] + 1 / encode_rate),
            score_rate=1 / (stages["baseline"] / scored_s + 1 / encode_rate),
        )


def _waveform(utterance: Utterance) -> Waveform:
    return load(utterance.audio, AudioSettings())


def _up_to(length_s: float, clips: Iterable[tuple[Waveform, str]]) -> list[tuple[Waveform, str]]:
    taken: list[tuple[Waveform, str]] = []
    for clip in clips:
        taken.append(clip)
        if sum(len(samples) for samples, _ in taken) >= length_s * SAMPLE_RATE_HZ:
            break
    return taken


def _joined(utterances: Sequence[Utterance], length_s: float) -> Iterator[tuple[Waveform, str]]:
    """Utterances of a speaker one behind the other, with pauses, as many as fit into `length_s`."""
    sound: list[Waveform] = []
    texts: list[str] = []
    speaker = None
    for one in sorted(utterances, key=lambda u: (u.speaker_id or "", u.id)):
        samples = _waveform(one)
        if len(samples) > length_s * SAMPLE_RATE_HZ:
            continue
        if sound and (one.speaker_id != speaker or sum(map(len, sound)) + len(samples) > length_s * SAMPLE_RATE_HZ):
            yield np.concatenate(sound[:-1]), " ".join(texts)
            sound, texts = [], []
        speaker = one.speaker_id
        sound += [samples, PAUSE]
        texts.append(one.text or "")
    yield np.concatenate(sound[:-1]), " ".join(texts)


if __name__ == "__main__":
    sys.exit(run(main))
