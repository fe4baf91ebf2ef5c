"""Presets: how finely a bundle keeps its weights, by name."""

from collections.abc import Mapping
from typing import Any

import torch

from exporters.quantise.grid import (
    ONNX_INT4,
    ONNX_INT8,
    ONNX_INT8_WIDE,
    XNNPACK_INT4,
    XNNPACK_INT8,
    Grid,
    QuantisedWeight,
    Scheme,
)
from toolkit.errors import EdgePLMError, ModelError

RUNTIMES = ("onnx", "executorch")
PRECISIONS = ("int4", "int8", "fp32")
EXACT = "exact"
_GRIDS: dict[str, dict[str, Grid | None]] = {
    "onnx": {"int4": ONNX_INT4, "int8": ONNX_INT8, "fp32": None},
    "executorch": {"int4": XNNPACK_INT4, "int8": XNNPACK_INT8, "fp32": None},
}
# int8 of the head and of single linears where the others are int4.
_INT8_BESIDE = {"onnx": ONNX_INT8_WIDE, "executorch": XNNPACK_INT8}
# name: (precision of the decoder's linear layers, precision of the head and its tied embedding)
PRESETS: dict[str, tuple[str, str]] = {
    "smallest": ("int4", "int4"),
    "balanced": ("int4", "int8"),
    "faithful": ("int8", "int8"),
    EXACT: ("as in the base", "as in the base"),
}
# Beside int4, int8 for the linears that lose most by it for their size, and in which share of the layers, the
# first and the last ones. See docs/exports.md, "Which layers get more bits".
_FINE_ENDS = {"v_proj": (1.0, 0.0), "down_proj": (1 / 3, 1 / 10)}
# Of an int4 head, the share of tokens in int8.
_FREQUENT = 1 / 6


def scheme_of(preset: str, precision: str | None, runtime: str) -> Scheme:
    """The grids of `preset` in `runtime`; `precision` replaces that of the linear layers.

    fp32 leaves the head in float as well. Raises EdgePLMError for an unknown name, and for `exact`, whose
    grids are the base's own (`recover_base`).
    """
    for value, known, where in (
        (preset, PRESETS, "export.preset"),
        (runtime, RUNTIMES, "export.runtime"),
        (precision or "int4", PRECISIONS, "export.precision"),
    ):
        if value not in known:
            raise EdgePLMError(
                f"unknown {where.rpartition('.')[2]} {value!r}",
                where=where,
                mend=f"Known: {', '.join(known)}",
            )
    if preset == EXACT:
        raise EdgePLMError("has the base's own grids", where="export.preset exact")
    linear, head = PRESETS[preset]
    linear = precision or linear
    if linear == "fp32":
        return Scheme(None, None)
    grids = _GRIDS[runtime]
    beside = _INT8_BESIDE[runtime] if linear == "int4" else grids["int8"]
    if head == "int4" and runtime == "executorch":
        # XNNPACK packs an int4 head as no embedding can read it: both apart take more room than one in int8.
        return Scheme(grids[linear], beside)
    if head == "int4":
        return Scheme(grids[linear], grids[head], beside, frequent=_FREQUENT)
    if linear == "int8":
        return Scheme(grids[linear], beside)
    return Scheme(grids[linear], beside, beside, _FINE_ENDS)


def recover_base(model: Any) -> dict[str, QuantisedWeight]:
    """A base that is Q4_1 or Q8_0 already, on its own grid, without loss; by module name.

    Raises ModelError if a weight is on neither grid, as in a model that was merged with an adapter.
    """
    from exporters.quantise.lossless import recover

    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight = recover(module.weight.data)
        if weight is None:
            raise ModelError(
                f"{name} is on neither of llama.cpp's grids Q4_1 and Q8_0",
                where="export.preset exact",
                mend="Use the preset faithful; with an adapter, export it attached, not merged",
            )
        found[name] = weight
    return found


def bits_per_weight(weights: Mapping[str, QuantisedWeight]) -> float:
    """Mean bits of a quantised weight, scales and zeros counted in."""
    parts = [part for weight in weights.values() for part in weight.parts]
    return sum(8 * _bytes(part) for part in parts) / sum(part.codes.numel() for part in parts)


def _bytes(weight: QuantisedWeight) -> float:
    kept = [weight.scales] if weight.offsets is None else [weight.scales, weight.offsets]
    scales = sum(each.numel() for each in kept) * weight.grid.scale_dtype.itemsize
    zeros = 0 if weight.grid.symmetric else weight.zeros.numel() * weight.grid.bits / 8
    return weight.codes.numel() * weight.grid.bits / 8 + scales + zeros
