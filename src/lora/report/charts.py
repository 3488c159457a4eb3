"""Where the marks of a chart lie. Coordinates are those of an SVG, x to the right and y down; the template draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

WIDTH = 360
"""Every chart is as wide as a phone, so that its text is never scaled down below what can be read."""

Label = Callable[[float], str]
"""How a value is written at an axis."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 10, 40
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with what it says when it is pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A series; `style` is the CSS class that decides colour, dashes and the shape of its marks."""

    name: str
    style: str
    marks: tuple[Mark, ...]

    @property
    def path(self) -> str:
        return " ".join(f"{mark.x:g},{mark.y:g}" for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Plot:
    """A frame with its axes and what is in it. `summary` says in words what the chart shows."""

    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str
    lines: tuple[Line, ...] = ()
    highlight: Tick | None = None
    """A vertical rule."""


@dataclass(frozen=True, slots=True)
class Whisker:
    """A rate with its interval, on a row of its own."""

    name: str
    style: str
    y: float
    low: float
    at: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Whiskers:
    height: int
    bottom: float
    ticks: tuple[Tick, ...]
    headings: tuple[Tick, ...]
    rows: tuple[Whisker, ...]
    summary: str


def steps_to(high: float) -> tuple[float, ...]:
    """Round numbers from 0 to the first at or above `high`, at most six of them."""
    rough = max(high, 1e-6) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    return tuple(round(step * number, 10) for number in range(math.ceil(high / step - 1e-9) + 1 if high > 0 else 2))


@dataclass(frozen=True, slots=True)
class _Axes:
    """Two axes that start at 0, in a frame of a height: where values lie, and what is written beside them."""

    height: int
    x_steps: tuple[float, ...]
    y_steps: tuple[float, ...]

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM

    def x(self, value: float) -> float:
        return _scale(self.x_steps[-1], _LEFT, WIDTH - _RIGHT)(value)

    def y(self, value: float) -> float:
        return _scale(self.y_steps[-1], self.bottom, _TOP)(value)

    def plot(self, lines: Sequence[Line], titles: tuple[str, str], labels: tuple[Label, Label], summary: str) -> Plot:
        """The frame with these lines; titles and labels are those of x and y."""
        return Plot(
            height=self.height,
            left=_LEFT,
            right=WIDTH - _RIGHT,
            top=_TOP,
            bottom=self.bottom,
            x_title=titles[0],
            y_title=titles[1],
            x_ticks=tuple(Tick(self.x(value), labels[0](value)) for value in self.x_steps),
            y_ticks=tuple(Tick(self.y(value), labels[1](value)) for value in self.y_steps),
            lines=tuple(lines),
            summary=summary,
        )


def curves(
    series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    *,
    x_title: str,
    y_title: str,
    label: Label,
    highlight: tuple[float, str],
) -> Plot:
    """Series of (name, style, points of x and value), with a named rule at one x."""
    axes = _axes([point for _, _, points in series for point in points])
    lines = [
        Line(name, style, tuple(Mark(axes.x(at), axes.y(value), f"{name}, {x_title} {at:g}: {label(value)}") for at, value in points))
        for name, style, points in series
    ]
    ends = "; ".join(
        f"{name} from {label(points[0][1])} at {x_title} {points[0][0]:g} to {label(points[-1][1])} at {x_title} {points[-1][0]:g}"
        for name, _, points in series
    )
    plot = axes.plot(lines, (x_title, y_title), (_plain, label), f"{y_title} by {x_title}: {ends}; {highlight[1]}.")
    return replace(plot, highlight=Tick(axes.x(highlight[0]), highlight[1]))


def points(given: Sequence[tuple[float, float]], *, x_title: str, label: Label) -> Plot:
    """Costs of trials by a number from 0 on."""
    axes, name = _axes(given), x_title.rpartition(".")[2]
    marks = tuple(Mark(axes.x(at), axes.y(value), f"{name} {at:g}: {label(value)}") for at, value in given)
    least = min(given, key=lambda pair: pair[1])
    summary = f"Cost by {name} of {len(given)} trials: lowest {label(least[1])} at {least[0]:g}."
    return axes.plot([Line("trials", "series-dev", marks)], (name, "cost"), (_plain, label), summary)


def before_after(points: Sequence[tuple[str, str, str, float, float]], *, x_title: str, y_title: str, label: Label) -> Plot:
    """Rates (name, style, group, before, after) as points; those below the diagonal got better."""
    steps = steps_to(max(max(before, after) for *_, before, after in points))
    axes = _Axes(340, steps, steps)
    groups = list(dict.fromkeys((group, style) for _, style, group, _, _ in points))
    lines = [
        Line(
            group,
            style,
            tuple(Mark(axes.x(b), axes.y(a), f"{name} ({group}): {label(b)} to {label(a)}") for name, _, of, b, a in points if of == group),
        )
        for group, style in groups
    ]
    better, worse = (sum(1 for *_, b, a in points if sign * (a - b) > 0) for sign in (-1, 1))
    summary = f"{y_title} against {x_title} of {len(points)} speakers: {better} got better, {worse} got worse."
    return axes.plot(lines, (x_title, y_title), (label, label), summary)


def whiskers(
    groups: Sequence[tuple[str, Sequence[tuple[str, str, float, float, float]]]], *, label: Label, exact: Label, summary: str
) -> Whiskers:
    """Groups of rows (name, style, low, rate, high) over one axis that starts at 0."""
    steps = steps_to(max(high for _, rows in groups for *_, high in rows))
    x = _scale(steps[-1], 14, WIDTH - _RIGHT)
    y, headings, drawn = 0.0, [], []
    for heading, rows in groups:
        y += 20
        headings.append(Tick(y, heading))
        for name, style, low, rate, high in rows:
            y += 36
            drawn.append(Whisker(name, style, y, x(low), x(rate), x(high), f"{name} {exact(rate)} ({exact(low)} to {exact(high)})"))
        y += 16
    return Whiskers(
        height=round(y) + _BOTTOM,
        bottom=y,
        ticks=tuple(Tick(x(value), label(value)) for value in steps),
        headings=tuple(headings),
        rows=tuple(drawn),
        summary=summary,
    )


def _axes(points: Sequence[tuple[float, float]]) -> _Axes:
    """Axes that reach as far as these points."""
    return _Axes(240, steps_to(max(at for at, _ in points)), steps_to(max(value for _, value in points)))


def _plain(value: float) -> str:
    return f"{value:g}"


def _scale(high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (end - start) * value / high, 1)
