"""Speech at several levels: word error rates of the voice app's engine while a key is held, and of `moonshine-lora transcribe` at -20 dB.

    python benchmarks/levels.py --data ../shared/data [--export-dir outputs/tiny/export]

Each clip is brought to a level (RMS, dB below full scale) and rounded to the 16 bits of a microphone; `--noise 8` is a quiet room.
The engine gets its sound faster than it is spoken: that changes when it looks, and no final text.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from lora.audio.loading import AudioSettings, Waveform, duration, load
from lora.console import ArgumentParser, int_from_zero, positive_int, run
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import LoraError
from lora.main import _main as moonshine_lora
from lora.scoring.counts import UtteranceScore, score_utterance, total
from lora.units import SAMPLE_RATE_HZ

ROOT = Path(__file__).parents[1]
MODEL = "packaged:moonshine-tiny"
LEVELS_DBFS = (-20.0, -40.0, -50.0)
SHORTEST_S, LONGEST_S = 2.0, 20.0
CHUNK = SAMPLE_RATE_HZ // 10


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/")
    parser.add_argument("--clips", type=positive_int, default=24, help="of 2 to 20 s (default 24)")
    parser.add_argument("--noise", type=int_from_zero, default=0, help="the most that noise adds to a sample, of 32,768 (default 0)")
    parser.add_argument("--export-dir", type=Path, help="an export to onnx in place of PyTorch")
    options = parser.parse_args()
    manifest = options.data / "librispeech/heldout.jsonl"
    if not manifest.exists():
        raise LoraError(f"{manifest}: is not there; name its folder with --data")
    clips = [(one, load(one.audio, AudioSettings())) for one in read(manifest, Rules())]
    clips = [clip for clip in clips if SHORTEST_S <= duration(clip[1]) <= LONGEST_S][: options.clips]
    print(f"{len(clips)} clips, {sum(duration(samples) for _, samples in clips):.0f} s\n\n| | WER |\n|---|---|")
    _row("`transcribe`, -20 dB", clips, _transcribed([_at(samples, LEVELS_DBFS[0], options.noise) for _, samples in clips]))
    with _engine(options.export_dir) as ours:
        for level in LEVELS_DBFS:
            _row(f"held key, {level:.0f} dB", clips, [ours.say(_at(samples, level, options.noise)) for _, samples in clips])
    return 0


def _at(samples: Waveform, level_dbfs: float, most: int) -> Waveform:
    """As a microphone of 16 bits gives it."""
    rms = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    noise = np.random.default_rng(0).integers(-most, most + 1, len(samples))
    whole = np.rint(samples * (10 ** (level_dbfs / 20) / rms) * 32768 + noise).clip(-32768, 32767)
    return (whole / 32768).astype(np.float32)


def _row(name: str, clips: Sequence[tuple[Utterance, Waveform]], texts: Sequence[str]) -> None:
    score = total([_scored(*clip, text) for clip, text in zip(clips, texts, strict=True)])
    print(f"| {name} | {100 * score.wer:.2f} % |", flush=True)


def _scored(clip: Utterance, samples: Waveform, text: str) -> UtteranceScore:
    return score_utterance(id=clip.id, speaker_id=None, seconds=duration(samples), reference=clip.text or "", hypothesis=text)


def _transcribed(clips: Sequence[Waveform]) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, f"{number:03}.wav") for number in range(len(clips))]
        for file, samples in zip(files, clips, strict=True):
            soundfile.write(file, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        output = Path(name, "out.jsonl")
        arguments = ["--model-id", MODEL, "--output", str(output), "--audio", *map(str, files)]
        if code := moonshine_lora(["transcribe", *arguments]):
            raise LoraError(f"moonshine-lora transcribe ended with {code}")
        return [json.loads(line)["text"] for line in output.read_text().splitlines()]


class Ours:
    """The app's engine, with what it has said."""

    def __init__(self, export: Path | None) -> None:
        from lora_cli.engine.events import Ended, Event, Failed, Final, Ready, Voice
        from lora_cli.engine.process import Engine

        self._text = ""
        self._failed: str | None = None
        self._news = threading.Event()

        def hear(event: Event) -> None:
            if isinstance(event, Final):
                self._text = event.text
            elif isinstance(event, Failed):
                self._failed = event.message
            if isinstance(event, Ready | Ended | Failed):
                self._news.set()

        self._engine = Engine([Voice("tiny", MODEL, export_folder=export)], hear, device="cpu")
        self._engine.start()
        self._wait()

    def say(self, samples: Waveform) -> str:
        self._engine.begin(hands_free=False, preroll=samples[:0])
        for at in range(0, len(samples), CHUNK):
            self._engine.feed(samples[at : at + CHUNK])
        self._engine.end()
        self._wait()
        return self._text

    def close(self) -> None:
        self._engine.close()

    def _wait(self) -> None:
        self._news.wait()
        self._news.clear()
        if self._failed is not None:
            raise LoraError(self._failed)


@contextmanager
def _engine(export: Path | None) -> Iterator[Ours]:
    ours = Ours(export)
    try:
        yield ours
    finally:
        ours.close()


if __name__ == "__main__":
    sys.exit(run(main))
