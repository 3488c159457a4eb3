"""`moonshine-lora align` on a recording of which it is known what is said when: clips that are right, wrong and lost, time and memory.

    python benchmarks/aligning.py --data ../shared/data --minutes 60

The recording is that of `long.py`: clips of LibriSpeech, joined. `--damaged` deletes 5 % of the script's sentences (a sentence is the
text of a clip), writes 2 % of them twice, and inserts 60 s of AN4 into the recording. What is said between two times is known from a
forced alignment of each clip's true text with its sound, by `--judge`. A clip of the output is right if it has exactly those words that
are said in it; a sentence is recovered if every word of it is in a clip that is right. `--lost` lists what is not.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from long import ROOT, timed

from lora.audio.loading import AudioSettings, Waveform, duration, load
from lora.console import ArgumentParser, positive_int, run
from lora.dataset.manifest import Rules, Utterance, read
from lora.longform.script import tokens
from lora.longform.seams import plain
from lora.longform.words import words
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.transcript import Transcript
from lora.transcribe import Request, open_transcriber
from lora.units import SAMPLE_RATE_HZ

JUDGED_S = 0.1
"""How far from the end of a clip the judge knows on which side a word is."""

_WAYS = [(low, high) for low in (0.0, JUDGED_S, -JUDGED_S) for high in (0.0, JUDGED_S, -JUDGED_S)]
DELETED, DOUBLED, INSERTED_S = 0.05, 0.02, 60.0


@dataclass(frozen=True)
class Said:
    """A word that is said, when its middle is, and in which clip of the recording."""

    text: str
    middle_s: float
    clip: int


@dataclass(frozen=True)
class Speech:
    """The recording, its script, and the truth."""

    samples: Waveform
    script: str
    said: Sequence[Said]
    wanted: Sequence[int]
    """Clips whose text is in the script."""


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with librispeech/ and an4/")
    parser.add_argument("--minutes", type=positive_int, default=60, metavar="N", help="length of the recording (default 60)")
    parser.add_argument("--damaged", action="store_true", help="damage the script, and insert other speech")
    parser.add_argument("--seed", type=int, default=0, help="of pauses and damages")
    parser.add_argument("--model-id", default="packaged:moonshine-tiny")
    parser.add_argument("--judge", default="packaged:moonshine-tiny", metavar="ID", help="model of the forced alignment")
    parser.add_argument("--lost", action="store_true", help="list the clips that are wrong or not recovered")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))
    return 0


def measure(options: argparse.Namespace, place: Path) -> None:
    speech = made(options)
    soundfile.write(place / "long.flac", speech.samples, SAMPLE_RATE_HZ)
    (place / "script.txt").write_text(speech.script)
    command = (sys.executable, "-m", "lora.main", "align", place / "long.flac", place / "script.txt", "--model-id", options.model_id)
    taken = timed((*command, "--device", "cpu", "--output", place / "m.jsonl", "--left-out", place / "left.tsv"))
    found = [json.loads(line) for line in (place / "m.jsonl").read_text().splitlines()]
    times = _times(speech, [place / row["audio"] for row in found])
    report(options, speech, [(row["text"], *both) for row, both in zip(found, times, strict=True)], (place / "left.tsv").read_text())
    minutes = len(speech.samples) / SAMPLE_RATE_HZ / 60
    print(f"{minutes:.1f} minutes: {taken.seconds:.0f} s, CPU {taken.cpu_s:.0f} s, {taken.megabytes:.0f} MB")


def made(options: argparse.Namespace) -> Speech:
    clips = [one for name in ("heldout", "replay") for one in read(options.data / f"librispeech/{name}.jsonl", Rules(max_s=40))]
    draw = np.random.default_rng(options.seed)
    lasts_s = np.cumsum([duration(load(one.audio, AudioSettings())) for one in clips])
    clips = clips[: int(np.searchsorted(lasts_s, 60 * options.minutes)) + 1]
    middles = _middles(clips, options.judge)
    parts, said, texts, count = list[Waveform](), list[Said](), list[str](), 0
    while count < 60 * options.minutes * SAMPLE_RATE_HZ:
        number = len(texts) % len(clips)
        samples = load(clips[number].audio, AudioSettings())
        start_s = count / SAMPLE_RATE_HZ
        spelled = tokens(clips[number].text or "")
        said += [Said(plain(text), start_s + at, len(texts)) for text, at in zip(spelled, middles[number], strict=True)]
        parts += [samples, np.zeros(round(draw.uniform(0.1, 1.0) * SAMPLE_RATE_HZ), dtype=np.float32)]
        count += len(parts[-1]) + len(parts[-2])
        texts.append(clips[number].text or "")
    speech = Speech(np.concatenate(parts), "\n".join(texts), said, range(len(texts)))
    return _damaged(options, speech, texts, draw) if options.damaged else speech


def _damaged(options: argparse.Namespace, speech: Speech, texts: Sequence[str], draw: np.random.Generator) -> Speech:
    order = draw.permutation(len(texts)).tolist()
    deleted = set(order[: round(DELETED * len(texts))])
    doubled = set(order[len(deleted) : len(deleted) + round(DOUBLED * len(texts))])
    script = [text for number, text in enumerate(texts) for _ in range(0 if number in deleted else 2 if number in doubled else 1)]
    behind = order[-1]
    place_s = max(word.middle_s for word in speech.said if word.clip < behind) if behind else 0.0
    first_s = min(word.middle_s for word in speech.said if word.clip == behind)
    place = round((place_s + first_s) / 2 * SAMPLE_RATE_HZ)
    quiet = speech.samples[place - SAMPLE_RATE_HZ : place + SAMPLE_RATE_HZ] == 0  # the pause between two clips
    place += int(np.flatnonzero(quiet).mean()) - SAMPLE_RATE_HZ
    other = np.concatenate([load(one.audio, AudioSettings()) for one in read(options.data / "an4/test.jsonl", Rules())])
    other = other[: round(INSERTED_S * SAMPLE_RATE_HZ)]
    samples = np.concatenate([speech.samples[:place], other, speech.samples[place:]])
    moved = [replace(one, middle_s=one.middle_s + (INSERTED_S if one.clip >= behind else 0)) for one in speech.said]
    start_s = place / SAMPLE_RATE_HZ
    moved += [Said("<other>", start_s + step, -1) for step in np.arange(0.5, INSERTED_S, 1.0)]
    return Speech(samples, "\n".join(script), moved, [number for number in range(len(texts)) if number not in deleted])


@torch.inference_mode()
def _middles(clips: Sequence[Utterance], judge: str) -> list[list[float]]:
    """The middle of each word of each clip, in seconds."""
    transcriber = open_transcriber(Request(judge, None, None, None, "cpu", "float32", 8, None))
    speech, encoder, decoder = transcriber.speech, Encoder(transcriber.speech), Decoder(transcriber.speech)
    found = []
    for clip in clips:
        sound, text = load(clip.audio, AudioSettings()), " ".join(tokens(clip.text or ""))
        text = text.lower() if text.isupper() else text
        labels = tuple(label for label in speech.labels(text) if label != speech.end_id)
        (said,) = words(decoder, encoder([sound]), [Transcript(text, labels, False)], [sound])
        if len(said) != len(text.split()):
            raise SystemExit(f"{clip.id}: {len(said)} words are timed of {len(text.split())}; {duration(sound):.1f} s")
        found.append([(float(word.start_s) + float(word.end_s)) / 2 for word in said])
    return found


def _times(speech: Speech, paths: Sequence[Path]) -> Iterator[tuple[float, float]]:
    """Where clips lie in the recording: each is a part of it, sample by sample, and begins behind the one before; some are there twice."""
    whole, place = np.rint(speech.samples * 32768).clip(-32768, 32767).astype(np.int16).tobytes(), -1
    for path in paths:
        clip = np.rint(load_exact(path) * 32768).astype(np.int16).tobytes()
        place = whole.find(clip, place + 1)
        while place >= 0 and place % 2:
            place = whole.find(clip, place + 1)
        if place < 0:
            raise SystemExit(f"{path}: is no part of the recording behind the clip before")
        yield place / 2 / SAMPLE_RATE_HZ, (place + len(clip)) / 2 / SAMPLE_RATE_HZ


def load_exact(path: Path) -> npt.NDArray[np.float32]:
    samples: npt.NDArray[np.float32] = soundfile.read(path, dtype="float32")[0]
    return samples


def _inside(speech: Speech, start_s: float, end_s: float, has: Sequence[str]) -> list[int]:
    """The words that are said in a clip: of those nearest to its ends the judge may be wrong, and they are as the clip has them."""
    surely = [number for number, word in enumerate(speech.said) if start_s + JUDGED_S <= word.middle_s < end_s - JUDGED_S]
    ways = [[number for number, word in enumerate(speech.said) if start_s - low <= word.middle_s < end_s + high] for low, high in _WAYS]
    return next((way for way in ways if [speech.said[number].text for number in way] == has), surely)


def report(options: argparse.Namespace, speech: Speech, made: Sequence[tuple[str, float, float]], left: str) -> None:
    right, wrong, covered = 0, list[str](), set[int]()
    for text, start_s, end_s in made:
        has = [plain(word) for word in text.split()]
        inside = _inside(speech, start_s, end_s, has)
        true = [speech.said[number].text for number in inside]
        if has == true:
            right += 1
            covered.update(inside)
        else:
            wrong.append(f"{start_s:.1f} to {end_s:.1f} s\n  has  {text}\n  true {' '.join(true)}")
    lost = {word.clip for number, word in enumerate(speech.said) if number not in covered}
    recovered = [number for number in speech.wanted if number not in lost]
    print(f"clips written {len(made)}, right {right}, wrong {len(wrong)}")
    print(f"sentences of the script recovered: {len(recovered)} of {len(speech.wanted)}: {100 * len(recovered) / len(speech.wanted):.1f} %")
    if options.lost:
        print("\n".join(wrong))
        for number in sorted(lost & set(speech.wanted)):
            gone = [word for at, word in enumerate(speech.said) if word.clip == number and at not in covered]
            print(f"lost {number}: {gone[0].middle_s:.1f} to {gone[-1].middle_s:.1f} s: {' '.join(word.text for word in gone)}")
        print(left)


if __name__ == "__main__":
    sys.exit(run(main))
