"""The grid that a base was already quantised to, recovered from its float weights without loss.

llama.cpp's Q4_1 keeps, for 32 weights, a scale d and a minimum m in float16: w = code * d + m, codes 0 to 15,
both ends in use. Q8_0 keeps d only: w = code * d, codes -127 to 127, one end in use (ggml-quants.c,
`quantize_row_q4_1_ref` and `quantize_row_q8_0_ref`). So d and m follow from a block's smallest and largest
value, and it is checked that they give every weight back.
"""

import torch

from exporters.quantise.grid import Grid, QuantisedWeight

BLOCK = 32
Q4_1 = Grid(4, BLOCK, symmetric=False, scale_dtype=torch.float16)
Q8_0 = Grid(8, BLOCK, symmetric=True, scale_dtype=torch.float16)


def recover(weight: torch.Tensor) -> QuantisedWeight | None:
    """`weight` [out, in] float32 as the Q4_1 or Q8_0 that it came from; None if it is on neither grid."""
    if weight.shape[1] % BLOCK:
        return None
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    return _q4_1(blocks) or _q8_0(blocks)


def _q4_1(blocks: torch.Tensor) -> QuantisedWeight | None:
    low, high = _float16(blocks.amin(2)), blocks.amax(2)
    scale = _float16((high - low) / Q4_1.largest)
    # float16's rounding of the scale moves the upper end, never by as much as half a step.
    codes = torch.round((blocks - low[..., None]) / _nonzero(scale)[..., None]).clamp(0, Q4_1.largest)
    if not torch.equal(codes * scale[..., None] + low[..., None], blocks):
        return None
    return _weight(Q4_1, codes, scale, torch.zeros_like(scale, dtype=torch.uint8), low)


def _q8_0(blocks: torch.Tensor) -> QuantisedWeight | None:
    scale = _float16(blocks.abs().amax(2) / 127)
    codes = torch.round(blocks / _nonzero(scale)[..., None]).clamp(-127, 127)
    if not torch.equal(codes * scale[..., None], blocks):
        return None
    zeros = torch.full_like(scale, Q8_0.middle, dtype=torch.uint8)
    return _weight(Q8_0, codes + Q8_0.middle, scale, zeros, None)


def _weight(
    grid: Grid, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, offsets: torch.Tensor | None
) -> QuantisedWeight:
    return QuantisedWeight(grid, codes.flatten(1).to(torch.uint8), scales, zeros, offsets)


def _float16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float16).float()


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)
