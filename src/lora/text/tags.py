"""Tags in transcripts: marks of a corpus that are not spoken, such as `<COMMA>`, `[noise]`, `%hesitation`. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

TagRule = Literal["drop", "keep", "refuse"]
"""How tags are treated: removed from the transcripts, taught and scored as they are, or the manifest is refused."""

_NOISES = (
    r"(?:applau[ds]|background|beep|breath|clear|cough|crosstalk|cries|cry|gasp|giggl|hesitat|hum|inaudible|indistinct|laugh|music|noise|"
    r"overlap|paus|phone|silen[ct]|sigh|sing|sniff|sound|static|unclear|unintelligible|unk|whisper|yawn)"
    r"(?:e|es|ed|ion|s|ter|[lmp]?ing)?(?![^\W_])|speak(?:s|ing)?(?=\s+(?!of\b)|\s*[)*])|foreign(?=\s+(?:language|speech|words?)|\s*[)*])"
)
"""How single round brackets, or what stands between stars, begin where they are tags; other words there are spoken ones."""

_ELSEWHERE = (
    "笑い?|笑い声|拍手|咳|音楽|ため息|雑音|沈黙|笑声|大笑|音乐|音樂|掌声|掌聲|咳嗽|噪音|웃음|박수|음악|기침|소음|한숨|"
    "risas?|aplausos?|música|tos|ruido|silencio|suspiro|сміх|музика|оплески|шум|кашель|пауза|cười|nhạc|vỗ\\stay|tiếng\\sồn|"
    "ضحك|موسيقى|تصفيق|ضوضاء|صمت"
)
"""Whole contents of round brackets that are tags in other languages."""

_TAG = re.compile(
    rf"""
    < [/|!]? [^\W\d_] [^<>]* >                 # <COMMA>, </s>, <|en|>, <background noise>
  | \[ [^\[\]]* \]                                 # [noise], [inaudible 00:12]
  | \{{ (?! [^{{}}]* \s/\s) [^{{}}]* \}}           # {{laugh}}, and not the alternatives {{a / b}}
  | \( \( .*? \)\)                                 # ((uncertain)), (())
  | \( \s* (?:{_NOISES}) [^()]* \)                 # (laughs)
  | [(\uff08] \s* (?:{_ELSEWHERE}) \s* [)\uff09]     # (risas), and those of East Asian width
  | \uff3b [^\uff3b\uff3d]* \uff3d | \u3010 [^\u3010\u3011]* \u3011
  | \* \s* (?:{_NOISES}) [^*]* \*                  # *coughs*
  | (?<!\S) % [^\W\d_] [\w-]*                      # %hesitation
  | (?<!\w) \+\+? [^\W\d_] [\w-]* \+\+? (?!\w)     # ++noise++, and not a+b+c
  | [\u2669-\u266c]+                               # notes
    """,
    re.VERBOSE | re.IGNORECASE,
)


REMEDY = "--tags drop takes tags out, --tags keep teaches and scores them as they are written"


def tags_in(text: str) -> list[str]:
    """The tags of a text, as they are written there, in their order."""
    return _TAG.findall(text)


def without_tags(text: str) -> str:
    """The text without its tags, white space collapsed."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(_TAG.sub(" ", text).split()))


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a tag."""
    end = 0
    for found in _TAG.finditer(text):
        yield text[end : found.start()], False
        yield found.group(), True
        end = found.end()
    yield text[end:], False


def counted(texts: Iterable[str], most: int = 5) -> str:
    """The tags of several texts with their counts, most frequent first: `<COMMA> 230, <MUSIC> 12 and 3 others`."""
    counts = Counter(tag for text in texts for tag in tags_in(text))
    named = ", ".join(f"{tag[:40]} {count}" for tag, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
    return named + (f" and {len(counts) - most} others" if len(counts) > most else "")
