"""Quantised weights on disk, so that a model that is trained on them is shipped with the same ones."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from exporters.quantise.grid import Grid, QuantisedWeight

_TENSORS = ("codes", "scales", "zeros", "offsets", "rows")
_OTHERS = ".others"


def write_weights(path: Path, weights: Mapping[str, QuantisedWeight]) -> None:
    """Write `weights` as safetensors; each module's grid is in the file's metadata."""
    from safetensors.torch import save_file

    each = dict(weights)
    each |= {name + _OTHERS: weight.others for name, weight in weights.items() if weight.others}
    tensors = {
        f"{name}.{part}": tensor.contiguous()
        for name, weight in each.items()
        for part in _TENSORS
        if (tensor := getattr(weight, part)) is not None
    }
    grids = {name: _as_json(weight.grid) for name, weight in each.items()}
    save_file(tensors, path, metadata={"grids": json.dumps(grids)})


def read_weights(path: Path) -> dict[str, QuantisedWeight]:
    """What `write_weights` wrote."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        grids = json.loads(file.metadata()["grids"])
        names = set(file.keys())

        def tensors(name: str) -> dict[str, Any]:
            return {part: file.get_tensor(at) for part in _TENSORS if (at := f"{name}.{part}") in names}

        each = {name: QuantisedWeight(_from_json(grid), **tensors(name)) for name, grid in grids.items()}
    return {
        name: replace(weight, others=each.get(name + _OTHERS))
        for name, weight in each.items()
        if not name.endswith(_OTHERS)
    }


def _as_json(grid: Grid) -> dict[str, Any]:
    return asdict(grid) | {"scale_dtype": str(grid.scale_dtype).removeprefix("torch.")}


def _from_json(data: Mapping[str, Any]) -> Grid:
    return Grid(**{**data, "scale_dtype": getattr(torch, data["scale_dtype"])})
