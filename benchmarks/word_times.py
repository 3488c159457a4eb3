"""Word times beside a forced aligner's, and which heads of the cross-attention tell them; how far confidence can be believed.

    python benchmarks/word_times.py --data ../shared/data --model-id packaged:moonshine-tiny

Reports the clips of `heldout` (five speakers) against the alignments: the heads in use beside the mean of all heads, with and without the
pauses of the sound. `--choose` derives heads, shift and calibration on `replay` (another speaker) first: the head that lowers the error
most is added to those chosen, ten times. They are then put into `lora.model.word_heads`.

With `--export-dir`, a `moonshine-voice` export of the same model, also the times that the runtime gives: beside the aligner's and beside
ours. Its voice activity detector is on, and half a second of silence follows each clip: it gives no times otherwise.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
import torch

from lora.audio.loading import AudioSettings, Waveform, duration, load
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, Utterance, read
from lora.longform.seams import plain
from lora.longform.word_edges import at_pauses
from lora.longform.words import confidence, spans, warped, words
from lora.model.decoder import Decoder, Watch
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import pad_labels
from lora.model.word_heads import chosen
from lora.runtimes.separate import voice_packages
from lora.transcribe import Request, Transcriber, open_transcriber

ROOT = Path(__file__).parents[1]
WORST_S = 0.3
"""Errors count up to this when heads are chosen: a word that was misplaced is misplaced."""

Array = npt.NDArray[np.float32]
Timed = tuple[float, float, str]
"""Start, end, and the word without marks and capitals."""


RUNTIME = """
import json, sys
import numpy as np
sys.path.append(sys.argv[1])
from moonshine_voice import ModelArch, Transcriber
transcriber = Transcriber(sys.argv[2], ModelArch.TINY, options={"word_timestamps": "true", "max_tokens_per_second": "13"})
found = []
for file in sys.argv[3:]:
    samples = np.concatenate([np.load(file), np.zeros(8000, np.float32)])
    lines = transcriber.transcribe_without_streaming(samples.tolist(), 16000).lines
    found.append([(word.start, word.end, word.word) for line in lines for word in line.words or []])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Clip:
    """What the model says of a clip, and when an aligner says that it is said."""

    sound: Waveform
    looks: Array
    """`[heads, tokens, frames]`, half precision."""
    log_odds: Array
    spans: Sequence[tuple[int, int]]
    times_s: Sequence[tuple[float, float]]
    """Of the words that both have, by the aligner."""
    right: Sequence[int]
    """Those words among the model's."""


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/ and alignments/")
    parser.add_argument("--model-id", default="packaged:moonshine-tiny")
    parser.add_argument("--clips", type=positive_int, default=50, help="of each set, evenly spaced (default 50)")
    parser.add_argument("--choose", action="store_true", help="choose heads on `replay` first")
    parser.add_argument(
        "--export-dir", type=Path, metavar="DIR", help="folder that holds `moonshine-voice/`, exported with --precision fp32"
    )
    options = parser.parse_args()
    transcriber = open_transcriber(Request(options.model_id, None, None, None, "cpu", "float32", 8, None))
    hear = Hearing(transcriber)
    heads, early_s = [hear.decoder.heads.index(head) for head in chosen(hear.decoder.speech).heads], chosen(hear.decoder.speech).early_s
    if options.choose:
        clips = list(hear.clips(options.data, "replay", options.clips))
        heads = choose(clips)
        early_s = -float(np.median(errors(clips, heads)))
        print(f"heads {[hear.decoder.heads[head] for head in heads]}, early by {early_s:.3f} s, calibration {calibrated(clips)}")
    report(list(hear.clips(options.data, "heldout", options.clips)), heads, early_s)
    if options.export_dir is not None:
        report_runtime(hear, options.data, options.clips, options.export_dir)
    return 0


class Hearing:
    """The model, and what it says of clips that have an alignment."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._encoder = Encoder(transcriber.speech)
        self.decoder = Decoder(transcriber.speech)

    def clips(self, data: Path, name: str, count: int) -> Iterator[Clip]:
        for sound, aligned in sounds(data, name, count):
            yield self._clip(sound, aligned)

    def timed(self, sound: Waveform) -> list[Timed]:
        """The words of a clip as `transcribe --word-times` gives them."""
        encoded = self._encoder([sound])
        said = transcribe(self.decoder, encoded, [duration(sound)], self._transcriber.decode)
        return [(float(word.start_s), float(word.end_s), plain(word.text)) for word in words(self.decoder, encoded, said, [sound])[0]]

    @torch.inference_mode()
    def _clip(self, sound: Waveform, words: Sequence[tuple[float, float, str]]) -> Clip:
        speech, decoder = self._transcriber.speech, self.decoder
        encoded = self._encoder([sound])
        (said,) = transcribe(decoder, encoded, [duration(sound)], self._transcriber.decode)
        targets = pad_labels([[*said.tokens, speech.end_id]], speech.device)
        watch = Watch({layer: [head for at, head in decoder.heads if at == layer] for layer, _ in decoder.heads})
        states = decoder(decoder.inputs(targets), decoder.listen(encoded), watch=watch)
        looks = torch.cat(watch.found, dim=1)[0, :, :, : encoded.hidden.shape[1]].half().numpy()
        places = spans(speech, said.tokens)
        texts = [plain(speech.text(said.tokens[start:stop])) or "-" for start, stop in places]
        same = [
            chunk for chunk in jiwer.process_words(" ".join(w for *_, w in words), " ".join(texts)).alignments[0] if chunk.type == "equal"
        ]
        theirs = [place for chunk in same for place in range(chunk.ref_start_idx, chunk.ref_end_idx)]
        right = [place for chunk in same for place in range(chunk.hyp_start_idx, chunk.hyp_end_idx)]
        log_odds = decoder.head.log_odds(states[0], targets[0]).numpy()
        return Clip(sound, looks, log_odds, places, [words[place][:2] for place in theirs], right)


def sounds(data: Path, name: str, count: int) -> Iterator[tuple[Waveform, list[Timed]]]:
    """Clips of a set, evenly spaced, with their alignments."""
    aligned = {path.stem: path for path in (data / "alignments").glob("*.TextGrid")}
    found = [one for one in read(data / f"librispeech/{name}.jsonl", Rules(max_s=40)) if _stem(one) in aligned]
    for number in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int):
        yield load(found[number].audio, AudioSettings()), spoken(aligned[_stem(found[number])])


def _stem(utterance: Utterance) -> str:
    return Path(str(utterance.audio)).stem


def spoken(path: Path) -> list[Timed]:
    """The words of an alignment."""
    tier = path.read_text().split('name = "phones"')[0]
    found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"', tier)
    return [(float(start), float(end), plain(text)) for start, end, text in found if text]


def borders(clip: Clip, looks: Array) -> npt.NDArray[np.float64]:
    """Starts and ends of the model's words `[words, 2]`, in seconds."""
    frames = warped(looks) * (duration(clip.sound) / looks.shape[1])
    return np.array([(frames[start], frames[stop]) for start, stop in clip.spans]).reshape(-1, 2)


def errors(
    clips: Sequence[Clip], heads: Sequence[int], mend: Callable[[Clip, npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None
) -> npt.NDArray[np.float64]:
    """How much later than the aligner's each border is."""
    found = []
    for clip in clips:
        times_s = borders(clip, clip.looks[list(heads)].astype(np.float32).mean(axis=0))
        times_s = times_s if mend is None else mend(clip, times_s)
        found.append((times_s[list(clip.right)] - np.array(clip.times_s).reshape(-1, 2)).reshape(-1))
    return np.concatenate(found)


def choose(clips: Sequence[Clip], count: int = 10) -> list[int]:
    """Heads, each of which lowers the error of those before it most."""
    chosen, few = list[int](), clips[::2]
    for _ in range(count):
        costs = {}
        for head in range(len(clips[0].looks)):
            if head not in chosen:
                late = errors(few, [*chosen, head])
                costs[head] = float(np.minimum(np.abs(late - np.median(late)), WORST_S).mean())
        chosen.append(min(costs, key=lambda head: costs[head]))
    return chosen


def _judged(clips: Sequence[Clip]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Summed logarithms of each word's tokens, and whether the word is right."""
    sums = [float(clip.log_odds[start:stop].sum()) for clip in clips for start, stop in clip.spans]
    right = [place in set(clip.right) for clip in clips for place in range(len(clip.spans))]
    return np.array(sums), np.array(right)


def calibrated(clips: Sequence[Clip]) -> tuple[float, float]:
    """Slope and intercept of a logistic regression, by Newton's method."""
    sums, right = _judged(clips)
    odds = np.minimum(sums, -1e-4)
    inputs = np.stack([odds - np.log(-np.expm1(odds)), np.ones_like(odds)], axis=1)
    weights = np.zeros(2)
    for _ in range(25):
        given = 1 / (1 + np.exp(-inputs @ weights))
        weights += np.linalg.solve((inputs.T * (given * (1 - given))) @ inputs, inputs.T @ (right - given))
    return round(float(weights[0]), 3), round(float(weights[1]), 3)


def report(clips: Sequence[Clip], heads: Sequence[int], early_s: float) -> None:
    everything = range(len(clips[0].looks))
    print("| heads | median | 90 % within | within 150 ms |\n|---|---|---|---|")
    for name, some, mend in (
        ("mean of all", everything, None),
        ("chosen", heads, None),
        ("chosen, shifted", heads, lambda _clip, times_s: times_s + early_s),
        ("chosen, shifted, at pauses", heads, lambda clip, times_s: at_pauses(times_s + early_s, clip.sound)),
    ):
        far = np.abs(errors(clips, some, mend))
        print(f"| {name} | {1000 * np.median(far):.0f} ms | {1000 * np.quantile(far, 0.9):.0f} ms | {100 * (far < 0.15).mean():.1f} % |")
    sums, right = _judged(clips)
    calibrated_to = np.array([confidence(np.array([one])) for one in sums])
    print(f"\n{len(right)} words, {100 * right.mean():.1f} % right\n\n| confidence | words | said | right |\n|---|---|---|---|")
    for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 1.01)):
        these = (calibrated_to >= low) & (calibrated_to < high)
        if these.any():
            said, true = 100 * calibrated_to[these].mean(), 100 * right[these].mean()
            print(f"| {low:g} to {min(high, 1):g} | {these.sum()} | {said:.0f} % | {true:.0f} % |")
    for name, values in (("calibrated", calibrated_to), ("product of the probabilities", np.exp(sums))):
        print(f"{name}: expected calibration error {100 * expected_error(values, right):.1f} points")


def report_runtime(hear: Hearing, data: Path, count: int, folder: Path) -> None:
    """Borders of words in moonshine-voice."""
    clips = list(sounds(data, "heldout", count))
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, f"{number}.npy") for number in range(len(clips))]
        for file, (sound, _) in zip(files, clips, strict=True):
            np.save(file, sound)
        command = [sys.executable, "-c", RUNTIME, str(voice_packages()), str(folder / "moonshine-voice"), *map(str, files)]
        given = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    theirs = [[(start, end, plain(text)) for start, end, text in one] for one in given]
    ours = [hear.timed(sound) for sound, _ in clips]
    print("\n| moonshine-voice | words | median | within 100 ms |\n|---|---|---|---|")
    for name, other in (("beside the aligner", [aligned for _, aligned in clips]), ("beside ours", ours)):
        far = np.abs(np.concatenate([apart(*pair) for pair in zip(theirs, other, strict=True)]))
        print(f"| {name} | {len(far) // 2} | {1000 * np.median(far):.0f} ms | {100 * (far < 0.1).mean():.1f} % |")


def apart(one: Sequence[Timed], other: Sequence[Timed]) -> npt.NDArray[np.float64]:
    """How much later the first one's borders are, of words that both have."""
    said, spelled = ([text or "-" for *_, text in timed] for timed in (one, other))
    same = [chunk for chunk in jiwer.process_words(" ".join(said), " ".join(spelled)).alignments[0] if chunk.type == "equal"]
    pairs = [
        pair
        for chunk in same
        for pair in zip(one[chunk.ref_start_idx : chunk.ref_end_idx], other[chunk.hyp_start_idx : chunk.hyp_end_idx], strict=True)
    ]
    return np.array([late for mine, yours in pairs for late in (mine[0] - yours[0], mine[1] - yours[1])])


def expected_error(values: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Mean difference of what is said and what is right, over ten bins."""
    bins = np.minimum((values * 10).astype(int), 9)
    return math.fsum(abs(values[bins == one].mean() - right[bins == one].mean()) * (bins == one).mean() for one in set(bins.tolist()))


if __name__ == "__main__":
    sys.exit(run(main))
