"""What decides how well terms are learnt from synthesised speech: voices, sentences for each term, sentences without a term.

    python benchmarks/jargon.py --heldout heldout.jsonl --replay replay.jsonl --output outputs/jargon-curve [--only voices-3 ...]

One run of `moonshine-lora jargon` for each line of the table, on the sixty terms of `jargon_terms.txt`, tested by two other engines (flite
and espeak-ng, which have to be installed). `overtrained` teaches general speech in which every second sentence is said to hold a term that
nobody says: the false-alarm gate has to reject it. The table goes to standard output; runs that are there already are not made again.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TERMS = HERE / "jargon_terms.txt"
TEST_VOICES = ("flite -voice slt -t {text} -o {out}", "espeak-ng -v en-us -w {out} {text}")
MORE_VOICES = ("flite -voice rms -t {text} -o {out}", "text2wave -o {out}")
COMMAND = (sys.executable, "-m", "lora.main")

LINES: dict[str, tuple[str, ...]] = {
    "defaults": (),
    **{f"sentences-{count}": ("--per-term", str(count)) for count in (2, 5, 10, 20)},
    "no-negatives": ("--negatives", "0"),
    "voices-3": ("--packaged-voice", *(part for voice in MORE_VOICES for part in ("--voice-command", voice))),
    "overtrained": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heldout", type=Path, required=True, metavar="FILE", help="general speech to judge on")
    parser.add_argument("--replay", type=Path, required=True, metavar="FILE", help="general speech to rehearse")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument("--only", nargs="+", choices=tuple(LINES), default=list(LINES), help="these lines of the table")
    options = parser.parse_args()
    print("| run | found, baseline | found, tuned | held-out false alarms in 1,000 words | held-out WER, change | seconds | verdict |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        folder = options.output / name
        seconds = run(name, folder, options)
        print(row(name, json.loads((folder / "experiment_metrics.json").read_text()), seconds), flush=True)


def run(name: str, folder: Path, options: argparse.Namespace) -> float:
    """Makes a run that is not there yet; returns how long it took from list to verdict."""
    if (folder / "experiment_metrics.json").is_file():
        return float((folder / "seconds").read_text())
    general = ("--heldout-manifest", str(options.heldout), "--replay-manifest", str(options.replay), "--output-dir", str(folder))
    started = time.perf_counter()
    if name == "overtrained":
        arguments = (*overtrained(folder, options), *general[:2], *general[4:])
    else:
        voices = tuple(part for voice in TEST_VOICES for part in ("--test-voice-command", voice))
        arguments = ("jargon", str(TERMS), *LINES[name], *voices, *general)
    done = subprocess.run([*COMMAND, *arguments], check=False)
    if done.returncode not in (0, 3, 4):
        raise SystemExit(f"{name}: ended with {done.returncode}")
    (folder / "seconds").write_text(str(time.perf_counter() - started))
    return time.perf_counter() - started


def overtrained(folder: Path, options: argparse.Namespace) -> tuple[str, ...]:
    """A run on general speech whose every second sentence is said to hold a term, judged on the test speech of `defaults`."""
    rows = [json.loads(line) for line in options.replay.read_text().splitlines()]
    terms = [line.split(" = ")[0] for line in TERMS.read_text().splitlines() if line and not line.startswith("#")]
    chance = random.Random(0)
    for place, one in enumerate(rows):
        words = one["text"].split()
        if place % 2:
            words.insert(chance.randrange(len(words) + 1), chance.choice(terms))
        one["text"] = " ".join(words)
        one["audio"] = str((options.replay.parent / one["audio"]).resolve())
    made = folder.with_name(f"{folder.name}-speech")
    made.mkdir(parents=True, exist_ok=True)
    (made / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    test = options.output / "defaults-speech" / "test.jsonl"
    if not test.is_file():
        raise SystemExit(f"{test}: is not there; make the line `defaults` first")
    return (
        *("experiment", "--model-id", "packaged:moonshine-tiny", "--terms", str(TERMS), "--max-false-alarms", "0.5"),
        *("--train-manifest", str(made / "train.jsonl"), "--allow-outside-paths", "--split-by", "utterance", "--epochs", "8"),
        *("--domain-manifest", str(test), "--synthetic-domain"),
    )


def row(name: str, metrics: dict[str, Any], seconds: float) -> str:
    """A line of the table."""
    before, after = (share(metrics, when) for when in ("baseline", "tuned"))
    alarms, (low, high) = metrics["heldout_tuned_false_alarms"], ends(metrics["heldout_tuned_false_alarms_interval"], 1000)
    change = metrics["heldout_wer_change"]
    points = f"{100 * change['tuned']:.2f} %, {100 * change['difference']:+.2f}"
    around = f"{100 * change['interval']['low']:+.2f} to {100 * change['interval']['high']:+.2f}"
    falsely = f"{alarms:.2f} ({low:.2f} to {high:.2f})"
    return f"| {name} | {before} | {after} | {falsely} | {points} ({around}) | {seconds:.0f} | {metrics['decision']} |"


def share(metrics: dict[str, Any], when: str) -> str:
    low, high = ends(metrics[f"{when}_term_recall_interval"], 100)
    return f"{100 * metrics[f'{when}_term_recall']:.1f} % ({low:.1f} to {high:.1f})"


def ends(interval: dict[str, float], scale: int) -> tuple[float, float]:
    return scale * interval["low"], scale * interval["high"]


if __name__ == "__main__":
    main()
