"""What transcribers write besides words, and how an import treats it: the table in docs/recordings.md. Pure."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from lora.text.style import ALTERNATIVES
from lora.text.tags import pieces

Notation = Literal["general", "nist", "chat"]
"""The notation of a text: marks that many corpora share, also NIST's of STM and CTM, or CHAT's."""

FILLERS: Final = frozenset(
    {
        *("ah", "ahm", "äh", "ähm", "eh", "ehm", "em", "er", "erm", "euh", "ha", "hä", "hm", "hmm", "hmmm", "huh", "mhm", "mhmm"),
        *("mm", "mm-hm", "mm-hmm", "mmm", "oh", "öh", "uh", "uh-huh", "uh-uh", "uhm", "um", "umm"),
    }
)
"""Sounds of hesitation and assent that are written as words: inside a mark, the word is said."""

_UNCLEAR = re.compile(
    r"(?:unk|unknown|unintelligible|inaudible|indistinct|incomprehensible|unclear|untranscribed|foreign|oov|x{2,3}|y{3}|w{3}|\?+)\b.*|\?+",
    re.IGNORECASE | re.DOTALL,
)
"""How a mark begins that stands for words which the text lacks."""

_SAID_TWICE = re.compile(r"\(\((.*?)\)\)", re.DOTALL)
_BARE = re.compile(r"^[\W_]+|[\W_]+$")


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a text; `unclear` is the mark of words that it lacks, None if it has all that is said."""

    text: str
    unclear: str | None = None


def said(text: str, notation: Notation = "general") -> Said:
    """The words of a text by the rules of its notation: without marks, and with single spaces."""
    if notation == "chat":
        return _chat(text)
    parts = [(text, False)] if notation == "general" else list(_around_alternatives(text))
    results = [Said(part) if kept else _general(_nist(part) if notation == "nist" else part) for part, kept in parts]
    unclear = next((one.unclear for one in results if one.unclear is not None), None)
    return Said(_tidy(" ".join(one.text for one in results)) if _marked(text, results) else " ".join(text.split()), unclear)


def _marked(text: str, results: list[Said]) -> bool:
    """Whether a rule changed anything: a text without marks keeps the spaces before its punctuation."""
    return " ".join(" ".join(one.text for one in results).split()) != " ".join(text.split())


def _around_alternatives(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is alternatives, which the project writes as NIST does: `{a / b / @}`."""
    found, end = list[tuple[str, bool]](), 0
    for match in ALTERNATIVES.finditer(text):
        found += [(text[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [*found, (text[end:], False)]


def _general(text: str) -> Said:
    words, unclear = list[str](), None
    for piece, is_tag in pieces(text):
        if not is_tag:
            words.append(piece)
            continue
        inside = _SAID_TWICE.fullmatch(piece)
        content = inside[1].strip() if inside else _BARE.sub("", piece)
        if _UNCLEAR.fullmatch(content) or (inside and not content) or _UNCLEAR.fullmatch(piece.strip("<>[]{}()* ")):
            unclear = unclear or piece
        elif inside or content.lower() in FILLERS:
            words.append(f" {content} ")
        else:
            words.append(" ")
    return Said("".join(words), unclear)


_NIST: Final[tuple[tuple[str, str], ...]] = (
    (r"(?<!\S)\(([^()\s]+-|-[^()\s]+)\)(?!\S)", ""),
    (r"(?<!\S)\((%\S+)\)(?!\S)", r"\1"),
    (r"(?<!\S)\(([^()/{}%]+)\)(?!\S)", r"{\1 / @}"),
    (r"(?<!\S)[^\W\d_][\w']*-(?!\S)", ""),
)
"""Parts of words, and words that may be left out without an error."""


def _nist(text: str) -> str:
    for pattern, replacement in _NIST:
        text = re.sub(pattern, replacement, text)
    return text


_CHAT_UNCLEAR = re.compile(r"(?<![^\s<“])(?:x{2,3}|y{2,3}|w{3})(?=[@\s.,?!>”]|$)|(?<!\S)[^\s@]+@u\b")

_CHAT: Final[tuple[tuple[str, str], ...]] = (
    (r"&[{}]\S*|&=\S+|&\*\S+|&~\S+|&\+\S+", " "),  # events, interposed words of others, sounds that are no words, parts of words
    (r"&-(\S+)", r"\1"),  # fillers
    (r"\((?:\.{1,3}|(?:\d+:)?\d+\.\d*)\)", " "),  # pauses
    (r"\[[^\[\]]*\]", " "),  # retracings, replacements, errors, comments, overlaps, languages
    (r"(?<!\S)\+[^\w\s<]*\?[^\w\s]*", "?"),  # questions that break off
    (r"(?<!\S)\+[^\w\s]+", " "),  # other ends and links of utterances
    (r"(?<!\S)0(?!\S)|(?<![^\s<])0(?=[^\W\d_])\S*", " "),  # omitted words
    (r"[<>\u2039\u203a\u27e8\u27e9]", " "),  # groups
    (r"(?<=\w)@[\w:$&+-]+", ""),  # kinds of words
    (r"[()]", ""),  # sounds of a word that were left out: the whole word stays
    (r"(?<=\w)[_+](?=\w)", " "),  # words that are one unit
    (r"(?<=[^\W\d_]):+(?!\S*\d)", ""),  # long sounds
    (r"[⌈⌉⌊⌋]\d?", ""),
    (r"[ˈˌ^≠↑↓↗↘→⇗⇘∆∇°▁▔☺♋⁇\u204e∬Ϋ∲§↻∞≡≈≋∙⤇⤆Ἡ↫*]", ""),  # stress, pitch, loudness, overlap of single sounds
    (r"[‡„]", ","),
)
"""The replacement of each mark, in this order."""

_TIMES = re.compile(r"(<[^<>]*>|[^\s<>]+)\s*\[x\s*(\d{1,2})\]")


def _chat(text: str) -> Said:
    unclear = _CHAT_UNCLEAR.search(text)
    text = _TIMES.sub(lambda match: " ".join([match[1]] * int(match[2])), text)
    for pattern, replacement in _CHAT:
        text = re.sub(pattern, replacement, text)
    words = [word for word in text.split() if not word.startswith("&") or word[1:].lower() in FILLERS]
    return Said(_tidy(" ".join(word.removeprefix("&") for word in words)), unclear[0] if unclear else None)


def _tidy(text: str) -> str:
    """White space and punctuation as they are without what stood between; nothing where no word is left."""
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    text = re.sub(r"^[,.;:!?\s]+|([,;])[,;\s]+(?=[,;.!?])", "", text)
    text = re.sub(r"[,;]+(?=[.!?])", "", text)
    return text if re.search(r"\w", text) else ""
