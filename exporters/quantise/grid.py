"""Integer grids of the runtimes, and weights that lie on them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grid:
    """How a runtime stores a weight matrix [out, in]: `bits` a code, one scale for `block` inputs of a row.

    A weight is (code - zero) * scale with codes and zeros from 0 to 2**bits - 1. `symmetric` fixes every zero
    to the middle, 2**(bits - 1). `block` None: one scale for the whole row. `scale_dtype` is what scales are
    rounded to in the file.
    """

    bits: int
    block: int | None
    symmetric: bool
    scale_dtype: torch.dtype = torch.float32

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero of a symmetric grid."""
        return 1 << (self.bits - 1)


# MatMulNBits and GatherBlockQuantized of ONNX Runtime.
ONNX_INT4 = Grid(4, 32, symmetric=False)
ONNX_INT8 = Grid(8, 32, symmetric=False)
# XNNPACK: int4 in blocks has no zero points and bfloat16 scales; int8 has one scale a row.
XNNPACK_INT4 = Grid(4, 32, symmetric=True, scale_dtype=torch.bfloat16)
XNNPACK_INT8 = Grid(8, None, symmetric=True)


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight matrix on `grid`: codes uint8 [out, in], scales float32 and zeros uint8 [out, blocks].

    The last block of a row is short where `in` is no multiple of the block. `offsets` [out, blocks], added to
    every weight of a block, are for a base whose own grid has no integer zeros (GGUF's Q4_1).
    """

    grid: Grid
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    offsets: torch.Tensor | None = None

    def dequantise(self) -> torch.Tensor:
        """The weights that the runtime computes with, float32 [out, in]."""
        wide = self.codes.shape[1]
        block = self.grid.block or wide
        scales = self.scales.repeat_interleave(block, 1)[:, :wide]
        zeros = self.zeros.repeat_interleave(block, 1)[:, :wide]
        values = (self.codes.float() - zeros.float()) * scales
        if self.offsets is None:
            return values
        return values + self.offsets.repeat_interleave(block, 1)[:, :wide]
