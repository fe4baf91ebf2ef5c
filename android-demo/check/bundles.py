"""Bundles for the unit tests: a tiny random model through the real exporters, with two people attached."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def make_bundles(out: Path) -> list[str]:
    """Write one bundle for each runtime below `out`; returns their names."""
    import torch
    from tiny import tiny_adapter, tiny_base

    from exporters.adapters import add_adapter
    from exporters.export import ExportJob, export_bundle
    from runtimes import open_engine
    from toolkit.finetune import open_chat
    from toolkit.models import load_model

    torch.set_num_threads(1)
    base = tiny_base(out / ".model")
    names = []
    for runtime in ("onnx", "executorch"):
        folder = out / runtime
        job = ExportJob(
            base,
            "everyone",
            128,
            runtime=runtime,
            preset="faithful",
            slots=("q_proj", "v_proj"),
            task={"name": "rewrite", "prompt": "Rewrite: {input}", "max_new_tokens": 16},
        )
        export_bundle(load_model(base), open_chat(base), job, folder, lambda path: open_engine(path, 1))
        for seed, person in enumerate(("anna", "ben")):
            adapter = out / ".adapters" / f"{runtime}-{person}"
            tiny_adapter(base, adapter, targets=["q_proj", "v_proj"], size=0.1 * (seed + 1))
            add_adapter(folder, person, adapter)
        names.append(runtime)
    return names
