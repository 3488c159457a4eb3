"""Products give what mathematics says, touch no other row, multiply nothing that nobody has set, and are chosen openly."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora.errors import ConfigError
from lora.model.products import (
    INSTRUCTION_SETS,
    PackedProduct,
    PlainProduct,
    choice,
    has_bfloat16,
    instruction_set,
    laid_out,
    matmul,
    onednn_instructions,
    packed_fault,
    time_beside_float32,
    tolerance,
)

CPU = torch.device("cpu")
KINDS = (PlainProduct, PackedProduct)
DTYPES = (torch.float32, torch.bfloat16)
SIZES = [(1, 8, 16), (2, 127, 288), (7, 127, 32), (8, 96, 48), (33, 288, 864), (416, 127, 288), (130, 255, 64), (5, 1, 4)]


def needs(kind: type, dtype: torch.dtype) -> None:
    if kind is PackedProduct and (fault := packed_fault(dtype)) is not None:
        pytest.skip(fault)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize(("rows", "width", "size"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_the_sum_of_products(kind: type, dtype: torch.dtype, rows: int, width: int, size: int) -> None:
    needs(kind, dtype)
    inputs, weight = drawn(rows, width, dtype=dtype), drawn(size, width, dtype=dtype)
    found = kind(weight, dtype)(inputs)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), inputs.double() @ weight.double().T, *tolerance(dtype, width))


@pytest.mark.parametrize(("rows", "width", "size"), SIZES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_finite_touches_no_other(kind: type, dtype: torch.dtype, value: float, rows: int, width: int, size: int) -> None:
    """For each row in turn: on some processors the row before it would be touched. Six parameters: each is a dimension of the table."""
    needs(kind, dtype)
    product, whole = kind(drawn(size, width, dtype=dtype), dtype), drawn(rows, width, dtype=dtype)
    for row in {0, rows // 2, rows - 1}:
        inputs = whole.clone()
        inputs[row] = value
        touched = ~product(inputs).isfinite().all(dim=1)
        assert touched.nonzero().flatten().tolist() == [row]


@pytest.mark.parametrize("inner", [1, 35, 36, 127, 255])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_two_tensors_touches_no_other_row_and_has_gradients(dtype: torch.dtype, inner: int) -> None:
    left, right = drawn(3, 9, inner, dtype=dtype), drawn(3, inner, 7, dtype=dtype)
    assert torch.allclose(matmul(left, right).double(), left.double() @ right.double(), *tolerance(dtype, inner))
    left[1, 4] = torch.nan
    assert (~matmul(left, right).isfinite()).any(dim=2).nonzero().tolist() == [[1, 4]]
    exact = drawn(3, 9, inner, dtype=dtype).requires_grad_()
    matmul(exact, right).float().sum().backward()
    assert exact.grad is not None
    assert torch.allclose(exact.grad.double(), right.double().sum(dim=2)[:, None].expand(exact.shape), *tolerance(dtype, 7))


def test_memory_that_nobody_has_set_is_in_no_product() -> None:
    """PyTorch fills new memory with NaN here; each product of an odd width and a number of rows that is filled up would show it."""
    program = """
import torch
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
assert torch.empty(3).isnan().all()
from lora.model.products import PackedProduct, PlainProduct, packed_fault
for dtype in (torch.float32, torch.bfloat16):
    for kind in (PlainProduct, PackedProduct):
        if kind is PlainProduct or packed_fault(dtype) is None:
            for rows in range(1, 70):
                assert kind(torch.ones(8, 127), dtype)(torch.ones(rows, 127)).eq(127).all(), (dtype, kind, rows)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_works_here_is_chosen_and_can_be_forced(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOONSHINE_LORA_PRODUCTS", raising=False)
    weight, fault = torch.ones(4, 4), packed_fault(dtype)
    assert isinstance(laid_out(weight, dtype), PlainProduct if fault else PackedProduct)
    assert str(choice(CPU, dtype)) == (f"plain ({fault})" if fault else "packed")
    monkeypatch.setenv("MOONSHINE_LORA_PRODUCTS", "plain")
    assert isinstance(laid_out(weight, dtype), PlainProduct)
    assert str(choice(CPU, dtype)) == "plain (MOONSHINE_LORA_PRODUCTS)"
    monkeypatch.setenv("MOONSHINE_LORA_PRODUCTS", "packed")
    if fault is None:
        assert isinstance(laid_out(weight, dtype), PackedProduct)
    else:
        with pytest.raises(ConfigError, match="MOONSHINE_LORA_PRODUCTS=packed: such products do not work here: "):
            laid_out(weight, dtype)


def test_packed_products_are_for_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOONSHINE_LORA_PRODUCTS", raising=False)
    assert str(choice(torch.device("cuda"), torch.float32)) == "plain (on cuda)"


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_PRODUCTS", "fast")
    with pytest.raises(ConfigError, match=r"^MOONSHINE_LORA_PRODUCTS=fast: must be packed or plain, or unset"):
        choice(CPU, torch.float32)


def under(cap: str) -> list[str]:
    values = "onednn_instructions(), has_bfloat16(), choice(torch.device('cpu'), torch.bfloat16).kind"
    program = f"import torch; from lora.model.products import *; print({values})"
    environment = {name: value for name, value in os.environ.items() if name != "MOONSHINE_LORA_PRODUCTS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | {"ONEDNN_MAX_CPU_ISA": cap})
    return done.stdout.split() if done.returncode == 0 else [done.stderr.splitlines()[-1]]


@pytest.mark.skipif(onednn_instructions() is None, reason="oneDNN's caps are for x86")
@pytest.mark.slow
def test_a_cap_on_instructions_is_seen() -> None:
    here = onednn_instructions()
    assert here in INSTRUCTION_SETS
    assert here in instruction_set()
    assert under("AVX2") == ["AVX2", "False", "plain"]
    assert under("SSE41") == ["None", "False", "plain"]
    if INSTRUCTION_SETS.index(here) >= INSTRUCTION_SETS.index("AVX512_CORE"):
        assert under("AVX512_CORE") == ["AVX512_CORE", "True", "packed"]
    assert under("AVX1024") == [
        "lora.errors.ConfigError: ONEDNN_MAX_CPU_ISA=AVX1024: oneDNN knows no such instruction set; there are "
        + ", ".join(INSTRUCTION_SETS)
    ]
    assert has_bfloat16() == (packed_fault(torch.bfloat16) is None)


def test_bfloat16_is_refused_where_the_processor_does_not_multiply_it(tmp_path: Path) -> None:
    """By transcribe and by the experiment's dry run; plain products, which are for bug reports, take it at its price."""
    command = [
        sys.executable,
        "-m",
        "lora.main",
        "transcribe",
        "--model-id",
        "packaged:moonshine-tiny",
        "--precision",
        "bfloat16",
        "--audio",
        "x",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MOONSHINE_LORA_PRODUCTS"} | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: --precision bfloat16: this processor \(.*\) has no bfloat16 products, .* use --precision float32\n", done.stderr
    )
    forced = "import torch; from lora.model.products import require_precision; require_precision(torch.device('cpu'), 'bfloat16')"
    subprocess.run([sys.executable, "-c", forced], check=True, env=environment | {"MOONSHINE_LORA_PRODUCTS": "plain"})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_price_of_a_precision_is_measured(dtype: torch.dtype) -> None:
    assert 0.01 < time_beside_float32(dtype) < 100
