"""The runtime weights that ship in wheels, converted into transformers checkpoints. Needs no account and no model hub.

A `.ort` file is a flatbuffer holding an ONNX graph whose node and initialiser names keep the module path, so weights are mapped by name.
Conversion counts every parameter and every weight: one that is missing, left over or given twice stops it.
"""

import io
import logging
import re
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from filelock import FileLock

from lora.checkpoints.wheels import MOONSHINE_CPP, MOONSHINE_VOICE, USEFUL_MOONSHINE_ONNX, Wheel, read_member
from lora.errors import CheckpointError
from lora.system.destination import writing_errors
from lora.system.documents import read_json
from lora.system.files import atomic_folder, cache_dir, sha256_bytes, sha256_file, write_json
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

CONVERTER: Final = 1
"""Raised whenever the files a conversion writes change; cached folders of another version are converted again."""

WEIGHTS: Final = "model.safetensors"

_log = logging.getLogger(__name__)
_RECORD: Final = "conversion.json"
_TOKENIZER: Final = "moonshine_onnx/assets/tokenizer.json"
_MAX_TOKENS: Final = 194
"""`max_position_embeddings` and `max_length` of the published checkpoints: 30 s of speech at 6.5 tokens per second, less one."""
_NO_WEIGHTS: Final = ("/", "onnx::Expand", "present.")
"""How stored float tensors that are no weights begin: folded constants, rotary frequencies, the cache a branch passes through empty."""


@dataclass(frozen=True)
class PackagedModel:
    """Published runtime weights and what their conversion must give.

    `folder` holds the `.ort` files inside `wheel`, `speech` is a 16 kHz clip there and `transcript` what the model says to it.
    `digest` is the SHA-256 of all tensors, see `tensors_digest`.
    """

    name: str
    wheel: Wheel
    folder: str
    speech: str
    transcript: str
    digest: str
    hidden_size: int
    intermediate_size: int
    layers: int
    partial_rotary_factor: float
    renamed: Mapping[str, str]


# The digests pin the tensors, not the bytes of model.safetensors. The tensors are integers times a scale in IEEE float32, one operation
# at a time, so they are the same on every system. The file's bytes were the same with safetensors 0.4.5, 0.6.2, 0.7.0 and 0.8, but the
# layout belongs to that library: a later release that orders its header differently must not make every new install fail.
TINY: Final = PackagedModel(
    name="moonshine-tiny",
    wheel=MOONSHINE_VOICE,
    folder="moonshine_voice/assets/tiny-en",
    speech="moonshine_voice/assets/beckett.wav",
    transcript="Ever tried, ever failed, no matter, try again, fail again, fail better.",
    digest="e45c9006d2f5b8f5b079da362ab86e20ab4d14be7b24b687728c790e765acb33",
    hidden_size=288,
    intermediate_size=1152,
    layers=6,
    partial_rotary_factor=0.9,
    renamed={},
)
BASE: Final = PackagedModel(
    name="moonshine-base",
    wheel=MOONSHINE_CPP,
    folder="moonshine_cpp-0.1.4.data/purelib/moonshine_cpp/models/base-en",
    speech="moonshine_cpp-0.1.4.data/purelib/moonshine_cpp/test-data/beckett.wav",
    transcript="Ever tried ever failed, no matter try again fail again fail better.",
    digest="6f3003e6fb79d0ceb157e89c5373a429d7930256cebdd714f379dd5e33eab3af",
    hidden_size=416,
    intermediate_size=1664,
    layers=8,
    partial_rotary_factor=0.62,  # heads are 52 wide: 32 of 52 dimensions are rotated, as in tiny 32 of 36
    renamed={"dense": "o_proj", "up_proj": "fc1", "down_proj": "fc2"},
)
PACKAGED: Final = {model.name: model for model in (TINY, BASE)}


class Conversion(msgspec.Struct, frozen=True):
    """What `conversion.json` says about a converted folder. `files` maps every other file to its SHA-256."""

    converter: int
    model: str
    wheel: str
    wheel_sha256: str
    weights_sha256: str
    tensors_sha256: str
    transcript: str
    files: dict[str, str]


class _Version(msgspec.Struct, frozen=True):
    """The one field of `conversion.json` that all converter versions share."""

    converter: int


def packaged_checkpoint(name: str) -> tuple[Path, str]:
    """The folder of the packaged model `name` as a transformers checkpoint, converted on first use, and the SHA-256 of its weights.

    The folder loads with `AutoProcessor` and `AutoModelForSpeechSeq2Seq`; weights are float32.

    Raises:
        CheckpointError: there is no such packaged model, the cached folder was changed, or the conversion does not check out.
        FetchError: a wheel cannot be had.
    """
    if name not in PACKAGED:
        raise CheckpointError(f"packaged:{name}: no such packaged model; there are {', '.join(f'packaged:{known}' for known in PACKAGED)}")
    model = PACKAGED[name]
    folder = cache_dir() / "checkpoints" / name
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):  # a second process waits instead of converting the same weights
            if not _is_current(folder):
                _convert(model, folder)
    return folder, _read_record(folder / _RECORD, Conversion).files[WEIGHTS]


def _is_current(folder: Path) -> bool:
    """Whether `folder` holds an unchanged conversion of this version; False if there is none or one of another version."""
    if not folder.exists():
        return False
    remedy = f"delete the folder {folder} and run again"
    record = folder / _RECORD
    if not record.is_file():
        raise CheckpointError(f"{folder}: cached checkpoint has no {_RECORD}; {remedy}")
    if _read_record(record, _Version).converter != CONVERTER:
        _log.info("%s was converted by another version; converting it anew", folder)
        return False
    for name, expected in _read_record(record, Conversion).files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing from the cached checkpoint; {remedy}")
        if (actual := sha256_file(path)) != expected:
            raise CheckpointError(f"{path}: changed since its conversion (SHA-256 {actual}, was {expected}); {remedy}")
    return True


def _read_record(record: Path, kind: Any) -> Any:
    try:
        return read_json(record, kind, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete the folder {record.parent} and run again") from error


def _convert(model: PackagedModel, folder: Path) -> None:
    from safetensors.numpy import save_file

    _log.info("converting the packaged weights of %s", model.name)
    tensors = _read_tensors(model)
    digest = tensors_digest(tensors)
    if digest != model.digest:
        raise CheckpointError(f"packaged:{model.name}: converted tensors have SHA-256 {digest}, expected {model.digest}; report this")
    with atomic_folder(folder) as temporary:
        save_file(dict(sorted(tensors.items())), temporary / WEIGHTS, metadata={"format": "pt"})
        _save_config(model, temporary, tensors)
        _save_processor(temporary)
        files = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        record = Conversion(
            converter=CONVERTER,
            model=model.name,
            wheel=model.wheel.requirement,
            wheel_sha256=model.wheel.sha256,
            weights_sha256=files[WEIGHTS],
            tensors_sha256=digest,
            transcript=_checked_transcript(model, temporary),
            files=files,
        )
        write_json(temporary / _RECORD, record)


def tensors_digest(tensors: Mapping[str, "Array"]) -> str:
    """SHA-256 over name, shape and little-endian float32 content of all tensors, in the order of their names."""
    parts: list[bytes | memoryview] = []
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name}{list(tensor.shape)}".encode(), tensor.astype("<f4", copy=False).tobytes()]
    return sha256_bytes(*parts)


# --- weights ---------------------------------------------------------------------------------------------------------------------------


def _read_tensors(model: PackagedModel) -> dict[str, "Array"]:
    """Every parameter of `model` under its transformers name, float32; the tied output projection is stored once, as the embedding."""
    tensors: dict[str, Array] = {}
    for file, prefix in (("encoder_model.ort", "model.encoder."), ("decoder_model_merged.ort", "")):
        source = f"{model.folder}/{file}"
        for path, weight in _read_ort(source, read_member(model.wheel, source)):
            name = prefix + ".".join(model.renamed.get(part, part) for part in path.split("."))
            _add(tensors, name, weight, source)
    if "proj_out.weight" in tensors:
        _add(tensors, "model.decoder.embed_tokens.weight", tensors.pop("proj_out.weight"), "proj_out, tied to the embedding")
    return tensors


def _add(tensors: dict[str, "Array"], name: str, weight: "Array", source: str) -> None:
    import numpy as np

    if name in tensors and not np.array_equal(tensors[name], weight):
        raise CheckpointError(f"{source}: gives {name} a second, different value")
    tensors[name] = np.ascontiguousarray(weight)


def _read_ort(source: str, content: bytes) -> Iterator[tuple[str, "Array"]]:
    """Yields (module path, weight) for every weight of an `.ort` file, weights of linear layers as [out, in].

    Raises:
        CheckpointError: a weight belongs to no module or to two.
    """
    graphs = list(_graphs(content))
    weights = _weights({name: array for graph in graphs for name, array in _initialisers(graph)})
    paths = _paths_of_numbered(graphs, weights, source)
    left_over = sorted(name for name in weights if name not in paths and not _own_path(name).endswith((".weight", ".bias")))
    if left_over:
        raise CheckpointError(f"{source}: weights left over, used by no module: {', '.join(left_over)}")
    for name, weight in weights.items():
        path = paths.get(name, name)
        if path.startswith("groupnorm."):
            yield path, weight.reshape(-1)  # stored as [channels, 1]
        elif name in paths:
            yield path, weight.T  # ONNX multiplies from the left and stores [in, out]
        else:
            yield _own_path(name), weight


def _own_path(name: str) -> str:
    """Module path of a weight stored under it, without what merging the two decoders appended."""
    return re.sub(r"_merged_\d+$", "", name)


def _graphs(content: bytes) -> Iterator[Any]:
    """Yields the main graph of an `.ort` flatbuffer, then the graphs inside its nodes (the two branches of the merged decoder)."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    pending = [InferenceSession.GetRootAs(content, 0).Model().Graph()]
    while pending:
        graph = pending.pop()
        yield graph
        nodes = [graph.Nodes(index) for index in range(graph.NodesLength())]
        inner = [node.Attributes(index).G() for node in nodes for index in range(node.AttributesLength())]
        pending += [branch for branch in inner if branch is not None]


def _initialisers(graph: Any) -> Iterator[tuple[str, "npt.NDArray[Any]"]]:
    """Yields (name, array) for the stored weights of `graph`: float32, uint8 or int8, with their scales and zero points."""
    import numpy as np

    kinds = {1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1")}  # ONNX TensorProto.DataType
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        name = tensor.Name().decode()
        if tensor.DataType() in kinds and not name.startswith(_NO_WEIGHTS):
            shape = [tensor.Dims(axis) for axis in range(tensor.DimsLength())]
            yield name, tensor.RawDataAsNumpy().view(kinds[tensor.DataType()]).reshape(shape)


def _weights(stored: Mapping[str, "npt.NDArray[Any]"]) -> dict[str, "Array"]:
    """The float32 weights among `stored` arrays, quantised ones brought back to float32, by name without its storage suffix."""
    import numpy as np

    weights: dict[str, Array] = {}
    for name, array in stored.items():
        if name.endswith("_quantized"):
            stem = name.removesuffix("_quantized")
            weights[stem] = _dequantised(array, stored[f"{stem}_scale"], stored[f"{stem}_zero_point"])
        elif array.dtype == np.float32 and not name.endswith(("_scale", "_zero_point")):
            weights[name.removesuffix("_add_tensor")] = array
    return weights


def _dequantised(quantized: "npt.NDArray[Any]", scale: "Array", zero_point: "npt.NDArray[Any]") -> "Array":
    import numpy as np

    levels: Array = quantized.astype(np.float32)
    if zero_point.dtype == np.float32:  # base: int8 with an offset in the unit of the weights
        levels *= scale
        levels += zero_point
    else:  # tiny: uint8 with the level that stands for zero
        levels -= zero_point
        levels *= scale
    return levels


def _paths_of_numbered(graphs: list[Any], weights: Mapping[str, "Array"], source: str) -> dict[str, str]:
    """Module path of every weight that is stored under a number (`onnx::MatMul_2096`), read off the node that uses it."""
    paths: dict[str, str] = {}
    for node in (graph.Nodes(index) for graph in graphs for index in range(graph.NodesLength())):
        path = _module_path(node.Name().decode())
        inputs = (node.Inputs(index).decode() for index in range(node.InputsLength()))
        for name in (re.sub(r"_(quantized|add_tensor)$", "", stored) for stored in inputs if stored.startswith("onnx::")):
            if path is not None and name in weights and paths.setdefault(name, path) != path:
                raise CheckpointError(f"{source}: weight {name} belongs to both {paths[name]} and {path}")
    return paths


def _module_path(node: str) -> str | None:
    """`/layers.0/mlp/fc1/MatMul_quant` -> `layers.0.mlp.fc1.weight`; None for a node that holds no weight."""
    if (matmul := re.fullmatch(r"/(.+)/MatMul(_quant)?", node)) is not None:
        return f"{matmul[1].replace('/', '.')}.weight"
    return {"/groupnorm/Mul": "groupnorm.weight", "/groupnorm/Add": "groupnorm.bias"}.get(node)


# --- the rest of the checkpoint --------------------------------------------------------------------------------------------------------


def _save_config(model: PackagedModel, folder: Path, tensors: Mapping[str, "Array"]) -> None:
    """Writes `config.json` and `generation_config.json` after checking that `tensors` are exactly the parameters such a model has."""
    import torch
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, GenerationConfig

    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(
        "moonshine",
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        encoder_num_hidden_layers=model.layers,
        decoder_num_hidden_layers=model.layers,
        max_position_embeddings=_MAX_TOKENS,
        partial_rotary_factor=model.partial_rotary_factor,
        dtype="float32",
        **special,
    )
    with torch.device("meta"):  # shapes only
        network = AutoModelForSpeechSeq2Seq.from_config(config)
    _require_same_parameters(model, {name: list(parameter.shape) for name, parameter in network.named_parameters()}, tensors)
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    GenerationConfig(max_length=_MAX_TOKENS, **special).save_pretrained(folder)


def _require_same_parameters(model: PackagedModel, shapes: Mapping[str, list[int]], tensors: Mapping[str, "Array"]) -> None:
    problems = {
        "missing": sorted(shapes.keys() - tensors.keys()),
        "left over": sorted(tensors.keys() - shapes.keys()),
        "of another shape": sorted(name for name in shapes.keys() & tensors.keys() if shapes[name] != list(tensors[name].shape)),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"packaged:{model.name}: the weights do not fit the model; {listed}")


def _save_processor(folder: Path) -> None:
    """Writes tokenizer and feature extractor so that `AutoProcessor` loads them. In v1 padding and end of text are one token, `</s>`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(read_member(USEFUL_MOONSHINE_ONNX, _TOKENIZER).decode()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=SAMPLE_RATE_HZ, padding_value=0.0, do_normalize=False, return_attention_mask=True
    )
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)


def _checked_transcript(model: PackagedModel, folder: Path) -> str:
    """Loads `folder` as any user would and transcribes the packaged speech greedily; refuses it where the text is not the known one."""
    import torch
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    network = AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    inputs = processor(_speech(model), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        tokens = network.generate(**inputs, do_sample=False, num_beams=1)
    transcript: str = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    if transcript != model.transcript:
        raise CheckpointError(f"packaged:{model.name}: {model.speech} gives {transcript!r} after conversion, expected {model.transcript!r}")
    return transcript


def _speech(model: PackagedModel) -> "Array":
    """Samples of the packaged clip, float32 in [-1, 1), shape [samples] at 16 kHz."""
    import numpy as np

    with wave.open(io.BytesIO(read_member(model.wheel, model.speech))) as clip:
        layout = (clip.getnchannels(), clip.getsampwidth(), clip.getframerate())
        if layout != (1, 2, SAMPLE_RATE_HZ):
            raise CheckpointError(f"{model.speech}: expected mono 16-bit {SAMPLE_RATE_HZ} Hz, found (channels, bytes, Hz) {layout}")
        return np.frombuffer(clip.readframes(clip.getnframes()), dtype="<i2").astype(np.float32) / np.float32(2**15)
