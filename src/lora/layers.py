"""What encoder and decoder are made of: products with LoRA updates and rotary positions, as plain tensor operations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.config import Precision

PRODUCT_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What products with frozen weights compute in. What trains, sums, norms, attention and softmax are float32 in either precision."""


class Projection:
    """Linear layers with the same input as one product, each with its LoRA update where it has one that is not merged.

    Weights that train themselves are read in each call; they are float32 whatever `dtype` is.
    """

    def __init__(self, modules: Sequence[Any], dtype: torch.dtype) -> None:
        layers = [getattr(module, "base_layer", module) for module in modules]
        weights = [layer.weight.detach() for layer in layers]
        self._live = layers if any(layer.weight.requires_grad for layer in layers) else []
        self._versions: tuple[int, ...] = ()
        for index, module in enumerate(modules):
            if hasattr(module, "lora_A"):
                weights[index] = weights[index].clone()  # merging changes it in place
        self._weight = (torch.cat(weights) if len(weights) > 1 else weights[0]).to(torch.float32 if self._live else dtype)
        self._sizes = [layer.weight.shape[0] for layer in layers]
        present = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = torch.cat([bias.detach() for bias in present]) if present else None
        self._adapted = [
            (index, module, weights[index]) for index, module in enumerate(modules) if hasattr(module, "lora_A") and not module.merged
        ]

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Outputs `[..., size]` of the layers, in float32, for `inputs` `[..., width]`."""
        flat = inputs.flatten(0, -2)
        stacked, bias = self._current() if self._live else (self._weight, self._bias)
        if stacked.dtype == flat.dtype:
            output = functional.linear(flat, stacked, bias)
        else:
            output = functional.linear(flat.to(stacked.dtype), stacked).to(flat.dtype)
            if bias is not None:
                output += bias
        parts = list(output.split(self._sizes, dim=-1)) if len(self._sizes) > 1 else [output]
        for index, module, weight in self._adapted:
            parts[index] = _updated(parts[index], flat, module, weight)
        return [part.view(*inputs.shape[:-1], part.shape[-1]) for part in parts]

    def _current(self) -> tuple[Tensor, Tensor | None]:
        """The weights as they are now, with gradients where those are asked for; else stacked only after they have changed."""
        versions = tuple(layer.weight._version for layer in self._live)
        if torch.is_grad_enabled() or versions != self._versions:
            biases = [layer.bias for layer in self._live if layer.bias is not None]
            stacked = torch.cat([layer.weight for layer in self._live]), torch.cat(biases) if biases else None
            if torch.is_grad_enabled():
                return stacked
            self._weight, self._bias = stacked
            self._versions = versions
        return self._weight, self._bias

    def laid_out(self, inputs: Tensor, width: int) -> list[Tensor]:
        """Outputs as `[batch, heads, frames, width]` for `inputs` `[batch, frames, inner]`, each contiguous: read once a token."""

        def heads(output: Tensor) -> Tensor:
            turned = output.unflatten(-1, (-1, width)).transpose(1, 2)
            laid: Tensor = turned.to(inputs.dtype, memory_format=torch.contiguous_format)
            return laid.contiguous()

        if self._adapted or self._live or self._bias is not None:
            return [heads(part) for part in self(inputs)]
        low = inputs.to(self._weight.dtype)  # one layer after the other: all at once would be the largest tensor of a run
        products = (functional.linear(low, weight) for weight in self._weight.split(self._sizes))
        if inputs.requires_grad:
            return [heads(product) for product in products]
        # One block, which is so large that freeing it gives it back to the system, in place of twelve that the allocator keeps.
        batch, frames = inputs.shape[:2]
        block = inputs.new_empty(len(self._sizes), batch, self._sizes[0] // width, frames, width)
        for part, product in zip(block, products, strict=True):
            part.copy_(product.unflatten(-1, (-1, width)).transpose(1, 2))
        return list(block)


class PackedProduct:
    """A wide layer without bias as oneDNN computes it from a weight that is laid out for it once, for inputs without gradient.

    PyTorch's own product lays the weight out in each call: of 288 by 32,768, with four rows, that takes 6.3 ms in place of 1.6 ms on one
    core, in bfloat16 2.1 ms in place of 0.6 ms; with 64 rows 1.8 and 1.3 times as long.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._version: int | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs `[rows, size]` for `inputs` `[rows, width]`. A weight that has changed is laid out anew."""
        version = 0 if self._weight.is_inference() else self._weight._version  # what is made in inference mode has no count of changes
        if version != self._version:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())
            self._version = version
        output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._packed, None, "none", [], "")
        return output

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether this machine's PyTorch can compute with it so."""
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False
        return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _updated(output: Tensor, inputs: Tensor, module: Any, weight: Tensor) -> Tensor:
    """A PEFT layer's update on the output of its frozen `weight`, as PEFT defines it (LoRA, rsLoRA, PiSSA; DoRA scales the sum)."""
    name = module.active_adapters[0]
    down, up, scale = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
    low = functional.linear(module.lora_dropout[name](inputs), down)
    if not module.use_dora.get(name):
        return torch.addmm(output, low, up.T, alpha=scale)
    layer = module.base_layer
    norm = (weight + scale * (up @ down)).detach().norm(dim=1)  # a constant, by the paper's section 4.3
    gain = module.lora_magnitude_vector[name].weight / norm
    bare = output if layer.bias is None else output - layer.bias
    total = torch.addmm(bare, low, up.T, alpha=scale) * gain
    scaled: Tensor = total if layer.bias is None else total + layer.bias
    return scaled


class Rotation:
    """Rotary positions: of each head the first entries turn in pairs of neighbours, the rest stay."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._turns = self._table(64)

    @torch.inference_mode(False)  # autograd refuses tensors that were made in inference mode, and training may use this one later
    def _table(self, count: int) -> Tensor:
        like = torch.zeros((), device=self._device)
        cos, sin = self._module(like, position_ids=torch.arange(count, device=self._device)[None])
        turning = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :turning], sin[0, :, :turning])

    def first(self, count: int) -> Callable[[Tensor], Tensor]:
        """A function that turns heads `[batch, heads, count, width]` of a clip's first tokens."""
        return self._turner(self._reaching(count)[:count])

    def at(self, positions: Tensor, reach: int) -> Callable[[Tensor], Tensor]:
        """A function that turns heads `[batch, heads, tokens, width]` at `positions` `[batch, tokens]`, all below `reach`."""
        return self._turner(self._reaching(reach)[positions][:, None])

    def _reaching(self, count: int) -> Tensor:
        """A table of at least so many positions. Another thread may put a shorter one in its place at any moment."""
        turns = self._turns
        if count > len(turns):
            turns = self._turns = self._table(2 * count)
        return turns

    def _turner(self, turns: Tensor) -> Callable[[Tensor], Tensor]:
        turning = 2 * turns.shape[-1]

        def turn(heads: Tensor) -> Tensor:
            pairs = torch.view_as_complex(heads[..., :turning].unflatten(-1, (-1, 2)).contiguous())
            return torch.cat([torch.view_as_real(pairs * turns).flatten(-2), heads[..., turning:]], dim=-1)

        return turn
