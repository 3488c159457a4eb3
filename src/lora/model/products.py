"""Matrix products with frozen weights: which library computes them on this processor, and how their sizes are filled up.

No factor may hold uninitialised memory, and inner sizes are even in bfloat16. Processors with AMX read bfloat16
values in pairs: with an odd inner size the last pair of a row reaches into the next row, and the zero weight there does not silence a
NaN or an infinity (seen in PyTorch 2.13, in its own product as well as in oneDNN's).
"""

import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lora.errors import ConfigError
from lora.system.device import Precision

PRODUCT_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What products with frozen weights compute in, and the products of attention that needs no gradient. What trains, sums, norms and softmax
are float32 in either precision."""

PRODUCTS_VARIABLE = "MOONSHINE_LORA_PRODUCTS"
"""Environment variable that forces a kind of product: for bug reports, and for tests."""

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables with which oneDNN keeps to older instructions."""

INSTRUCTION_SETS = ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX")
"""oneDNN's names, each a superset of those before; `AVX512_CORE_AMX` and what follows it compute in tiles."""

ROWS = 4
"""Rows of a product are a multiple of this: four take no longer than one, which would be summed in another order."""

Kind = Literal["packed", "plain"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which products are used, and why if they are not the faster ones."""

    kind: Kind
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


def choice(device: torch.device, dtype: torch.dtype) -> Choice:
    """The products of this process on `device`, computing in `dtype`.

    Raises `ConfigError` when the environment forces a kind that there is not, or one that does not work here.
    """
    forced = os.environ.get(PRODUCTS_VARIABLE)
    if forced not in (None, "packed", "plain"):
        raise ConfigError(f"{PRODUCTS_VARIABLE}={forced}: must be packed or plain, or unset, which takes what works here")
    if forced == "plain":
        return Choice("plain", PRODUCTS_VARIABLE)
    fault = f"on {device.type}" if device.type != "cpu" else packed_fault(dtype)
    if forced == "packed" and fault is not None:
        raise ConfigError(f"{PRODUCTS_VARIABLE}=packed: such products do not work here: {fault}; unset it")
    return Choice("packed") if fault is None else Choice("plain", fault)


def instruction_set() -> str:
    """The class of instructions that products use: PyTorch's own, and oneDNN's if it supports the processor."""
    own = torch.backends.cpu.get_cpu_capability()
    name = onednn_instructions()
    return f"{platform.machine()} {own}" + (f" {name}" if name else "")


def onednn_instructions() -> str | None:
    """The newest of `INSTRUCTION_SETS` that oneDNN uses, its cap included; None if it uses none of them (or the processor is no x86).

    Raises `ConfigError` for a cap that oneDNN would ignore without a word.
    """
    cap = next((os.environ[name] for name in ISA_VARIABLES if name in os.environ), "DEFAULT").upper()
    if not _processor_instructions():
        return None
    newest = _processor_instructions()[-1]
    if cap in ("DEFAULT", "ALL"):
        return newest
    if cap in ("SSE41", "AVX"):
        return None
    known = [
        *INSTRUCTION_SETS,
        "AVX2_VNNI",
        "AVX2_VNNI_2",
        "AVX10_1_512",
        "AVX10_1_512_AMX",
        "AVX512_CORE_AMX_FP16",
        "AVX10_1_512_AMX_FP16",
    ]
    if cap not in known:
        raise ConfigError(f"{ISA_VARIABLES[0]}={cap}: oneDNN knows no such instruction set; there are {', '.join(INSTRUCTION_SETS)}")
    place = INSTRUCTION_SETS.index(cap) if cap in INSTRUCTION_SETS else (0 if cap.startswith("AVX2") else len(INSTRUCTION_SETS) - 1)
    return INSTRUCTION_SETS[min(place, INSTRUCTION_SETS.index(newest))]


def uses_tiles(dtype: torch.dtype) -> bool:
    """Whether products in `dtype` may be AMX's, whose sums depend on the number of rows: equal bits in any batch do not hold there."""
    return dtype == torch.bfloat16 and onednn_instructions() == "AVX512_CORE_AMX"


def rows_are_apart(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a row of a product is the same to the last bit whatever other rows there are: so with packed products, but in tiles."""
    return choice(device, dtype).kind == "packed" and not uses_tiles(dtype)


def has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor. PyTorch does so without it, several times slower than float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def require_precision(device: torch.device, precision: Precision) -> None:
    """Raises `ConfigError` for bfloat16 on a CPU that does not multiply it, unless the environment asks for plain products."""
    if device.type != "cpu" or precision == "float32" or has_bfloat16() or os.environ.get(PRODUCTS_VARIABLE) == "plain":
        return
    raise ConfigError(
        f"--precision {precision}: this processor ({instruction_set()}) has no bfloat16 products, so a run would take about "
        f"{time_beside_float32(torch.bfloat16):.0f} times as long as in float32; use --precision float32"
    )


def time_beside_float32(dtype: torch.dtype) -> float:
    """How long products of the models' sizes take in `dtype` on this CPU, as a multiple of float32's time."""
    inputs, weight = torch.ones(256, 288), torch.ones(864, 288)

    def seconds(product: "Product") -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            product(inputs)
            times.append(time.perf_counter() - started)
        return min(times)

    with torch.inference_mode():
        return seconds(laid_out(weight, dtype)) / seconds(laid_out(weight, torch.float32))


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """`torch.matmul` whose inner size is even in bfloat16."""
    if left.dtype == torch.bfloat16 and left.shape[-1] % 2:
        left, right = functional.pad(left, (0, 1)), functional.pad(right, (0, 0, 0, 1))
    return torch.matmul(left, right)


def laid_out(weight: Tensor, dtype: torch.dtype) -> "Product":
    """A product with a frozen weight `[size, width]`: outputs `[rows, size]` in `dtype` for inputs `[rows, width]` of any."""
    return PackedProduct(weight, dtype) if choice(weight.device, dtype).kind == "packed" else PlainProduct(weight, dtype)


class PlainProduct:
    """PyTorch's own product with a frozen weight."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._extra = _extra(weight.shape[1], dtype)
        self._weight = functional.pad(weight.to(dtype), (0, self._extra))

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(functional.pad(inputs.to(self._weight.dtype), (0, self._extra)), self._weight)


class PackedProduct:
    """A product with a frozen weight as oneDNN computes it from a weight that is laid out for it once.

    PyTorch's own product lays the weight out in each call, and takes another library for float32, which on some processors leaves half
    of the registers unused: 416 rows of 288 with 288 by 864 take 2.0 ms on one core in place of 0.8 ms.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._extra = _extra(weight.shape[1], dtype)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(functional.pad(weight.to(dtype), (0, self._extra)).contiguous())

    def __call__(self, inputs: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
        """Outputs `[rows, size]`, without gradients."""
        rows, width = inputs.shape
        padded = ROWS * rounded(-(-rows // ROWS), 8)
        if padded != rows or self._extra:
            filled = inputs.new_empty((padded, width + self._extra), dtype=self._dtype)
            filled[:rows, :width] = inputs
            filled[rows:] = 0
            filled[:rows, width:] = 0
        else:
            filled = inputs.to(self._dtype)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(filled, self._packed, bias, activation, [], "none")
        return output[:rows]


Product = PlainProduct | PackedProduct


def _extra(width: int, dtype: torch.dtype) -> int:
    """Zeros appended to an inner size to make it even if values are read in pairs."""
    return width % 2 if dtype == torch.bfloat16 else 0


def rounded(count: int, sizes: int) -> int:
    """The next of `sizes` numbers between each power of two and the next.

    oneDNN writes a program for each size of a product when it first meets it, which takes as long as 300 rows of one.
    """
    step = 1 << max(0, (count - 1).bit_length() - sizes.bit_length())
    return -(-count // step) * step


@cache
def packed_fault(dtype: torch.dtype) -> str | None:
    """Why `PackedProduct` cannot be used in this process; None when it gives what the plain product gives.

    It takes operators that PyTorch keeps to itself, so they are tried once: that they are there, take these arguments, give these values,
    and that a row is not touched by a NaN in the row behind it.
    """
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch has no oneDNN"
    missing = [name for name in ("_reorder_linear_weight", "_linear_pointwise") if not hasattr(torch.ops.mkldnn, name)]
    if missing:
        return f"PyTorch {torch.__version__} has no operator mkldnn.{missing[0]}"
    if dtype == torch.bfloat16 and not has_bfloat16():
        return "oneDNN has no bfloat16 on this processor"
    try:
        faults = [fault for rows, width, size in _TRIED if (fault := _tried(rows, width, size, dtype)) is not None]
    except (RuntimeError, TypeError) as error:  # other arguments than those of the versions that are known
        return f"PyTorch {torch.__version__} computes them otherwise: {str(error).splitlines()[0]}"
    return faults[0] if faults else None


_TRIED = ((7, 127, 32), (8, 96, 48), (1, 8, 16), (33, 864, 288))
"""Rows, inner sizes and outputs that are tested: odd and even, some padded to a rounder number."""


def tolerance(dtype: torch.dtype, width: int) -> tuple[float, float]:
    """How far outputs may be from exact ones, relative and absolute, for values of about 1 that are summed in float32."""
    eps = torch.finfo(dtype).eps
    return 2 * eps, eps + 2 * torch.finfo(torch.float32).eps * width


@torch.inference_mode()
def _tried(rows: int, width: int, size: int, dtype: torch.dtype) -> str | None:
    """What is wrong with a packed product of these sizes."""
    draw = torch.Generator().manual_seed(rows)
    inputs, weight = (torch.randn(shape, generator=draw).to(dtype) for shape in ((rows, width), (size, width)))
    bias = torch.randn(size, generator=draw).to(dtype)
    exact = inputs.double() @ weight.double().T
    product = PackedProduct(weight, dtype)
    close = tolerance(dtype, width)
    if not torch.allclose(product(inputs).double(), exact, *close):
        return "oneDNN's products differ from PyTorch's"
    if not torch.allclose(product(inputs, bias, "tanh").double(), (exact + bias).tanh(), *close):
        return "oneDNN's products with an activation differ from PyTorch's"
    inputs[-1] = torch.nan
    touched = ~product(inputs).isfinite().all(dim=1)
    return None if touched.tolist() == [False] * (rows - 1) + [True] else "a NaN in one row of oneDNN's products touches another row"


@cache
def _processor_instructions() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that the processor has."""
    probes = {
        "AVX2": torch.cpu._is_avx2_supported,
        "AVX512_CORE": torch.cpu._is_avx512_supported,
        "AVX512_CORE_VNNI": torch.cpu._is_vnni_supported,
        "AVX512_CORE_BF16": torch.cpu._is_avx512_bf16_supported,
        "AVX512_CORE_AMX": torch.cpu._is_amx_tile_supported,
    }
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ()
    return tuple(name for name in INSTRUCTION_SETS if name in probes and probes[name]())
