"""Terms taught alone: which tokens are taught, what the others keep, and that a run of all tokens is as it was."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
from msgspec import structs
from running import ANY_VERDICT, QUICK, Manifests, RunFolder, moonshine_lora, refusal
from torch import Tensor
from torch.nn import functional
from trainings import BRIEF, ONCE, adapt, distance, examples, fresh, last_weights, live, retold

from lora.audio.loading import AudioSettings, Waveform
from lora.config import AdapterConfig, TrainConfig
from lora.dataset.manifest import Utterance
from lora.errors import StoppedError
from lora.evaluation.evaluate import Evaluator, Example
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.encoder_outputs import LiveFeatures
from lora.model.loading import LoadedModel, pad_labels
from lora.model.output_head import HEAD_ROWS, Head
from lora.text.terms import Term, Terms
from lora.training.adapter import Adapted, attach, state
from lora.training.checkpointing import TrainState
from lora.training.loop import Progress, TrainData, train
from lora.training.teaching import Teacher, marked, taught_mask

TERMS = Terms("terms.txt", "0" * 64, (Term("kubectl"), Term("GitHub Actions"), Term("Ngũgĩ")))


def shaken(adapted: Adapted, size: float = 0.05) -> Adapted:
    """As after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return adapted


def taught_words(speech: LoadedModel, example: Example) -> str:
    return speech.text([label for label, taught in zip(example.labels, example.taught, strict=True) if taught])


@pytest.fixture
def one(tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]) -> Example:
    return examples(tiny, clips, waveforms, [17])[0]


# --- which tokens are taught --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "taught"),
    [
        ("Then kubectl's pods restarted.", "kubectl's"),
        ("kubectl", "kubectl"),
        ("Is it (kubectl)?", "kubectl"),
        ("Is GitHub Actions down, Ngũgĩ?", "GitHub Actions Ngũgĩ"),
        ("GitHub has actions.", ""),
    ],
)
def test_the_tokens_of_terms_are_taught_and_no_others(tiny: LoadedModel, one: Example, text: str, taught: str) -> None:
    (example,) = marked(tiny, [retold(tiny, one, text)], TERMS, "none")
    assert len(example.taught) == (len(example.labels) if taught else 0)
    if taught:
        assert taught_words(tiny, example) == taught
        assert not example.taught[-1], "the end is nobody's term"


def test_terms_are_found_in_the_text_as_it_is_trained(tiny: LoadedModel, one: Example) -> None:
    lowered = replace(retold(tiny, one, "ask kubectl"), utterance=retold(tiny, one, "ASK KUBECTL").utterance)
    (example,) = marked(tiny, [lowered], TERMS, "lower")
    assert taught_words(tiny, example) == "kubectl"


def test_a_mask_holds_padding_and_examples_without_terms_for_not_taught(tiny: LoadedModel, one: Example) -> None:
    batch = marked(tiny, [retold(tiny, one, text) for text in ("Ask kubectl.", "Nothing.", "Is GitHub Actions down now?")], TERMS, "none")
    labels = pad_labels([example.labels for example in batch], tiny.device)
    mask = taught_mask(batch, labels)
    assert mask.shape == labels.shape
    assert [tiny.text(row[chosen].tolist()) for row, chosen in zip(labels, mask, strict=True)] == ["kubectl", "", "GitHub Actions"]


# --- the loss -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [1, HEAD_ROWS, 2 * HEAD_ROWS + 3])
def test_divergence_and_its_gradient_are_those_of_pytorch(positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, hidden, before = (torch.randn(shape, 96, generator=generator) for shape in (512, positions, positions))
    hidden.requires_grad_(True)
    found = Head(weight, torch.float32).divergence_sum(hidden, before)
    expected = functional.kl_div((hidden @ weight.T).log_softmax(-1), (before @ weight.T).log_softmax(-1), reduction="sum", log_target=True)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, theirs = (torch.autograd.grad(3 * loss, hidden)[0] for loss in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_distribution_does_not_diverge_from_itself() -> None:
    weight, hidden = torch.randn(512, 96), torch.randn(70, 96, requires_grad=True)
    found = Head(weight, torch.float32).divergence_sum(hidden, hidden.detach().clone())
    (gradient,) = torch.autograd.grad(found, hidden)
    assert abs(found.item()) < 1e-4
    assert gradient.abs().max() < 1e-5


def plain_loss(speech: LoadedModel, waveforms: Sequence[Waveform], labels: Tensor, taught: Tensor, before: Tensor) -> Tensor:
    """Cross-entropy of the taught labels and divergence of the others, from all of transformers' logits at once."""
    heard, there = reference.encoded(speech, waveforms), labels >= 0
    start = torch.full((len(labels), 1), speech.start_id)
    inputs = torch.cat([start, labels[:, :-1]], dim=1)
    logits = speech.head(reference.states(speech, inputs.masked_fill(inputs < 0, speech.end_id), heard)).log_softmax(-1)
    spelled = functional.nll_loss(logits[taught], labels[taught], reduction="sum")
    kept = there & ~taught
    return spelled + functional.kl_div(logits[kept], speech.head(before)[kept].log_softmax(-1), reduction="sum", log_target=True)


def test_loss_and_gradients_of_a_batch_are_those_of_transformers(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = shaken(adapt(random_speech))
    adapted.peft.train()
    batch = [reference.whole(waveforms[0][:16_000]), reference.whole(waveforms[17][:12_000])]
    labels = pad_labels([[471, 278, 1900, 2], [310, 2]], random_speech.device)
    taught = torch.tensor([[False, True, True, False], [False, False, False, False]])
    learner, untouched = Decoder(adapted.speech), Decoder(random_speech)
    with torch.no_grad():
        before = untouched(untouched.inputs(labels), untouched.listen(Encoder(random_speech)(batch)))
    ours = learner.taught_loss_sum(Encoder(adapted.speech)(batch), labels, taught, before)
    theirs = plain_loss(adapted.speech, batch, labels, taught, before)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    found, wanted = torch.autograd.grad(ours, adapted.parameters()), torch.autograd.grad(theirs, adapted.parameters())
    for mine, other in zip(found, wanted, strict=True):
        assert other.norm() > 0
        assert (mine - other).norm() <= 1e-3 * other.norm() + 1e-5


@pytest.mark.parametrize("taught", [True, False])
def test_a_batch_may_be_all_taught_or_not_at_all(random_v1: LoadedModel, waveforms: Sequence[Waveform], taught: bool) -> None:
    decoder, heard = Decoder(random_v1), Encoder(random_v1)([waveforms[17]])
    labels = pad_labels([[471, 278, 2]], random_v1.device)
    with torch.no_grad():
        before = decoder(decoder.inputs(labels), decoder.listen(heard))
        found = decoder.taught_loss_sum(heard, labels, torch.full_like(labels, taught, dtype=torch.bool), before).item()
        whole = decoder.loss_sum(heard, labels).item()
    assert found == pytest.approx(whole if taught else 0.0, abs=1e-3)


def test_bfloat16_gradients_point_where_those_of_float32_do(tiny: LoadedModel, one: Example, waveforms: Sequence[Waveform]) -> None:
    adapted = shaken(adapt(tiny))
    (example,) = marked(tiny, [retold(tiny, one, "Ask kubectl for the beginning.")], TERMS, "none")
    labels = pad_labels([example.labels], tiny.device)
    found = []
    for speech, plain in ((adapted.speech, tiny), (replace(adapted.speech, precision="bfloat16"), replace(tiny, precision="bfloat16"))):
        teacher = Decoder(plain)
        with torch.no_grad():
            before = teacher(teacher.inputs(labels), teacher.listen(Encoder(plain)([waveforms[17]])))
        loss = Decoder(speech).taught_loss_sum(Encoder(speech)([waveforms[17]]), labels, taught_mask([example], labels), before)
        found.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, adapted.parameters())]))
    assert functional.cosine_similarity(*found, dim=0) > 0.98


# --- the teacher --------------------------------------------------------------------------------------------------------------------------

KINDS = {
    "lora": AdapterConfig(),
    "dora": AdapterConfig(use_dora=True),
    "pissa": AdapterConfig(init_lora_weights="pissa"),
    "full": AdapterConfig(method="full"),
    "encoder": AdapterConfig(lora_targets="both"),
    "full encoder": AdapterConfig(method="full", lora_targets="both"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_stays_what_the_model_was(
    random_speech: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], kind: str
) -> None:
    """Whatever trains, the encoder too."""
    adapted = attach(fresh(random_speech), KINDS[kind])
    features = live(adapted)
    teacher = Teacher(adapted, features)
    chosen = examples(random_speech, clips, waveforms, [17])
    labels = pad_labels([chosen[0].labels], random_speech.device)
    untouched = Decoder(random_speech)
    with torch.no_grad():
        heard = LiveFeatures(random_speech, AudioSettings()).batch([chosen[0].utterance])
        expected = untouched(untouched.inputs(labels), untouched.listen(heard))
        shaken(adapted, 0.5)
        encoded = features.batch([chosen[0].utterance])
        learner = Decoder(adapted.speech)
        moved = learner(learner.inputs(labels), learner.listen(encoded))
    found = teacher.states(chosen, encoded, labels)
    assert not found.requires_grad
    assert (found - expected).abs().max() < 1e-3 < 0.05 < (moved - expected).abs().max()


# --- training -----------------------------------------------------------------------------------------------------------------------------


def odds_of(adapted: Adapted, example: Example) -> Tensor:
    """Distribution `[labels, tokens]` before each label."""
    labels = pad_labels([example.labels], adapted.speech.device)
    with torch.no_grad():
        decoder = Decoder(adapted.speech)
        states = decoder(decoder.inputs(labels), decoder.listen(live(adapted).batch([example.utterance])))
        return adapted.speech.head(states[0]).softmax(-1)


def test_a_term_is_learnt_and_the_rest_keeps_its_probabilities(
    tiny: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    """Against the same training of all tokens."""
    one, replay = examples(tiny, clips, waveforms, [17, 15])
    text = f"{one.utterance.text} kubectl"
    (domain,) = marked(tiny, [retold(tiny, one, text)], TERMS, "none")
    kept = torch.tensor([not taught for taught in domain.taught])
    before = odds_of(adapt(tiny), domain)
    spelled = torch.tensor(domain.labels)[~kept][:, None]
    assert before[~kept].gather(1, spelled).min() < 0.1
    moved = {}
    whole = TrainConfig(epochs=6, learning_rate=5e-3, warmup_steps=2, replay_ratio=1.0, eval_interval=ONCE)
    for config in (whole, structs.replace(whole, teach="terms")):
        adapted = adapt(tiny)
        train(adapted, TrainData([domain], [domain], [replay]), Evaluator(adapted.speech, live(adapted), BRIEF, 8), config)
        after = odds_of(adapted, domain)
        moved[config.teach] = (after[kept] - before[kept]).abs().sum(-1).mean().item()
        assert after[~kept].gather(1, spelled).min() > 0.5
    assert moved["terms"] < 0.75 * moved["transcripts"]


def test_marks_change_nothing_where_whole_transcripts_are_taught(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform]
) -> None:
    chosen = [retold(random_v1, example, "Ask kubectl.") for example in examples(random_v1, clips, waveforms, [15, 17])]
    config = TrainConfig(max_steps=2, warmup_steps=0, learning_rate=1e-2, eval_interval=ONCE)
    results = [
        last_weights(adapt(random_v1), TrainData(domain=domain, dev=chosen[:1]), config)
        for domain in (chosen, marked(random_v1, chosen, TERMS, "none"))
    ]
    assert distance(*results) == 0


@pytest.mark.parametrize("targets", ["decoder", "both"])
def test_a_training_that_continues_ends_as_one_that_was_not_stopped(
    random_v1: LoadedModel, clips: Sequence[Utterance], waveforms: Sequence[Waveform], targets: str
) -> None:
    """The teacher is the model before the training, not as it was when it stopped."""
    chosen = [retold(random_v1, example, "Ask kubectl.") for example in examples(random_v1, clips, waveforms, [15, 17])]
    data = TrainData(marked(random_v1, chosen, TERMS, "none"), chosen[:1], chosen[1:])
    config = TrainConfig(max_steps=4, epochs=9, batch_size=1, warmup_steps=0, learning_rate=1e-2, eval_interval=ONCE, teach="terms")

    def trained(progress: Progress, resumed: TrainState | None = None) -> dict[str, Tensor]:
        adapted = adapt(random_v1, AdapterConfig(lora_targets=targets))
        train(adapted, data, Evaluator(adapted.speech, live(adapted), BRIEF, 8), config, progress, resumed)
        return state(adapted)

    saved: list[TrainState] = []
    seen: list[int] = []
    stop = Progress(update=lambda step, *_: seen.append(step), save=saved.append, stopping=lambda: len(seen) == 1)
    with pytest.raises(StoppedError):
        trained(stop)
    assert saved[-1].numbers.step == 2
    last: list[TrainState] = []
    trained(Progress(save=last.append))
    again: list[TrainState] = []
    trained(Progress(save=again.append), saved[-1])
    assert distance(last[-1].weights, again[-1].weights) == 0
    assert distance(last[-1].weights, saved[-1].weights) > 1e-3


# --- the command --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> tuple[object, ...]:
    return ("experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / "run")


def words_of(manifest: Path) -> str:
    """A word that a set says."""
    return str(json.loads(manifest.read_text().splitlines()[0])["text"].split()[1])


def test_a_run_teaches_its_terms(command: tuple[object, ...], sets: Manifests, tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text(f"{words_of(sets.train)}\nZbigniew\n")
    terms = ("--terms", tmp_path / "terms.txt", "--tokens-per-second", 0.5, *ANY_VERDICT)
    result = moonshine_lora(*command, "--teach", "terms", *terms)
    assert result.code == 0, result.err
    assert "not taught, for no training sentence holds them: Zbigniew" in result.out + result.err
    losses = [step.train_loss for step in RunFolder(tmp_path / "run", 0).record.training.history[1:]]  # type: ignore[union-attr]
    assert all(loss is not None and 0 < loss < 5 for loss in losses), "most tokens keep what they had, where whole transcripts cost 10"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--teach terms needs the list of terms; give --terms too, or --teach transcripts"),
        (("--terms", "{terms}"), "no training sentence holds any of its terms; give speech that does, or --teach transcripts"),
    ],
)
def test_terms_that_nothing_teaches_are_refused(command: tuple[object, ...], tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    (tmp_path / "terms.txt").write_text("Zbigniew\n")
    assert says in refusal(*command, "--teach", "terms", *(part.format(terms=tmp_path / "terms.txt") for part in flags))
    assert not (tmp_path / "run").exists()
