"""The training loop. It is given training and dev examples, and never the test sets."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from lora.adapter import Adapted, in_encoder, merged, restore, state
from lora.config import TrainConfig
from lora.decode import DecodeSettings
from lora.decoder import Decoder
from lora.errors import TrainingError
from lora.evaluate import Evaluation, Example, evaluate
from lora.features import Features
from lora.model_utils import Speech, pad_labels
from lora.units import Seconds

Status = Literal["finished", "stopped-early"]

FUSED = ("cpu", "cuda")
"""Devices whose AdamW updates all parameters in one kernel: an adapter has a hundred small ones."""

LENGTH_POOL_BATCHES = 16
"""Batches whose utterances are sorted by length together: little padding, and the order still differs in each epoch."""

GUARD_TOLERANCE = 0.002
"""Rise of the guard WER, as a ratio, that costs a step nothing when the best one is chosen: the gate's default, or one word where the
guard set is too small to show less."""


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

    status: Status
    best_step: int
    steps: int
    history: tuple[Step, ...]
    audio_seconds: Seconds
    """Audio that went through the model, replay and repetitions included."""
    seconds: Seconds
    """Time in optimizer updates, evaluations left out."""


@dataclass(frozen=True)
class TrainData:
    """What training may see. `guard` is general speech that helps to choose the step; without it only `dev` does."""

    domain: Sequence[Example]
    dev: Sequence[Example]
    replay: Sequence[Example] = ()
    guard: Sequence[Example] = ()


@dataclass(frozen=True)
class Progress:
    """What the loop reports: `update(step, steps, loss, audio seconds per second)` and `evaluated(step, is best)`."""

    update: Callable[[int, int, float, float], None] = lambda _step, _steps, _loss, _speed: None
    evaluated: Callable[[Step, bool], None] = lambda _step, _best: None


class _SummedLoss(nn.Module):
    """The model as a function from a batch to its summed loss, so that a wrapper for several devices sees one `forward`."""

    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.network = adapted.peft
        self._decoder = Decoder(adapted.speech)

    def forward(self, features: Features, examples: Sequence[Example]) -> Tensor:
        encoded = features.batch([example.utterance for example in examples])
        return self._decoder.loss_sum(encoded, pad_labels([example.labels for example in examples], self._decoder.speech.device))


@dataclass
class _Window:
    """Sums since the last evaluation."""

    nats: float = 0.0
    tokens: int = 0
    audio_s: float = 0.0
    busy_s: float = 0.0

    def add(self, other: "_Window") -> "_Window":
        return _Window(self.nats + other.nats, self.tokens + other.tokens, self.audio_s + other.audio_s, self.busy_s + other.busy_s)


def steps_per_epoch(config: TrainConfig, utterances: int) -> int:
    """Optimizer updates in one pass over the domain; a trailing partial accumulation counts as one."""
    return math.ceil(math.ceil(utterances / config.batch_size) / config.gradient_accumulation_steps)


def planned_steps(config: TrainConfig, utterances: int) -> int:
    """Optimizer updates of the whole training."""
    steps = max(1, math.ceil(config.epochs * steps_per_epoch(config, utterances)))
    return min(steps, config.max_steps) if config.max_steps is not None else steps


def train(
    adapted: Adapted,
    data: TrainData,
    features: Features,
    config: TrainConfig,
    decode: DecodeSettings,
    eval_batch_size: int,
    progress: Progress = Progress(),
) -> TrainOutcome:
    """Trains the adapter and leaves the best step's weights in it.

    The best step is the one with the lowest dev loss among those that `eligible` lets through. The base model, step 0, takes
    part: training that only does harm ends with an adapter that does
    nothing. Raises `TrainingError` when the loss is not finite.
    """
    set_seed(config.seed)
    accelerator = Accelerator(cpu=adapted.speech.device.type == "cpu")
    per_epoch, steps = steps_per_epoch(config, len(data.domain)), planned_steps(config, len(data.domain))
    interval = config.eval_interval or math.ceil(per_epoch / 2)
    optimizer = torch.optim.AdamW(
        parameter_groups(adapted, config), weight_decay=config.weight_decay, fused=adapted.speech.device.type in FUSED
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.warmup_steps, steps))
    network, optimizer, schedule = accelerator.prepare(_SummedLoss(adapted), optimizer, schedule)
    selection = _Selection(adapted, data, features, decode, eval_batch_size, config.patience, progress)
    selection.consider(0, 0.0, None, 0.0)
    total, window, step = _Window(), _Window(), 0
    adapted.peft.train()
    for update in itertools.islice(_updates(data, config), steps):
        step += 1
        rate = schedule.get_last_lr()[0]
        spent = _update(accelerator, network, optimizer, schedule, features, update, config.max_grad_norm)
        if not math.isfinite(spent.nats):
            raise TrainingError(f"step {step}: the loss is {spent.nats}; lower --learning-rate, or train with --precision float32")
        total, window = total.add(spent), window.add(spent)
        progress.update(step, steps, window.nats / window.tokens, window.audio_s / window.busy_s)
        if step % interval == 0 or step == steps:
            selection.consider(step, step / per_epoch, window, rate)
            window = _Window()
        if selection.exhausted:
            break
    selection.restore_best()
    return TrainOutcome(
        status="stopped-early" if step < steps else "finished",
        best_step=selection.best_step,
        steps=step,
        history=tuple(selection.history),
        audio_seconds=Seconds(total.audio_s),
        seconds=Seconds(total.busy_s),
    )


def _update(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: Any,
    schedule: Any,
    features: Features,
    update: "Update",
    max_grad_norm: float,
) -> _Window:
    """One optimizer update: the mean loss over all tokens of all its batches, whatever their number and sizes."""
    started = time.perf_counter()
    tokens = sum(len(example.labels) for batch in update for example in batch)
    nats = 0.0
    for batch in update:
        loss = network(features, batch)
        accelerator.backward(loss / tokens)
        nats += loss.item()
    if math.isfinite(nats):
        accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    audio_s = sum(example.length_s for batch in update for example in batch)
    return _Window(nats, tokens, audio_s, time.perf_counter() - started)


class _Selection:
    """Evaluates on dev and guard, and keeps the best weights seen."""

    def __init__(
        self,
        adapted: Adapted,
        data: TrainData,
        features: Features,
        decode: DecodeSettings,
        batch_size: int,
        patience: int,
        progress: Progress,
    ) -> None:
        self._adapted, self._data, self._features = adapted, data, features
        self._decode, self._batch_size, self._patience, self._progress = decode, batch_size, patience, progress
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._said: dict[str, list[str]] = {}
        self._misses = 0
        self._guard_words = 0
        self.best_step = 0
        self.history: list[Step] = []

    @property
    def exhausted(self) -> bool:
        return self._misses >= self._patience

    def consider(self, number: int, epoch: float, window: _Window | None, learning_rate: float) -> None:
        started = time.perf_counter()
        with merged(self._adapted) as speech:
            dev = self._evaluate("dev", speech, self._data.dev)
            guard = self._evaluate("guard", speech, self._data.guard) if self._data.guard else None
        if guard is not None:
            self._guard_words = guard.score.words.reference_length
        step = Step(
            step=number,
            epoch=epoch,
            train_loss=window.nats / window.tokens if window else None,
            dev_loss=dev.loss,
            dev_wer=dev.score.wer,
            guard_loss=guard.loss if guard else None,
            guard_wer=guard.score.wer if guard else None,
            learning_rate=learning_rate,
            seconds=Seconds(time.perf_counter() - started),
        )
        self.history.append(step)
        self._weights[number] = state(self._adapted)
        kept = eligible(self.history, dev.score.words.reference_length, self._guard_words)
        self._weights = {other.step: self._weights[other.step] for other in kept}  # once out, a step never comes back
        self.best_step = min(kept, key=lambda other: other.dev_loss).step
        self._misses = 0 if self.best_step == number else self._misses + 1
        self._progress.evaluated(step, self.best_step == number)

    def restore_best(self) -> None:
        restore(self._adapted, self._weights[self.best_step])
        self._adapted.peft.eval()

    def _evaluate(self, name: str, speech: Speech, examples: Sequence[Example]) -> Evaluation:
        """The last step's transcripts are drafts for this one's."""
        found = evaluate(speech, examples, self._features, self._decode, self._batch_size, expected=self._said.get(name))
        self._said[name] = [row.hypothesis for row in found.score.utterances]
        return found


def allowed_rise(guard_words: int) -> float:
    """Rise of the guard WER, as a ratio, that counts as none."""
    return max(GUARD_TOLERANCE, 1 / guard_words)


def eligible(history: Sequence[Step], dev_words: int, guard_words: int) -> list[Step]:
    """The steps that dev and guard cannot tell from the best one; of these the lowest dev loss decides.

    A step costs its dev WER, and what its guard WER has risen beyond `GUARD_TOLERANCE` or one word. The cheapest is eligible, and
    so is every step that spares the guard and is within one standard error of it: on a few hundred words two more errors are
    chance, and the loss, which every token takes part in, tells more.
    """
    base = history[0].guard_wer or 0.0
    allowed = allowed_rise(guard_words) if guard_words else math.inf
    excess = [max(0.0, (step.guard_wer or 0.0) - base - allowed) for step in history]
    costs = [step.dev_wer + over for step, over in zip(history, excess, strict=True)]
    least = min(costs)
    margin = math.sqrt(least / dev_words)  # of a count of errors the standard error is its square root
    return [
        step for step, cost, over in zip(history, costs, excess, strict=True) if cost == least or (over == 0.0 and cost <= least + margin)
    ]


Update = list[list[Example]]
"""The batches of one optimizer update. Domain and replay come in batches of their own: their lengths differ too much to pad."""


def _updates(data: TrainData, config: TrainConfig) -> Iterator[Update]:
    """Endless updates, epoch after epoch, in an order that the seed decides."""
    replay = _cycle(data.replay, config.seed)
    owed = 0.0
    for epoch in itertools.count():
        batches = _epoch_batches(data.domain, config.batch_size, random.Random(f"{config.seed} domain {epoch}"))
        for start in range(0, len(batches), config.gradient_accumulation_steps):
            update: Update = []
            for batch in batches[start : start + config.gradient_accumulation_steps]:
                update.append(batch)
                if data.replay:
                    owed += config.replay_ratio * len(batch)
                    if count := int(owed):
                        update.append(list(itertools.islice(replay, count)))
                        owed -= count
            yield update


def _epoch_batches(examples: Sequence[Example], size: int, order: random.Random) -> list[list[Example]]:
    """Batches of similar length in random order: shuffled, sorted by length within pools, cut, shuffled again."""
    shuffled = list(examples)
    order.shuffle(shuffled)
    pool = size * LENGTH_POOL_BATCHES
    pooled = [
        example for start in range(0, len(shuffled), pool) for example in sorted(shuffled[start : start + pool], key=lambda e: e.length_s)
    ]
    batches = [pooled[start : start + size] for start in range(0, len(pooled), size)]
    order.shuffle(batches)
    return batches


def _cycle(examples: Sequence[Example], seed: int) -> Iterator[Example]:
    for number in itertools.count():
        shuffled = list(examples)
        random.Random(f"{seed} replay {number}").shuffle(shuffled)
        yield from shuffled


def parameter_groups(adapted: Adapted, config: TrainConfig) -> list[dict[str, Any]]:
    """The optimizer's groups, each with its peak rate: the decoder's parameters, then the encoder's; one where the rates are equal."""
    if adapted.full or config.learning_rate == config.encoder_learning_rate:
        return [{"params": adapted.parameters(), "lr": config.full_learning_rate if adapted.full else config.learning_rate}]
    named = [(name, parameter) for name, parameter in adapted.peft.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in named if in_encoder(name) == encoder], "lr": peak}
        for encoder, peak in ((False, config.learning_rate), (True, config.encoder_learning_rate))
    ]
    return [group for group in groups if group["params"]]


def learning_rate(adapted: Adapted, config: TrainConfig, step: int, steps: int) -> float:
    """The rate of update `step` of `steps`, counted from one: the decoder's, or the encoder's where it alone trains."""
    peak: float = parameter_groups(adapted, config)[0]["lr"]
    return peak * _rate(step - 1, config.warmup_steps, steps)


def _rate(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up to the peak, then linear decay towards zero, as a factor of the peak; no update has a rate of zero."""
    warmup = min(warmup, steps // 2)  # a run shorter than twice the warm-up would never train at its rate
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup))
