"""Base model and adapter in, bundle out."""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from exporters.bundle import (
    SCHEMA_VERSION,
    AdapterInfo,
    BaseModelInfo,
    GoldenCheck,
    Manifest,
    PrecisionInfo,
    Provenance,
    RuntimeInfo,
    TokenInfo,
    list_files,
    open_bundle,
    write_manifest,
)
from exporters.merge import AdapterFacts
from exporters.onnx.builder import PRECISIONS, build_onnx
from toolkit import __version__
from toolkit.chat import ChatFormat
from toolkit.errors import BundleError
from toolkit.files import staged_directory
from toolkit.models import BaseModel, write_plain_rope_theta
from toolkit.progress import SILENT, Progress

# Neutral prompts whose answers are kept in the manifest, for other devices to repeat.
GOLDEN_PROMPTS = (
    "List three things that one finds in a kitchen.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
)
GOLDEN_TOP = 5
GOLDEN_TOKENS = 12


class EngineLike(Protocol):
    """What an export needs of a runtime: the next token's logits and a greedy continuation."""

    name: str
    version: str

    def prefill(self, ids: Sequence[int]) -> Any:
        """Next-token logits [vocab]."""
        ...

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> Any:
        """Greedy continuation."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


@dataclass(frozen=True)
class ExportJob:
    """What goes into a bundle besides the weights."""

    base: BaseModel
    precision: str
    context_length: int
    name: str
    adapter: AdapterFacts | None = None
    task: dict[str, Any] | None = None
    provenance: Provenance | None = None


def export_bundle(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    out: Path,
    open_engine: Callable[[Path], EngineLike],
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Manifest:
    """Write float `model` (adapter merged already) as the bundle `out`, whole or not at all.

    `open_engine` loads a bundle's folder; what the new bundle answers to neutral prompts goes into the
    manifest as `golden`. Raises ModelError for an architecture that cannot be exported, EdgePLMError if
    `out` exists and `force` is false.
    """
    parameters = sum(p.numel() for p in model.parameters())
    config = model.config.get_text_config()
    context = min(job.context_length, int(config.max_position_embeddings))
    with (
        staged_directory(out, force=force) as staging,
        progress.step(f"Exporting {job.name} ({job.precision} ONNX)"),
    ):
        with tempfile.TemporaryDirectory(dir=staging.parent, prefix=".float.") as float_name:
            float_folder = Path(float_name)
            _save_float(model, chat, float_folder, context)
            build_onnx(float_folder, staging, job.precision, context, chat.stop)
        weights = sum(path.stat().st_size for path in staging.glob("*.onnx.data"))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=job.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            edgeplm_version=__version__,
            base_model=BaseModelInfo(
                job.base.source, job.base.sha256, model.config.architectures[0], parameters, job.base.licence
            ),
            runtime=RuntimeInfo(
                "onnxruntime-genai",
                version("onnxruntime-genai"),
                {name: version(name) for name in ("torch", "transformers", "peft", "onnx", "onnxruntime")},
            ),
            precision=PrecisionInfo(
                job.precision, PRECISIONS[job.precision][2], round(8 * weights / parameters, 2)
            ),
            context_length=context,
            tokens=TokenInfo(
                int(config.vocab_size),
                list(chat.stop),
                chat.tokenizer.bos_token_id,
                chat.tokenizer.pad_token_id,
            ),
            chat_template=chat.tokenizer.chat_template if chat.has_template else None,
            files=list_files(staging),
            adapters=[_merged(job.name, job.adapter)] if job.adapter else [],
            task=job.task,
            provenance=job.provenance,
        )
        write_manifest(staging, manifest)  # the engine reads it to know the runtime
        engine = open_engine(staging)
        try:
            manifest = replace(manifest, golden=golden_checks(engine, chat))
        finally:
            engine.close()
        write_manifest(staging, manifest)
    return manifest


def golden_checks(engine: EngineLike, chat: ChatFormat) -> list[GoldenCheck]:
    """What this artifact answers to the neutral prompts, on this machine."""
    checks = []
    for text in GOLDEN_PROMPTS:
        prompt = chat.prompt(text)
        logits = engine.prefill(prompt)
        top = logits.argsort()[::-1][:GOLDEN_TOP]
        checks.append(
            GoldenCheck(
                prompt,
                [int(token) for token in top],
                [round(float(logits[token]), 4) for token in top],
                [int(token) for token in engine.generate(prompt, GOLDEN_TOKENS, chat.stop)],
            )
        )
    return checks


def repeat_golden(engine: EngineLike, manifest: Manifest, tolerance: float = 0.5) -> list[str]:
    """Answer the golden prompts again; returns what differs by more than rounding (nothing: all agree).

    `tolerance` is in logits: kernels of another processor round activations differently, a wrong or
    damaged model is off by whole units.
    """
    problems = []
    for index, check in enumerate(manifest.golden):
        logits = engine.prefill(check.prompt)
        off = [
            abs(float(logits[token]) - value)
            for token, value in zip(check.top_tokens, check.top_logits, strict=True)
        ]
        if any(math.isnan(difference) for difference in off):
            problems.append(f"golden prompt {index + 1}: logits are not numbers")
        elif max(off) > tolerance:
            problems.append(f"golden prompt {index + 1}: logits are off by {max(off):.2f}")
    return problems


def _save_float(model: Any, chat: ChatFormat, folder: Path, context: int) -> None:
    """Save the float model for the builder, with rotary tables no longer than the bundle's context.

    Only where the tables do not depend on the context length (rope type "default"), nor the builder's choice
    between two forms of an architecture (Phi-3).
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    longest = config.max_position_embeddings if hasattr(config, "max_position_embeddings") else None
    two_forms = hasattr(config, "original_max_position_embeddings")
    plain = rope.get("rope_type", "default") == "default" and "full_attention" not in rope and not two_forms
    try:
        if longest and plain:
            config.max_position_embeddings = min(longest, context)
        model.save_pretrained(folder)
    finally:
        if longest:
            config.max_position_embeddings = longest
    chat.tokenizer.save_pretrained(folder)
    write_plain_rope_theta(folder)


def _merged(name: str, facts: AdapterFacts) -> AdapterInfo:
    return AdapterInfo(name, "merged", facts.sha256, facts.rank, facts.alpha, facts.targets)


def base_twin(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    cache: Path,
    open_engine: Callable[[Path], EngineLike],
    progress: Progress = SILENT,
) -> Path:
    """The unpersonalised base, exported the same way and kept in `cache`: survival is measured against it."""
    key = "-".join(
        [
            job.base.sha256[:16],
            job.precision,
            str(job.context_length),
            version("onnxruntime-genai"),
            __version__,
        ]
    )
    target = cache / "bases" / key
    if target.exists():
        try:
            open_bundle(target, hashes=False)
        except BundleError:
            shutil.rmtree(target)
        else:
            return target
    plain = replace(job, name="base", adapter=None, task=None, provenance=None)
    export_bundle(model, chat, plain, target, open_engine, force=True, progress=progress)
    return target
