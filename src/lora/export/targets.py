"""What each runtime's folder holds, and how it is made from a merged model."""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from lora.errors import ConfigError, ExportError
from lora.export.about import NOTHING, About
from lora.system.destination import writing_errors
from lora.system.files import write_json

if TYPE_CHECKING:
    import onnx

    from lora.model.loading import LoadedModel

Target = Literal["merged", "moonshine-voice", "onnx", "sherpa-onnx", "gguf", "transformers-js"]
ExportPrecision = Literal["u8", "fp16", "fp32"]
Graph = Literal["frontend", "encoder", "adapter", "cross_kv", "decoder_kv"]
"""Of a streaming model for moonshine-voice; `decoder_kv` stands for its twin with attention too."""

Architecture = Literal["tiny", "base", "streaming"]

TARGETS: Final[tuple[Target, ...]] = get_args(Target)
GRAPHS: Final[tuple[Graph, ...]] = get_args(Graph)
PRECISIONS: Final[tuple[ExportPrecision, ...]] = get_args(ExportPrecision)

START_ID, END_ID = 1, 2
"""The tokens that every runtime starts with and stops at in v1; none asks the checkpoint."""

ASKS_ARCHITECTURE: Final[frozenset[Target]] = frozenset(("moonshine-voice", "onnx"))
"""Targets whose runtime asks for the name of the model's size."""

_SIZES: Final[dict[tuple[int, int, int], Architecture]] = {(6, 8, 36): "tiny", (8, 8, 52): "base"}
"""Decoder layers, heads and their width that moonshine-voice and useful-moonshine-onnx know, by name."""


def require_export(targets: Iterable[Target], precision: ExportPrecision) -> None:
    """Raises `ExportError` when a target needs a package that is not installed, `ConfigError` for a precision that it does not have."""
    for target in targets:
        if target == "merged":
            continue
        package = "gguf" if target == "gguf" else "onnx"
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"--to {target}: the package {package} is not installed; install it (pip install 'moonshine-lora[export]')")
        if precision == "fp16" and target != "gguf":
            raise ConfigError(f"--precision fp16: only gguf files have it; choose u8 or fp32 for {target}")


def architecture(speech: "LoadedModel") -> Architecture:
    """The name that a runtime asks for; a streaming model's files say its sizes.

    Raises `ExportError` for a model of other sizes, which the runtimes do not know.
    """
    if speech.streaming:
        return "streaming"
    from lora.model.parts import decoder_layers

    layers = decoder_layers(speech)
    size = (len(layers), layers[0].own.key_heads, layers[0].own.width)
    if size not in _SIZES:
        raise ExportError(
            f"{speech.checkpoint.model_id}: has {size[0]} decoder layers of {size[1]} heads {size[2]} wide; moonshine-voice and "
            "useful-moonshine-onnx run only tiny (6, 8, 36) and base (8, 8, 52); export it to `sherpa-onnx` or `merged`"
        )
    return _SIZES[size]


def write_target(
    speech: "LoadedModel", target: Target, precision: ExportPrecision, folder: Path, about: About = NOTHING
) -> tuple[Path, ...]:
    """Writes what the runtime loads into the existing, empty `folder` and returns the files in the order of their names.

    `speech` is a plain model on the CPU, its adapter folded in. The same input gives the same bytes. `merged` is float32 whatever
    `precision` says: checkpoints that training or another export can start from are. `about` goes into files that have a place for it.

    Raises:
        ExportError: the target cannot run this model.
        RunFolderError: the folder cannot be written.
    """
    with writing_errors(folder):
        if target == "merged":
            from lora.export.merged import write_merged

            write_merged(speech, folder)
        elif target == "gguf":
            _write_gguf(speech, precision, folder, about)
        else:
            _write_graphs(speech, target, precision, folder, about)
    return tuple(sorted(file for file in folder.rglob("*") if file.is_file()))


def _write_gguf(speech: "LoadedModel", precision: ExportPrecision, folder: Path, about: About) -> None:
    from lora.export.gguf_file import write_gguf
    from lora.export.graphs import require_plain

    require_plain(speech)
    _require_raw(speech)
    write_gguf(speech, "Q8_0" if precision == "u8" else "F16" if precision == "fp16" else "F32", about, folder)


def _write_graphs(speech: "LoadedModel", target: Target, precision: ExportPrecision, folder: Path, about: About) -> None:
    from lora.export.formats import write_onnx, write_ort
    from lora.export.graphs import decoder_graph, encoder_graph, looks, require_plain
    from lora.export.quantise import quantised
    from lora.export.streaming import QUANTISED, streaming_config, streaming_graphs
    from lora.export.tokens import tokenizer_bin, tokens_txt, vocabulary
    from lora.export.transformers_js import DTYPES, write_page, write_settings

    require_plain(speech)
    _require_runnable(speech, target)
    tokens = vocabulary(speech.processor.tokenizer, speech.head.weight.shape[0])
    ending, write = (".ort", write_ort) if target == "moonshine-voice" else (".onnx", write_onnx)
    place = folder
    if target == "transformers-js":
        ending, place = f"{DTYPES[precision][1]}.onnx", folder / "onnx"
        place.mkdir()
    graphs: Mapping[str, Callable[[], onnx.ModelProto]]
    smaller: tuple[str, ...]
    if speech.streaming:
        graphs, smaller = streaming_graphs(speech), QUANTISED
    else:
        small = precision == "u8"
        graphs = {
            "encoder_model": lambda: encoder_graph(speech, levelled=small),
            "decoder_model_merged": lambda: decoder_graph(speech, levelled=small),
        }
        if target == "moonshine-voice":
            graphs["decoder_with_attention"] = lambda: decoder_graph(speech, levelled=small, looks=looks(speech))
        smaller = tuple(graphs)
    for name, graph in graphs.items():
        model = graph()
        write(quantised(model) if precision == "u8" and name in smaller else model, place / f"{name}{ending}")
    if speech.streaming:
        write_json(folder / "streaming_config.json", streaming_config(speech))
    if target == "moonshine-voice":
        (folder / "tokenizer.bin").write_bytes(tokenizer_bin(tokens))
    elif target == "sherpa-onnx":
        (folder / "tokens.txt").write_bytes(tokens_txt(tokens))
    elif target == "transformers-js":
        write_settings(speech, precision, folder)
        write_page(speech, about, folder)
    else:
        (folder / "tokenizer.json").write_text(speech.processor.tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8")


def _require_runnable(speech: "LoadedModel", target: Target) -> None:
    """Refuses what a runtime would run with wrong results, for it cannot be told."""
    model_id = speech.checkpoint.model_id
    if speech.streaming and target != "moonshine-voice":
        raise ExportError(f"{model_id}: streaming checkpoints can only be exported to `moonshine-voice`, `gguf` and `merged`")
    if target in ASKS_ARCHITECTURE:
        architecture(speech)
    if not speech.streaming and (speech.start_id, speech.end_id) != (START_ID, END_ID):
        raise ExportError(
            f"{model_id}: starts with token {speech.start_id} and ends with {speech.end_id}; "
            f"runtimes take {START_ID} and {END_ID}; export it to `merged`"
        )
    _require_raw(speech)


def _require_raw(speech: "LoadedModel") -> None:
    if speech.processor.feature_extractor.do_normalize:
        raise ExportError(
            f"{speech.checkpoint.model_id}: its processor normalises the loudness of each clip and runtimes do not; export it to `merged`"
        )
