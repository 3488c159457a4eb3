"""Compares what was said with the sentence shown, as far as a model can judge that itself mishears words. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from rapidfuzz.distance import Levenshtein

from lora.language import Language
from lora.scoring.counts import by_jiwer
from lora.text.normaliser import normalise
from lora_cli.recorder.faults import Fault, FaultCode

OTHER: Final = 0.6
"""Share of letters that differ from which a take is another sentence.

Chosen with Moonshine tiny on 300 clips of accented English and 100 of LibriSpeech (`benchmarks/heard_words.py`). It stops 10 % of the
accented clips that were read as shown, where 0.4 stops 29 %, and still 99.7 % of other sentences; on LibriSpeech it makes no difference.
docs/own-voice.md has the rates on other speakers.
"""

Difference = Literal["left out", "said besides"]

LEAST: Final[Mapping[Difference, int]] = {"left out": 2, "said besides": 3}
"""Words in a row from which on they are told as left out, or as said besides: the model itself adds two more often than it drops two."""

NAMED: Final = 6
"""Words that a message names."""


def fault(shown: str, said: Sequence[str], heard: str, language: Language) -> Fault | None:
    """What differs between a sentence and what the model heard; None if it is near enough.

    `said` are other ways to write what is said, such as the spoken forms of terms: the nearest one counts.
    """
    there = normalise(heard, language)
    if not there:
        return Fault(FaultCode.WORDS, "no word was understood; read the sentence, or keep it if you did")
    ways = [normalise(way, language) for way in (shown, *said)]
    nearest = min(ways, key=lambda way: distance(way, there))
    if distance(nearest, there) > OTHER:
        return Fault(FaultCode.WORDS, f"other words: heard {_named(there.split())}")
    for what, words in runs(nearest, there):
        if len(words) >= LEAST[what]:
            return Fault(FaultCode.WORDS, f"{what}: {_named(words)}")
    return None


def distance(shown: str, heard: str) -> float:
    """Share of the letters that differ between two normalised texts, 0 to 1; spaces do not count."""
    return float(Levenshtein.normalized_distance(shown.replace(" ", ""), heard.replace(" ", "")))


def runs(shown: str, heard: str) -> Iterator[tuple[Difference, Sequence[str]]]:
    """Words in a row of two normalised texts that were left out, or said besides."""
    words, there = shown.split(), heard.split()
    if not words or not there:
        return
    for chunk in by_jiwer(words, there).alignments[0]:
        if chunk.type == "delete":
            yield "left out", words[chunk.ref_start_idx : chunk.ref_end_idx]
        elif chunk.type == "insert":
            yield "said besides", there[chunk.hyp_start_idx : chunk.hyp_end_idx]


def _named(words: Sequence[str]) -> str:
    text = " ".join(words[:NAMED])
    return f"{text!r}" if len(words) <= NAMED else f"{text + ' ...'!r}"
