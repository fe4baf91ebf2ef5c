"""Bundles in, tokens and timings out."""

from pathlib import Path

from runtimes.engine import Engine

__all__ = ["Engine", "open_engine"]


def open_engine(folder: Path, threads: int | None = None) -> Engine:
    """Load a bundle with the runtime that its manifest names.

    Raises BundleError if the manifest is unusable or names a runtime that this version does not know.
    """
    from exporters.bundle import read_manifest
    from toolkit.errors import BundleError

    runtime = read_manifest(folder).runtime.name
    if runtime == "onnxruntime-genai":
        from runtimes.genai import GenAIEngine

        return GenAIEngine(folder, threads)
    if runtime == "executorch":
        from runtimes.executorch import ExecuTorchEngine

        return ExecuTorchEngine(folder, threads)
    raise BundleError(
        f"made for the runtime {runtime!r}, which this version does not know",
        where=str(folder),
        mend="Known: onnxruntime-genai, executorch",
    )
