"""One weight matrix onto a grid, so that what the layer computes on its calibration inputs stays the same.

The error that counts is not that of the weights but of the outputs, tr((W - Q) H (W - Q)^T) with H = X^T X
over calibration inputs X [tokens, in]. Three steps lower it:

1. scales and zeros of each block, by a search over shrunken ranges with least-squares refits, each weight's
   squared error weighted by H's diagonal;
2. codes column by column, each column's rounding error made good by the columns after it (GPTQ, Frantar et
   al., arXiv 2210.17323, section 3);
3. in turn, all scales of a row at once by least squares under H with the codes held, and each code by
   coordinate descent with the scales held (as in QuantEase, arXiv 2309.01885, section 3).

Inside, everything stands turned, [in, out]: what is done for one column of all rows then lies together in
memory, which is twice as fast.
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
        values = padded.reshape(rows * blocks, block).T.contiguous()
        scales, zeros = _search(values, None, grid)
        codes = _round(values, scales, zeros, grid).T.reshape(rows, -1)
        scales, zeros = scales.reshape(rows, blocks), zeros.reshape(rows, blocks)
    else:
        damped = _damped(torch.nn.functional.pad(hessian.float(), (0, padding, 0, padding)))
        turned = padded.T.contiguous()
        codes, scales, zeros = _gptq(turned, damped, grid, block)
        wanted = damped @ turned
        for _ in range(rounds):
            scales = _refit(wanted, damped, codes, scales, zeros, grid)
            codes = _descend(wanted, damped, codes, scales, zeros, grid)
        codes, scales, zeros = codes.T, scales.T.contiguous(), zeros.T.contiguous()
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
    return (values / scales).round_().add_(zeros).clamp_(0, grid.largest)


def _stored(scales: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Scales as the file will hold them; none of them becomes zero or infinite."""
    limits = torch.finfo(grid.scale_dtype)
    smallest = max(_TINY, limits.smallest_normal * limits.eps)
    held = torch.where(scales.abs() < smallest, smallest, scales).clamp(-limits.max, limits.max)
    return held.to(grid.scale_dtype).float()


def _search(
    values: torch.Tensor, importance: torch.Tensor | None, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero [n] of each block in `values` [block, n]; `importance` [block, 1] weighs its errors."""
    high = values.amax(0).clamp_(min=0)
    low = values.amin(0).clamp_(max=0)
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
                signed = _round(values, scale, zero, grid).sub_(zero)
                weighted = signed if importance is None else signed * importance
                refit = (weighted * values).sum(0) / (weighted * signed).sum(0).clamp(min=1e-20)
                scale = torch.where(refit.abs() < _TINY, scale, refit)
            scale = _stored(scale, grid)
            off = _round(values, scale, zero, grid).sub_(zero).mul_(scale).sub_(values).square_()
            error = (off if importance is None else off.mul_(importance)).sum(0)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero


def _gptq(
    turned: torch.Tensor, hessian: torch.Tensor, grid: Grid, block: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [in, out], scales and zeros [blocks, out] of `turned` [in, out]."""
    wide, rows = turned.shape
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    left = turned.clone()
    codes, errors = torch.empty_like(turned), torch.empty(block, rows)
    scales, zeros = torch.empty(wide // block, rows), torch.empty(wide // block, rows)
    importance = hessian.diagonal()[:, None]
    for index in range(wide // block):
        start, end = index * block, (index + 1) * block
        here, inner = left[start:end], inverse[start:end, start:end]
        scale, zero = _search(here, importance[start:end], grid)
        scales[index], zeros[index] = scale, zero
        for column in range(block):
            code = codes[start + column] = _round(here[column], scale, zero, grid)
            error = errors[column] = (here[column] - (code - zero) * scale) / inner[column, column]
            here[column + 1 :].addr_(inner[column, column + 1 :], error, alpha=-1)
        left[end:].addmm_(inverse[start:end, end:].T, errors, alpha=-1)
    return codes, scales, zeros


def _refit(
    wanted: torch.Tensor,
    hessian: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """All scales of a row together, by least squares under the Hessian with the codes held.

    `wanted` [in, out] is the Hessian times the turned weights, as in `_descend`.
    """
    blocks, rows = scales.shape
    signed = codes.reshape(blocks, -1, rows) - zeros[:, None]
    block = signed.shape[1]
    flat = signed.reshape(-1, rows)
    normal = torch.empty(blocks, blocks, rows)
    for index in range(blocks):  # it is symmetric: from the diagonal on
        start = index * block
        seen = hessian[start:, start : start + block] @ signed[index]
        normal[index, index:] = seen.mul_(flat[start:]).reshape(-1, block, rows).sum(1)
        normal[index + 1 :, index] = normal[index, index + 1 :]
    right = (wanted * flat).reshape(blocks, block, rows).sum(1)
    normal = normal.permute(2, 0, 1).contiguous()
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + _TINY
    fitted = torch.linalg.solve(normal, right.T).T
    usable = fitted.isfinite() & (fitted.sign() == scales.sign()) & (fitted.abs() > _TINY)
    return _stored(torch.where(usable, fitted, scales), grid)


def _descend(
    wanted: torch.Tensor,
    hessian: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """One sweep of coordinate descent over the columns: each code at its best, the others held."""
    blocks = len(scales)
    block = len(codes) // blocks
    codes = codes.clone()
    held = (codes - zeros.repeat_interleave(block, 0)).mul_(scales.repeat_interleave(block, 0))
    gradient = torch.addmm(wanted, hessian, held, alpha=-1)
    for index in range(blocks):
        start, end = index * block, (index + 1) * block
        scale, zero = scales[index], zeros[index]
        inner = hessian[start:end, start:end]
        here, moved = gradient[start:end], codes[start:end].clone()
        for column in range(block):
            old = moved[column]
            best = (old - zero).mul_(scale).add_(here[column] / inner[column, column])
            new = codes[start + column] = _round(best, scale, zero, grid)
            here[column:].addr_(inner[column, column:], (new - old).mul_(scale), alpha=-1)
        moved = (codes[start:end] - moved).mul_(scale)
        gradient[end:].addmm_(hessian[end:, start:end], moved, alpha=-1)
    return codes
