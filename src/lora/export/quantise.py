"""Weights of a graph as 8-bit integers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_STEPS = 255
_EXACT = 1e-6
"""Of a convolution's largest weight: how far from 256 evenly spaced values its weights may lie to count as being on them."""


def quantised(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph with the weights of its products as uint8 per output channel; those of an embedding are the head's, or have one scale.

    Activations are quantised while it runs. Norms, biases, attention and convolutions are computed in float32. Convolutions whose weights
    are on a grid of 256 values, as those of the published base model are, are stored as their places on it, without loss. `model` is
    marked as prepared.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)  # what it asks for otherwise, folded constants and fixed names, is there already
    shared = {name for name, _ in _tables(model.graph)} & {node.input[1] for node in _nodes(model.graph) if node.op_type == "MatMul"}
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-export-") as folder:
        file = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"] if shared else ["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": True},  # products of two activations stay float32
        )
        smaller = onnx.load_model(file)
    del smaller.metadata_props[:]
    for name in sorted(shared):
        _read_from_product(smaller, name)
    _store_grids(smaller)
    return smaller


def _nodes(graph: "onnx.GraphProto") -> Iterator["onnx.NodeProto"]:
    """Of the graph and of those inside of it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _tables(graph: "onnx.GraphProto") -> Iterator[tuple[str, "onnx.NodeProto"]]:
    """Weights that a node gathers columns of, and the node."""
    for node in _nodes(graph):
        if node.op_type == "Gather" and any(attribute.name == "axis" and attribute.i == 1 for attribute in node.attribute):
            yield node.input[0], node


def _read_from_product(model: "onnx.ModelProto", name: str) -> None:
    """Gathers columns of the quantised weights `name` of a product, each with its scale, in place of the float ones, which go."""
    from onnx import helper

    def in_graph(graph: "onnx.GraphProto") -> None:
        nodes = []
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    in_graph(attribute.g)
            if node.op_type != "Gather" or node.input[0] != name:
                nodes.append(node)
                continue
            columns, parts = node.input[1], {}
            for part, axis in (("quantized", 1), ("scale", 0), ("zero_point", 0)):
                parts[part] = f"{node.output[0]}_{part}"
                nodes.append(helper.make_node("Gather", [f"{name}_{part}", columns], [parts[part]], name=f"{node.name}_{part}", axis=axis))
            nodes.append(
                helper.make_node("DequantizeLinear", list(parts.values()), list(node.output), name=f"{node.name}_dequantised", axis=1)
            )
        del graph.node[:]
        graph.node.extend(nodes)

    in_graph(model.graph)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _store_grids(model: "onnx.ModelProto") -> None:
    """Weights of convolutions that take at most 256 evenly spaced values as uint8."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    added = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        tensor = weights[node.input[1]]
        exact = numpy_helper.to_array(tensor)
        lowest, step = exact.min(), (exact.max() - exact.min()) / np.float32(_STEPS)
        if step == 0:
            continue
        places = np.round((exact - lowest) / step)
        if np.abs(places * step + lowest - exact).max() > _EXACT * np.abs(exact).max():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(places.astype(np.uint8), f"{name}_places"))
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.asarray(step), f"{name}_step"),
                numpy_helper.from_array(np.zeros((), np.uint8), f"{name}_zero"),
                numpy_helper.from_array(np.asarray(lowest), f"{name}_lowest"),
            ]
        )
        added += [
            helper.make_node(
                "DequantizeLinear", [f"{name}_places", f"{name}_step", f"{name}_zero"], [f"{name}_steps"], name=f"{name}_steps"
            ),
            helper.make_node("Add", [f"{name}_steps", f"{name}_lowest"], [name], name=f"{name}_weights"),
        ]
    nodes = [*added, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
