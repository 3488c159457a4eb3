"""Whether what was said is what was shown, as far as a model can tell that itself mishears words. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from rapidfuzz.distance import Levenshtein

from lora.language import Language
from lora.scoring.counts import by_jiwer
from lora.text.normaliser import normalise
from lora_cli.recorder.faults import Fault, FaultCode

OTHER: Final = 0.4
"""Share of letters that differ from which a take is another sentence."""

MISSING: Final = 2
"""Words in a row that were not heard at all, at which something was left out: the model seldom drops so much."""

NAMED: Final = 6
"""Words that a message names."""


def fault(shown: str, said: Sequence[str], heard: str, language: Language) -> Fault | None:
    """What differs between a sentence and what the model heard; None where it is near enough.

    `said` are other ways to write what is said, such as the spoken forms of terms: the nearest one counts.
    """
    there = normalise(heard, language)
    if not there:
        return Fault(FaultCode.WORDS, "no word was understood; read the sentence, or keep it if you did")
    ways = [normalise(way, language) for way in (shown, *said)]
    nearest = min(ways, key=lambda way: distance(way, there))
    if distance(nearest, there) > OTHER:
        return Fault(FaultCode.WORDS, f"other words: heard {_named(there.split())}")
    for words, what in _runs(nearest.split(), there.split()):
        return Fault(FaultCode.WORDS, f"{what} {_named(words)}")
    return None


def distance(shown: str, heard: str) -> float:
    """Share of the letters that differ between two normalised texts, 0 to 1; spaces do not count."""
    return float(Levenshtein.normalized_distance(shown.replace(" ", ""), heard.replace(" ", "")))


def _runs(shown: Sequence[str], heard: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Words in a row that were left out, or said besides, with what to call them."""
    if not shown or not heard:
        return
    for chunk in by_jiwer(shown, heard).alignments[0]:
        left_out, more = chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        if chunk.type == "delete" and left_out >= MISSING:
            yield shown[chunk.ref_start_idx : chunk.ref_end_idx], "left out:"
        elif chunk.type == "insert" and more > MISSING:
            yield heard[chunk.hyp_start_idx : chunk.hyp_end_idx], "said besides:"


def _named(words: Sequence[str]) -> str:
    text = " ".join(words[:NAMED])
    return f"{text!r}" if len(words) <= NAMED else f"{text + ' ...'!r}"
