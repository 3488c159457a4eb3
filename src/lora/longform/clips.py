"""Clips of a long recording that say words of its script: pieces, parts of pieces, and those that are left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Final

from lora.audio.loading import FileAudio, Span, Waveform, prepare
from lora.audio.streaming import parts
from lora.longform.pieces import Piece
from lora.longform.recording import Listener
from lora.longform.script import RUN, Match, Reading, borders, confirmed
from lora.longform.seams import plain
from lora.longform.spelling import as_in_script
from lora.passages import Passage, Word
from lora.units import Samples, Seconds

PAUSE_S: Final = 0.12
"""Between words where a passage may be cut: most word times are within 0.1 s."""

EDGE_S: Final = 0.3
"""Most that a part keeps of the pauses around it."""

SHORTEST_S: Final = 1.0
AT_ONCE: Final = 3
"""Places between clips of which the model is asked at once: each has two clips, and up to five texts of each."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A passage of the recording and what it says of the script."""

    passage: Passage
    match: Match

    @property
    def times(self) -> str:
        return f"{self.passage.start_s:.1f} to {self.passage.end_s:.1f} s"

    @property
    def span(self) -> Span:
        return Span.between(self.passage.start_s, self.passage.end_s)


@dataclass(frozen=True)
class Source:
    """The recording, the model that hears it, and the script."""

    file: FileAudio
    listener: Listener
    script: Sequence[str]
    """The script as it is written."""
    most_errors: float

    def sounds(self, clips: Sequence[Clip]) -> Iterator[Waveform]:
        """The sound of clips, which begin in their order."""
        settings = self.listener.audio
        return (prepare(samples, settings, str(self.file)) for samples in parts(self.file, [clip.span for clip in clips]))


def aligned(source: Source, passages: Sequence[Passage]) -> list[Clip]:
    """All passages, whole or in parts, in order, with what each says of the script or why it is left out."""
    spoken = [[word for word in passage.words or () if plain(word.text)] for passage in passages]
    spoken = as_in_script(spoken, source.script, source.listener.language)
    script = [plain(word) for word in source.script]
    times = [(float(word.start_s), float(word.end_s)) for words in spoken for word in words]
    pauses_s = [after[0] - before[1] for before, after in pairwise([(0.0, 0.0), *times])]
    reading = Reading([[plain(word.text) for word in words] for words in spoken], script, source.most_errors, pauses_s)
    found = _whole(reading, passages)
    tried = [
        clip if clip.match.reason is None else _divided(reading, clip, words, said)
        for clip, words, said in zip(found, reading.passages, spoken, strict=True)
    ]
    divided = [part for one in tried if isinstance(one, list) for part in one if part.match.reason is None]
    heard = iter(source.listener(_pieces(source, divided))[0].passages if divided else ())
    clips = list[Clip]()
    for one in tried:
        if isinstance(one, Clip):
            clips.append(one)
            continue
        clips += [_checked(source, part, next(heard), script) if part.match.reason is None else part for part in one]
    return _settled(source, clips)


def _whole(reading: Reading, passages: Sequence[Passage]) -> list[Clip]:
    """Each passage with its match; it has to be sure where a text begins and ends, unless the next one is there at once."""
    found = [reading.match(words) for words in reading.passages]
    for number, (match, words) in enumerate(zip(found, reading.passages, strict=True)):
        before, after = (found[at] if 0 <= at < len(found) else None for at in (number - 1, number + 1))
        begins = reading.begins(words) or (before is not None and before.reason is None and 0 <= match.start - before.stop <= RUN)
        ends = reading.ends(words) or (after is not None and after.reason is None and 0 <= after.start - match.stop <= RUN)
        if match.reason is None and not (begins and ends):
            found[number] = replace(match, reason="it is unclear with which word of the script it begins or ends")
    return [Clip(*pair) for pair in zip(passages, found, strict=True)]


def _divided(reading: Reading, clip: Clip, words: range, said: Sequence[Word]) -> list[Clip]:
    """A passage that is left out as parts that say words of the script, and what is left between them."""
    gaps = {words.start + place: (float(a.end_s), float(b.start_s)) for place, (a, b) in enumerate(pairwise(said), start=1)}
    pauses = [place for place, (start_s, end_s) in gaps.items() if end_s - start_s >= PAUSE_S]
    found, at, since_s = list[Clip](), words.start, float(clip.passage.start_s)
    for part in reading.parts(words, pauses):
        start_s = since_s if part.start == words.start else max(sum(gaps[part.start]) / 2, gaps[part.start][1] - EDGE_S)
        end_s = float(clip.passage.end_s) if part.stop == words.stop else min(sum(gaps[part.stop]) / 2, gaps[part.stop][0] + EDGE_S)
        if end_s - start_s < SHORTEST_S:
            continue
        if part.start > at:
            found.append(_left(clip, since_s, start_s, said[at - words.start : part.start - words.start]))
        mine = said[part.start - words.start : part.stop - words.start]
        found.append(Clip(_part(clip.passage, start_s, end_s, mine), reading.match(part)))
        at, since_s = part.stop, end_s
    if at < words.stop or not words:
        found.append(_left(clip, since_s, float(clip.passage.end_s), said[at - words.start :]))
    return found


def _left(clip: Clip, start_s: float, end_s: float, said: Sequence[Word]) -> Clip:
    return Clip(_part(clip.passage, start_s, end_s, said), clip.match)


def _part(passage: Passage, start_s: float, end_s: float, said: Sequence[Word]) -> Passage:
    text = " ".join(word.text for word in said)
    return Passage(start_s=Seconds(start_s), end_s=Seconds(end_s), text=text, capped=passage.capped, words=tuple(said))


def _pieces(source: Source, clips: Sequence[Clip]) -> Iterator[Piece]:
    for clip, samples in zip(clips, source.sounds(clips), strict=True):
        yield Piece(0, Samples(clip.span.start), samples, None, True, Samples(clip.span.start + len(samples)))


def _checked(source: Source, part: Clip, heard: Passage, script: Sequence[str]) -> Clip:
    """A part decoded alone; left out if that gives a different text."""
    match = part.match
    written = source.script[match.start : match.stop]
    (said,) = as_in_script([[word for word in heard.words or () if plain(word.text)]], written, source.listener.language)
    if said and confirmed([plain(word.text) for word in said], script, match, source.most_errors):
        return part
    return replace(part, match=replace(match, reason="says something else when it is heard alone"))


def _settled(source: Source, clips: Sequence[Clip]) -> list[Clip]:
    """Words between two clips that the model missed in both go to the clip where it finds them likelier."""
    settled = list(clips)
    places = [place for place in range(1, len(clips)) if borders(clips[place - 1].match, clips[place].match)]
    sounds = source.sounds([clips[number] for place in places for number in (place - 1, place)])
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        both = list(islice(sounds, 2 * len(some)))
        for place, border in zip(some, _likeliest(source, [clips[place - 1 : place + 1] for place in some], both), strict=True):
            settled[place - 1] = replace(settled[place - 1], match=replace(settled[place - 1].match, stop=border))
            settled[place] = replace(settled[place], match=replace(settled[place].match, start=border))
    return settled


def _likeliest(source: Source, neighbours: Sequence[Sequence[Clip]], sounds: Sequence[Waveform]) -> list[int]:
    """Between which words of the script each two neighbours divide it: where both texts together are likeliest."""
    ways = [(number, border) for number, (before, after) in enumerate(neighbours) for border in borders(before.match, after.match)]
    asked = list[tuple[int, str]]()
    for number, border in ways:
        before, after = neighbours[number]
        asked.append((2 * number, _text(source.script[before.match.start : border])))
        asked.append((2 * number + 1, _text(source.script[border : after.match.stop])))
    losses = source.listener.losses(sounds, asked)
    costs = [losses[2 * place] + losses[2 * place + 1] for place in range(len(ways))]
    best = [
        min((cost, border) for cost, (at, border) in zip(costs, ways, strict=True) if at == number) for number in range(len(neighbours))
    ]
    return [border for _, border in best]


def _text(words: Sequence[str]) -> str:
    """The script as the model would write it: text in capitals only is unlike any that it knows."""
    text = " ".join(words)
    return text.lower() if text.isupper() else text
