"""Tiny bundles with LoRA slots, and tiny adapters of several kinds for them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiny import tiny_base

from exporters.bundle import (
    BaseModelInfo,
    Manifest,
    PrecisionInfo,
    RuntimeInfo,
    TokenInfo,
    list_files,
    write_manifest,
)
from exporters.quantise.grid import ONNX_INT4, ONNX_INT8, ONNX_INT8_WIDE, Scheme

CONTEXT = 160
INT8 = Scheme(ONNX_INT8, None)
# As the presets have it: of the builder's fused q, k and v, v is on a grid of its own.
MIXED = Scheme(ONNX_INT4, None, ONNX_INT8_WIDE, {"v_proj": (1.0, 0.0), "down_proj": (0.5, 0.0)})
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Built:
    """A tiny base, the bundle with its graph, and a model of the weights that the graph computes with."""

    base: Any
    bundle: Path
    model: Any


def build(folder: Path, arch: str = "llama", *, scheme: Scheme | None = None) -> Built:
    """A bundle without slots: float32, or the decoder's linear layers on the grids of `scheme`."""
    from exporters.onnx.builder import build_onnx
    from toolkit.models import load_model

    base, bundle = tiny_base(folder, arch), folder / "bundle"
    floats = folder / "float"
    model = load_model(base)
    model.save_pretrained(floats)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (floats / name).write_bytes((Path(base.folder) / name).read_bytes())
    build_onnx(floats, bundle, CONTEXT, [2])
    if scheme:
        _round(model, bundle, scheme)
    seal(bundle)
    return Built(base, bundle, model)


def _round(model: Any, bundle: Path, scheme: Scheme) -> None:
    from exporters.onnx.weights import place_weights
    from exporters.quantise.calibrate import apply_weights, quantise_model

    rounded = quantise_model(model, scheme, None)
    place_weights(bundle, {name: model.get_submodule(name).weight.detach() for name in rounded}, rounded)
    apply_weights(model, rounded)


def seal(bundle: Path) -> None:
    """Write a manifest of what is in the folder."""
    write_manifest(
        bundle,
        Manifest(
            schema_version=1,
            name="everyone",
            created="2026-01-02T03:04:05+00:00",
            edgeplm_version="0.1.0",
            base_model=BaseModelInfo("owner/name", "ab" * 32, "LlamaForCausalLM", 1_000, "apache-2.0"),
            runtime=RuntimeInfo("onnxruntime-genai", "0.18.0"),
            precision=PrecisionInfo("fp32", "float32", 32.0),
            context_length=CONTEXT,
            tokens=TokenInfo(384, [2]),
            chat_template=None,
            files=list_files(bundle),
        ),
    )


def lora(base: Any, folder: Path, *, seed: int = 1, size: float = 0.05, **options: Any) -> Path:
    """A LoRA adapter of PEFT's own making, rank 4 on all linear layers unless `options` say otherwise."""
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.models import load_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = get_peft_model(load_model(base), LoraConfig(**{**settings, **options}))
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                weight.normal_(std=size)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def edit_config(adapter: Path, **changes: Any) -> None:
    """Change fields of the adapter's configuration."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def ids(count: int, seed: int = 0) -> list[int]:
    """A prompt of random tokens."""
    return [int(token) for token in np.random.RandomState(seed).randint(3, 380, count)]
