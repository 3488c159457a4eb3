"""Weights as 8-bit integers, and graphs as the `.ort` files that a runtime maps into memory."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lora.errors import ExportError

if TYPE_CHECKING:
    import onnx


def quantised(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph with the weights of its products as uint8 per output channel, and those of an embedding as uint8 with one scale.

    Activations are quantised while it runs. Convolutions, norms, biases and attention stay float32. `model` is marked as prepared.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)  # what it asks for otherwise, folded constants and fixed names, is there already
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-export-") as folder:
        file = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": True},  # products of two activations stay float32
        )
        smaller = onnx.load_model(file)
    del smaller.metadata_props[:]
    return smaller


def write_onnx(model: "onnx.ModelProto", file: Path) -> None:
    """Writes the graph as it is. The operating system's errors pass."""
    file.write_bytes(model.SerializeToString(deterministic=True))


def write_ort(model: "onnx.ModelProto", file: Path) -> None:
    """Writes the graph as `.ort`, optimised as far as the result runs on any processor.

    Raises `ExportError` when the file cannot be written.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(file)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(model.SerializeToString(deterministic=True), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        if "Failed to save" not in str(error):
            raise
        raise ExportError(f"{file}: cannot be written; free some space on the disk or choose another place") from error
