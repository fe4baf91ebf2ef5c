"""A bundle in form only: a manifest and files of bytes, for what moves bundles about."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporters.bundle import (
    BaseModelInfo,
    Manifest,
    PrecisionInfo,
    RuntimeInfo,
    TokenInfo,
    list_files,
    write_manifest,
)

SIZES = {"model.onnx": 700, "model.onnx.data": 300_000, "tokenizer.json": 5_000, "adapters/maud.json": 90}


def small_bundle(
    folder: Path, sizes: dict[str, int] | None = None, *, runtime: str = "onnxruntime-genai", seed: int = 0
) -> Path:
    """Files of `sizes` bytes by name, their content from `seed` and their name."""
    for name, size in (SIZES if sizes is None else sizes).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{seed} {name}").randbytes(size))
    return sealed(folder, runtime=RuntimeInfo(runtime, "1.0"))


def sealed(folder: Path, **changes: Any) -> Path:
    """`folder` as a bundle of the files in it; `changes` are other fields of its manifest."""
    manifest = Manifest(
        schema_version=1,
        name="maud",
        created="2026-01-02T03:04:05+00:00",
        edgeplm_version="0.1.0",
        base_model=BaseModelInfo("owner/name", "ab" * 32, "LlamaForCausalLM", 1_000, "apache-2.0"),
        runtime=RuntimeInfo("onnxruntime-genai", "1.0"),
        precision=PrecisionInfo("int4", "made up", 4.0),
        context_length=200,
        tokens=TokenInfo(50, [1]),
        chat_template=None,
        files=list_files(folder),
    )
    write_manifest(folder, replace(manifest, **changes))
    return folder
