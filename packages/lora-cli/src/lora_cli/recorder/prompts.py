"""What is read aloud: sentences of a file, of terms in carrier sentences, or the built-in ones. Each is of the training or the test set."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from rapidfuzz import fuzz, process

from lora.errors import PromptsError
from lora.language import Language, foreign_script, traits
from lora.synthesis.sentences import Plan, planned, spoken
from lora.synthesis.spoken import without_phonemes
from lora.text.normaliser import normalise
from lora.text.terms import Terms, read_terms

PromptSet = Literal["train", "test"]

TEST_TENTHS: Final = 3
"""Tenths of the sentences that are set aside as the test."""

LIKE: Final = 85
"""Percent of letters that two sentences share from which on they are of one set: what is learned of one helps with the other."""

MOST: Final = 5000
"""Prompts of one folder: eight hours of speech."""

MOST_CHARACTERS: Final = 300
"""Of one sentence: about 20 s."""

PER_TERM: Final = 6
"""Training sentences for each term; half as many are for the test."""

_LINES_SHOWN: Final = 5


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sentence to read, and its set."""

    text: str
    set: PromptSet
    said: str | None = None
    """As it is said, where that is spelled otherwise than it is written."""

    @property
    def id(self) -> str:
        """The same for the same text, whatever list it stands in."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def built_in() -> list[str]:
    """The sentences that come with the app: English, written for it."""
    text = files("lora_cli.recorder").joinpath("sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def read_prompts(path: Path, language: Language) -> list[str]:
    """The sentences of a file, one per line; lines that start with `#` are comments.

    Raises `PromptsError` that names the lines that are doubled, too long, hold no word, a control character or another script.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else "not UTF-8"
        raise PromptsError(f"{path}: cannot be read ({reason}); --prompts takes a text file with one sentence per line") from error
    seen: dict[str, int] = {}
    sentences, problems = list[str](), list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        sentence = " ".join(line.split())
        if not sentence or sentence.startswith("#"):
            continue
        key = normalise(sentence, language)
        if (wrong := _wrong(sentence, line, key, language)) is None and key in seen:
            wrong = f"is the sentence of line {seen[key]} again"
        if wrong is not None:
            problems.append(f"line {number} {wrong}")
        seen.setdefault(key, number)
        sentences.append(sentence)
    _require(path, sentences, problems)
    return sentences


def _wrong(sentence: str, line: str, key: str, language: Language) -> str | None:
    if not line.rstrip("\r").replace("\t", " ").isprintable():
        return "holds a control character; remove it"
    if not key:
        return "has no word; write a sentence"
    if len(sentence) > MOST_CHARACTERS:
        return f"is longer than {MOST_CHARACTERS} characters, about 20 s; cut it into sentences"
    if script := foreign_script(sentence, language):
        return f"is in {script} letters, and the speech is {traits(language).name}; give --language"
    return None


def _require(path: Path, sentences: Sequence[str], problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _LINES_SHOWN} more" if len(problems) > _LINES_SHOWN else ""
        raise PromptsError(f"{path}: " + "; ".join(problems[:_LINES_SHOWN]) + more)
    if not sentences:
        raise PromptsError(f"{path}: holds no sentence; write one sentence per line")
    if len(sentences) > MOST:
        raise PromptsError(f"{path}: holds {len(sentences)} sentences, and {MOST} are the most; record the others into another folder")


def of_terms(path: Path, per_term: int) -> list[Prompt]:
    """Sentences in which the terms of a list stand: training and test have carrier sentences of their own. Raises `TermsError`."""
    terms = read_terms(path, "en")
    return _mixed(_carried(terms, "train", per_term), _carried(terms, "test", max(1, per_term // 2)))


def _carried(terms: Terms, part: PromptSet, count: int) -> list[Prompt]:
    """Sentences of a part, with the first spoken form of their terms."""
    written = dict.fromkeys(line.written for line in planned(terms, (), Plan(part, count, 0.0, 0)))
    said = [without_phonemes(spoken(text, terms, {})) for text in written]
    return [Prompt(text=text, set=part, said=way if way != text else None) for text, way in zip(written, said, strict=True)]


def _mixed(train: Sequence[Prompt], test: Sequence[Prompt]) -> list[Prompt]:
    """Both, evenly: whoever stops early has some of each."""
    places = [((place + 0.5) / len(prompts), prompt) for prompts in (train, test) for place, prompt in enumerate(prompts)]
    return [prompt for _, prompt in sorted(places, key=lambda one: one[0])]


def divided(sentences: Sequence[str], language: Language) -> list[Prompt]:
    """Puts each sentence into a set, by the hash of its words."""
    return [Prompt(text=text, set=_by_hash(normalise(text, language))) for text in sentences]


def settled(prompts: Sequence[Prompt], recorded: Mapping[str, PromptSet], language: Language) -> list[Prompt]:
    """The prompts, with sentences that are nearly alike in one set: that of those already recorded, else of the first by its letters.

    `recorded` are texts with their sets, which stay. A prompt that is like recorded ones of both sets is left out.
    """
    proposed = {prompt.text: prompt.set for prompt in prompts} | dict(recorded)
    texts = list(proposed)
    sets: dict[str, PromptSet] = {}
    for group in _alike([normalise(text, language) for text in texts]):
        members = sorted(texts[place] for place in group)
        fixed = {recorded[text] for text in members if text in recorded} or {proposed[members[0]]}
        if len(fixed) == 1:
            sets |= dict.fromkeys(members, *fixed)
        else:
            sets |= {text: recorded[text] for text in members if text in recorded}
    return [msgspec.structs.replace(prompt, set=sets[prompt.text]) for prompt in prompts if prompt.text in sets]


def _by_hash(key: str) -> PromptSet:
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 < TEST_TENTHS else "train"


def _alike(keys: Sequence[str]) -> Iterable[list[int]]:
    """Places of sentences that are nearly alike, directly or through others."""
    group = list(range(len(keys)))
    for start in range(0, len(keys), 500):
        likeness = process.cdist(keys[start : start + 500], keys, scorer=fuzz.ratio, score_cutoff=LIKE, dtype=np.uint8)
        for one, other in zip(*(places.tolist() for places in np.nonzero(likeness)), strict=True):
            _join(group, start + one, other)
    found: dict[int, list[int]] = {}
    for place in range(len(keys)):
        found.setdefault(_root(group, place), []).append(place)
    return found.values()


def _root(group: list[int], place: int) -> int:
    while group[place] != place:
        group[place] = group[group[place]]
        place = group[place]
    return place


def _join(group: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(group, one), _root(group, other)))
    group[second] = first
