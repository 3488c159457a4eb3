"""`moonshine record` compares what the model hears with the sentence that is shown: how often it is right, for every threshold.

    moonshine-lora transcribe --model-id packaged:moonshine-tiny --manifest ../shared/data/accent/test.jsonl --output outputs/accent.jsonl
    python benchmarks/heard_words.py outputs/accent.jsonl

Each clip was read as its reference says, and should pass. Against other texts it should be caught: another sentence of the same file; the
right one with words in a row that were not said, or without words that were; or heard with its first words twice.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora_cli.recorder import words

from lora.console import ArgumentParser, run
from lora.text.normaliser import normalise

OTHERS: Final = 10
"""Texts for each clip and kind of fault."""

DISTANCES: Final = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7)
COUNTS: Final = (1, 2, 3, 4)


@dataclass(frozen=True)
class Clip:
    """Normalised: what is said, and what the model hears."""

    said: str
    heard: str


Made = Callable[[Clip, Sequence[Clip], random.Random], Clip]


def another(clip: Clip, clips: Sequence[Clip], chance: random.Random) -> Clip:
    """Another sentence is shown."""
    return Clip(chance.choice([one.said for one in clips if one.said != clip.said]), clip.heard)


def left_out(count: int) -> Made:
    """`count` words in a row are shown that were not said."""

    def made(clip: Clip, clips: Sequence[Clip], chance: random.Random) -> Clip:
        more = [one.said.split() for one in clips if one.said != clip.said and len(one.said.split()) >= count]
        source, there = chance.choice(more), clip.said.split()
        at, start = chance.randint(0, len(there)), chance.randint(0, len(source) - count)
        return Clip(" ".join([*there[:at], *source[start : start + count], *there[at:]]), clip.heard)

    return made


def besides(count: int) -> Made:
    """`count` words in a row were said that are not shown."""

    def made(clip: Clip, _clips: Sequence[Clip], chance: random.Random) -> Clip:
        there = clip.said.split()
        at = chance.randint(0, max(0, len(there) - count))
        return Clip(" ".join([*there[:at], *there[at + count :]]) or clip.said, clip.heard)

    return made


def twice(clip: Clip, _clips: Sequence[Clip], _chance: random.Random) -> Clip:
    """The first three words were heard twice."""
    return Clip(clip.said, " ".join([*clip.heard.split()[:3], clip.heard]))


WRONG: Final[Mapping[str, Made]] = {
    "another sentence": another,
    **{f"{count} left out": left_out(count) for count in (1, 2, 3, 5)},
    **{f"{count} said besides": besides(count) for count in (1, 2, 3, 5)},
    "begun twice": twice,
}


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcripts", type=Path, nargs="+", metavar="FILE", help="what moonshine-lora transcribe wrote for a manifest")
    for file in parser.parse_args(arguments).transcripts:
        found = clips(file)
        print(f"\n{file.name}: {len(found)} clips of {sum(len(one.said.split()) for one in found) / len(found):.0f} words")
        report(found)
    return 0


def clips(transcripts: Path) -> list[Clip]:
    rows = [json.loads(line) for line in transcripts.read_text(encoding="utf-8").splitlines()]
    return [Clip(normalise(row["reference"], "en"), normalise(row["text"], "en")) for row in rows]


def report(found: Sequence[Clip]) -> None:
    """As it is now; then each threshold alone, on clips that are right and on those that are wrong."""
    chance = random.Random(0)
    wrong = {kind: [made(clip, found, chance) for clip in found for _ in range(OTHERS)] for kind, made in WRONG.items()}
    now = "  ".join(f"{kind} {caught(these):.1%}" for kind, these in wrong.items())
    print(f"now: right ones that are stopped {caught(found):.1%}; wrong ones that are caught: {now}")
    print(f"no word heard: {sum(not one.heard for one in found) / len(found):.1%}")
    for limit in DISTANCES:
        print(f"  letters that differ > {limit}: right {far(found, limit):6.1%}   another {far(wrong['another sentence'], limit):6.1%}")
    for what in words.LEAST:
        for count in COUNTS:
            rates = " ".join(f"{kind} {longest(wrong[kind], what, count):6.1%}" for kind in WRONG if kind.endswith(what))
            print(f"  {what}: {count} words: right {longest(found, what, count):6.1%}   {rates}")


def caught(found: Iterable[Clip]) -> float:
    return mean(words.fault(one.said, (), one.heard, "en") is not None for one in found)


def far(found: Iterable[Clip], limit: float) -> float:
    return mean(not one.heard or words.distance(one.said, one.heard) > limit for one in found)


def longest(found: Iterable[Clip], what: words.Difference, count: int) -> float:
    """How often that many words in a row differ so."""
    return mean(any(kind == what and len(these) >= count for kind, these in words.runs(one.said, one.heard)) for one in found)


def mean(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(run(main))
