"""Reports a run's progress to the screen, the log and the trackers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lora.display import Display
from lora.language import Metric
from lora.runs.folder import RunLog
from lora.runs.outcomes import Augmentation, Evaluation, Step, Strength
from lora.runs.tracking import Trackers


@dataclass(frozen=True, slots=True)
class Reporter:
    """Screen, log and trackers of one run. `metric` is what its error rate is called."""

    log: RunLog
    trackers: Trackers
    display: Display
    metric: Metric

    def scores(self, when: str, evaluations: Mapping[str, Evaluation], *, step: int) -> None:
        """Scores of the test sets, `baseline` or `tuned`."""
        for name, evaluation in evaluations.items():
            score = evaluation.score
            looped = f", {len(score.capped)} clips at the token cap" if score.capped else ""
            self.display.line(f"{name:8} {score.metric} {100 * score.wer:.2f} %, loss {evaluation.loss:.3f}{looped}")
            self.log.write(
                when,
                set=name,
                wer=score.wer,
                cer=score.cer,
                raw_wer=score.raw_wer,
                raw_cer=score.raw_cer,
                loss=evaluation.loss,
                capped=score.capped,
            )
            self.trackers.log({f"{name}/{when}_wer": score.wer, f"{name}/{when}_loss": evaluation.loss}, step)

    def update(self, step: int, values: Mapping[str, float], advance: Callable[[int, str], None]) -> None:
        """One update of the weights: `loss`, `learning_rate`, `audio_seconds_per_second`. `advance` moves the bar."""
        advance(1, f"loss {values['loss']:.3f}, {values['audio_seconds_per_second']:.0f} s of audio per second")
        self.log.write("update", step=step, **values)
        self.trackers.log({f"train/{name}": value for name, value in values.items()}, step)

    def evaluated(self, step: Step, best: bool) -> None:
        """Scores of a step on dev and guard."""
        guard = f", guard {self.metric} {100 * step.guard_wer:.2f} %" if step.guard_wer is not None else ""
        self.display.line(
            f"step {step.step:5} dev {self.metric} {100 * step.dev_wer:.2f} %, loss {step.dev_loss:.3f}{guard}{' *' if best else ''}"
        )
        self.log.write("dev", best=best, **msgspec.structs.asdict(step))
        values = {"dev/wer": step.dev_wer, "dev/loss": step.dev_loss, "guard/wer": step.guard_wer, "guard/loss": step.guard_loss}
        self.trackers.log(values, step.step)

    def strengths(self, tried: Sequence[Strength], chosen: float) -> None:
        """The strengths that were tried, and the chosen one."""
        for one in tried:
            self.log.write("strength", **msgspec.structs.asdict(one))
            mark = " *" if one.strength == chosen else ""
            rates = f"dev {self.metric} {100 * one.dev_wer:.2f} %, guard {self.metric} {100 * one.guard_wer:.2f} %"
            self.display.line(f"strength {one.strength:.1f} {rates}{mark}")
        if chosen == 0.0:
            self.display.line("no share of the update keeps the guard within its limit: the saved adapter does nothing")

    def augmented(self, summary: Augmentation) -> None:
        """The copies that were made."""
        self.display.line(f"{summary.sentence}: {summary.folder}")
        self.log.write("augmentation", **msgspec.structs.asdict(summary))

    def damaged(self, names: Sequence[str], folder: Path) -> None:
        """Kept files that were damaged and have been made again."""
        self.display.line(f"{len(names)} files in {folder} were damaged and have been made again: check that disk")
        self.log.write("damaged", files=names)
