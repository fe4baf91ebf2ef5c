"""Linear layers, embeddings and norms in the form that XNNPACK and ExecuTorch's kernels take whole."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from exporters.quantise.grid import QuantisedWeight
from toolkit.errors import ModelError

_INT8 = (-128, 127)


class IntegerLinear(nn.Module):
    """A linear layer on XNNPACK's grid; its input [..., in] must have gone through `quantise_tokens`.

    The codes are stored as they came, signed, and no step of the export touches them again.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: QuantisedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        bits, wide = weight.grid.bits, weight.codes.shape[1]
        self.block = (1, weight.grid.block or wide)
        self.bounds = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        self.register_buffer("codes", signed_codes(weight))
        # A copy: of a view into a larger tensor XNNPACK's serialiser would take the tensor's first scales.
        self.register_buffer("scales", weight.scales.float().clone(memory_format=torch.contiguous_format))
        self.register_buffer("zeros", torch.zeros_like(weight.zeros, dtype=torch.int8))
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def extra_repr(self) -> str:
        return f"codes {self.bounds} in blocks {self.block}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torchao.quantization.quant_primitives import dequantize_affine

        low, high = self.bounds
        weight = dequantize_affine(
            self.codes, self.block, self.scales, self.zeros, torch.int8, low, high, output_dtype=torch.float32
        )
        return functional.linear(x, weight, self.bias)


class AdaptedLinear(nn.Module):
    """An integer linear layer and a low-rank change of it: base(x) + b(a(x)), `a` and `b` in int8 by rows."""

    def __init__(self, base: IntegerLinear, a: QuantisedWeight, b: QuantisedWeight) -> None:
        super().__init__()
        self.base, self.a, self.b = base, IntegerLinear(a, None), IntegerLinear(b, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.b(quantise_tokens(self.a(quantise_tokens(x))))
        return change + self.base(quantise_tokens(x))


class FloatLinear(nn.Module):
    """A linear layer in float32, a copy of `linear` that shares its weights."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().float())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


def signed_codes(weight: QuantisedWeight) -> torch.Tensor:
    """The codes as int8 around zero; ModelError if the grid is none of XNNPACK's."""
    grid = weight.grid
    if weight.codes.shape[1] % (grid.block or 1):
        raise ModelError(
            f"XNNPACK cannot store rows of {weight.codes.shape[1]} weights in blocks of {grid.block}",
            where="export",
            mend="Quantise this layer to int8 by rows",
        )
    if (grid.bits, grid.block) not in ((4, 32), (8, None)) or bool((weight.zeros != grid.middle).any()):
        raise ModelError(
            f"XNNPACK cannot store {grid.bits} bits in blocks of {grid.block} with zero points",
            where="export",
            mend="Quantise to int4 in blocks of 32 or int8 by rows, both symmetric",
        )
    return (weight.codes.to(torch.int16) - grid.middle).to(torch.int8).contiguous()


def quantise_tokens(x: torch.Tensor) -> torch.Tensor:
    """Round every token's vector to int8 with its own scale and zero point, as XNNPACK does at run time."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    low, high = _INT8
    block = (1,) * (x.dim() - 1) + (x.shape[-1],)
    scale, zero = choose_qparams_affine(
        x,
        MappingType.ASYMMETRIC,
        block,
        target_dtype=torch.int8,
        quant_min=low,
        quant_max=high,
        zero_point_dtype=torch.int8,
    )
    codes = quantize_affine(x, block, scale, zero, output_dtype=torch.int8, quant_min=low, quant_max=high)
    return dequantize_affine(codes, block, scale, zero, torch.int8, low, high, output_dtype=torch.float32)


def project(x: torch.Tensor, *linears: nn.Module) -> list[torch.Tensor]:
    """Apply several linear layers to one input, which is rounded once for all that need it.

    Beside adapted layers each rounds for itself: XNNPACK's partitioner makes two delegates of them otherwise.
    """
    if any(isinstance(each, AdaptedLinear) for each in linears):
        return [each(quantise_tokens(x) if isinstance(each, IntegerLinear) else x) for each in linears]
    rounded = quantise_tokens(x) if any(isinstance(each, IntegerLinear) for each in linears) else x
    return [each(rounded if isinstance(each, IntegerLinear) else x) for each in linears]


class RMSNorm(nn.Module):
    """RMS norm over the last dimension, without the `mean` that XNNPACK leaves to a slow kernel.

    The mean is a product with a row of 1/n, whose bias is epsilon.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    epsilon: torch.Tensor

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().float())
        self.register_buffer("mean", torch.full((1, weight.numel()), 1.0 / weight.numel()))
        self.register_buffer("epsilon", torch.tensor([epsilon]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(functional.linear(x * x, self.mean, self.epsilon)) * self.weight


class TanhGELU(nn.Module):
    """GELU by its approximation with tanh, which XNNPACK's delegate would replace by the exact one.

    x / 2 * (1 + tanh(u)) is x * sigmoid(2u) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
    """

    linear: torch.Tensor
    cubic: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        twice = 2.0 * math.sqrt(2.0 / math.pi)
        self.register_buffer("linear", torch.tensor([twice]))
        self.register_buffer("cubic", torch.tensor([twice * 0.044715]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x * (x * x * self.cubic + self.linear))


class FloatEmbedding(nn.Module):
    """An embedding in float32; `scale` multiplies every vector."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().float())
        self.scale = scale

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = functional.embedding(tokens, self.weight)
        return found if self.scale == 1.0 else found * self.scale


class IntegerEmbedding(nn.Module):
    """An embedding of int8 codes with one scale a row, by ExecuTorch's own kernel; `scale` as above."""

    def __init__(self, weight: QuantisedWeight, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", signed_codes(weight))
        self.register_buffer("scales", (weight.scales.double() * scale).float().squeeze(1).contiguous())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized_decomposed.embedding_byte.dtype(
            self.weight, self.scales, None, *_INT8, tokens, dtype=torch.float32
        )
