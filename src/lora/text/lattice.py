"""Word lattices: a text as all that may be said for it, and the alignment of two with the fewest edits. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lora.text.numerals import NUMBER_WORDS, ONES, ORDINALS, SCALE_WORDS, TEENS, TENS, UNIT_ORDINALS, UNITS_WORDS, Reading

APART = "|"
"""Separates two written numbers that would read as another one without a break: `20 1` is not 21."""

Edge = tuple[str | None, int]
"""A word, or None for nothing said, and the node after it."""

States = dict[str, int]
"""Where the lattice may continue: a node for each kind of word that came last."""


class Lattice:
    """A directed graph of words. Edges lead to nodes of higher numbers; `end` is the last node."""

    def __init__(self) -> None:
        self.edges: list[list[Edge]] = [[]]
        self.states: States = {"other": 0}

    def node(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def read(self, readings: Iterable[Reading], *, written: bool) -> None:
        """Continues with one of the readings; `written` ones are of digits."""
        found = [(entered, reading) for reading in readings for entered in self.states.items()]
        self._join([(node, self._apart(kind, reading, written), _kind(reading, written, kind)) for (kind, node), reading in found])

    def digits(self, text: str, also: Iterable[Reading] = ()) -> None:
        """Continues with digits, read one by one or in pairs, or with one of the readings `also`."""
        entry = dict(self.states)
        places: list[list[tuple[int, Reading, str]]] = [[] for _ in range(len(text) + 1)]
        states = entry
        for place in range(len(text)):
            if place:
                states = self._merged(places[place])
            for size, reading in _chunks(text[place : place + 2]):
                for kind, node in states.items():
                    if place == 0 or not _joins(kind, reading[0], True):
                        words = self._apart(kind, reading, True) if place == 0 else reading
                        places[place + size].append((node, words, _kind(reading, True, kind)))
        for reading in also:
            places[-1] += [(node, self._apart(kind, reading, True), _kind(reading, True, kind)) for kind, node in entry.items()]
        self._join(places[-1])

    def branch(self, branches: Sequence[States]) -> None:
        """Continues after any of several parts that were built from the same place."""
        self._join([(node, (), kind) for states in branches for kind, node in states.items()])

    def closed(self) -> "Lattice":
        """Ends the lattice in one node."""
        self._join([(node, (), "other") for node in self.states.values()])
        return self

    def _join(self, ways: Iterable[tuple[int, Reading, str]]) -> None:
        self.states = self._merged(ways)

    def _merged(self, ways: Iterable[tuple[int, Reading, str]]) -> States:
        """The nodes after words from nodes; ways of one kind meet."""
        by_kind: dict[str, list[tuple[int, Reading]]] = {}
        for node, words, kind in ways:
            by_kind.setdefault(kind, []).append((node, words))
        inner = {kind: [self._before_last(node, words) for node, words in found] for kind, found in by_kind.items()}
        states: States = {}
        for kind, ends in inner.items():
            states[kind] = self.node()
            for node, word in ends:
                self.edges[node].append((word, states[kind]))
        return states

    def _before_last(self, node: int, words: Reading) -> tuple[int, str | None]:
        for word in words[:-1]:
            following = self.node()
            self.edges[node].append((word, following))
            node = following
        return node, words[-1] if words else None

    def _apart(self, kind: str, reading: Reading, written: bool) -> Reading:
        return (APART, *reading) if reading and _joins(kind, reading[0], written) else reading


def _chunks(text: str) -> Iterable[tuple[int, Reading]]:
    """The first digit as a word, and the first two as one number where they are."""
    yield 1, (ONES[int(text[0])],)
    if text[0] == "0":
        yield 1, ("oh",)
    if len(text) == 2 and text[0] != "0":
        number = int(text)
        yield 2, (TEENS[number - 10],) if number < 20 else (TENS[number // 10], *([ONES[number % 10]] if number % 10 else []))


def _kind(reading: Reading, written: bool, before: str) -> str:
    """What may not follow: `tens` and `hundreds` are of digits, `spelled tens` of letters."""
    if not reading:
        return before
    last = reading[-1]
    if last in TENS:
        return "tens" if written else "spelled tens"
    if written and last in SCALE_WORDS:
        return "hundreds"
    return "number" if written and last in NUMBER_WORDS else "other"


def _joins(kind: str, word: str, written: bool) -> bool:
    """Whether a word would be taken as part of the number before it, which it is not."""
    if kind == "tens":
        return word in UNITS_WORDS or word in UNIT_ORDINALS
    if kind == "hundreds":
        return word in NUMBER_WORDS and (written or word not in SCALE_WORDS)
    if kind == "spelled tens":
        return written and (word in UNITS_WORDS or word in UNIT_ORDINALS)
    return kind == "number" and written and word in ORDINALS


_Cell = tuple[int, int, int, int, int]
"""Errors, hits below zero, substitutions, deletions, insertions: the least is the best."""


class Edits(NamedTuple):
    """What turns a way through one lattice into a way through another."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int


def fewest_edits(reference: Lattice, hypothesis: Lattice) -> Edits:
    """Counts of the best alignment of any way through one lattice with any way through the other; of equal ones that with most hits."""
    above = (1 << 60, 0, 0, 0, 0)
    rows: list[list[_Cell]] = [[above] * len(hypothesis.edges) for _ in reference.edges]
    rows[0][0] = (0, 0, 0, 0, 0)
    for place, edges in enumerate(reference.edges):
        row = rows[place]
        for other, said in enumerate(hypothesis.edges):
            if row[other] is not above:
                _relax(rows, place, other, edges, said)
    _, hits, substitutions, deletions, insertions = rows[-1][-1]
    return Edits(-hits, substitutions, deletions, insertions)


def _relax(rows: list[list[_Cell]], place: int, other: int, edges: list[Edge], said: list[Edge]) -> None:
    row = rows[place]
    errors, hits, substitutions, deletions, insertions = cell = row[other]
    for word, goal in said:
        found = cell if word is None else (errors + 1, hits, substitutions, deletions, insertions + 1)
        row[goal] = min(row[goal], found)
    for word, goal in edges:
        following = rows[goal]
        found = cell if word is None else (errors + 1, hits, substitutions, deletions + 1, insertions)
        following[other] = min(following[other], found)
        if word is None:
            continue
        for heard, behind in said:
            if heard == word:
                following[behind] = min(following[behind], (errors, hits - 1, substitutions, deletions, insertions))
            elif heard is not None:
                following[behind] = min(following[behind], (errors + 1, hits, substitutions + 1, deletions, insertions))
