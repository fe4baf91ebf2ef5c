"""How far one artifact is from the float model, as `python -m benchmarks.studies.scoring`.

On two texts of different registers, neither of which anything was calibrated on: encyclopaedic prose written
for this project, and Python's own documentation, which is on every machine that can run this. Windows lie
evenly over each text. Each position predicts the next token of the text itself.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.child import Request, serve

WINDOW = 256  # tokens


def study_texts() -> dict[str, str]:
    """The texts by name."""
    from pydoc_data.topics import topics

    from exporters.texts import evaluation_text

    documentation = "\n".join(topics[name] for name in sorted(topics))
    return {"encyclopaedic": evaluation_text(), "documentation": documentation}


def spread_windows(ids: Sequence[int], length: int, count: int) -> list[list[int]]:
    """At most `count` windows of `length` tokens, evenly over the whole of `ids`, without overlap."""
    every = [list(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)]
    kept = min(count, len(every))
    return [every[index * len(every) // kept] for index in range(kept)]


def compare(engine: Any, reference: Any, windows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """One value a window, means over positions: negative log-likelihoods and KL in nats, same top token."""
    from exporters.verify import kl_divergence, log_softmax

    found: dict[str, list[float]] = {"nll": [], "nll_float": [], "kl": [], "same_top": []}
    for window in windows:
        ids, targets = list(window[:-1]), list(window[1:])
        given, exact = engine.score(ids), reference.score(ids)
        rows = np.arange(len(targets))
        found["nll"].append(float(-log_softmax(given)[rows, targets].mean()))
        found["nll_float"].append(float(-log_softmax(exact)[rows, targets].mean()))
        found["kl"].append(float(kl_divergence(exact, given).mean()))
        found["same_top"].append(float((given.argmax(-1) == exact.argmax(-1)).mean()))
    digest = hashlib.sha256(np.array(windows, dtype=np.int64).tobytes()).hexdigest()
    return {**found, "sha256": digest}


def _work(request: Request) -> dict[str, Any]:
    from benchmarks.studies.peers import open_subject
    from runtimes.torch_engine import TorchEngine
    from toolkit.models import BaseModel, load_model, load_tokenizer

    base = BaseModel(**request["base"] | {"folder": Path(request["base"]["folder"])})
    tokenizer = load_tokenizer(base)
    reference = TorchEngine(load_model(base))
    engine = open_subject(Path(request["artifact"]), request["threads"])
    results = {}
    for name, text in study_texts().items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        results[name] = compare(engine, reference, spread_windows(ids, WINDOW, request["windows"]))
    engine.close()
    return results


if __name__ == "__main__":
    raise SystemExit(serve(_work))
