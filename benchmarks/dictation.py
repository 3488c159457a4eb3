"""Dictation into another program's window: how long after `moonshine stop` the text stands there, and what differs from `transcribe`.

    python benchmarks/dictation.py --clips ../shared/data/librispeech/audio/*.flac [--export-dir outputs/tiny/export]

Each recording of 2 to 15 s is spoken into a virtual microphone in real time, and dictated into an editor under an X display without a
screen. Release is when the client `moonshine stop` is started, and the text is there when the editor's title says that its file changed;
the post-roll is part of that time, and so are up to 20 ms between two looks at the title. `latency` is what the service itself counts, up
to when it has the text. Words are counted against what `moonshine-lora transcribe` says to the same file. Then the service waits for 20 s:
processor time and memory are those of service and engine. `make rig` installs what it takes; let the machine be quiet.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lora.audio.loading import AudioSettings, duration, read_file
from lora.console import ArgumentParser, positive_int, run
from lora.errors import LoraError
from lora.main import _main as moonshine_lora
from lora.scoring.counts import score_utterance
from lora.units import Seconds

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "packages" / "lora-cli" / "tests"))

from desktop import Editor, desktop, until  # noqa: E402  # stands beside the tests that use it
from rig import virtual_microphone  # noqa: E402

SHORTEST_S, LONGEST_S = 2.0, 15.0
WRITING_S, IDLE_S, LOOK_S = 30.0, 20.0, 0.02


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="recordings; those of 2 to 15 s are spoken")
    parser.add_argument("--most", type=positive_int, default=20, help="so many of them (default 20)")
    parser.add_argument("--export-dir", type=Path, help="an export to onnx in place of PyTorch")
    options = parser.parse_args()
    clips = [clip for clip in options.clips if SHORTEST_S <= duration(read_file(clip, AudioSettings())) <= LONGEST_S][: options.most]
    if not clips:
        raise LoraError(f"--clips: none of {len(options.clips)} recordings has {SHORTEST_S:.0f} to {LONGEST_S:.0f} s")
    flags = [] if options.export_dir is None else ["--export-dir", str(options.export_dir.resolve())]
    with tempfile.TemporaryDirectory() as name:
        expected = _transcribed(clips, Path(name))
        _measure(clips, expected, flags, Path(name))
    return 0


def _measure(clips: Sequence[Path], expected: Sequence[str], flags: Sequence[str], folder: Path) -> None:
    waits, latencies, wrong, words = [], [], 0, 0
    with virtual_microphone(clock_ms=200) as microphone, desktop() as screen:
        editor = screen.edit(folder / "dictated.txt")
        screen.copy("as before")
        environment = (
            microphone.environment
            | screen.settings
            | {name: str(folder) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
        )
        with _service(flags, environment) as service:
            for clip, text in zip(clips, expected, strict=True):
                _tell("start", environment)
                microphone.play(clip)
                before = editor.file.read_text()
                waits.append(_released(editor, environment))
                until(lambda: json.loads(_tell("status", environment, "--json"))["state"] == "ready", WRITING_S)
                latencies.append(json.loads(_tell("status", environment, "--json"))["last"]["latency_s"])
                heard = editor.text().removeprefix(before)
                counted = score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=text, hypothesis=heard).words
                wrong, words = wrong + counted.errors, words + counted.reference_length
            idle, size = _idle(service.pid)
        kept = screen.clipboard() == "as before"
    print(f"{len(clips)} recordings; from release to text: median {statistics.median(waits):.3f} s, longest {max(waits):.3f} s")
    print(f"latency: median {statistics.median(latencies):.3f} s, longest {max(latencies):.3f} s")
    print(f"words unlike transcribe's: {wrong} of {words}; clipboard {'as before' if kept else 'CHANGED'}")
    print(f"idle: {100 * idle:.2f} % of a core, {size / 1e6:.0f} MB")


def _transcribed(clips: Sequence[Path], folder: Path) -> list[str]:
    output = folder / "out.jsonl"
    arguments = ["--model-id", "packaged:moonshine-tiny", "--output", str(output), "--audio", *map(str, clips)]
    if code := moonshine_lora(["transcribe", *arguments]):
        raise LoraError(f"moonshine-lora transcribe ended with {code}")
    return [json.loads(line)["text"] for line in output.read_text().splitlines()]


def _released(editor: Editor, environment: dict[str, str]) -> float:
    """Seconds from the start of the client until the editor has the text."""
    began = time.monotonic()
    client = subprocess.Popen([sys.executable, "-m", "lora_cli.main", "stop"], env=environment, stdout=subprocess.DEVNULL)
    while not editor.desktop.xdotool("getwindowfocus", "getwindowname").startswith("*"):
        if time.monotonic() - began > WRITING_S:
            raise LoraError(f"no text came within {WRITING_S:.0f} s")
        time.sleep(LOOK_S)
    passed = time.monotonic() - began
    client.wait()
    return passed


@contextmanager
def _service(flags: Sequence[str], environment: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "lora_cli.main", "dictate", *flags]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        if not (line := process.stderr.readline()).startswith("ready"):
            raise LoraError(f"moonshine dictate: {line}")
        yield process
    finally:
        process.terminate()
        process.communicate()


def _tell(command: str, environment: dict[str, str], *arguments: str) -> str:
    words = [sys.executable, "-m", "lora_cli.main", command, *arguments]
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def _idle(pid: int) -> tuple[float, int]:
    """The share of a core that the service takes while nothing is said, and its memory in bytes, what processes share counted once."""
    processes = list(_family(pid))
    before = sum(map(_computed_s, processes))
    time.sleep(IDLE_S)
    share = (sum(map(_computed_s, processes)) - before) / IDLE_S
    sizes = (re.search(r"^Pss: +(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M) for one in processes)
    return share, sum(1024 * int(found[1]) for found in sizes if found)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            yield from _family(int(child))


def _computed_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(run(main))
