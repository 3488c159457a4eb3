"""What decides how well terms are learnt from synthesised speech: voices, sentences, sentences without a term, what is taught.

    python benchmarks/jargon.py --heldout heldout.jsonl --replay replay.jsonl --output outputs/jargon-curve [--only voices-3 ...]

The line `defaults` is one run of `moonshine-lora jargon` on the sixty terms of `jargon_terms.txt`, or on every third of them with
`--every 3`. The other lines are trained on other speech of the same terms, or (`transcripts`) on whole transcripts, and judged on its
test set. `overtrained` teaches general speech in which a word of every second sentence is written as a term that nobody says: the
false-alarm gate has to reject it. The table goes to standard output; runs that are there already are not made again. With `--listen` it
tells instead how well the base model understands the voices in ordinary sentences.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TERMS = HERE / "jargon_terms.txt"
TEST_VOICES = ("text2wave -eval (voice_cmu_us_slt_arctic_hts) -o {out}",)
MORE_VOICES = ("flite -voice rms -t {text} -o {out}", "espeak-ng -v en-us -s 150 -w {out} {text}")
COMMAND = (sys.executable, "-m", "lora.main")
VARIED = ("--speed-min", "0.85", "--speed-max", "1.15", "--pitch-min", "-4", "--pitch-max", "4", "--gain-db", "6")
"""As `moonshine-lora jargon` varies its training speech."""


@dataclass(frozen=True)
class Line:
    """A training that differs from the defaults in one thing, mostly its speech."""

    flags: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    """Programs that speak beside the packaged voice."""
    teach: str = "terms"


LINES: dict[str, Line] = {
    "defaults": Line(),
    **{f"sentences-{count}": Line(("--per-term", str(count))) for count in (2, 5, 20)},
    "negatives-0": Line(("--negatives", "0")),
    "transcripts": Line(teach="transcripts"),
    "voices-3": Line(voices=MORE_VOICES),
    "voices-3, sentences-5": Line(("--per-term", "5"), MORE_VOICES),
    "overtrained": Line(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heldout", type=Path, required=True, metavar="FILE", help="general speech to judge on")
    parser.add_argument("--replay", type=Path, required=True, metavar="FILE", help="general speech to rehearse")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument("--only", nargs="+", choices=tuple(LINES), default=list(LINES), help="these lines of the table")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth term of the list")
    parser.add_argument("--test-voice-command", action="append", metavar="COMMAND", help="voices of the test (default: Festival's slt)")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs: max-steps=120")
    parser.add_argument("--listen", nargs="+", metavar="COMMAND", help="tell the base model's WER on ordinary sentences by these voices")
    options = parser.parse_args()
    if options.listen:
        listen(options)
    else:
        table(options)


def table(options: argparse.Namespace) -> None:
    """Makes the runs and prints a line for each."""
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "terms.txt").write_text("\n".join(chosen_terms(options.every)) + "\n")
    print("| run | found, baseline | found, tuned | held-out false alarms in 1,000 words | held-out WER, change | seconds | verdict |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        folder = options.output / name.replace(", ", "-")
        seconds = run(name, folder, options)
        print(row(name, json.loads((folder / "experiment_metrics.json").read_text()), seconds), flush=True)


def listen(options: argparse.Namespace) -> None:
    """Says ordinary sentences with each voice and transcribes them with the base model."""
    import soundfile

    from lora.synthesis.spoken import in_words
    from lora.synthesis.voices import voices_of

    print("| voice | WER in ordinary sentences |\n|---|---|")
    sentences = [line for line in files("lora.synthesis").joinpath("ordinary.txt").read_text().splitlines() if not line.startswith("#")]
    for voice in voices_of([command for command in options.listen if command != "hibari"], packaged="hibari" in options.listen):
        folder = options.output / "listened" / voice.name.replace("/", "_").replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        for place, text in enumerate(sentences):
            soundfile.write(folder / f"{place}.flac", voice.speak(in_words(text), place), 16_000)
        rows = [json.dumps({"audio": f"{place}.flac", "text": text}) for place, text in enumerate(sentences)]
        (folder / "ordinary.jsonl").write_text("\n".join(rows) + "\n")
        arguments = ("--model-id", "packaged:moonshine-tiny", "--manifest", str(folder / "ordinary.jsonl"))
        done = subprocess.run([*COMMAND, "transcribe", *arguments], check=True, capture_output=True, text=True)
        found = re.findall(r"WER ([\d.]+) %", done.stderr)
        print(f"| {voice.name} | {found[-1]} % |", flush=True)


def chosen_terms(every: int) -> Iterator[str]:
    """Every so manieth term of the list, as its lines."""
    return (line for place, line in enumerate(line for line in TERMS.read_text().splitlines() if line[:1] != "#") if place % every == 0)


def run(name: str, folder: Path, options: argparse.Namespace) -> float:
    """Makes a run that is not there yet; returns how long it took, its speech included."""
    if (folder / "experiment_metrics.json").is_file():
        return float((folder / "seconds").read_text())
    started = time.perf_counter()
    steps = overtrained(folder, options) if name == "overtrained" else commands(name, folder, options)
    for arguments in steps:
        done = subprocess.run([*COMMAND, *arguments], check=False)
        if done.returncode not in (0, 3, 4):
            raise SystemExit(f"{name}: ended with {done.returncode}")
    (folder / "seconds").write_text(str(time.perf_counter() - started))
    return time.perf_counter() - started


def commands(name: str, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The commands of a run, one after another."""
    terms, line = str(options.output / "terms.txt"), LINES[name]
    general = ("--heldout-manifest", str(options.heldout), "--replay-manifest", str(options.replay), "--output-dir", str(folder))
    if name == "defaults":
        voices = tuple(part for voice in options.test_voice_command or TEST_VOICES for part in ("--test-voice-command", voice))
        yield ("jargon", terms, *voices, *general, *settings(options))
        return
    speech = folder.with_name(f"{folder.name}-speech") / "train.jsonl"
    voices = tuple(part for voice in line.voices for part in ("--voice-command", voice))
    yield ("synthesise", terms, "--output", str(speech), "--packaged-voice", *voices, *VARIED, *line.flags, "--overwrite")
    dev = made(options, "dev")
    sets = ("--train-manifest", str(speech), "--dev-manifest", str(dev), *judged(options, terms), "--split-by", "utterance")
    yield ("experiment", "--config", "jargon", "--teach", line.teach, *sets, *general, *settings(options))


def settings(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(part for one in options.settings for part in (f"--{one.split('=')[0]}", one.split("=")[1]))


def judged(options: argparse.Namespace, terms: str) -> tuple[str, ...]:
    """The test of a run, and what its gate wants of it."""
    limits = ("--max-false-alarms", "0.5", "--min-term-recall", "50")
    return ("--domain-manifest", str(made(options, "test")), "--synthetic-domain", "--terms", terms, *limits)


def made(options: argparse.Namespace, part: str) -> Path:
    """A set of the line `defaults`."""
    file: Path = options.output / "defaults-speech" / f"{part}.jsonl"
    if not file.is_file():
        raise SystemExit(f"{file}: is not there; make the line `defaults` first")
    return file


def overtrained(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A run on general speech whose every `and`, a word of every second sentence, is written as a term."""
    rows = [json.loads(line) for line in options.replay.read_text().splitlines()]
    term = next(chosen_terms(options.every)).split(" = ")[0]
    for one in rows:
        one["text"] = re.sub(r"\band\b", term, one["text"], flags=re.IGNORECASE)
        one["audio"] = str((options.replay.parent / one["audio"]).resolve())
    speech = folder.with_name(f"{folder.name}-speech") / "train.jsonl"
    speech.parent.mkdir(parents=True, exist_ok=True)
    speech.write_text("".join(json.dumps(one) + "\n" for one in rows))
    yield (
        *("experiment", "--model-id", "packaged:moonshine-tiny", "--train-manifest", str(speech), "--allow-outside-paths"),
        *("--split-by", "utterance", "--epochs", "8", *judged(options, str(options.output / "terms.txt"))),
        *("--heldout-manifest", str(options.heldout), "--output-dir", str(folder)),
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
