"""The ONNX graph, by onnxruntime-genai's model builder as a library call.

The graph is asked for in float32; `exporters.onnx.weights` puts the quantised weights in. Pitfalls of builder
0.18 that are handled here: unknown `extra_options` are ignored without a word, so only names it reads are
passed; the KV cache is allocated for `search.max_length`, which it sets to the model's full context, so both
are set to the bundle's context; it looks for Gemma 3's two rotary bases where transformers 5 no longer writes
them.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.files import write_atomic
from toolkit.progress import hushed

# The builder makes a graph for these whose logits are off by whole units from transformers' (0.18).
_WRONG = {"OlmoForCausalLM"}


# Logits of the last position only: nobody reads a prompt's others, and they take a quarter of its time.
_OPTIONS = ["prune_lm_head=true"]


def build_onnx(model_folder: Path, out: Path, context_length: int, stop: list[int]) -> None:
    """Write a float32 model.onnx, its data, the tokenizer and genai_config.json into `out`.

    `model_folder` holds float32 weights as transformers saves them; its config.json may gain keys. Raises
    ModelError if the builder fails. What it gets wrong without failing is `refusal`'s to know.
    """
    _add_flat_rope(model_folder)
    with _offline(), hushed(), _quiet_logging():
        from onnxruntime_genai.models import builder

        common = ("", os.fspath(model_folder), os.fspath(out), "fp32", "cpu", os.fspath(out))
        try:
            builder.create_model(*common, **builder.parse_extra_options(*common, _OPTIONS))
        except (NotImplementedError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"onnxruntime-genai's builder failed ({type(error).__name__}: {error})",
                where=str(model_folder),
                mend="Report it with the model's config.json",
            ) from error
    _finish_config(out, context_length, stop)


def supported_architectures() -> list[str]:
    """Architectures that the builder knows, read from its own dispatch."""
    import inspect
    import re

    with _offline(), hushed():
        from onnxruntime_genai.models import builder

    found = re.findall(r'architectures\[0\] == "(\w+)"', inspect.getsource(builder.create_model))
    return sorted(name for name in set(found) - _WRONG if name.endswith("ForCausalLM"))


def refusal(config: Any) -> str | None:
    """Why the builder cannot make this model's graph, or would make a wrong one; None if it can."""
    architecture = (config.architectures or ["none"])[0]
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if architecture == "LlamaForCausalLM" and rope not in ("default", "llama3"):
        return f"the builder leaves out its rotary scaling ({rope})"
    if architecture not in supported_architectures():
        return f"the builder does not know {architecture}"
    return None


def _add_flat_rope(model_folder: Path) -> None:
    """Beside rotary settings kept per kind of attention, write the flat ones that the builder reads."""
    path = model_folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if config["architectures"][0] != "Gemma3ForCausalLM" or "full_attention" not in rope:
        return
    everywhere, nearby = rope["full_attention"], rope["sliding_attention"]
    if {everywhere["rope_type"], nearby["rope_type"]} != {"default"}:
        raise ModelError(
            f"its rotary scaling ({everywhere['rope_type']}) cannot be exported for this architecture",
            where="export",
            mend="Gemma 3 models without rope scaling can",
        )
    config["rope_parameters"] = rope | {
        "rope_type": "default",
        "rope_theta": everywhere["rope_theta"],
        "rope_local_base_freq": nearby["rope_theta"],
    }
    write_atomic(path, json.dumps(config, indent=2) + "\n")


def _finish_config(out: Path, context_length: int, stop: list[int]) -> None:
    path = out / "genai_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["context_length"] = context_length
    config["model"]["eos_token_id"] = stop[0] if len(stop) == 1 else stop
    # Greedy, as the bundle was verified; the builder copies the base model's sampling settings.
    config["search"] |= {"max_length": context_length, "do_sample": False}
    write_atomic(path, json.dumps(config, indent=4) + "\n")


@contextmanager
def _offline() -> Iterator[None]:
    """Everything is on this machine already: the builder must not ask a hub."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


@contextmanager
def _quiet_logging() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
