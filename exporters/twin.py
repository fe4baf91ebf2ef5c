"""The unpersonalised base as a bundle: what survival is measured against."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporters.bundle import open_bundle
from exporters.export import ExportJob, export_bundle
from exporters.golden import EngineLike
from exporters.quantise.calibrate import Windows
from toolkit import __version__
from toolkit.chat import ChatFormat
from toolkit.errors import BundleError
from toolkit.progress import SILENT, Progress


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
    parts = [
        job.base.sha256[:16],
        job.runtime,
        job.preset,
        job.precision or "own",
        str(job.context_length),
        windows.sha256[:16] if windows else "rounded",
        version("onnxruntime-genai" if job.runtime == "onnx" else "executorch"),
        __version__,
    ]
    target = cache / "bases" / "-".join(parts)
    if target.exists():
        try:
            open_bundle(target, hashes=False)
        except BundleError:
            shutil.rmtree(target)
        else:
            return target
    plain = replace(job, name="base", adapter=None, task=None, provenance=None)
    export_bundle(model, chat, plain, target, open_engine, windows=windows, force=True, progress=progress)
    return target
