"""One weight matrix onto a grid, so that what the layer computes on its calibration inputs stays the same.

The error that counts is not that of the weights but of the outputs, tr((W - Q) H (W - Q)^T) with H = X^T X
over calibration inputs X [tokens, in]. Three steps lower it:

1. scales and zeros of each block, by a search over shrunken ranges with least-squares refits, each weight's
   squared error weighted by H's diagonal;
2. codes column by column, each column's rounding error made good by the columns after it (GPTQ, Frantar et
   al., arXiv 2210.17323, section 3);
3. in turn, all scales of a row at once by least squares under H with the codes held, and each code by
   coordinate descent with the scales held (as in QuantEase, arXiv 2309.01885, section 3).
"""

import torch

from exporters.quantise.grid import Grid, QuantisedWeight

DAMPING = 0.01  # of the mean diagonal: keeps H invertible where there are fewer tokens than inputs
_SHRINK = (1.0, 0.8)
_TINY = 1e-10


def quantise(
    weight: torch.Tensor, grid: Grid, hessian: torch.Tensor | None = None, *, rounds: int = 2
) -> QuantisedWeight:
    """Put float32 `weight` [out, in] on `grid`; `hessian` is X^T X [in, in] of its inputs.

    Without a Hessian every block is rounded with the scale and zero of least squared error. `rounds` counts
    step 3. Raises ValueError if the weight holds values that are not finite.
    """
    if not bool(weight.isfinite().all()):
        raise ValueError("the weight holds values that are not finite")
    rows, wide = weight.shape
    block = grid.block or wide
    blocks = -(-wide // block)
    padding = blocks * block - wide
    padded = torch.nn.functional.pad(weight.float(), (0, padding))
    if hessian is None:
        scales, zeros = _search(padded.reshape(rows * blocks, block), None, grid)
        scales, zeros = scales.reshape(rows, blocks), zeros.reshape(rows, blocks)
        codes = _round(padded.reshape(rows, blocks, block), scales[..., None], zeros[..., None], grid)
        codes = codes.reshape(rows, -1)
    else:
        damped = _damped(torch.nn.functional.pad(hessian.float(), (0, padding, 0, padding)))
        codes, scales, zeros = _gptq(padded, damped, grid, block)
        for _ in range(rounds):
            scales = _refit(padded, damped, codes, scales, zeros, grid)
            codes = _descend(padded, damped, codes, scales, zeros, grid)
    return QuantisedWeight(grid, codes[:, :wide].to(torch.uint8).contiguous(), scales, zeros.to(torch.uint8))


def output_error(weight: torch.Tensor, quantised: QuantisedWeight, hessian: torch.Tensor) -> float:
    """Squared error of the layer's outputs relative to the outputs' squared size."""
    off = weight - quantised.dequantise()
    return float(((off @ hessian) * off).sum() / ((weight @ hessian) * weight).sum().clamp(min=_TINY))


def _damped(hessian: torch.Tensor) -> torch.Tensor:
    diagonal = hessian.diagonal()
    dead = diagonal == 0  # inputs never seen, padding among them: any value serves
    damped = hessian.clone()
    damped.diagonal()[dead] = 1.0
    damped.diagonal().add_(DAMPING * float(diagonal[~dead].mean() if bool((~dead).any()) else 1.0))
    return damped


def _round(values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, grid: Grid) -> torch.Tensor:
    return (torch.round(values / scales) + zeros).clamp_(0, grid.largest)


def _stored(scales: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Scales as the file will hold them; none of them becomes zero or infinite."""
    limits = torch.finfo(grid.scale_dtype)
    smallest = max(_TINY, limits.smallest_normal * limits.eps)
    held = torch.where(scales.abs() < smallest, smallest, scales).clamp(-limits.max, limits.max)
    return held.to(grid.scale_dtype).float()


def _search(
    values: torch.Tensor, importance: torch.Tensor | None, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero [n, 1] of each block in `values` [n, block]; `importance` weighs squared errors."""
    high = values.amax(1, keepdim=True).clamp(min=0)
    low = values.amin(1, keepdim=True).clamp(max=0)
    if grid.symmetric:
        start = (torch.maximum(high, -low) / grid.middle).clamp(min=_TINY)
    best_error = torch.full_like(high, torch.inf)
    best_scale, best_zero = torch.ones_like(high), torch.zeros_like(high)
    for shrink in _SHRINK:
        if grid.symmetric:
            tries = [(start * shrink, torch.full_like(high, float(grid.middle)))]
        else:
            scale = ((high - low) * shrink / grid.largest).clamp(min=_TINY)
            zero = torch.round(-low * shrink / scale)
            tries = [(scale, (zero + step).clamp(0, grid.largest)) for step in (-1, 0, 1)]
        for scale, zero in tries:
            for _ in range(2):
                signed = _round(values, scale, zero, grid) - zero
                weighted = signed if importance is None else signed * importance
                refit = (weighted * values).sum(1, keepdim=True) / (weighted * signed).sum(
                    1, keepdim=True
                ).clamp(min=1e-20)
                scale = torch.where(refit.abs() < _TINY, scale, refit)
            scale = _stored(scale, grid)
            off = (_round(values, scale, zero, grid) - zero) * scale - values
            error = (off * off if importance is None else off * off * importance).sum(1, keepdim=True)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero


def _gptq(
    weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, block: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, wide = weight.shape
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    left = weight.clone()
    codes = torch.empty_like(weight)
    scales = torch.empty(rows, wide // block)
    zeros = torch.empty(rows, wide // block)
    importance = hessian.diagonal()
    for index in range(wide // block):
        start, end = index * block, (index + 1) * block
        scale, zero = _search(left[:, start:end], importance[None, start:end], grid)
        scales[:, index], zeros[:, index] = scale[:, 0], zero[:, 0]
        inner = inverse[start:end, start:end]
        here, errors = left[:, start:end].clone(), torch.empty(rows, block)
        for column in range(block):
            value = here[:, column]
            code = _round(value, scale[:, 0], zero[:, 0], grid)
            codes[:, start + column] = code
            error = (value - (code - zero[:, 0]) * scale[:, 0]) / inner[column, column]
            here[:, column + 1 :] -= error[:, None] * inner[column, column + 1 :]
            errors[:, column] = error
        left[:, end:] -= errors @ inverse[start:end, end:]
    return codes, scales, zeros


def _refit(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """All scales of a row together, by least squares under the Hessian with the codes held."""
    rows, blocks = scales.shape
    signed = codes.reshape(rows, blocks, -1) - zeros[..., None]
    block = signed.shape[2]
    flat = signed.reshape(rows, -1)
    normal = torch.empty(rows, blocks, blocks)
    for index in range(blocks):
        seen = signed[:, index] @ hessian[index * block : (index + 1) * block]
        normal[:, index] = (seen * flat).reshape(rows, blocks, block).sum(2)
    wanted = ((weight @ hessian) * flat).reshape(rows, blocks, block).sum(2)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + _TINY
    fitted = torch.linalg.solve(normal, wanted)
    usable = fitted.isfinite() & (fitted.sign() == scales.sign()) & (fitted.abs() > _TINY)
    return _stored(torch.where(usable, fitted, scales), grid)


def _descend(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """One sweep of coordinate descent over the columns: each code at its best, the others held."""
    blocks = scales.shape[1]
    block = weight.shape[1] // blocks
    codes = codes.clone()
    wide_scales = scales.repeat_interleave(block, 1)
    gradient = (weight - (codes - zeros.repeat_interleave(block, 1)) * wide_scales) @ hessian
    for index in range(blocks):
        start, end = index * block, (index + 1) * block
        scale, zero = scales[:, index], zeros[:, index]
        inner = hessian[start:end, start:end]
        here, before = gradient[:, start:end].clone(), codes[:, start:end].clone()
        for column in range(block):
            old = codes[:, start + column]
            best = (old - zero) * scale + here[:, column] / inner[column, column]
            new = _round(best, scale, zero, grid)
            here -= ((new - old) * scale)[:, None] * inner[column]
            codes[:, start + column] = new
        moved = (codes[:, start:end] - before) * scale[:, None]
        gradient -= moved @ hessian[start:end]
    return codes
