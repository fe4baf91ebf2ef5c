"""Integer grids of the runtimes, which layers are on which, and weights that lie on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
ONNX_INT4 = Grid(4, 32, symmetric=False, scale_dtype=torch.float16)
ONNX_INT8 = Grid(8, 32, symmetric=False, scale_dtype=torch.float16)
# Its kernel rounds the inputs in blocks of 64 too, which only counts where nothing else is rounded more.
ONNX_INT8_WIDE = Grid(8, 64, symmetric=False, scale_dtype=torch.float16)
# XNNPACK: int4 in blocks has no zero points and bfloat16 scales; int8 has one scale a row.
XNNPACK_INT4 = Grid(4, 32, symmetric=True, scale_dtype=torch.bfloat16)
XNNPACK_INT8 = Grid(8, None, symmetric=True)


@dataclass(frozen=True)
class Scheme:
    """Grids of the decoder's linear layers and of the head with its tied embedding; None stays float.

    Some of the linear layers are on the grid `fine` instead: `ends` says, by the end of a linear's name such
    as v_proj, in which share of the decoder's layers, the first ones and the last ones. So are the head's and
    the embedding's rows of frequent tokens, a share `frequent` of the vocabulary.
    """

    linear: Grid | None
    head: Grid | None
    fine: Grid | None = None
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    frequent: float = 0.0

    def grid(self, name: str, layer: int, layers: int) -> Grid | None:
        """The grid of the linear `name` in the decoder's layer number `layer`, from 0, of `layers`."""
        first, last = self.ends.get(name.rpartition(".")[2], (0.0, 0.0))
        is_fine = layer < round(first * layers) or layer >= layers - round(last * layers)
        return self.fine if is_fine else self.linear

    @property
    def is_int8(self) -> bool:
        """Whether the linear layers are int8, where it is the activations whose rounding counts."""
        return self.linear is not None and self.linear.bits == 8

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.linear is None and self.head is None:
            return "float32"
        others: dict[str, list[str]] = {}
        for name, (first, last) in self.ends.items():
            part = name if first + last >= 1 else f"{first + last:.0%} of {name}"
            others.setdefault(_words(self.fine), []).append(part)
        others.setdefault(_words(self.head), []).extend(["head", "embedding"])
        if self.frequent:
            others.setdefault(_words(self.fine), []).append(f"most frequent {self.frequent:.0%} of tokens")
        parts = [f"{', '.join(names)} {words}" for words, names in others.items()]
        return "; ".join([_words(self.linear), *parts])


def _words(grid: Grid | None) -> str:
    if grid is None:
        return "float32"
    per = f"blocks of {grid.block}" if grid.block else "one scale a row"
    return f"int{grid.bits}, {per}"


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight matrix on `grid`: codes uint8 [out, in], scales float32 and zeros uint8 [out, blocks].

    The last block of a row is short where `in` is no multiple of the block. `offsets` [out, blocks], added to
    every weight of a block, are for a base whose own grid has no integer zeros, as GGUF's Q4_1: they are of
    the scales' type, and its `zeros` are 0. With `rows`, int64 and ascending, these are only those rows of
    the matrix, and those on another grid are `others`.
    """

    grid: Grid
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    offsets: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    others: "QuantisedWeight | None" = None

    @property
    def parts(self) -> list["QuantisedWeight"]:
        """The rows of each grid: all, or those of `rows` and the others."""
        return [replace(self, rows=None, others=None), self.others] if self.others else [self]

    @property
    def places(self) -> torch.Tensor:
        """Which row of `parts`, one below the other, each row of the matrix is: int64 [out]."""
        count = sum(len(part.codes) for part in self.parts)
        if self.rows is None:
            return torch.arange(count)
        return torch.cat([self.rows, rows_besides(self.rows, count)]).argsort()

    def dequantise(self) -> torch.Tensor:
        """The weights that the runtime computes with, float32 [out, in]."""
        if self.others:
            return torch.cat([part.dequantise() for part in self.parts])[self.places]
        wide = self.codes.shape[1]
        block = self.grid.block or wide
        scales = self.scales.repeat_interleave(block, 1)[:, :wide]
        zeros = self.zeros.repeat_interleave(block, 1)[:, :wide]
        values = (self.codes.float() - zeros.float()) * scales
        if self.offsets is None:
            return values
        return values + self.offsets.repeat_interleave(block, 1)[:, :wide]


def rows_besides(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The other ones of `count` rows than `rows`, int64, ascending."""
    is_other = torch.ones(count, dtype=torch.bool)
    is_other[rows] = False
    return is_other.nonzero().flatten()
