"""A user's list of terms: how it is written, and where a text holds one. Pure.

A text holds a term where its words stand one after another, whatever their case; hyphens and slashes are spaces. The last word may carry
a plural or possessive ending: `Postgres's`, `pods`. Where several terms begin at a word the longest is taken, so that `GitHub Actions` is
not counted as `GitHub` too.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lora.errors import TermsError
from lora.language import Language, foreign_script, traits
from lora.system.files import sha256_bytes

MOST_CHARACTERS = 80
"""Of a term or a spoken form: more is a sentence."""

_PROBLEMS_SHOWN = 5

_WORD = re.compile(r"(?:(?<![\w.])\.)?\w+(?:[.'@&]\w+)*[+#]*")
"""A word with what belongs to it: `.NET`, `Node.js`, `C++`, `Postgres's`."""

_PHONEMES = re.compile(r"/([^/]+)/")


@dataclass(frozen=True, slots=True)
class Term:
    """A word or words as the user writes them, and how they are said."""

    written: str
    spoken: tuple[str, ...] = ()
    """Said in place of the term; empty if it is said as it is written."""
    phonemes: tuple[str, ...] = ()
    """The same in the sounds of the packaged voice."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its words as they are compared."""
        return tuple(word for word, _ in _words(self.written))


@dataclass(frozen=True, slots=True)
class Found:
    """A term in a text: `text[start:end]`, of which the last `ending` characters are its inflection."""

    term: str
    start: int
    end: int
    ending: int


@dataclass(frozen=True)
class Terms:
    """A list of terms. `sha256` is that of the file."""

    path: str
    sha256: str
    terms: tuple[Term, ...]

    def __len__(self) -> int:
        return len(self.terms)

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    @cached_property
    def _by_key(self) -> dict[tuple[str, ...], str]:
        return {term.key: term.written for term in self.terms}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_key))

    def found(self, text: str) -> list[Found]:
        """The terms in a text, in its order."""
        words = list(_words(text))
        found, place = list[Found](), 0
        while place < len(words):
            one = self._at(words, place)
            place += 1 if one is None else one[1]
            if one is not None:
                found.append(one[0])
        return found

    def _at(self, words: Sequence[tuple[str, tuple[int, int]]], place: int) -> tuple[Found, int] | None:
        """The longest term that begins at a word, and of how many words it is."""
        for length in range(min(self._longest, len(words) - place), 0, -1):
            *before, (last, (_, end)) = words[place : place + length]
            for stem in stems(last):
                term = self._by_key.get((*(word for word, _ in before), stem))
                if term is not None:
                    return Found(term, words[place][1][0], end, len(last) - len(stem)), length
        return None


def stems(word: str) -> Iterator[str]:
    """The word, and what it may be the plural or possessive of."""
    yield word
    if word.endswith("'s"):
        yield word[:-2]
    elif len(word) > 2 and word.endswith("s"):
        yield word[:-1]
        if word.endswith(("ses", "xes", "zes", "ches", "shes")):
            yield word[:-2]


def _words(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The words of a text as they are compared, and where they stand."""
    for match in _WORD.finditer(text.replace("\u2019", "'")):
        yield unicodedata.normalize("NFKC", match.group()).casefold(), match.span()


def read_terms(path: Path, language: Language) -> Terms:
    """Reads a list: a term a line, with `= spoken form | another` behind it where it is not said as it is written; `#` and a space begin a
    comment. A form between slashes, `/ʃɪvˈɔn/`, is in the phonemes of the packaged voice.

    Raises `TermsError` that names the lines of terms that are doubled, without a letter or digit, too long, or of another language's
    letters, and of spoken forms that are empty; and for a file that holds no term or cannot be read.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise TermsError(f"{path}: cannot be read ({reason}); a list of terms is a text file, a term a line") from error
    terms, problems, lines_of = list[Term](), list[str](), dict[tuple[str, ...], int]()
    for number, line in enumerate(lines, start=1):
        plain = re.sub(r"(^|\s)#(\s.*|$)", "", line.removeprefix("\ufeff")).strip()
        if not plain:
            continue
        term = _parsed(plain)
        problem = _wrong(term, plain, language)
        if problem is None and term.key in lines_of:
            problem = f"{term.written!r} stands on line {lines_of[term.key]} already (case does not count); remove one"
        if problem is not None:
            problems.append(f"line {number}: {problem}")
            continue
        lines_of[term.key] = number
        terms.append(term)
    if problems:
        more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        raise TermsError(f"{path}: " + "; ".join(problems[:_PROBLEMS_SHOWN]) + more)
    if not terms:
        raise TermsError(f"{path}: holds no term; write one per line, such as: kubectl = cube control | cube C T L")
    return Terms(str(path), sha256_bytes(content), tuple(terms))


def _parsed(line: str) -> Term:
    written, _, said = line.partition(" = ") if " = " in line else line.partition("=") if line.endswith("=") else (line, "", "")
    forms = [" ".join(form.split()) for form in said.split("|")] if said or line.endswith("=") else []
    phonemes = tuple(match[1].strip() for form in forms if (match := _PHONEMES.fullmatch(form)))
    spoken = tuple(form for form in forms if not _PHONEMES.fullmatch(form))
    return Term(" ".join(unicodedata.normalize("NFC", written).split()), spoken, phonemes)


def _wrong(term: Term, line: str, language: Language) -> str | None:
    shown = repr(line[:40])
    if not term.key:
        return f"{shown} has no letter and no digit; write a word"
    if "" in term.spoken or any(not any(map(str.isalnum, form)) for form in (*term.spoken, *term.phonemes)):
        return f"{shown} has an empty spoken form; write it as: kubectl = cube control | cube C T L"
    if any(not character.isprintable() for character in line):
        return f"{shown} holds a control character; remove it"
    if max(map(len, (term.written, *term.spoken, *term.phonemes))) > MOST_CHARACTERS:
        return f"{shown} is longer than {MOST_CHARACTERS} characters; a term is a word or a few, sentences go into --sentences"
    for form in (term.written, *term.spoken):
        if script := foreign_script(form, language):
            return f"{form[:40]!r} is in {script} letters, and the speech is {traits(language).name}; spell it as it should be written"
    return None
