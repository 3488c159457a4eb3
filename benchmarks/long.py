"""A long recording beside its clips one by one, and beside moonshine-voice: words, time and memory.

    python benchmarks/long.py --data ../shared/data --minutes 60 --rounds 3 --peer-python PYTHON --before FOLDER

Clips of LibriSpeech are joined to a recording, with pauses of 0.1 to 1 s between; after 44 minutes they come again. Each contestant is a
process of its own, with two cores; times hold its start. They take turns, and the table has medians. `--only` runs some of them. PYTHON is
the interpreter of an environment with `moonshine-voice==0.1.5`, which gets the recording whole (`transcribe_without_streaming`); FOLDER is
a checkout of an earlier state, which gets the clips one by one. Without them, these are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

from lora.audio.loading import AudioSettings, Waveform, load
from lora.checkpoints.wheels import MOONSHINE_VOICE, read_member
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, read
from lora.runtimes.runtime import FILES
from lora.scoring.counts import score_utterance
from lora.units import SAMPLE_RATE_HZ, Seconds

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "lora.main", "transcribe", "--model-id", "packaged:moonshine-tiny", "--device", "cpu")
CONTESTANTS = {
    "long": "as one recording",
    "timed": "as one recording, with word times",
    "single": "clips, one by one",
    "before": "clips, one by one, in the earlier state",
    "batched": "clips, 32 at a time",
    "peer": "moonshine-voice",
}
PEER = """
import pathlib, sys, wave, json
import numpy as np, moonshine_voice
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
folder = pathlib.Path(sys.argv[3])
with wave.open(sys.argv[1]) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
lines = Transcriber(str(folder), ModelArch.TINY).transcribe_without_streaming(samples.tolist(), 16000).lines
json.dump(" ".join(line.text for line in lines), open(sys.argv[2], "w"))
"""


@dataclass(frozen=True)
class Run:
    """How long a process took, and its memory at its highest."""

    seconds: float
    cpu_s: float
    megabytes: float


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/")
    parser.add_argument("--minutes", type=positive_int, default=10, metavar="N", help="length of the recording (default 10)")
    parser.add_argument("--peer-python", type=Path, help="interpreter that has moonshine-voice==0.1.5")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier state, to run the clips one by one")
    parser.add_argument("--rounds", type=positive_int, default=1, metavar="N", help="turns of each (default 1)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="whom to run (default: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))
    return 0


def compare(options: argparse.Namespace, place: Path) -> None:
    reference, minutes = recorded(options.data, options.minutes, place)
    contestants = dict(_contestants(options, place))
    taken, rates = dict[str, list[Run]](), dict[str, float]()
    for _ in range(options.rounds):
        for name, command in contestants.items():
            taken.setdefault(name, []).append(timed(command, options.before if name == CONTESTANTS["before"] else None))
            rates[name] = _wer(place / "a.json", reference)
            print(f"{name}: {taken[name][-1]}", file=sys.stderr, flush=True)
    print(f"{minutes:.1f} minutes\n\n| | WER | s | CPU s | speech s/s | MB |\n|---|---|---|---|---|---|")
    for name, runs in taken.items():
        took_s, cpu_s, megabytes = (median(getattr(run, what) for run in runs) for what in ("seconds", "cpu_s", "megabytes"))
        print(f"| {name} | {100 * rates[name]:.2f} % | {took_s:.0f} | {cpu_s:.0f} | {60 * minutes / took_s:.0f} | {megabytes:.0f} |")
    print(f"\nload {os.getloadavg()[0]:.1f}")


def _wer(path: Path, reference: str) -> float:
    said = json.loads(path.read_text())
    text = said if isinstance(said, str) else " ".join(row["text"] for row in said["utterances"])
    score = score_utterance(id="a", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=text, language="en")
    return score.standard.rate


def _contestants(options: argparse.Namespace, place: Path) -> Iterator[tuple[str, Sequence[object]]]:
    output = ("--output", place / "a.json")
    whole = (*COMMAND, "--audio", place / "long.wav", *output)
    single = (*COMMAND, "--manifest", place / "clips.jsonl", "--max-seconds", 40, "--allow-outside-paths", *output)
    commands: dict[str, tuple[object, ...]] = {
        "long": whole,
        "timed": (*whole, "--word-times"),
        "single": (*single, "--eval-batch-size", 1),
        "before": (*single, "--eval-batch-size", 1),
        "batched": single,
    }
    there = [name for name in options.only if name in commands and (name != "before" or options.before is not None)]
    yield from ((CONTESTANTS[name], commands[name]) for name in there)
    if options.peer_python is not None and "peer" in options.only:
        (place / "tiny-en").mkdir()
        for file in FILES["moonshine-voice"]:  # the wheel of 0.1.5 carries no model
            (place / "tiny-en" / file).write_bytes(read_member(MOONSHINE_VOICE, f"moonshine_voice/assets/tiny-en/{file}"))
        yield CONTESTANTS["peer"], (options.peer_python, "-c", PEER, place / "long.wav", place / "a.json", place / "tiny-en")


def recorded(data: Path, minutes: int, place: Path) -> tuple[str, float]:
    """Writes the recording and a manifest of its clips; what is said, and how many minutes it lasts."""
    clips = [one for name in ("heldout", "replay") for one in read(data / f"librispeech/{name}.jsonl", Rules(max_s=40))]
    draw, parts, rows, count = np.random.default_rng(0), list[Waveform](), list[dict[str, object]](), 0
    while count < 60 * minutes * SAMPLE_RATE_HZ:
        clip = clips[len(rows) % len(clips)]
        samples = load(clip.audio, AudioSettings())
        pause = np.zeros(round(draw.uniform(0.1, 1.0) * SAMPLE_RATE_HZ), dtype=np.float32)
        parts += [samples, pause]
        rows.append({"audio": str(clip.audio), "text": clip.text, "id": f"{len(rows):04}"})
        count += len(samples) + len(pause)
    soundfile.write(place / "long.wav", np.concatenate(parts), SAMPLE_RATE_HZ, subtype="PCM_16")
    (place / "audio").symlink_to((data / "librispeech/audio").resolve())
    lines = (json.dumps(row | {"audio": f"audio/{Path(str(row['audio'])).name}"}) for row in rows)
    (place / "clips.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return " ".join(str(row["text"]) for row in rows), count / SAMPLE_RATE_HZ / 60


def timed(command: Sequence[object], source: Path | None = None) -> Run:
    """Runs a process to its end; with the code of another checkout where it is given."""
    environment = {**os.environ, **({} if source is None else {"PYTHONPATH": str(source.resolve() / "src")})}
    started = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")
    return Run(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(run(main))
