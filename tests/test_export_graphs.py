"""The graphs compute what the model computes, in the names and shapes that runtimes know, in few bytes and always the same ones."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from peft import LoraConfig, get_peft_model

import lora
from lora.audio.loading import Waveform, duration
from lora.checkpoints.checkpoint import resolve
from lora.checkpoints.packaged import BASE, TINY, PackagedModel
from lora.checkpoints.wheels import read_member
from lora.errors import ExportError
from lora.export.formats import write_onnx, write_ort
from lora.export.graphs import decoder_graph, encoder_graph
from lora.export.quantise import quantised
from lora.export.targets import END_ID, START_ID
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings
from lora.system.files import sha256_file

ROUNDING = 1e-4
"""Of logits and keys: sums in another order."""

SETTINGS = DecodeSettings(tokens_per_second=6.5)
Array = npt.NDArray[Any]
Session = Any


def session(source: Path | bytes) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 2
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(graph: Session, **inputs: Array) -> dict[str, Array]:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, inputs), strict=True))


class Pair:
    """Both graphs of a model, driven as runtimes drive them."""

    def __init__(self, encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
        self.encoder, self.decoder = session(encoder.SerializeToString()), session(decoder.SerializeToString())
        self.past = {entry.name: entry.shape for entry in self.decoder.get_inputs() if entry.name.startswith("past_key_values")}

    def hear(self, samples: Array) -> Array:
        return run(self.encoder, input_values=samples)["last_hidden_state"]

    def nothing(self, batch: int, length: int) -> dict[str, Array]:
        """A past for the first tokens, whose content must not matter."""
        return {name: np.full((batch, shape[1], length, shape[3]), np.nan, np.float32) for name, shape in self.past.items()}

    def step(self, tokens: Array, heard: Array, past: dict[str, Array], *, follow: bool) -> tuple[Array, dict[str, Array]]:
        """Logits, and the past of the next step."""
        found = run(self.decoder, input_ids=tokens, encoder_hidden_states=heard, use_cache_branch=np.array([follow]), **past)
        present = {name: found[name.replace("past_key_values", "present")] for name in past}
        if follow:  # the encoder's keys stay what they were
            present |= {name: array for name, array in past.items() if ".encoder." in name}
        return found["logits"], present

    def tokens(self, samples: Waveform, nothing: tuple[int, int] = (0, 1)) -> tuple[int, ...]:
        """Greedy tokens of a clip, without start and end."""
        heard = self.hear(samples[None])
        logits, past = self.step(np.array([[START_ID]]), heard, self.nothing(*nothing), follow=False)
        said = [int(logits[0, -1].argmax())]
        while said[-1] != END_ID and len(said) < SETTINGS.cap(duration(samples)):
            logits, past = self.step(np.array([[said[-1]]]), heard, past, follow=True)
            said.append(int(logits[0, -1].argmax()))
        return tuple(said[:-1] if said[-1] == END_ID else said)


def pair(speech: LoadedModel) -> Pair:
    return Pair(encoder_graph(speech), decoder_graph(speech))


@pytest.fixture(scope="session")
def real(tiny: LoadedModel) -> Pair:
    return pair(tiny)


@pytest.fixture(scope="session")
def small(random_v1: LoadedModel) -> Pair:
    return pair(random_v1)


@pytest.fixture(scope="session")
def real_u8(tiny: LoadedModel) -> Pair:
    return Pair(quantised(encoder_graph(tiny, levelled=True)), quantised(decoder_graph(tiny, levelled=True)))


def expected(speech: LoadedModel, samples: Waveform) -> tuple[int, ...]:
    with torch.inference_mode():
        return transcribe(Decoder(speech), Encoder(speech)([samples]), [duration(samples)], SETTINGS)[0].tokens


# --- what they compute -----------------------------------------------------------------------------------------------------------------


def test_float_graphs_say_what_the_model_says(tiny: LoadedModel, real: Pair, waveforms: Sequence[Waveform]) -> None:
    for samples in waveforms[::2]:
        assert real.tokens(samples) == expected(tiny, samples)


@pytest.mark.parametrize("nothing", [(0, 1), (1, 0), (1, 1)], ids=["useful-moonshine-onnx", "sherpa-onnx", "moonshine-voice"])
def test_the_past_that_a_runtime_gives_with_the_first_token_does_not_matter(
    tiny: LoadedModel, real: Pair, waveforms: Sequence[Waveform], nothing: tuple[int, int]
) -> None:
    assert real.tokens(waveforms[3], nothing) == expected(tiny, waveforms[3])


def test_float_graphs_of_a_random_model_say_what_it_says_up_to_the_cap(
    random_v1: LoadedModel, small: Pair, waveforms: Sequence[Waveform]
) -> None:
    said = [small.tokens(samples) for samples in waveforms[:3]]
    assert said == [expected(random_v1, samples) for samples in waveforms[:3]]
    assert max(len(row) for row in said) > 10


@pytest.mark.slow
def test_base_exports_as_tiny_does(waveforms: Sequence[Waveform]) -> None:
    base = load_model(resolve("packaged:moonshine-base"), torch.device("cpu"), "float32")
    assert pair(base).tokens(waveforms[0]) == expected(base, waveforms[0])


def test_encoder_output_is_that_of_the_model_for_any_length(random_v1: LoadedModel, small: Pair, waveforms: Sequence[Waveform]) -> None:
    encoder = Encoder(random_v1)
    for length in (895, 1279, 5_000, 16_001, len(waveforms[0])):
        with torch.inference_mode():
            wanted = encoder([waveforms[0][:length]]).hidden.numpy()
        found = small.hear(waveforms[0][None, :length])
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < ROUNDING


def test_logits_are_those_of_the_model_however_many_tokens_come_at_a_time(
    random_v1: LoadedModel, small: Pair, waveforms: Sequence[Waveform]
) -> None:
    tokens = np.random.default_rng(1).integers(3, 30_000, (1, 12))
    heard = small.hear(waveforms[0][None])
    with torch.inference_mode():
        decoder = Decoder(random_v1)
        memory = decoder.listen(Encoder(random_v1)([waveforms[0]]))
        wanted = random_v1.head(decoder(torch.from_numpy(tokens), memory)).numpy()
    for steps in ([12], [1] * 12, [5, 1, 4, 2]):
        past, found, place = small.nothing(0, 1), [], 0
        for count in steps:
            logits, past = small.step(tokens[:, place : place + count], heard, past, follow=place > 0)
            found.append(logits)
            place += count
        assert np.abs(np.concatenate(found, axis=1) - wanted).max() < ROUNDING
        assert {array.shape[2] for name, array in past.items() if ".decoder." in name} == {12}


def test_clips_of_a_batch_give_what_they_give_alone(small: Pair, waveforms: Sequence[Waveform]) -> None:
    clips = np.stack([waveforms[index][:20_000] for index in (0, 4, 9)])
    tokens = np.array([[5, 6], [7, 8], [9, 10]])
    together = small.step(tokens, small.hear(clips), small.nothing(0, 1), follow=False)[0]
    for row in range(3):
        alone = small.step(tokens[row : row + 1], small.hear(clips[row : row + 1]), small.nothing(0, 1), follow=False)[0]
        assert np.abs(together[row] - alone[0]).max() < ROUNDING


# --- eight bits ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_bits_say_mostly_what_the_model_says(tiny: LoadedModel, real_u8: Pair, waveforms: Sequence[Waveform]) -> None:
    same = [real_u8.tokens(samples) == expected(tiny, samples) for samples in waveforms]
    assert np.mean(same) >= 0.8


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("graph", [encoder_graph, pytest.param(decoder_graph, marks=pytest.mark.slow)])
def test_each_quantised_weight_is_the_nearest_of_its_channel_s_256(tiny: LoadedModel, graph: Callable[..., onnx.ModelProto]) -> None:
    """So a small update of the weights shows: the grid is made from the tuned weights, not taken from a published file."""
    exact, small = stored(graph(tiny, levelled=True)), stored(quantised(graph(tiny, levelled=True)))
    found = [name.removesuffix("_quantized") for name in small if name.endswith("_quantized")]
    products = [name for name, array in exact.items() if array.ndim == 2 and min(array.shape) > 1]
    assert sorted(found) == sorted(products)
    for name in found:
        scale, zero = small[f"{name}_scale"], small[f"{name}_zero_point"].astype(np.float32)
        assert scale.shape == (exact[name].shape[1],)
        assert (np.abs((small[f"{name}_quantized"] - zero) * scale - exact[name]) <= 0.5001 * scale).all()


def test_convolutions_norms_and_biases_lose_nothing(tiny: LoadedModel) -> None:
    """The convolutions of the packaged checkpoint are on a grid of 256 values: their places on it give them back."""
    exact, small = stored(encoder_graph(tiny)), stored(quantised(encoder_graph(tiny)))
    kept = [name for name, array in exact.items() if array.ndim != 2 or min(array.shape) == 1]
    for name in kept:
        if "conv" not in name or exact[name].ndim == 1:
            assert np.array_equal(small[name], exact[name])
            continue
        assert small[f"{name}_places"].dtype == np.uint8
        back = small[f"{name}_places"] * small[f"{name}_step"] + small[f"{name}_lowest"]
        assert np.abs(back - exact[name]).max() < 1e-6 * np.abs(exact[name]).max()
    assert sum(name.endswith("_places") for name in small) == 3


def test_convolutions_on_no_grid_stay_float(random_v1: LoadedModel) -> None:
    exact, small = stored(encoder_graph(random_v1)), stored(quantised(encoder_graph(random_v1)))
    convolutions = [name for name in exact if "conv" in name and exact[name].ndim == 3]
    assert len(convolutions) == 3
    for name in convolutions:
        assert np.array_equal(small[name], exact[name])


def test_an_embedding_of_its_own_is_kept_beside_the_head(random_v1: LoadedModel, waveforms: Sequence[Waveform]) -> None:
    """Full fine-tuning may part the two."""
    speech = load_model(random_v1.checkpoint, torch.device("cpu"), "float32")
    head = copy.deepcopy(speech.model.get_output_embeddings())
    with torch.no_grad():
        head.weight += 0.01
    speech.model.set_output_embeddings(head)
    samples, tokens = waveforms[0], np.array([[5, 7, 9]])
    with torch.inference_mode():
        decoder = Decoder(speech)
        wanted = speech.head(decoder(torch.from_numpy(tokens), decoder.listen(Encoder(speech)([samples])))).numpy()
    own = Pair(encoder_graph(speech), decoder_graph(speech))
    logits = own.step(tokens, own.hear(samples[None]), own.nothing(0, 1), follow=False)[0]
    assert np.abs(logits - wanted).max() < ROUNDING
    small = quantised(decoder_graph(speech))
    assert {"embedding_quantized", "head.weight_quantized"} <= stored(small).keys()
    logits = Pair(encoder_graph(speech), small).step(tokens, own.hear(samples[None]), own.nothing(0, 1), follow=False)[0]
    assert np.abs(logits - wanted).max() < 0.2 * np.abs(wanted).max()


# --- activations made even ------------------------------------------------------------------------------------------------------------


def test_a_levelled_graph_computes_the_same(tiny: LoadedModel, real: Pair, waveforms: Sequence[Waveform]) -> None:
    level = Pair(encoder_graph(tiny, levelled=True), decoder_graph(tiny, levelled=True))
    for samples in waveforms[:3]:
        exact = real.hear(samples[None])
        assert np.abs(level.hear(samples[None]) - exact).max() < ROUNDING * np.abs(exact).max()
        assert level.tokens(samples) == real.tokens(samples)


@pytest.mark.slow
def test_levelling_halves_what_eight_bits_cost(tiny: LoadedModel, real: Pair, real_u8: Pair, waveforms: Sequence[Waveform]) -> None:
    plain = Pair(quantised(encoder_graph(tiny)), quantised(decoder_graph(tiny)))

    def error(one: Pair) -> float:
        exact, found = (np.concatenate([which.hear(samples[None])[0] for samples in waveforms[:4]]) for which in (real, one))
        return float(np.square(found - exact).sum() / np.square(exact).sum())

    assert error(real_u8) < error(plain) / 2


def test_levelling_leaves_the_model_alone(tiny: LoadedModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    encoder_graph(tiny, levelled=True)
    decoder_graph(tiny, levelled=True)
    after = tiny.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


# --- names, sizes, bytes ---------------------------------------------------------------------------------------------------------------


def interface(graph: Session) -> dict[str, tuple[str, list[Any]]]:
    """Types, and the sizes that are fixed, of inputs and outputs."""
    entries = [*graph.get_inputs(), *graph.get_outputs()]
    return {entry.name: (entry.type, [size if isinstance(size, int) else None for size in entry.shape]) for entry in entries}


@pytest.mark.slow
def test_base_in_eight_bits_is_not_above_the_published_size(tmp_path: Path) -> None:
    base = load_model(resolve("packaged:moonshine-base"), torch.device("cpu"), "float32")
    for stem, graph in (("encoder_model", encoder_graph), ("decoder_model_merged", decoder_graph)):
        file = tmp_path / f"{stem}.ort"
        write_ort(quantised(graph(base, levelled=True)), file)
        own, published = file.stat().st_size, len(read_member(BASE.wheel, f"{BASE.folder}/{file.name}"))
        print(f"{file.name}: {own} bytes, published {published}, {100 * (own / published - 1):+.2f} %")
        assert own < 1.02 * published


@pytest.mark.parametrize("packaged", [TINY, pytest.param(BASE, marks=pytest.mark.slow)], ids=lambda packaged: packaged.name)
def test_inputs_and_outputs_are_the_published_ones_without_attention_masks(packaged: PackagedModel) -> None:
    speech = load_model(resolve(f"packaged:{packaged.name}"), torch.device("cpu"), "float32")
    own = pair(speech)
    for graph, file in ((own.encoder, "encoder_model.ort"), (own.decoder, "decoder_model_merged.ort")):
        published = session(read_member(packaged.wheel, f"{packaged.folder}/{file}"))
        without_masks = {name: entry for name, entry in interface(published).items() if "attention_mask" not in name}
        assert interface(graph) == without_masks
        order = [entry.name for entry in published.get_inputs() if "attention_mask" not in entry.name]
        assert [entry.name for entry in graph.get_inputs()] == order
        assert [entry.name for entry in graph.get_outputs()] == [entry.name for entry in published.get_outputs()]


@pytest.fixture
def written(tiny: LoadedModel, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Path]]]:
    """Writes both u8 graphs into a folder of that name, in both forms."""

    def write(name: str) -> dict[str, Path]:
        folder = tmp_path / name
        folder.mkdir()
        for stem, graph in (("encoder_model", encoder_graph), ("decoder_model_merged", decoder_graph)):
            model = quantised(graph(tiny, levelled=True))
            write_ort(model, folder / f"{stem}.ort")
            write_onnx(model, folder / f"{stem}.onnx")
        return {file.name: file for file in folder.iterdir()}

    return write


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes_and_fewer_than_the_published_ones(written: Callable[[str], dict[str, Path]]) -> None:
    first, second = written("first"), written("second")
    assert {name: sha256_file(file) for name, file in first.items()} == {name: sha256_file(file) for name, file in second.items()}
    for name in ("encoder_model.ort", "decoder_model_merged.ort"):
        own, published = first[name].stat().st_size, len(read_member(TINY.wheel, f"{TINY.folder}/{name}"))
        print(f"{name}: {own} bytes, published {published}, {100 * (own / published - 1):+.2f} %")
        assert own < 0.7 * published


@pytest.mark.slow
def test_ort_and_onnx_hold_the_same_model(written: Callable[[str], dict[str, Path]], waveforms: Sequence[Waveform]) -> None:
    files = written("both")
    heard = [
        run(session(files[f"encoder_model{ending}"]), input_values=waveforms[0][None])["last_hidden_state"] for ending in (".ort", ".onnx")
    ]
    assert np.abs(heard[0] - heard[1]).max() < 0.05  # activations are quantised while they run, so rounding shows


@pytest.mark.slow
def test_no_path_of_the_machine_is_in_a_file(written: Callable[[str], dict[str, Path]], tmp_path: Path) -> None:
    for file in written("clean").values():
        content = file.read_bytes()
        for place in (tmp_path, Path(lora.__file__).parent, Path(torch.__file__).parent, Path(tempfile.gettempdir())):
            assert f"{place}/".encode() not in content


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [encoder_graph, decoder_graph])
def test_a_streaming_model_is_refused(random_v2: LoadedModel, graph: Callable[[LoadedModel], onnx.ModelProto]) -> None:
    with pytest.raises(ExportError, match="streaming checkpoints can only be exported to `moonshine-voice`, `gguf` and `merged`"):
        graph(random_v2)


def test_an_adapter_that_is_not_folded_in_is_refused(random_v1: LoadedModel) -> None:
    speech = load_model(random_v1.checkpoint, torch.device("cpu"), "float32")
    get_peft_model(speech.model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ExportError, match="fold it in before the export"):
        decoder_graph(speech)


def test_a_model_on_another_device_is_refused(random_v1: LoadedModel) -> None:
    with pytest.raises(ExportError, match="load it on the CPU"):
        encoder_graph(replace(random_v1, device=torch.device("meta")))


def test_other_rotary_positions_are_refused(random_v1: LoadedModel) -> None:
    speech = load_model(random_v1.checkpoint, torch.device("cpu"), "float32")
    speech.decoder.rotary_emb.rope_type = "yarn"
    with pytest.raises(ExportError, match="'yarn' cannot be exported"):
        decoder_graph(speech)
