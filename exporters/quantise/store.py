"""Quantised weights on disk, so that a model that is trained on them is shipped with the same ones."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from exporters.quantise.grid import Grid, QuantisedWeight

_PARTS = ("codes", "scales", "zeros", "offsets")
_BELOW = ".below"


def write_weights(path: Path, weights: Mapping[str, QuantisedWeight]) -> None:
    """Write `weights` as safetensors; each module's grid is in the file's metadata."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{part}": tensor.contiguous()
        for name, weight in _flat(weights).items()
        for part in _PARTS
        if (tensor := getattr(weight, part)) is not None
    }
    grids = {name: _as_json(weight.grid) for name, weight in _flat(weights).items()}
    save_file(tensors, path, metadata={"grids": json.dumps(grids)})


def read_weights(path: Path) -> dict[str, QuantisedWeight]:
    """What `write_weights` wrote."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        grids = json.loads(file.metadata()["grids"])
        names = set(file.keys())
        flat = {
            name: QuantisedWeight(
                _from_json(grid),
                file.get_tensor(f"{name}.codes"),
                file.get_tensor(f"{name}.scales"),
                file.get_tensor(f"{name}.zeros"),
                file.get_tensor(f"{name}.offsets") if f"{name}.offsets" in names else None,
            )
            for name, grid in grids.items()
        }
    return {
        name: replace(weight, below=flat.get(name + _BELOW))
        for name, weight in flat.items()
        if not name.endswith(_BELOW)
    }


def _flat(weights: Mapping[str, QuantisedWeight]) -> dict[str, QuantisedWeight]:
    """The rows on a second grid by a name of their own."""
    return {
        name + _BELOW * index: run
        for name, weight in weights.items()
        for index, run in enumerate(weight.runs)
    }


def _as_json(grid: Grid) -> dict[str, Any]:
    return asdict(grid) | {"scale_dtype": str(grid.scale_dtype).removeprefix("torch.")}


def _from_json(data: Mapping[str, Any]) -> Grid:
    return Grid(**{**data, "scale_dtype": getattr(torch, data["scale_dtype"])})
