"""The sentences that are spoken: the user's own that hold a term, carrier sentences for the rest, and sentences without any. Pure.

Training, dev and test speech have carrier sentences of their own, and of the user's sentences each belongs to one of them.
"""

import difflib
import functools
import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from lora.errors import SynthesisError
from lora.synthesis.spoken import in_words
from lora.text.terms import Found, Term, Terms

Part = Literal["train", "dev", "test"]

_SHARE: dict[str, range] = {"train": range(6), "dev": range(6, 7), "test": range(7, 10)}
"""Tenths of the user's sentences."""

WORDS = range(3, 31)
"""Words of a sentence that is taken from the user's documents: shorter is a heading, longer may last over 15 s."""

_NEAR = 0.6
"""Least likeness of an ordinary word to a term, as `difflib` counts it."""

_NEAREST = 3
"""Ordinary words for each term."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence as it is written and as a voice is given it; `term` is the one that it is there for."""

    written: str
    spoken: str
    term: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How many sentences there are."""

    part: Part
    for_each: int
    """Sentences for each term."""
    negatives: float
    """Sentences without any term for each one with a term; half of them hold a word that is near a term."""
    seed: int


def planned(terms: Terms, own: Sequence[str], plan: Plan) -> list[Line]:
    """The sentences of a set: terms take turns, sentences without terms stand between them."""
    of_terms = {term.written: list(_of_term(terms, term, own, plan)) for term in terms}
    turns = [lines[turn] for turn in range(plan.for_each) for lines in of_terms.values()]
    without = list(_without(terms, own, plan, round(plan.negatives * len(turns))))
    lines = turns + without
    random.Random(f"{plan.seed} {plan.part} order").shuffle(lines)
    return lines


def read_sentences(paths: Sequence[Path]) -> list[str]:
    """The sentences of text files, each once. Raises `SynthesisError` for a file that cannot be read or holds no sentence."""
    found = dict[str, None]()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SynthesisError(f"{path}: cannot be read ({reason}); --sentences takes plain text files") from error
        sentences = [sentence for sentence in _split(text) if len(sentence.split()) in WORDS and sentence.isprintable()]
        if not sentences:
            raise SynthesisError(f"{path}: holds no sentence of {WORDS[0]} to {WORDS[-1]} words; --sentences takes plain text")
        found |= dict.fromkeys(sentences)
    return list(found)


def _split(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [re.sub(r"^[\s>*#-]+|^\s*\d+[.)]\s", "", line) for line in paragraph.splitlines()]
        for sentence in re.split(r"(?<=[.!?])\s+(?=[^a-z])", " ".join(lines)):
            yield " ".join(sentence.split())


def _of_term(terms: Terms, term: Term, own: Sequence[str], plan: Plan) -> Iterator[Line]:
    chance = random.Random(f"{plan.seed} {plan.part} {term.written}")
    mine = [text for text in own if _share(text, plan) and any(found.term == term.written for found in terms.found(text))]
    carriers = carrier_sentences(plan.part)
    chance.shuffle(mine)
    chosen = [*mine, *(text.replace("{term}", term.written) for text in _endless(carriers, chance, plan.for_each))][: plan.for_each]
    said = forms(term)
    start = chance.randrange(len(said))
    for turn, text in enumerate(chosen):
        yield Line(text, spoken(text, terms, {term.written: said[(start + turn) % len(said)]}), term.written)


def forms(term: Term) -> list[str]:
    """The spoken forms of a term in turn, or the term itself."""
    said = [*term.spoken, *(f"[{term.written}](/{phonemes}/)" for phonemes in term.phonemes)]
    return said or [term.written]


def spoken(text: str, terms: Terms, chosen: dict[str, str]) -> str:
    """The text with what is said for each of its terms: what is chosen for it, else its first form."""
    first = {term.written: forms(term)[0] for term in terms}
    end, parts = 0, []
    for found in terms.found(text):
        parts += [text[end : found.start], _inflected(text, found, chosen.get(found.term, first[found.term]))]
        end = found.end
    return in_words("".join(parts) + text[end:])


def _inflected(text: str, found: Found, form: str) -> str:
    ending = text[found.end - found.ending : found.end]
    if ending and re.search(r"\b[A-Z]$", form):  # a letter's plural: "pull request R s" would be said otherwise
        ending = "'s"
    return form + ending


def _without(terms: Terms, own: Sequence[str], plan: Plan, count: int) -> Iterator[Line]:
    """Sentences without any term: every second one holds an ordinary word that is near a term."""
    chance = random.Random(f"{plan.seed} {plan.part} without")
    near = [word for word in near_words(terms) if not terms.found(word)]
    plain = [text for text in [*own, *_lines("ordinary")] if _share(text, plan) and not terms.found(text)]
    with_words = [text.replace("{word}", word) for word in near for text in _lines("templates_words")]
    with_words = [text for text in with_words if _share(text, plan)]
    half = count // 2 if with_words else 0
    for text in [*_endless(with_words, chance, half), *_endless(plain, chance, count - half)]:
        yield Line(text, in_words(text))


def near_words(terms: Terms) -> list[str]:
    """Ordinary words that a term is spelled or said like: the words of its spoken forms, and those most like it."""
    found = dict[str, None]()
    common = _common_words()
    for term in terms:
        said = [word.casefold() for form in (term.written, *term.spoken) for word in re.findall(r"[^\W\d_]+", form)]
        found |= dict.fromkeys(word for word in said if word in common and len(word) > 3)
        whole = "".join(said[:1] if not term.spoken else re.findall(r"[^\W\d_]+", term.spoken[0].casefold()))
        found |= dict.fromkeys(difflib.get_close_matches(whole, common, n=_NEAREST, cutoff=_NEAR))
    return list(found)


def carrier_sentences(part: Part) -> list[str]:
    """Sentences of a part with a place for a term."""
    return _lines(f"templates_{part}")


def _share(text: str, plan: Plan) -> bool:
    """Whether a sentence is of this part: its hash decides, so that no sentence is in two of them."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 in _SHARE[plan.part]


def _endless(texts: Sequence[str], chance: random.Random, count: int) -> list[str]:
    """`count` of the texts, each once before any stands twice."""
    taken = list[str]()
    while texts and len(taken) < count:
        taken += chance.sample(texts, len(texts))
    return taken[:count]


@functools.cache
def _common_words() -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for line in _lines("common_words") for word in line.split()))


def _lines(name: str) -> list[str]:
    text = files("lora.synthesis").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
