"""Graphs on disk: `.onnx`, and `.ort`, which a runtime maps into memory. The same graph gives the same bytes."""

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flatbuffers

from lora.errors import ExportError

if TYPE_CHECKING:
    import onnx

_IDENTIFIER = b"ORTM"
_MODEL_FIELD = 6
"""Place of `model` in the table of fields of `InferenceSession`, the root of an `.ort` file."""

_ALIGNMENT = 64
"""Bytes; a multiple of all that a flatbuffer aligns to."""


def write_onnx(model: "onnx.ModelProto", file: Path) -> None:
    """Writes the graph as it is. The operating system's errors pass."""
    file.write_bytes(model.SerializeToString(deterministic=True))


def write_ort(model: "onnx.ModelProto", file: Path) -> None:
    """Writes the graph as `.ort`, optimised only in ways that run on any processor. The operating system's errors pass.

    Raises `ExportError` when onnxruntime cannot write the file.
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
    file.write_bytes(_in_order(file.read_bytes()))


def _in_order(content: bytes) -> bytes:
    """The same `.ort` file with the operators' type constraints in the order of their names.

    onnxruntime writes them in the order of a hash table whose seed is an address. They lie in front of the model, which stays as it is.
    """
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import InferenceSession

    session = InferenceSession.InferenceSession.GetRootAs(content, 0)
    table = session.Model()._tab.Pos
    fields = table - struct.unpack_from("<i", content, table)[0]
    model = content[min(table, fields) :]  # the table of fields stands in front of its table, or further behind where shared

    builder = flatbuffers.Builder(4096)
    version = builder.CreateString(session.OrtVersion())
    constraints = _constraints(builder, session.KernelTypeStrResolver())
    builder.StartObject(0)
    placeholder = builder.EndObject()
    InferenceSession.Start(builder)
    InferenceSession.AddOrtVersion(builder, version)
    InferenceSession.AddModel(builder, placeholder)
    InferenceSession.AddKernelTypeStrResolver(builder, constraints)
    builder.Finish(InferenceSession.End(builder), file_identifier=_IDENTIFIER)
    front = bytearray(builder.Output())

    front += bytes(-(len(front) + len(model)) % _ALIGNMENT)  # what was aligned as seen from the end is aligned again
    root = InferenceSession.InferenceSession.GetRootAs(front, 0)._tab
    field = root.Pos + root.Offset(_MODEL_FIELD)
    struct.pack_into("<I", front, field, len(front) + (table - min(table, fields)) - field)
    return bytes(front) + model


def _constraints(builder: flatbuffers.Builder, resolver: Any) -> int:
    """A copy of the table of constraints, its entries by name."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
        ArgTypeAndIndex,
        KernelTypeStrArgsEntry,
        KernelTypeStrResolver,
        OpIdKernelTypeStrArgsEntry,
    )

    def vector(start: Any, entries: list[int]) -> int:
        start(builder, len(entries))
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry)
        return int(builder.EndVector())

    def argument(given: Any) -> int:
        ArgTypeAndIndex.Start(builder)
        ArgTypeAndIndex.AddArgType(builder, given.ArgType())
        ArgTypeAndIndex.AddIndex(builder, given.Index())
        return int(ArgTypeAndIndex.End(builder))

    def constraint(given: Any) -> int:
        name = builder.CreateString(given.KernelTypeStr())
        arguments = vector(KernelTypeStrArgsEntry.StartArgsVector, [argument(given.Args(at)) for at in range(given.ArgsLength())])
        KernelTypeStrArgsEntry.Start(builder)
        KernelTypeStrArgsEntry.AddKernelTypeStr(builder, name)
        KernelTypeStrArgsEntry.AddArgs(builder, arguments)
        return int(KernelTypeStrArgsEntry.End(builder))

    def operator(given: Any) -> int:
        name = builder.CreateString(given.OpId())
        own = sorted((given.KernelTypeStrArgs(at) for at in range(given.KernelTypeStrArgsLength())), key=lambda one: one.KernelTypeStr())
        constraints = vector(OpIdKernelTypeStrArgsEntry.StartKernelTypeStrArgsVector, [constraint(one) for one in own])
        OpIdKernelTypeStrArgsEntry.Start(builder)
        OpIdKernelTypeStrArgsEntry.AddOpId(builder, name)
        OpIdKernelTypeStrArgsEntry.AddKernelTypeStrArgs(builder, constraints)
        return int(OpIdKernelTypeStrArgsEntry.End(builder))

    operators = sorted((resolver.OpKernelTypeStrArgs(at) for at in range(resolver.OpKernelTypeStrArgsLength())), key=lambda one: one.OpId())
    entries = vector(KernelTypeStrResolver.StartOpKernelTypeStrArgsVector, [operator(one) for one in operators])
    KernelTypeStrResolver.Start(builder)
    KernelTypeStrResolver.AddOpKernelTypeStrArgs(builder, entries)
    return int(KernelTypeStrResolver.End(builder))
