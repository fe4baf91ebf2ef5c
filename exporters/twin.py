"""The unpersonalised base, quantised: trained on, attached to, and what survival is measured against.

Calibration takes minutes and several steps of a run need the same base, so that its weights and its bundle
are kept in the cache, the most recent few of each.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporters.bundle import open_bundle
from exporters.export import ExportJob, export_bundle, quantised_weights
from exporters.golden import EngineLike
from exporters.presets import EXACT
from exporters.quantise.calibrate import Windows
from exporters.quantise.grid import QuantisedWeight
from exporters.quantise.store import read_weights, write_weights
from toolkit import __version__
from toolkit.chat import ChatFormat
from toolkit.errors import BundleError
from toolkit.files import keep_newest, staged_file
from toolkit.progress import SILENT, Progress

KEPT = 6  # of each kind; a hundred megabytes each for a small model


def base_weights(
    model: Any, job: ExportJob, cache: Path, windows: Windows | None, progress: Progress = SILENT
) -> dict[str, QuantisedWeight]:
    """Base `model` on the grids of `job`, calibrated on `windows`; taken from `cache` if it is there."""
    from safetensors import SafetensorError

    path = cache / "weights" / f"{_key(job, windows)}.safetensors"
    try:
        found = read_weights(path)
        path.touch()
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        found = quantised_weights(model, job, windows, progress)
        with staged_file(path) as fresh:
            write_weights(fresh, found)
        keep_newest(path.parent, KEPT)
    return found


def base_twin(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    cache: Path,
    open_engine: Callable[[Path], EngineLike],
    *,
    windows: Windows | None = None,
    progress: Progress = SILENT,
) -> Path:
    """The base exported the way `job` says, calibrated on the same `windows`, and kept in `cache`."""
    runtime = version("onnxruntime-genai" if job.runtime == "onnx" else "executorch")
    target = cache / "bases" / f"{_key(job, windows)}-{job.context_length}-{runtime}"
    if target.exists():
        try:
            open_bundle(target, hashes=False)
        except BundleError:
            shutil.rmtree(target)
        else:
            os.utime(target)
            return target
    plain = replace(job, name="base", adapter=None, task=None, provenance=None)
    # The cached weights are those of the model as it is; int8's are made of a smoothed one.
    cached = None if job.is_int8 else partial(base_weights, model, plain, cache, windows, progress)
    export_bundle(
        model,
        chat,
        plain,
        target,
        open_engine,
        windows=windows,
        make_weights=cached,
        force=True,
        progress=progress,
    )
    keep_newest(target.parent, KEPT)
    return target


def _key(job: ExportJob, windows: Windows | None) -> str:
    calibrated = windows.sha256[:16] if windows else "rounded"
    scheme = EXACT if job.scheme is None else repr(job.scheme)
    grids = hashlib.sha256(scheme.encode()).hexdigest()[:8]  # another version may mean others by that name
    return "-".join((job.base.sha256[:16], job.runtime, job.preset, grids, calibrated, __version__))
