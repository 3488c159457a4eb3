"""The page of a sweep: which settings mattered, and dev and guard of every trial. It opens from disk, without a network."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from lora.report import charts, pages
from lora.runs.trials import Sweep, Trial
from lora.system.files import write_text

FEW = 3
"""Values of a setting that are shown as a table, not as a chart."""


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a setting that has few, or is no number."""

    value: str
    trials: int
    best: float | None
    middle: float | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting and the results of the trials by its values: a chart for a number, a table for anything else."""

    name: str
    chart: charts.Plot | None
    options: tuple[Option, ...]


def write_page(found: Sweep, file: Path) -> None:
    """Writes the page; it is whole after each trial, of what there is so far."""
    from markupsafe import Markup

    environment = pages.environment()
    environment.filters["percent"] = lambda ratio: f"{100 * ratio:.2f}\N{NO-BREAK SPACE}%"
    environment.filters["short"] = lambda name: name.rpartition(".")[2]
    style = files("lora.report").joinpath("report.css").read_text(encoding="utf-8")
    page = environment.get_template("sweep.html.j2").render(
        found=found, style=Markup(style), course=_course(found), settings=list(_settings(found)), names=found.names
    )
    write_text(file, page)


def _costed(found: Sweep) -> list[tuple[Trial, float]]:
    return [(trial, trial.cost) for trial in found.trials if trial.state == "finished" and trial.cost is not None]


def _course(found: Sweep) -> charts.Plot | None:
    """Each finished trial's cost, and the lowest until then."""
    costed = _costed(found)
    if not costed or found.winner is None:
        return None
    lowest = [min(cost for _, cost in costed[: place + 1]) for place in range(len(costed))]
    series = (
        ("trial", "series-train", [(trial.number, cost) for trial, cost in costed]),
        ("lowest so far", "series-dev", [(trial.number, least) for (trial, _), least in zip(costed, lowest, strict=True)]),
    )
    return charts.curves(series, x_title="trial", y_title="cost", label=_short, highlight=(found.winner, f"winner {found.winner}"))


def _settings(found: Sweep) -> Iterator[Setting]:
    costed = _costed(found)
    for name in found.names:
        values = [(found.value(trial, name), cost) for trial, cost in costed]
        different = sorted({value for value, _ in values}, key=lambda value: (isinstance(value, str), value))
        if len(different) > FEW and not any(isinstance(value, str) for value in different):
            yield Setting(name, charts.points([(float(value), cost) for value, cost in values], x_title=name, label=_short), ())
        elif different:
            yield Setting(name, None, tuple(_option(value, [cost for own, cost in values if own == value]) for value in different))


def _option(value: object, costs: list[float]) -> Option:
    return Option(str(value), len(costs), min(costs, default=None), median(costs) if costs else None)


def _short(ratio: float) -> str:
    return f"{100 * ratio:.3g}\N{NO-BREAK SPACE}%"
