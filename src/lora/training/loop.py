"""The training loop. It is given training and dev examples, and never the test sets."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from accelerate.utils import set_seed
from torch import Tensor

from lora.config import TrainConfig
from lora.errors import DivergedError, LoraError, NotFiniteError, RunFolderError, StoppedError
from lora.evaluation.evaluate import NAMED, Evaluator, Example
from lora.model.decoder import Decoder
from lora.model.loading import LoadedModel, pad_labels
from lora.runs.outcomes import Evaluation, Step, TrainOutcome
from lora.system import distributed
from lora.system.files import sha256_bytes
from lora.system.process import give_back_memory
from lora.training.adapter import Adapted, in_encoder, merged, restore, state
from lora.training.checkpointing import Numbers, TrainState, Window
from lora.training.teaching import Teacher, taught_mask
from lora.units import Seconds

FUSED = ("cpu", "cuda")
"""Devices whose AdamW updates all parameters in one kernel: an adapter has a hundred small ones."""

LENGTH_POOL_BATCHES = 16
"""Batches whose utterances are sorted by length together: little padding, and the order still differs in each epoch."""

GUARD_TOLERANCE = 0.002
"""Rise of the guard WER, as a ratio, that does not count against a step: the gate's default, or one word if the guard set is too small to
show less."""


_ROUNDING = 1e-9
"""One word more must count as one word more: in binary numbers 8/10 is above 7/10 + 1/10."""


@dataclass(frozen=True)
class TrainData:
    """What training may see. `guard` is general speech that helps to choose the step; without it only `dev` does."""

    domain: Sequence[Example]
    dev: Sequence[Example]
    replay: Sequence[Example] = ()
    guard: Sequence[Example] = ()


@dataclass(frozen=True)
class Progress:
    """What the loop reports and asks: `update(step, steps, loss, audio seconds per second)`, `evaluated(step, is best)`,
    `save(state)` for a checkpoint, `stopping()`, whether to end as soon as one is saved, and `priced(cost)`, what a step costs (`costs`).
    """

    update: Callable[[int, int, float, float], None] = lambda _step, _steps, _loss, _speed: None
    evaluated: Callable[[Step, bool], None] = lambda _step, _best: None
    save: Callable[[TrainState], None] = lambda _state: None
    stopping: Callable[[], bool] = lambda: False
    priced: Callable[[float], None] = lambda _cost: None


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
    evaluator: Evaluator,
    config: TrainConfig,
    progress: Progress = Progress(),
    resumed: TrainState | None = None,
) -> TrainOutcome:
    """Trains the adapter and leaves the best step's weights in it. With `resumed` it continues from that state.

    `evaluator` holds the model that the adapter was attached to, and its encoder outputs, which training reads too. The best step is the
    one with the lowest dev loss among those that `eligible` lets through. The base model, step 0, takes part: training that only does harm
    ends with an adapter that does nothing. Several processes (`lora.system.distributed`) do what one does, and all hold the same weights
    after every update. It takes six parameters, for each is a part of its own: what trains, on what, how it is measured, by which settings,
    where it reports, and where it resumes.

    Raises `DivergedError` when the loss is not finite (`NotFiniteError` before the first update), `StoppedError` once
    `progress.stopping()` has been heard and a checkpoint is saved, and `RunFolderError` when `resumed` was trained on other data.
    """
    loop = _Loop(adapted, data, evaluator, config, progress)
    if resumed is not None:
        loop.resume(resumed)
    loop.run()
    loop.selection.restore_best()
    return TrainOutcome(
        status="stopped-early" if loop.step < loop.steps else "finished",
        best_step=loop.selection.best_step,
        steps=loop.step,
        history=tuple(loop.selection.history),
        audio_seconds=Seconds(loop.total.audio_s),
        seconds=Seconds(loop.total.busy_s),
    )


class _Loop:
    """Updates, and the evaluations and checkpoints between them."""

    def __init__(self, adapted: Adapted, data: TrainData, evaluator: Evaluator, config: TrainConfig, progress: Progress) -> None:
        self._adapted, self._data, self._features, self._config, self._progress = adapted, data, evaluator.features, config, progress
        self._decoder = Decoder(adapted.speech)
        self._parameters = adapted.parameters()
        self._optimizer = torch.optim.AdamW(
            parameter_groups(adapted, config), weight_decay=config.weight_decay, fused=adapted.speech.device.type in FUSED
        )
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._teacher = Teacher(adapted, evaluator.features) if config.teach == "terms" else None
        self._per_epoch, self.steps = steps_per_epoch(config, len(data.domain)), planned_steps(config, len(data.domain))
        self._interval = config.eval_interval or math.ceil(self._per_epoch / 2)
        self._data_sha256 = _data_sha256(data)
        self.selection = _Selection(adapted, data, evaluator, config.patience, progress)
        self.total, self._window, self.step = Window(), Window(), 0

    def resume(self, saved: TrainState) -> None:
        numbers = saved.numbers
        if numbers.data_sha256 != self._data_sha256:
            raise RunFolderError(
                f"the run was trained on other examples up to step {numbers.step}: audio files or terms have changed, or the base model "
                "labels replay differently here; start again without --resume"
            )
        restore(self._adapted, saved.weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.optimizer.items():
            place, kind = name.split("/")
            moments.setdefault(int(place), {})[kind] = tensor
        self._optimizer.load_state_dict({"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]})
        self.selection.resume(saved)
        self.total, self._window, self.step = numbers.total, numbers.window, numbers.step

    def run(self) -> None:
        self._adapted.peft.train()
        if self._evaluation_due() and not self.selection.has(self.step):
            self._evaluate()
        for update in itertools.islice(_updates(self._data, self._config), self.step, self.steps):
            if self.selection.exhausted:
                break
            self.step += 1
            spent, stopping = self._update(update)
            if not math.isfinite(spent.nats):
                raise self._not_finite(update, spent.nats)
            self.total, self._window = self.total.add(spent), self._window.add(spent)
            speed = self._window.audio_s / self._window.busy_s
            self._progress.update(self.step, self.steps, self._window.nats / self._window.tokens, speed)
            if stopping:
                self._stop()
            if self._evaluation_due():
                self._evaluate()
            elif self._config.checkpoint_interval and self.step % self._config.checkpoint_interval == 0:
                self._save()

    def _not_finite(self, update: "Update", nats: float) -> LoraError:
        """Before the first update the model is still the base: then it is not the learning rate."""
        speech = self._adapted.speech
        names = [example.utterance.id for batch in update for example in batch]
        fault = f"the loss is {nats} on {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
        if self.step == 1:
            return NotFiniteError(f"step 1: {fault} ({speech.computing}), before any weight has changed", speech.when_not_finite)
        return self._diverged(fault)

    def _diverged(self, fault: str) -> DivergedError:
        """Advice for when numbers were finite before any weight changed."""
        rate = f"lower --learning-rate (it is {self._config.learning_rate:g})"
        other = "" if self._adapted.speech.precision == "float32" else ", or train with --precision float32"
        return DivergedError(f"step {self.step}: {fault}; {rate}{other}")

    def _evaluation_due(self) -> bool:
        return self.step % self._interval == 0 or self.step == self.steps

    def _evaluate(self) -> None:
        rate = learning_rate(self._adapted, self._config, self.step, self.steps) if self.step else 0.0
        try:
            self.selection.consider(self.step, self.step / self._per_epoch, self._window if self.step else None, rate)
        except StoppedError:
            self._stop()
        except NotFiniteError as error:
            if not self.step:
                raise
            raise self._diverged(error.fault) from error
        self._window = Window()
        interval, last = self._config.checkpoint_interval, self.step == self.steps or self.selection.exhausted
        if interval is None or self.step % interval == 0 or last:
            self._save()

    def _update(self, update: "Update") -> tuple[Window, bool]:
        """One optimizer update: the mean loss over all tokens of all its batches, whatever their number and sizes.

        Each process takes its part of every batch. Gradients of summed losses add up to those of one process, in a single exchange of
        an adapter's few megabytes: processes may have different numbers of batches, and nothing waits for a batch that does not come.
        What is drawn at random follows from seed and step, so that an update is the same whatever came before it.
        """
        started = time.perf_counter()
        set_seed(_draw_seed(self._config.seed, self.step))
        self._set_rate(_rate(self.step - 1, self._config.warmup_steps, self.steps))
        tokens = sum(len(example.labels) for batch in update for example in batch)
        losses = []
        for batch in update:
            if mine := distributed.part(batch):
                loss = self._loss_sum(mine)
                (loss / tokens).backward()
                losses.append(loss.detach())
        stopping = self._progress.stopping()
        if distributed.count() > 1:
            losses, stopping = self._add_up(losses, stopping)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        self._optimizer.step()
        torch.autograd.graph.increment_version(self._parameters)  # a fused step does not, and stacked weights are renewed by it
        self._optimizer.zero_grad()
        nats = sum(torch.stack(losses).tolist())  # read once, at the end of the update, so that a GPU does not wait before
        audio_s = sum(example.length_s for batch in update for example in batch)
        return Window(nats, tokens, audio_s, time.perf_counter() - started), stopping

    def _loss_sum(self, examples: Sequence[Example]) -> Tensor:
        encoded = self._features.batch([example.utterance for example in examples])
        labels = pad_labels([example.labels for example in examples], self._adapted.speech.device)
        if self._teacher is None:
            return self._decoder.loss_sum(encoded, labels)
        before = self._teacher.states(examples, encoded, labels)
        return self._decoder.taught_loss_sum(encoded, labels, taught_mask(examples, labels), before)

    def _add_up(self, losses: Sequence[Tensor], stopping: bool) -> tuple[list[Tensor], bool]:
        """Sums gradients and loss over all processes; all stop if one is asked to."""
        device = self._adapted.speech.device
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        nats = torch.stack(list(losses)).sum() if losses else torch.zeros((), device=device)
        flag = torch.tensor([float(stopping)], device=device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), nats.view(1), flag])
        distributed.add(flat)
        sizes = [gradient.numel() for gradient in gradients]
        *sums, nats, flag = flat.split([*sizes, 1, 1])
        for parameter, gradient in zip(self._parameters, sums, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return [nats[0]], bool(flag.item() > 0)

    def _set_rate(self, factor: float) -> None:
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def _stop(self) -> None:
        self._save()
        raise StoppedError(f"stopped at step {self.step}")

    def _save(self) -> None:
        if not distributed.is_main():
            return
        moments: dict[int, dict[str, Tensor]] = self._optimizer.state_dict()["state"]
        selection = self.selection
        numbers = Numbers(
            step=self.step,
            data_sha256=self._data_sha256,
            total=self.total,
            window=self._window,
            history=tuple(selection.history),
            misses=selection.misses,
            guard_words=selection.guard_words,
            said=selection.said,
        )
        optimizer = {f"{place}/{kind}": tensor for place, kinds in moments.items() for kind, tensor in kinds.items()}
        self._progress.save(TrainState(numbers, state(self._adapted), optimizer, selection.kept))


def _data_sha256(data: TrainData) -> str:
    parts = (data.domain, data.dev, data.replay, data.guard)
    return sha256_bytes(msgspec.json.encode([[_facts(example) for example in part] for part in parts]))


def _facts(example: Example) -> tuple[object, ...]:
    """The facts of an example that decide the training; marks only if there are some."""
    return (example.utterance.id, example.length_s, example.labels, *((example.taught,) if example.taught else ()))


def _draw_seed(seed: int, step: int) -> int:
    """Each process draws its own numbers, because it has other clips."""
    return int(sha256_bytes(f"{seed} {step} {distributed.rank()}".encode())[:8], 16)


class _Selection:
    """Evaluates on dev and guard, and keeps the best weights seen."""

    def __init__(self, adapted: Adapted, data: TrainData, evaluator: Evaluator, patience: int, progress: Progress) -> None:
        self._adapted, self._data, self._evaluator, self._patience, self._progress = adapted, data, evaluator, patience, progress
        self.kept: dict[int, dict[str, Tensor]] = {}
        """Weights of the steps that may be best, by step."""
        self.said: dict[str, list[str]] = {}
        self.misses = 0
        self.guard_words = 0
        self.history: list[Step] = []

    @property
    def exhausted(self) -> bool:
        return self.misses >= self._patience

    @property
    def best_step(self) -> int:
        return min((step for step in self.history if step.step in self.kept), key=lambda step: step.dev_loss).step

    def has(self, number: int) -> bool:
        """Whether a step has been evaluated."""
        return any(step.step == number for step in self.history)

    def resume(self, saved: TrainState) -> None:
        numbers, device = saved.numbers, self._adapted.speech.device
        self.kept = {step: {name: tensor.to(device) for name, tensor in weights.items()} for step, weights in saved.kept.items()}
        self.history, self.misses = list(numbers.history), numbers.misses
        self.guard_words, self.said = numbers.guard_words, numbers.said

    def consider(self, number: int, epoch: float, window: Window | None, learning_rate: float) -> None:
        started = time.perf_counter()
        give_back_memory()  # what updates have freed is of other sizes
        with merged(self._adapted) as speech:
            dev = self._evaluate("dev", speech, self._data.dev)
            guard = self._evaluate("guard", speech, self._data.guard) if self._data.guard else None
        self.said = {name: [row.hypothesis for row in found.score.utterances] for name, found in (("dev", dev), ("guard", guard)) if found}
        if guard is not None:
            self.guard_words = guard.score.standard.reference_length
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
        self.kept[number] = state(self._adapted)
        kept = eligible(self.history, dev.score.standard.reference_length, self.guard_words)
        self.kept = {other.step: self.kept[other.step] for other in kept}  # a step that has been ruled out never returns
        self.misses = 0 if self.best_step == number else self.misses + 1
        self._progress.evaluated(step, self.best_step == number)
        self._progress.priced(costs(self.history, self.guard_words)[-1][0])

    def restore_best(self) -> None:
        restore(self._adapted, self.kept[self.best_step])
        self._adapted.peft.eval()

    def _evaluate(self, name: str, speech: LoadedModel, examples: Sequence[Example]) -> Evaluation:
        """The last step's transcripts are drafts for this one's."""
        return replace(self._evaluator, speech=speech).evaluate(examples, self._require_going_on, self.said.get(name))

    def _require_going_on(self, _count: int) -> None:
        if self._progress.stopping():
            raise StoppedError("stopped in an evaluation")


def allowed_rise(guard_words: int) -> float:
    """Rise of the guard WER, as a ratio, that counts as zero."""
    return max(GUARD_TOLERANCE, 1 / guard_words) + _ROUNDING


def eligible(history: Sequence[Step], dev_words: int, guard_words: int) -> list[Step]:
    """The steps that dev and guard cannot tell from the best one; of these the lowest dev loss decides.

    The cheapest by `costs` is eligible, and so is every step that spares the guard and is within one standard error of it: on a few
    hundred words two more errors are chance, and the loss, which every token takes part in, tells more.
    """
    priced = costs(history, guard_words)
    least = min(cost for cost, _ in priced)
    margin = math.sqrt(least / dev_words)  # the standard error of a count is its square root
    return [step for step, (cost, over) in zip(history, priced, strict=True) if cost == least or (over == 0.0 and cost <= least + margin)]


def costs(history: Sequence[Step], guard_words: int) -> list[tuple[float, float]]:
    """What each step costs: its dev WER, and what its guard WER has risen beyond `GUARD_TOLERANCE` or one word; and that alone. Ratios."""
    base = history[0].guard_wer or 0.0
    allowed = allowed_rise(guard_words) if guard_words else math.inf
    excess = [max(0.0, (step.guard_wer or 0.0) - (base + allowed)) for step in history]
    return [(step.dev_wer + over, over) for step, over in zip(history, excess, strict=True)]


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
    """The rate of update `step` of `steps`, counted from one: the decoder's, or the encoder's if it alone trains."""
    peak: float = parameter_groups(adapted, config)[0]["lr"]
    return peak * _rate(step - 1, config.warmup_steps, steps)


def _rate(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up to the peak, then linear decay towards zero, as a factor of the peak; no update has a rate of zero."""
    warmup = min(warmup, steps // 2)  # a run shorter than twice the warm-up would never train at its rate
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup))
