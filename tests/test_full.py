"""Full fine-tuning: the sites' own weights train, what reads them reads them as they are, and a checkpoint comes out."""

import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
from running import ANY_VERDICT, QUICK, ROOT, Manifests, manifests, moonshine_lora, refusal
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq

from lora.audio.loading import Waveform
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.errors import CheckpointError
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.loading import LoadedModel, pad_labels
from lora.runs.record import read
from lora.training.adapter import Adapted, attach, find_sites, merged, plan, read_provenance

FULL = AdapterConfig(method="full", lora_targets="both")
TOKENS = torch.tensor([[1, 372, 471, 278, 1900]])


def adapt(speech: LoadedModel, config: AdapterConfig = FULL) -> Adapted:
    return attach(replace(speech, model=deepcopy(speech.model)), config)


def states(encoder: Encoder, decoder: Decoder, samples: Waveform) -> Tensor:
    return decoder(TOKENS, decoder.listen(encoder([samples])))


@pytest.mark.parametrize("targets", ["both", "encoder", "cross", r"model\.decoder\.layers\.0\.self_attn\.q_proj"])
def test_loss_and_gradients_are_those_of_transformers(random_speech: LoadedModel, waveforms: Sequence[Waveform], targets: str) -> None:
    adapted = adapt(random_speech, AdapterConfig(method="full", lora_targets=targets))
    batch = [reference.whole(waveforms[0][:16_000]), reference.whole(waveforms[17][:12_000])]
    labels = pad_labels([[471, 278, 1900, 2], [310, 2]], random_speech.device)
    ours = Decoder(adapted.speech).loss_sum(Encoder(adapted.speech)(batch), labels)
    theirs = reference.loss_sum(adapted.speech, reference.encoded(adapted.speech, batch), labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    found, wanted = torch.autograd.grad(ours, adapted.parameters()), torch.autograd.grad(theirs, adapted.parameters())
    for one, other in zip(found, wanted, strict=True):
        assert other.norm() > 0 or one.norm() == 0
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6


def test_only_the_weights_and_biases_of_the_sites_train(random_speech: LoadedModel) -> None:
    adapted = adapt(random_speech, AdapterConfig(method="full", lora_targets="mlp"))
    training = {name for name, parameter in adapted.peft.named_parameters() if parameter.requires_grad}
    assert training == {f"{site}.{part}" for site in find_sites(random_speech, "mlp") for part in ("weight", "bias")}
    sites = plan(random_speech, AdapterConfig(method="full", lora_targets="mlp"))
    assert sum(site.parameters for site in sites) == sum(parameter.numel() for parameter in adapted.parameters())
    assert {site.rank for site in sites} == {None}


def test_what_was_made_before_training_reads_the_weights_as_they_are(random_speech: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """With and without gradients, in evaluation mode too; nothing is added by looking twice."""
    adapted = adapt(random_speech)
    encoder, decoder = Encoder(adapted.speech), Decoder(adapted.speech)
    with torch.inference_mode():
        before = states(encoder, decoder, waveforms[0])
        untouched = states(Encoder(random_speech), Decoder(random_speech), waveforms[0])
    assert torch.allclose(before, untouched, atol=1e-4)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        states(encoder, decoder, waveforms[0]).square().sum().backward()
        optimizer.step()
    with torch.inference_mode(), merged(adapted) as speech:
        after, again = states(encoder, decoder, waveforms[0]), states(encoder, decoder, waveforms[0])
        anew = states(Encoder(speech), Decoder(speech), waveforms[0])
    assert (after - before).abs().max() > 0.01
    assert torch.equal(after, again)
    assert torch.equal(after, anew)


def test_weights_that_train_stay_float32_in_bfloat16(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    adapted = attach(replace(random_v1, model=deepcopy(random_v1.model), precision="bfloat16"), FULL)
    states(Encoder(adapted.speech), Decoder(adapted.speech), waveforms[0]).sum().backward()
    assert all(parameter.dtype == torch.float32 and parameter.grad is not None for parameter in adapted.parameters())


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return manifests(tmp_path_factory.mktemp("full-sets"), clips)


def test_a_run_leaves_a_checkpoint_that_says_what_was_reported(random_speech: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--method", "full", "--lora-targets", "both", "--full-learning-rate", 1e-2, "--rms-dbfs", -20, "--tokens-per-second", 2)
    model = ("--model-id", random_speech.checkpoint.folder)
    found = moonshine_lora("experiment", *model, *sets.flags(), *QUICK, *ANY_VERDICT, *options, "--output-dir", run)
    assert found.code == 0, found.err
    assert "checkpoint/" in found.out
    assert not (run / "lora_adapter").exists()
    record, saved = read(run), run / "checkpoint"
    assert record.domain is not None
    assert record.adapter is not None
    assert record.adapter.parameters == sum(site.parameters for site in plan(random_speech, FULL))
    assert record.training is not None
    assert {step.learning_rate for step in record.training.history[1:]} <= {1e-2, 5e-3}
    plain = AutoModelForSpeechSeq2Seq.from_pretrained(saved)
    changed = {
        name.rpartition(".")[0]
        for name, tensor in plain.state_dict().items()
        if not torch.equal(tensor, random_speech.model.state_dict()[name])
    }
    if record.training.best_step:
        assert changed == set(find_sites(random_speech, "both"))
    else:
        assert changed == set()
    # Loudness and token cap are the run's without being given.
    said = moonshine_lora("transcribe", "--model-id", saved, "--manifest", sets.domain, "--device", "cpu")
    assert said.code == 0, said.err
    texts = {line.split("\t")[0]: line.split("\t")[1] for line in said.out.splitlines()}
    assert texts == {row.id: row.hypothesis for row in record.domain.tuned.score.utterances}
    assert read_provenance_of(saved) == (-20, 2)
    assert "Checkpoint tuned from" in (saved / "README.md").read_text()
    listed = moonshine_lora("push", run, "--repo-id", "owner/name", "--dry-run")
    assert listed.code == 0, listed.err
    assert "model.safetensors" in listed.out
    # It is a checkpoint like any other one: it can be tuned again, and is no adapter.
    again = moonshine_lora(
        "experiment", "--model-id", saved, *sets.flags(), *QUICK, *ANY_VERDICT, "--tokens-per-second", 2, "--output-dir", tmp_path / "two"
    )
    assert again.code == 0, again.err
    with pytest.raises(CheckpointError, match="holds no adapter"):
        read_provenance(saved)


@pytest.mark.slow
def test_the_export_of_a_run_is_what_the_run_scored(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    """Merged, proven and evaluated as the guide says: with `just transcribe`, in a process of its own."""
    run, export = tmp_path / "run", tmp_path / "export"
    options = ("--method", "full", "--lora-targets", "both", "--full-learning-rate", 1e-2, "--warmup-steps", 0)
    model = ("--model-id", random_v1.checkpoint.folder)
    found = moonshine_lora("experiment", *model, *sets.flags(), *QUICK, *ANY_VERDICT, *options, "--output-dir", run)
    assert found.code == 0, found.err
    made = moonshine_lora("export", "--run", run, "--to", "merged", "--output", export)
    assert made.code == 0, made.err
    record = read(run)
    assert record.domain is not None
    asked = ["transcribe", f"--model-id {export / 'merged'} --manifest {sets.domain} --device cpu"]
    said = subprocess.run([Path(sys.executable).parent / "just", *asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    texts = {line.split("\t")[0]: line.split("\t")[1] for line in said.stdout.splitlines()}
    assert texts == {row.id: row.hypothesis for row in record.domain.tuned.score.utterances}
    assert texts != {row.id: row.hypothesis for row in record.domain.baseline.score.utterances}


def read_provenance_of(folder: Path) -> tuple[float | None, float]:
    from lora.checkpoints.checkpoint import resolve
    from lora.training.adapter import provenance_of

    provenance = provenance_of(resolve(str(folder)))
    assert provenance is not None
    return provenance.audio.rms_dbfs, provenance.decode.tokens_per_second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lora-r", 4), "--lora-r is for --method lora; leave it out with --method full"),
        (("--use-dora",), "--use-dora is for --method lora"),
        (("--init-lora-weights", "pissa"), "--init-lora-weights is for --method lora"),
        (("--lora-ranks", "mlp=4"), "--lora-ranks is for --method lora"),
        (("--strength-sweep",), "--strength-sweep: scales an adapter, and --method full makes none; leave one of them out"),
        (("--lora-targets", "head"), "--lora-targets head: matches no layer"),
    ],
)
def test_settings_of_adapters_are_refused(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    model = ("--model-id", random_v1.checkpoint.folder)
    line = refusal("experiment", *model, *sets.flags(), *QUICK, "--method", "full", *options, "--output-dir", tmp_path / "run")
    assert message in line
    assert not (tmp_path / "run").exists()
