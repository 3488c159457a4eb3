"""Live text of the tiny model: the voice app's engine, `generate` on the whole buffer and moonshine-voice live, on the same speech.

    python benchmarks/live.py --peer-python PYTHON --data ../shared/data

PYTHON is the interpreter of an environment that holds `moonshine-voice==0.1.0`. Speech is played in real time, in chunks of 100 ms, to
the engine and to moonshine-voice; `generate` gets the whole buffer when it is released. The three take turns. Latency is from when
the last sample is due to when the final text is there. `--updates` measures only what one more partial text costs, without PYTHON. Let
the machine be quiet, and use two cores: `taskset -c 0,1`.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora.audio.loading import AudioSettings, Waveform, duration, load
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import LoraError
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from lora.transcribe import Transcriber

ROOT = Path(__file__).parents[1]
MODEL = "packaged:moonshine-tiny"
CHUNK = SAMPLE_RATE_HZ // 10
SHORTEST_S, LONGEST_S = 2.0, 15.0
MINUTE = 60 * SAMPLE_RATE_HZ
BUFFERS_S = (10.0, 14.0)
"""Sound so far when a partial text is asked for."""

STEP_S = 0.3
TIMES = 3

PEER = """
import json, sys, time, pathlib
import numpy as np, moonshine_voice
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
folder = pathlib.Path(moonshine_voice.__file__).parent / "assets/tiny-en"
transcriber = Transcriber(str(folder), ModelArch.TINY)
print("ready", flush=True)
for line in sys.stdin:
    samples = np.load(line.strip())
    stream = transcriber.create_stream()
    stream.start()
    started = time.monotonic()
    for at in range(0, len(samples), 1600):
        time.sleep(max(0.0, started + min(at + 1600, len(samples)) / 16000 - time.monotonic()))
        stream.add_audio(samples[at : at + 1600].tolist(), 16000)
    said = stream.stop()
    latency = time.monotonic() - started - len(samples) / 16000
    stream.close()
    print(json.dumps({"text": " ".join(line.text for line in said.lines), "latency_s": latency}), flush=True)
"""


@dataclass(frozen=True)
class Said:
    """What one of them makes of an utterance."""

    text: str
    latency_s: float


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--peer-python", type=Path, help="interpreter that has moonshine-voice==0.1.0")
    what.add_argument("--updates", action="store_true", help="only partial texts, ours and those of `generate`")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/")
    parser.add_argument("--utterances", type=positive_int, default=9, help="of 2 to 15 s (default 9)")
    parser.add_argument("--seconds", type=positive_int, default=60, help="length of the one long recording (default 60)")
    options = parser.parse_args()
    manifest = options.data / "librispeech/heldout.jsonl"
    for needed in (options.peer_python, manifest):
        if needed is not None and not needed.exists():
            raise LoraError(f"{needed}: is not there; name it with --peer-python or --data")
    speech = list(read(manifest, Rules()))
    clips = _chosen(speech, options.utterances)
    if options.peer_python is not None:
        with _ours() as ours, _peer(options.peer_python) as peer:
            _latencies(clips, {"ours": ours.say, "moonshine-voice live": peer, "`generate`, whole buffer": _generate})
            _long(ours, _joined(speech)[: options.seconds * SAMPLE_RATE_HZ])
    _updates(clips)
    return 0


def _chosen(speech: Sequence[Utterance], count: int) -> list[tuple[Utterance, Waveform]]:
    """Utterances whose durations are spread over what is asked for."""
    clips = [(utterance, load(utterance.audio, AudioSettings())) for utterance in speech]
    fitting = sorted((clip for clip in clips if SHORTEST_S <= duration(clip[1]) <= LONGEST_S), key=lambda clip: len(clip[1]))
    wanted = np.linspace(duration(fitting[0][1]), duration(fitting[-1][1]), count)
    return [min(fitting, key=lambda clip, at=length_s: abs(duration(clip[1]) - at)) for length_s in wanted]  # type: ignore[misc]


def _joined(speech: Sequence[Utterance]) -> Waveform:
    """Enough of it for the long recording, from its end, which the utterances are rarely taken from."""
    parts: list[Waveform] = []
    for utterance in reversed(speech):
        parts.append(load(utterance.audio, AudioSettings()))
        if sum(map(len, parts)) >= 10 * MINUTE:
            break
    return np.concatenate(parts)


def _latencies(clips: Sequence[tuple[Utterance, Waveform]], ways: dict[str, Callable[[Waveform], Said]]) -> None:
    from lora.scoring.counts import score_utterance, total

    found: dict[str, list[Said]] = {name: [] for name in ways}
    for number, (_, samples) in enumerate(clips, start=1):
        print(f"utterance {number} of {len(clips)}: {duration(samples):.1f} s", file=sys.stderr, flush=True)
        for name, way in ways.items():
            found[name].append(way(samples))
    lengths = [duration(samples) for _, samples in clips]
    print(f"{len(clips)} utterances of {min(lengths):.1f} to {max(lengths):.1f} s\n")
    print("| final text after release, ms | median | longest | WER | ratio |\n|---|---|---|---|---|")
    base = statistics.median(said.latency_s for said in found["ours"])
    for name, all_said in found.items():
        scores = [
            score_utterance(
                id=clip.id, speaker_id=None, seconds=duration(samples), reference=clip.text or "", hypothesis=said.text, capped=False
            )
            for (clip, samples), said in zip(clips, all_said, strict=True)
        ]
        latencies = [said.latency_s for said in all_said]
        median = statistics.median(latencies)
        print(f"| {name} | {1000 * median:.0f} | {1000 * max(latencies):.0f} | {100 * total(scores).wer:.1f} % | {median / base:.1f}x |")


def _long(ours: "Ours", samples: Waveform) -> None:
    """One recording, spoken on and on: how often text comes, how much of it stands, and whether sound has to wait."""
    from lora_cli.engine.events import Final, Partial

    print(f"{duration(samples):.0f} s in one recording", file=sys.stderr, flush=True)
    ours.say(samples)
    final = next(event for _, event in ours.events if isinstance(event, Final))
    partials = [(at, event) for at, event in ours.events if isinstance(event, Partial)]
    pauses = [
        (before.start_s + before.length_s, after.start_s)
        for before, after in pairwise(final.segments)
        if after.start_s > before.start_s + before.length_s
    ]
    gaps = [
        after - before
        for (before, first), (after, second) in pairwise(partials)
        if not any(first.length_s < end and second.length_s > start for start, end in pauses)
    ]
    committed, equal = _committed([event for _, event in partials], [segment.text for segment in final.segments])
    print(f"\n| {duration(samples):.0f} s in one recording | |\n|---|---|")
    print(f"| time between partial texts while one speaks, median | {1000 * statistics.median(gaps):.0f} ms |")
    print(f"| 95 % of them within | {1000 * float(np.quantile(gaps, 0.95)):.0f} ms |")
    print(f"| longest | {1000 * max(gaps):.0f} ms |")
    print(f"| longest that sound waited to be heard | {1000 * max(event.behind_s for _, event in partials):.0f} ms |")
    print(f"| words committed before their segment ended | {committed} of {len(final.text.split())} |")
    print(f"| of these in the final text | {100 * equal / max(committed, 1):.1f} % |")
    print(f"| samples heard | {len(final.samples)} of {len(samples)} |")


def _committed(partials: Sequence[object], segments: Sequence[str]) -> tuple[int, int]:
    """Words that stood when their segment ended, and how many of them its final text holds in their order, as normalised for scoring."""
    import jiwer
    from lora_cli.engine.events import Partial

    from lora.text.normaliser import normalise

    last: dict[int, list[str]] = {}
    for partial in partials:
        assert isinstance(partial, Partial)
        words = partial.committed.split()
        done = [" ".join(segments[:count]).split() for count in range(len(segments))]
        number = max(count for count in range(len(segments)) if words[: len(done[count])] == done[count])
        last[number] = words[len(done[number]) :]
    committed = equal = 0
    for number, words in last.items():
        said = normalise(" ".join(words))
        if said:
            committed += len(said.split())
            equal += jiwer.process_words(normalise(segments[number]), said).hits
    return committed, equal


def _updates(clips: Sequence[tuple[Utterance, Waveform]]) -> None:
    """What one more partial text costs when so much sound is there, ours against `generate` on all of it."""
    from lora.live import Ear

    ear = Ear(_transcriber())
    print("\n| partial text, ms | ours | `generate` | ratio |\n|---|---|---|---|")
    for buffer_s in BUFFERS_S:
        count, before = (round(length_s * SAMPLE_RATE_HZ) for length_s in (buffer_s, buffer_s - STEP_S))
        ours, theirs = [], []
        for samples in [samples for _, samples in clips if len(samples) >= count] or [_tiled(clips, count)]:
            draft = ear(samples[:before]).tokens
            for _ in range(TIMES):
                ours.append(_timed(lambda samples=samples, draft=draft: ear(samples[:count], draft)))  # type: ignore[misc]  # noqa: B023
                theirs.append(_generate(samples[:count]).latency_s)
        mine, their = statistics.median(ours), statistics.median(theirs)
        print(f"| {buffer_s:.0f} s so far | {1000 * mine:.0f} | {1000 * their:.0f} | {their / mine:.1f}x |")


def _tiled(clips: Sequence[tuple[Utterance, Waveform]], count: int) -> Waveform:
    return np.concatenate([samples for _, samples in clips])[:count]


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


class Ours:
    """The app's engine, with the events of the last recording and when they came."""

    def __init__(self) -> None:
        from lora_cli.engine.events import Ended, Event, Failed, Ready, Voice
        from lora_cli.engine.process import Engine

        self.events: list[tuple[float, Event]] = []
        self._news = threading.Event()

        def hear(event: Event) -> None:
            self.events.append((time.monotonic(), event))
            if isinstance(event, Ready | Ended | Failed):
                self._news.set()

        self._engine = Engine([Voice("tiny", MODEL)], hear, device="cpu")
        self._engine.start()
        self._wait()

    def say(self, samples: Waveform) -> Said:
        from lora_cli.engine.events import Final

        self.events.clear()
        self._engine.begin(hands_free=False, preroll=samples[:0])
        started = time.monotonic()
        for at in range(0, len(samples), CHUNK):
            time.sleep(max(0.0, started + min(at + CHUNK, len(samples)) / SAMPLE_RATE_HZ - time.monotonic()))
            self._engine.feed(samples[at : at + CHUNK])
        self._engine.end()
        self._wait()
        at, final = next((at, event) for at, event in self.events if isinstance(event, Final))
        return Said(final.text, at - started - duration(samples))

    def close(self) -> None:
        self._engine.close()

    def _wait(self) -> None:
        from lora_cli.engine.events import Failed

        self._news.wait()
        self._news.clear()
        for _, event in self.events:
            if isinstance(event, Failed):
                raise LoraError(event.message)


@contextmanager
def _ours() -> Iterator[Ours]:
    ours = Ours()
    try:
        yield ours
    finally:
        ours.close()


@contextmanager
def _peer(python: Path) -> Iterator[Callable[[Waveform], Said]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([str(python), "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        answers, file = process.stdout, Path(folder, "speech.npy")
        if answers.readline().strip() != "ready":
            raise LoraError(f"{python}: moonshine-voice does not start; install moonshine-voice==0.1.0 there")
        stdin = process.stdin

        def say(samples: Waveform) -> Said:
            np.save(file, samples)
            print(file, file=stdin, flush=True)
            return Said(**json.loads(answers.readline()))

        yield say
        stdin.close()


@functools.cache
def _transcriber() -> "Transcriber":
    from lora.transcribe import Request, open_transcriber

    return open_transcriber(Request(MODEL, None, None, None, "cpu", "float32", 1, None))


def _generate(samples: Waveform) -> Said:
    """transformers' own greedy search on all the sound there is."""
    import torch

    transcriber = _transcriber()
    speech = transcriber.speech
    values = torch.from_numpy(samples)[None]
    most = transcriber.decode.cap(duration(samples))
    started = time.monotonic()
    with torch.inference_mode():
        row = speech.model.generate(
            values, attention_mask=torch.ones_like(values, dtype=torch.long), do_sample=False, num_beams=1, max_new_tokens=most
        )[0]
    return Said(speech.text(row.tolist()), time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(run(main))
