"""Makes one artifact of the study, as `python -m benchmarks.studies.making`, and tells what that cost."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.studies.child import Request, serve
from benchmarks.studies.subjects import BUILDER, CONTEXT_LENGTH, OURS, SUBJECTS, Subject
from runtimes.sensors import memory
from toolkit.files import staged_directory
from toolkit.models import BaseModel


def make(subject: Subject, base: BaseModel, gguf: Path | None, out: Path, threads: int) -> None:
    """Write `subject`'s artifact of `base` as the folder `out`; `gguf` is the same model for llama.cpp.

    Raises EdgePLMError if its maker refuses the model.
    """
    from benchmarks.studies import peers

    if subject.family == OURS:
        _export(subject, base, out, threads)
        return
    with staged_directory(out, force=True) as staging:
        if subject.family == BUILDER:
            peers.build(base, subject.option, staging)
        elif gguf is not None:
            peers.quantise_gguf(gguf, subject.option, staging, threads)


def _export(subject: Subject, base: BaseModel, out: Path, threads: int) -> None:
    """As `edgeplm export` does, without an adapter or a person's history."""
    from exporters.export import ExportJob, export_bundle
    from exporters.presets import EXACT
    from runtimes import open_engine
    from toolkit.bundling import calibration
    from toolkit.finetune import open_chat
    from toolkit.models import load_model
    from toolkit.recipe import ExportRecipe

    export_bundle(
        load_model(base),
        open_chat(base),
        ExportJob(base, subject.name, CONTEXT_LENGTH, subject.runtime, subject.option),
        out,
        partial(open_engine, threads=threads),
        windows=None if subject.option == EXACT else calibration(ExportRecipe(calibration="neutral"), base),
        force=True,
    )


def _work(request: Request) -> dict[str, Any]:
    """Seconds from the imports on, processor seconds of this process and those it started, peak bytes."""
    import resource

    started = time.perf_counter()
    base = BaseModel(**request["base"] | {"folder": Path(request["base"]["folder"])})
    gguf = Path(request["gguf"]) if request["gguf"] else None
    make(SUBJECTS[request["subject"]], base, gguf, Path(request["out"]), request["threads"])
    wall = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_seconds": wall,
        "cpu_seconds": time.process_time() + children.ru_utime + children.ru_stime,
        "peak_bytes": memory()["peak_rss"],
    }


if __name__ == "__main__":
    raise SystemExit(serve(_work))
