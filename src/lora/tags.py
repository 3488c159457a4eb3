"""Tags in transcripts: marks of a corpus that nobody says, such as `<COMMA>`, `[noise]`, `%hesitation`. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

TagRule = Literal["drop", "keep", "refuse"]
"""What becomes of tags: taken out of the transcripts, taught and scored as they are, or the manifest is refused."""

_NOISES = (
    "applause|background|beep|breath|clears?|cough|crosstalk|cry|foreign|gasp|hesitation|hum|inaudible|indistinct|laugh|music|noise|"
    "overlap|pause|phone|silence|sigh|sing|sniff|sound|speak|static|unclear|unintelligible|unk|whisper|yawn"
)
"""How the words begin that stand in single round brackets or between stars where they are tags; other words there are spoken ones."""

_TAG = re.compile(
    rf"""
    < [/|!]? [^\W\d_] [^<>]* >                 # <COMMA>, </s>, <|en|>, <background noise>
  | \[ [^\[\]]* \]                                 # [noise], [inaudible 00:12]
  | \{{ (?! [^{{}}]* \s/\s) [^{{}}]* \}}           # {{laugh}}, and not the alternatives {{a / b}}
  | \( \( .*? \)\)                                 # ((uncertain)), (())
  | \( \s* (?:{_NOISES}) [^()]* \)                 # (laughs)
  | \* \s* (?:{_NOISES}) [^*]* \*                  # *coughs*
  | (?<!\S) % [^\W\d_] [\w-]*                      # %hesitation
  | \+\+? [^\W\d_] [\w-]* \+\+?                    # ++noise++
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
