"""What the stages of a run found, as plain values that its record holds: no PyTorch is needed to read them. `scoring.gate` judges them."""

from typing import Literal

import msgspec

from lora.scoring.counts import Score
from lora.units import Seconds


class Augmentation(msgspec.Struct, frozen=True, kw_only=True):
    """What augmentation added to a run."""

    copies: int
    """Of each training utterance."""
    clips: int
    seconds: Seconds
    joined: int
    """Clips that hold several utterances."""
    scaled: int
    """Clips that were turned down as a whole so as not to clip."""
    folder: str

    @property
    def sentence(self) -> str:
        scaled = f", {self.scaled} turned down so as not to clip" if self.scaled else ""
        joined = f", {self.joined} of several utterances" if self.joined else ""
        return f"{self.clips} augmented clips ({self.copies} of each utterance{joined}{scaled}) add {self.seconds / 60:.1f} min"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Error rates, and the loss in nats per token of the reference, end token included."""

    score: Score
    loss: float


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One dev evaluation. Step 0 is the base model."""

    step: int
    epoch: float
    train_loss: float | None
    """Mean over the updates since the last evaluation, in nats per token."""
    dev_loss: float
    dev_wer: float
    guard_loss: float | None = None
    guard_wer: float | None = None
    learning_rate: float = 0.0
    seconds: Seconds = Seconds(0.0)


class TrainOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How training went. The adapter holds the weights of `best_step` when it is returned."""

    status: Literal["finished", "stopped-early"]
    best_step: int
    steps: int
    history: tuple[Step, ...]
    audio_seconds: Seconds
    """Audio that went through the model, replay and repetitions included."""
    seconds: Seconds
    """Time in optimizer updates, evaluations left out."""

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second; None if nothing was trained."""
        return self.audio_seconds / self.seconds if self.steps else None


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """One share of the update on dev and guard, as ratios and nats per token."""

    strength: float
    dev_wer: float
    dev_loss: float
    guard_wer: float
    guard_loss: float
