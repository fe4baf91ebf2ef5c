"""Bundles for the unit tests: a tiny random model through the real exporters, with two people attached.

A program of its own, `bundles.py FOLDER`, since the exporters' native libraries chatter.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
TASK: dict[str, Any] = {"name": "rewrite", "prompt": "Rewrite: {input}", "max_new_tokens": 16}
TEXT = "Please tell them that the meeting has moved: näher, 日本 \U0001f6e0."


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
            task=TASK,
        )
        export_bundle(load_model(base), open_chat(base), job, folder, lambda path: open_engine(path, 1))
        for seed, person in enumerate(("anna", "ben")):
            adapter = out / ".adapters" / f"{runtime}-{person}"
            tiny_adapter(base, adapter, targets=["q_proj", "v_proj"], size=0.1 * (seed + 1))
            add_adapter(folder, person, adapter)
        names.append(runtime)
    expected = expected_answers(out / "onnx", open_chat(base))
    (out / ".expected.json").write_text(json.dumps(expected), encoding="utf-8")
    return names


def expected_answers(folder: Path, chat: Any) -> dict[str, Any]:
    """What the base and each person answer in Python, as ids and as the stock tokenizer streams them."""
    import onnxruntime_genai as og

    from exporters.bundle import read_manifest
    from runtimes import open_engine

    manifest = read_manifest(folder)
    instructed = TASK["prompt"].replace("{input}", TEXT)
    prompt = chat.prompt(instructed)
    tokenizer = og.Tokenizer(og.Model(str(folder)))
    engine = open_engine(folder, 1)
    answers = {}
    for person in (None, *engine.adapters):
        engine.use_adapter(person)
        ids = list(engine.generate(prompt, TASK["max_new_tokens"], chat.stop))
        stream = tokenizer.create_stream()
        text = "".join(stream.decode(token) for token in ids)
        stopped = len(ids) < TASK["max_new_tokens"]
        answers[person or "the base"] = {"ids": ids, "text": text, "stopped": stopped}
    engine.close()
    assert manifest.chat_form is not None  # noqa: S101 - the tiny template has one
    rendered = manifest.chat_form.render(instructed)
    return {"text": TEXT, "rendered": rendered, "prompt": prompt, "answers": answers}


if __name__ == "__main__":
    print(", ".join(make_bundles(Path(sys.argv[1]))))
