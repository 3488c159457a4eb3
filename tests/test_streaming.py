"""Streaming models of the published sizes: windows by brute force, chunks against the whole, and all that adapters do."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import STREAMING, load, write_streaming
from running import ANY_VERDICT, QUICK, manifests, moonshine_lora
from torch import Tensor, nn
from transformers import MoonshineStreamingForConditionalGeneration

from lora.audio.loading import Waveform, duration
from lora.config import AdapterConfig
from lora.dataset.manifest import Utterance
from lora.model.decoder import Decoder
from lora.model.encoder import FRAME_SAMPLES, Encoder, _within
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel, pad_labels
from lora.model.transcript import DecodeSettings
from lora.runs.record import read
from lora.training.adapter import attach, fold_in, merged

ROUNDING = 1e-4
"""Sums in another order, in up to 14 layers; a frame too many or too few in a window changes features by 0.1 and more."""

STEM_FRAMES = 4
"""Input frames of 5 ms for one encoder frame of 20 ms: two convolutions of stride 2."""

SETTINGS = DecodeSettings(tokens_per_second=3)


@pytest.fixture(scope="module", params=["tiny", "small", pytest.param("medium", marks=pytest.mark.slow)])
def streaming(request: pytest.FixtureRequest, tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """A local checkpoint of a published size, with random weights; removed again, for medium takes a gigabyte."""
    folder = write_streaming(request.param, tiny, tmp_path_factory.mktemp(f"streaming-{request.param}"))
    yield load(folder)
    shutil.rmtree(folder)


@torch.inference_mode()
def encode(speech: LoadedModel, samples: Waveform) -> Tensor:
    return Encoder(speech).each([samples])[0]


def distance(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return (first - second).abs().max().item()


def look_ahead(speech: LoadedModel) -> int:
    """Frames after a frame that its features depend on: each layer that looks ahead adds its own."""
    return sum(max(0, after - 1) for _, after in speech.encoder.config.sliding_windows)


def look_back(speech: LoadedModel) -> int:
    return sum(before - 1 for before, _ in speech.encoder.config.sliding_windows)


# --- the published configurations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", STREAMING)
def test_the_configurations_have_as_many_parameters_as_published(size: str) -> None:
    with torch.device("meta"):
        model = MoonshineStreamingForConditionalGeneration(STREAMING[size].config())
    assert model.proj_out.weight is not model.model.decoder.embed_tokens.weight
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("proj_out"))
    assert count / 1e6 == pytest.approx(STREAMING[size].parameters, rel=0.02)


def test_the_checkpoints_own_configuration_decides_the_generation(streaming: LoadedModel, random_v1: LoadedModel) -> None:
    assert streaming.streaming
    assert not random_v1.streaming
    assert streaming.checkpoint.kind == random_v1.checkpoint.kind == "local"


# --- windows ------------------------------------------------------------------------------------------------------------------------------


@given(frames=st.integers(1, 40), before=st.integers(1, 20), after=st.integers(0, 6))
def test_a_window_holds_the_frames_that_the_paper_says(frames: int, before: int, after: int) -> None:
    """Brute force: each frame hears itself and the `before - 1` frames before it, and, of those after it, `after - 1`."""
    heard = _within(torch.arange(frames), torch.arange(frames), (before, after))
    for at in range(frames):
        wanted = [other for other in range(frames) if at - (before - 1) <= other <= at + max(0, after - 1)]
        assert heard[at].nonzero().flatten().tolist() == wanted


def test_an_encoder_layer_is_attention_over_its_window_and_nothing_else(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Frame by frame in double precision: softmax over the frames of the window alone, so that no mask can be wrong."""
    encoder = streaming.encoder
    with torch.inference_mode():
        hidden = encoder.embedder(torch.from_numpy(waveforms[0][:16_000])[None])[0][0].double()
        for layer, (before, after) in zip(encoder.layers, encoder.config.sliding_windows, strict=True):
            hidden = _layer_by_hand(layer, hidden, before, after)
        hidden = encoder.final_norm.gamma.double().add(1.0) * nn.functional.layer_norm(hidden, hidden.shape[-1:])
    assert distance(encode(streaming, waveforms[0][:16_000]).double(), hidden) < ROUNDING


def _layer_by_hand(layer: Any, hidden: Tensor, before: int, after: int) -> Tensor:
    own, mlp, width = layer.self_attn, layer.mlp, layer.self_attn.head_dim

    def norm(module: Any, states: Tensor) -> Tensor:
        return (module.gamma.double() + 1.0) * nn.functional.layer_norm(states, states.shape[-1:])

    def product(module: Any, states: Tensor) -> Tensor:
        return states @ module.weight.double().T + (0 if module.bias is None else module.bias.double())

    normed = norm(layer.input_layernorm, hidden)
    query, key, value = (product(module, normed).unflatten(-1, (-1, width)) for module in (own.q_proj, own.k_proj, own.v_proj))
    mixed = []
    for at in range(len(hidden)):
        near = slice(max(0, at - before + 1), min(len(hidden), at + max(1, after)))
        scores = torch.einsum("hw,fhw->hf", query[at], key[near]) * width**-0.5
        mixed.append(torch.einsum("hf,fhw->hw", scores.softmax(dim=-1), value[near]).flatten())
    hidden = hidden + product(own.o_proj, torch.stack(mixed))
    return hidden + product(mlp.fc2, nn.functional.gelu(product(mlp.fc1, norm(layer.post_attention_layernorm, hidden))))


def test_clips_are_encoded_as_transformers_does_with_a_mask_of_ones(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    samples = reference.whole(waveforms[0])
    with torch.inference_mode():
        expected = reference.encoded(streaming, [samples]).hidden[0]
        values = torch.from_numpy(samples)[None]
        unmasked = streaming.encoder(input_values=values, attention_mask=None).last_hidden_state[0]
    assert distance(encode(streaming, samples), expected) < ROUNDING
    assert distance(expected, unmasked) > 0.1  # transformers drops the windows with the mask


# --- more sound, and sound in chunks ------------------------------------------------------------------------------------------------------


def test_features_are_final_once_their_window_is_complete(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """240 ms of look-ahead, whatever the size: four layers look three frames ahead."""
    ahead = look_ahead(streaming)
    assert ahead == 12
    samples = reference.whole(waveforms[0])
    whole = encode(streaming, samples)
    for frames in (40, 41, 63, 100):
        part = encode(streaming, samples[: frames * STEM_FRAMES * FRAME_SAMPLES])
        assert len(part) == frames
        assert distance(part[:-ahead], whole[: frames - ahead]) < ROUNDING
        assert distance(part[-ahead:], whole[frames - ahead : frames]) > 0.01  # the last ones still waited for more


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_run_in_chunks_equals_a_whole_run(random_v2: LoadedModel, waveforms: Sequence[Waveform], data: st.DataObject) -> None:
    """However the clip is cut: of each chunk the features that are final, given what came before and the look-ahead behind it."""
    samples = reference.whole(waveforms[0])[: 150 * STEM_FRAMES * FRAME_SAMPLES]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 149), max_size=6))), 150]
    assert distance(_in_chunks(random_v2, samples, cuts), encode(random_v2, samples)) < ROUNDING


def test_a_run_in_chunks_equals_a_whole_run_at_the_published_sizes(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """The left context alone is 90 to 210 frames, so the clips are joined until a chunk does not need the beginning."""
    samples = reference.whole(np.concatenate(waveforms[:5]))[: 500 * STEM_FRAMES * FRAME_SAMPLES]
    assert look_back(streaming) + 10 < 400
    assert distance(_in_chunks(streaming, samples, [0, 17, 80, 250, 400, 500]), encode(streaming, samples)) < ROUNDING


def _in_chunks(speech: LoadedModel, samples: Waveform, cuts: Sequence[int]) -> Tensor:
    """Features of `samples`, encoded from cut to cut, in frames, with just the context before and behind that they depend on."""
    step = STEM_FRAMES * FRAME_SAMPLES
    before = look_back(speech) + 3  # the convolutions reach 12 input frames back
    parts = []
    for start, stop in pairwise(cuts):
        first = max(0, start - before)
        features = encode(speech, samples[first * step : (stop + look_ahead(speech)) * step])
        parts.append(features[start - first : stop - first])
    return torch.cat(parts)


# --- what is made of them -----------------------------------------------------------------------------------------------------------------


def test_loss_and_gradients_are_those_of_transformers(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """With adapters in the encoder, in the decoder and between their widths; encoder outputs are not changed by being listened to."""
    labels = [streaming.labels("Please hold the line."), streaming.labels("Thank you.")]
    batch = [samples[:16_000] for samples in waveforms[:2]]
    adapted = attach(streaming, AdapterConfig(lora_targets="encoder,cross", lora_r=2))
    try:
        with torch.no_grad():
            for name, parameter in adapted.peft.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.01)
        targets = pad_labels(labels, streaming.device)
        heard = Encoder(streaming)(batch)
        kept = heard.hidden.detach().clone()
        ours = Decoder(streaming).loss_sum(heard, targets)
        found = torch.autograd.grad(ours, adapted.parameters())
        assert torch.equal(heard.hidden, kept)
        theirs = reference.loss_sum(streaming, reference.encoded(streaming, batch), targets)
        wanted = torch.autograd.grad(theirs, adapted.parameters())
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
        for one, other in zip(found, wanted, strict=True):
            assert (one - other).norm() <= 1e-3 * other.norm()
        with torch.inference_mode():
            unmerged = Decoder(streaming)(targets.clamp(min=0), Decoder(streaming).listen(Encoder(streaming)(batch)))
            with merged(adapted) as speech:
                together = Decoder(speech)(targets.clamp(min=0), Decoder(speech).listen(Encoder(speech)(batch)))
        assert distance(unmerged, together) < 1e-3
    finally:
        with torch.no_grad():
            for name, parameter in adapted.peft.named_parameters():
                if ".lora_B." in name:
                    parameter.zero_()
        fold_in(adapted)  # nothing is added, and the adapter's layers are gone


def test_clips_are_transcribed_as_generate_does(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    batch = [reference.whole(samples)[:12_800] for samples in waveforms[:2]]
    lengths_s = [duration(samples) for samples in batch]
    with torch.inference_mode():
        found = transcribe(Decoder(streaming), Encoder(streaming)(batch), lengths_s, SETTINGS)
    for samples, length_s, transcript in zip(batch, lengths_s, found, strict=True):
        values = torch.from_numpy(samples)[None]
        with torch.inference_mode():
            row = streaming.model.generate(
                input_values=values,
                attention_mask=torch.ones_like(values, dtype=torch.long),
                max_new_tokens=SETTINGS.cap(length_s),
                do_sample=False,
            )[0].tolist()[1:]
        expected = row[:-1] if row[-1] == streaming.end_id else row
        assert list(transcript.tokens) == expected


@pytest.mark.slow
def test_a_local_checkpoint_goes_through_every_command(streaming: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    """Baseline, replay, cache, training in encoder and decoder, merge, tuned scores, report; then transcription with the adapter."""
    sets, run = manifests(tmp_path / "sets", clips), tmp_path / "run"
    model = ("--model-id", streaming.checkpoint.folder)
    options = (*QUICK, *ANY_VERDICT, "--lora-targets", "both", "--gradient-checkpointing", "--tokens-per-second", 1)
    found = moonshine_lora("experiment", *model, *sets.flags(), *options, "--output-dir", run)
    assert found.code == 0, found.err
    record = read(run)
    assert record.domain is not None
    assert record.adapter is not None
    assert len(record.adapter.sites) == 6 * streaming.encoder.config.num_hidden_layers + 10 * len(streaming.decoder.layers)
    said = moonshine_lora("transcribe", *model, "--adapter-dir", run / "lora_adapter", "--manifest", sets.domain, "--device", "cpu")
    assert said.code == 0, said.err
    rows = record.domain.tuned.score.utterances
    assert [line.split("\t")[1] for line in said.out.splitlines()] == [row.hypothesis for row in rows]


def test_precision_bfloat16_stays_near_float32(streaming: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    half, full = encode(replace(streaming, precision="bfloat16"), waveforms[0]), encode(streaming, waveforms[0])
    assert torch.corrcoef(torch.stack([half.flatten(), full.flatten()]))[0, 1] > 0.99
