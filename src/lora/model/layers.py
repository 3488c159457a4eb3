"""What encoder and decoder are made of: products with LoRA updates and rotary positions, as plain tensor operations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora.model.products import PackedProduct, Product, laid_out


class Projection:
    """Linear layers with the same input as one product, each with its LoRA update if it has one that is not merged.

    Weights that train themselves are read in each call; they are float32 whatever `dtype` is.
    """

    def __init__(self, modules: Sequence[Any], dtype: torch.dtype) -> None:
        layers = [getattr(module, "base_layer", module) for module in modules]
        weights = [layer.weight.detach() for layer in layers]
        self._live = layers if any(layer.weight.requires_grad for layer in layers) else []
        for index, module in enumerate(modules):
            if hasattr(module, "lora_A"):
                weights[index] = weights[index].clone()  # merging changes it in place
        self._sizes = [layer.weight.shape[0] for layer in layers]
        self._versions: tuple[int, ...] = ()
        self._stacked: FrozenProduct | None = None
        self._product = None if self._live else FrozenProduct(torch.cat(weights) if len(weights) > 1 else weights[0], dtype)
        present = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = torch.cat([bias.detach() for bias in present]) if present else None
        self._adapted = [
            (index, module, weights[index]) for index, module in enumerate(modules) if hasattr(module, "lora_A") and not module.merged
        ]

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Outputs `[..., size]` of the layers, in float32, for `inputs` `[..., width]`."""
        flat = inputs.flatten(0, -2)
        if self._product is None:
            output = self._trained(flat)
        else:
            output = self._product(flat)
            if self._bias is not None:
                output = output + self._bias
        parts = list(output.split(self._sizes, dim=-1)) if len(self._sizes) > 1 else [output]
        for index, module, weight in self._adapted:
            parts[index] = _updated(parts[index], flat.float(), module, weight)
        return [part.view(*inputs.shape[:-1], part.shape[-1]) for part in parts]

    def activated(self, inputs: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The activation of a single layer's output `[rows, size]` for `inputs` `[rows, width]`.

        Without gradients it is one operation in bfloat16. In float32 that gains nothing, and an update of zero must change no bit.
        """
        learning = torch.is_grad_enabled() and inputs.requires_grad
        if self._product is None or self._product.dtype == torch.float32 or self._adapted or learning:
            return activation(self(inputs)[0])
        return self._product.activated(inputs, self._bias, activation)

    def _trained(self, flat: Tensor) -> Tensor:
        """Uses the current weights; computes their gradients if asked for."""
        biases = [layer.bias for layer in self._live if layer.bias is not None]
        if torch.is_grad_enabled():
            return functional.linear(flat.float(), torch.cat([layer.weight for layer in self._live]), torch.cat(biases) if biases else None)
        versions = tuple(layer.weight._version for layer in self._live)
        if self._stacked is None or versions != self._versions:
            self._stacked = FrozenProduct(torch.cat([layer.weight.detach() for layer in self._live]), torch.float32)
            self._versions = versions
        output = self._stacked(flat)
        return output + torch.cat(biases) if biases else output


class FrozenProduct:
    """A frozen weight `[size, width]` with float32 inputs and outputs, computed in `dtype`, gradients of the inputs too.

    A weight that was changed in place is laid out anew.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._exact = weight
        self._version: int | None = None
        self._forward: Product
        self._backward: Product | None = None
        """Made when it is first needed."""
        self._renew()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs `[rows, size]` for `inputs` `[rows, width]`."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            output: Tensor = _Frozen.apply(inputs, self)  # type: ignore[no-untyped-call]
            return output
        return self.computed(inputs).float()

    def computed(self, inputs: Tensor) -> Tensor:
        """Outputs in `dtype`, without gradients."""
        self._renew()
        return self._forward(inputs)

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient of the inputs `[rows, width]` from that of the outputs `[rows, size]`."""
        self._renew()
        if self._backward is None:
            self._backward = laid_out(self._exact.T, self.dtype)
        return self._backward(gradient).float()

    def activated(self, inputs: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The activation of the outputs `[rows, size]`, in `dtype` where it is part of the product."""
        self._renew()
        name = _fused(activation)
        if isinstance(self._forward, PackedProduct) and name is not None:
            return self._forward(inputs, bias, name)
        output = self._forward(inputs).float()
        return activation(output if bias is None else output + bias)

    def _renew(self) -> None:
        version = 0 if self._exact.is_inference() else self._exact._version  # what is made in inference mode has no count of changes
        if version != self._version:
            self._forward = laid_out(self._exact, self.dtype)
            self._backward = None
            self._version = version  # last, because another thread may be here too


class _Frozen(torch.autograd.Function):
    """PyTorch's own would lay the weight out twice in each step, and keep what its gradient does not need."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, product: FrozenProduct) -> Tensor:
        ctx.product = product
        return product.computed(inputs).float()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.product.backward(upstream[0]), None


def _fused(activation: Callable[[Tensor], Tensor]) -> str | None:
    """oneDNN's name for an activation that it applies to a product as it is computed; None for others."""
    function = getattr(activation, "act", activation)  # transformers wraps it in a module
    return {functional.gelu: "gelu", torch.tanh: "tanh"}.get(function)


def _updated(output: Tensor, inputs: Tensor, module: Any, weight: Tensor) -> Tensor:
    """A PEFT layer's update on the output of its frozen `weight`, as PEFT defines it (LoRA, rsLoRA, PiSSA; DoRA scales the sum)."""
    name = module.active_adapters[0]
    down, up, scale = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
    low = functional.linear(module.lora_dropout[name](inputs), down)
    gain = dora_gain(module, weight)
    if gain is None:
        return torch.addmm(output, low, up.T, alpha=scale)
    bias = module.base_layer.bias
    bare = output if bias is None else output - bias
    total = torch.addmm(bare, low, up.T, alpha=scale) * gain
    return total if bias is None else total + bias


def dora_gain(module: Any, weight: Tensor) -> Tensor | None:
    """What DoRA multiplies each output of a PEFT layer with, `[size]`; None for other updates. `weight` is the frozen one."""
    name = module.active_adapters[0]
    if not module.use_dora.get(name):
        return None
    update = module.scaling[name] * (module.lora_B[name].weight @ module.lora_A[name].weight)
    norm = (weight + update).detach().norm(dim=1)  # a constant, by the paper's section 4.3
    gain: Tensor = module.lora_magnitude_vector[name].weight / norm
    return gain


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
        """A table of at least this many positions. Another thread may replace it with a shorter one at any moment."""
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
