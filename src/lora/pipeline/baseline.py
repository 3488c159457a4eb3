"""What the base model says of a run's speech: its scores, references and labels, and whether texts and labels are sound."""

from dataclasses import replace
from functools import partial

import torch

from lora.display import Display
from lora.errors import ManifestError, ScoringError, TrainingError
from lora.evaluation.base_scores import BaseScores
from lora.evaluation.evaluate import Evaluator, Example
from lora.evaluation.text_check import foreign_texts
from lora.model.decoder import Decoder
from lora.model.encoder_outputs import Features
from lora.model.loading import pad_labels
from lora.model.transcript import Transcript
from lora.pipeline.preparation import Prepared
from lora.runs.outcomes import Evaluation
from lora.system import distributed
from lora.text.normaliser import normalise
from lora.training.loop import TrainData
from lora.training.sets import SpeechSet, examples
from lora.training.teaching import marked

OWN_TRANSCRIPT_LOSS = 1.0
"""Nats per token above which the label path must be broken: a model finds its own greedy transcript likely (0.1 measured); labels
without EOS give about 1, labels shifted twice 10 and more."""

OWN_TRANSCRIPT_CLIPS = 8

FOREIGN_SHOWN = 20
"""How many rows with another recording's text a message names."""


def evaluator_of(prepared: Prepared, features: Features) -> Evaluator:
    """The evaluator of the run's model, reading these encoder outputs."""
    return Evaluator(prepared.speech, features, prepared.decode, prepared.config.eval.eval_batch_size)


def baseline_of(prepared: Prepared, part: list[Example], evaluator: Evaluator, display: Display) -> tuple[Evaluation, bool]:
    """The base model's scores, and whether they come from the cache."""
    scores = BaseScores(prepared.config.data.audio(), prepared.kept)
    found, again = scores.known(Evaluation, evaluator, part, lambda: scored(evaluator, part, display))
    if again:
        display.line("the base model's scores are from the cache")
    return found, again


def require_sound_labels(prepared: Prepared, part: list[Example], baseline: Evaluation, evaluator: Evaluator) -> None:
    """Refuses to train if the model finds its own transcripts unlikely: labels and logits are misaligned then."""
    speech = prepared.speech
    said = [
        (example, row.hypothesis) for example, row in zip(part, baseline.score.utterances, strict=True) if row.hypothesis and not row.capped
    ]
    chosen = said[:OWN_TRANSCRIPT_CLIPS]
    if not chosen:
        return
    labels = [speech.labels(text) for _, text in chosen]
    with torch.inference_mode():
        encoded = evaluator.features.batch([example.utterance for example, _ in chosen])
        loss = Decoder(speech).loss_sum(encoded, pad_labels(labels, speech.device)).item() / sum(map(len, labels))
    if loss > OWN_TRANSCRIPT_LOSS:
        raise TrainingError(
            f"the model's loss on its own transcripts is {loss:.2f} nats per token, above {OWN_TRANSCRIPT_LOSS:g}: labels and outputs do "
            "not line up, so training would ruin it; use transformers 5.15 or later, and the tokenizer that belongs to "
            f"{prepared.checkpoint.model_id}"
        )


def check_texts(prepared: Prepared, evaluator: Evaluator, display: Display) -> None:
    """Raises `ManifestError` with the utterances whose text belongs to another recording, as the base model hears it."""
    speech, sets = prepared.speech, prepared.sets
    given = {name: part for name, part in sets.named().items() if name not in ("replay", "guard", "heldout")}
    for name, part in given.items():
        checked = examples(speech, part, sets.style)
        with display.stage("texts", f"Checking that the texts of {name} are what is said"), display.bar(len(part), "utterances") as advance:
            foreign = foreign_texts(
                speech, checked, evaluator.features, prepared.config.train.seed, partial(advance, distributed.count(), "")
            )
        if foreign:
            rows = [checked[place].utterance for place in foreign[:FOREIGN_SHOWN]]
            shown = "; ".join(f"line {row.line} ({row.id}) {(row.text or '')[:40]!r}" for row in rows)
            more = f"; and {len(foreign) - FOREIGN_SHOWN} more" if len(foreign) > FOREIGN_SHOWN else ""
            raise ManifestError(
                f"{part.manifest.path}: {len(foreign)} of {len(part)} texts fit their audio no better than the texts of other clips do; "
                "listen to them and fix the rows (shifted by one?), or omit --check-texts if they are right: "
                f"{shown}{more}"
            )


def heldout_examples(prepared: Prepared, evaluator: Evaluator, display: Display) -> list[Example]:
    """The held-out examples with the references that the guardrail asks for: the manifest's, or what the base model says.

    Raises `ScoringError` if it says nothing.
    """
    part, speech = prepared.sets.heldout, prepared.speech
    if prepared.config.gate.guardrail == "wer":
        return examples(speech, part, prepared.sets.style)
    with display.stage("drift", "Held-out references: transcribing with the base model"):
        said = _said_by_base(prepared, examples(speech, part, "none"), evaluator, display)
    texts = [transcript.text for transcript in said]
    if not any(normalise(text, speech.language) for text in texts):
        raise ScoringError(
            f"{part.manifest.path}: the base model recognises no word in it, so there is no drift to measure; check its audio"
        )
    labelled = examples(speech, part, "none", texts)
    return [replace(one, utterance=replace(one.utterance, text=text)) for one, text in zip(labelled, texts, strict=True)]


def train_data(prepared: Prepared, evaluator: Evaluator, display: Display) -> tuple[TrainData, tuple[str, ...]]:
    """Training examples, and the ids of replay clips that the base model could not label because it looped on them."""
    sets, speech, targets = prepared.sets, prepared.speech, prepared.config.train.replay_targets
    domain, dev = examples(speech, sets.train, sets.style), examples(speech, sets.dev, sets.style)
    if prepared.config.train.teach == "terms" and prepared.terms is not None:
        domain = marked(speech, domain, prepared.terms, sets.style)
    if sets.replay is None or sets.guard is None:
        return TrainData(domain, dev), ()
    if targets == "transcript":
        return TrainData(domain, dev, examples(speech, sets.replay, sets.style), examples(speech, sets.guard, sets.style)), ()
    with display.stage("replay", "Replay: transcribing general speech with the base model"):
        replay, looped = _labelled_by_base(prepared, sets.replay, evaluator, display)
        guard, more = _labelled_by_base(prepared, sets.guard, evaluator, display)
    if left_out := looped + more:
        display.line(f"left out: {len(left_out)} clips on which the base model loops or says nothing")
    if not replay or not guard:
        raise TrainingError(f"{sets.replay.manifest.path}: the base model can label too few of its clips; give --replay-targets transcript")
    return TrainData(domain, dev, replay, guard), left_out


def _labelled_by_base(prepared: Prepared, part: SpeechSet, evaluator: Evaluator, display: Display) -> tuple[list[Example], tuple[str, ...]]:
    """Examples that teach what the base model says, in its own style."""
    speech = prepared.speech
    said = _said_by_base(prepared, examples(speech, part, "none"), evaluator, display)
    labelled = examples(speech, part, "none", [transcript.text for transcript in said])
    sound, left_out = [], []
    for example, transcript in zip(labelled, said, strict=True):
        if not transcript.text or transcript.capped:
            left_out.append(example.utterance.id)
        elif example.utterance.text is None:  # the guard is then scored against what the base model says
            sound.append(replace(example, utterance=replace(example.utterance, text=transcript.text)))
        else:
            sound.append(example)
    return sound, tuple(left_out)


def _said_by_base(prepared: Prepared, part: list[Example], evaluator: Evaluator, display: Display) -> list[Transcript]:
    """The base model's transcripts, from the cache if possible. The adapter must not be attached yet."""

    def transcribe() -> list[Transcript]:
        with display.bar(len(part), "utterances") as advance:
            return evaluator.transcribe(part, lambda count: advance(count * distributed.count(), ""))

    said, _ = BaseScores(prepared.config.data.audio(), prepared.kept).known(list[Transcript], evaluator, part, transcribe)
    return said


def scored(evaluator: Evaluator, part: list[Example], display: Display, expected: list[str] | None = None) -> Evaluation:
    """Scores and loss of a set, with a bar on the screen. `expected` as in `Evaluator.evaluate`."""
    with display.bar(len(part), "utterances") as advance:
        return evaluator.evaluate(part, lambda count: advance(count * distributed.count(), ""), expected)
