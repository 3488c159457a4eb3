"""Shows a run's progress: stages and bars on stderr, the result on stdout."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from lora.language import traits
from lora.runs.export_record import Exported
from lora.runs.record import RunRecord, SetResult
from lora.system.terminal import shown
from lora.units import Seconds


class Display:
    """Stages and progress on stderr. Where that is no terminal, bars are left out and each stage is a line."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self.seconds: dict[str, Seconds] = {}
        self._open: tuple[str, float] | None = None

    def seconds_so_far(self) -> dict[str, Seconds]:
        """Wall time by stage, including the current one."""
        if self._open is None:
            return dict(self.seconds)
        name, started = self._open
        return self.seconds | {name: Seconds(self.seconds.get(name, 0.0) + time.perf_counter() - started)}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announces a stage and books its wall time under `name`."""
        self.console.print(shown(title), style="bold", markup=False, soft_wrap=True)
        self._open = (name, time.perf_counter())
        yield
        self.seconds = self.seconds_so_far()
        self._open = None

    @contextmanager
    def bar(self, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """A progress bar; the function takes how many more are done and a remark such as the loss."""
        columns = (
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TextColumn("{task.fields[remark]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task("", total=total, remark="")

            def advance(count: int, remark: str = "") -> None:
                progress.update(task, advance=count, remark=shown(remark))

            yield advance

    def result(self, table: Table) -> None:
        """Prints a table on stdout, at full width where stdout is no terminal."""
        Console(width=None if self.console.is_terminal else 120, highlight=False).print(table)

    def line(self, text: str) -> None:
        self.console.print(f"  {shown(text)}", markup=False, soft_wrap=True)


def result_table(record: RunRecord) -> Table:
    """Before and after on both test sets, with 95 % intervals."""
    spoken = traits(record.config.model.language)
    table = Table(title=escape(f"{shown(record.checkpoint.model_id)}: {spoken.unit} error rate and loss"), title_justify="left")
    for heading in ("set", f"baseline {spoken.metric}", f"tuned {spoken.metric}", "change (95 % interval)", "baseline loss", "tuned loss"):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for name, result in (("domain", record.domain), ("held-out", record.heldout)):
        if result is not None:
            table.add_row(name, *_cells(result))
    return table


def _cells(result: SetResult) -> tuple[str, ...]:
    change = result.comparison
    return (
        f"{100 * result.baseline.score.wer:.2f} %",
        f"{100 * result.tuned.score.wer:.2f} %",
        f"{100 * change.difference:+.2f} ({100 * change.interval.low:+.2f} to {100 * change.interval.high:+.2f}) points",
        f"{result.baseline.loss:.3f}",
        f"{result.tuned.loss:.3f}",
    )


def export_table(exported: Exported) -> Table:
    """What the proof of each target showed, a line for each test set."""
    table = Table(
        title=escape(f"{shown(exported.model_id)}: {traits(exported.language).unit} error rate in PyTorch and in the runtime"),
        title_justify="left",
    )
    for heading in ("target", "MB", "set", "base", "tuned", "runtime", "same as tuned", "same as base", "real-time factor", "median"):
        table.add_column(heading, justify="left" if heading in ("target", "set") else "right")
    for name, target in exported.targets.items():
        made = (f"{name} {target.precision}", f"{target.bytes / 1e6:.1f}")
        if target.proof is None:
            table.add_row(*made, "not proven")
            continue
        speed = target.proof.speed
        times = (f"{speed.real_time_factor:.3f}", f"{1000 * speed.median_s:.0f} ms") if speed else ("", "")
        for part, proof in target.proof.sets.items():
            rates = (f"{100 * rate.wer:.2f} %" for rate in (proof.base, proof.tuned, proof.export))
            alike = (f"{agreement.normalised}/{proof.utterances}" for agreement in (proof.like_tuned, proof.like_base))
            table.add_row(*made, part, *rates, *alike, *times)
    return table
