"""Weights of a graph as 8-bit integers."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

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
