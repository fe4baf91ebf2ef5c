"""Base model and adapter in, bundle out."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporters.adapters import add_adapter
from exporters.bundle import (
    SCHEMA_VERSION,
    AdapterInfo,
    BaseModelInfo,
    CalibrationInfo,
    Manifest,
    PrecisionInfo,
    Provenance,
    RuntimeInfo,
    TokenInfo,
    list_files,
    read_manifest,
    write_manifest,
)
from exporters.chat_form import chat_form
from exporters.golden import EngineLike, golden_checks
from exporters.merge import AdapterFacts
from exporters.presets import EXACT, bits_per_weight, recover_base, scheme_of
from exporters.quantise.calibrate import Windows, quantise_model
from exporters.quantise.frequent import frequent_tokens
from exporters.quantise.grid import QuantisedWeight, Scheme
from exporters.quantise.smooth import can_smooth, smoothed
from toolkit import __version__
from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.files import staged_directory
from toolkit.models import BaseModel, load_tokenizer, write_plain_rope_theta
from toolkit.progress import SILENT, Progress

MERGED = "merged"
MakeWeights = Callable[[], Mapping[str, QuantisedWeight]]
# How much of int8 activations' spread goes into the weights: ONNX Runtime's blocks take more of it than rows.
_ALPHA = {"onnx": 0.7, "executorch": 0.5}
# What a bundle's manifest calls the runtime, and the packages that its making depends on.
_RUNTIME = {
    "onnx": ("onnxruntime-genai", ("torch", "transformers", "peft", "onnx", "onnxruntime")),
    "executorch": ("executorch", ("torch", "transformers", "peft", "torchao")),
}


@dataclass(frozen=True)
class ExportJob:
    """What goes into a bundle besides the weights.

    `adapter` is what was merged into the model. `slots` are the target modules, such as q_proj, to which
    adapters can be attached later: with them the model is the base itself. ExecuTorch's hold ranks up to
    `slot_rank`, ONNX Runtime's any.
    """

    base: BaseModel
    name: str
    context_length: int
    runtime: str = "onnx"
    preset: str = "balanced"
    precision: str | None = None
    adapter: AdapterFacts | None = None
    slots: tuple[str, ...] = ()
    slot_rank: int = 8
    task: dict[str, Any] | None = None
    provenance: Provenance | None = None

    @property
    def scheme(self) -> Scheme | None:
        """The grids of the weights; None for `exact`, whose grids are the base's own."""
        return None if self.preset == EXACT else scheme_of(self.preset, self.precision, self.runtime)

    @property
    def is_int8(self) -> bool:
        """Whether the linear layers are int8: rounded, and their activations smoothed."""
        return self.scheme is not None and self.scheme.is_int8


def quantised_weights(
    model: Any, job: ExportJob, windows: Windows | None, progress: Progress = SILENT
) -> dict[str, QuantisedWeight]:
    """The weights of float `model` on the grids that `job` asks for, by module name.

    `windows` are what int4 is calibrated on; None rounds, as int8 is in any case: calibration takes minutes,
    and there it is worth a tenth of the divergence at most. Raises ModelError for the preset `exact` if the
    model is not on a grid already.
    """
    scheme = job.scheme
    if scheme is None:
        if job.runtime != "onnx" or job.precision:
            raise EdgePLMError(
                "keeps the base's own grid, which only ONNX Runtime can do",
                where="export.preset exact",
                mend="Leave out precision, and choose the runtime onnx",
            )
        return recover_base(model)
    frequent = None
    if scheme.frequent:
        size = len(model.get_output_embeddings().weight)
        frequent = frequent_tokens(load_tokenizer(job.base), size, scheme.frequent)
    ids = windows.ids if windows and not scheme.is_int8 else None
    return quantise_model(model, scheme, ids, progress, frequent=frequent)


def export_bundle(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    out: Path,
    open_engine: Callable[[Path], EngineLike],
    *,
    windows: Windows | None = None,
    make_weights: MakeWeights | None = None,
    adapters: Mapping[str, Path] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Manifest:
    """Write float `model` (adapter merged already) as the bundle `out`, whole or not at all.

    `make_weights` gives its quantised weights, and is asked once the model has a graph; without it they are
    made here, calibrated on `windows`. `adapters`, PEFT folders by name, are attached to the job's slots.
    `open_engine` loads a bundle's folder; what the new bundle answers to neutral prompts goes into the
    manifest as `golden`. Raises ModelError for an architecture that cannot be exported, EdgePLMError if `out`
    exists and `force` is false.
    """
    config = model.config.get_text_config()
    context = min(
        job.context_length, int(getattr(config, "max_position_embeddings", None) or job.context_length)
    )
    with staged_directory(out, force=force) as staging:
        builders: dict[str, Callable[..., Mapping[str, QuantisedWeight]]] = {
            "onnx": _build_onnx,
            "executorch": _build_executorch,
        }
        used = _used(model, job, windows)
        smoother: AbstractContextManager[None] = nullcontext()
        if used and job.is_int8 and make_weights is None:
            smoother = smoothed(model, used.ids, _ALPHA[job.runtime], progress)
        with smoother:
            weights = builders[job.runtime](
                model,
                chat,
                job,
                make_weights or partial(quantised_weights, model, job, used, progress),
                staging,
                context,
                progress,
            )
        manifest = _manifest(model, chat, job, weights, used, staging, context)
        write_manifest(staging, manifest)  # the engine reads it to know the runtime
        engine = open_engine(staging)
        try:
            manifest = replace(manifest, golden=golden_checks(engine, chat))
        finally:
            engine.close()
        write_manifest(staging, manifest)
        for name, folder in (adapters or {}).items():
            add_adapter(staging, name, folder)
        return read_manifest(staging)


def runtime_key(name: str) -> str:
    """What an export calls the runtime that a manifest names."""
    return next(key for key, (runtime, _) in _RUNTIME.items() if runtime == name)


def _used(model: Any, job: ExportJob, windows: Windows | None) -> Windows | None:
    """`windows` if they have a say in the weights.

    In int8's only by smoothing, which an architecture may not allow, nor attached adapters, since they read
    the base's own activations. int4 in blocks would lose by it.
    """
    if job.scheme is None or job.scheme.linear is None:
        return None
    return None if job.is_int8 and (job.slots or not can_smooth(model)) else windows


def _build_onnx(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    make_weights: MakeWeights,
    out: Path,
    context: int,
    progress: Progress,
) -> Mapping[str, QuantisedWeight]:
    """The graph first, so that a model that has none is refused before minutes of calibration."""
    from exporters.onnx.builder import build_onnx, refusal
    from exporters.onnx.dynamo import build_onnx_dynamo
    from exporters.onnx.slots import add_slots_to_folder
    from exporters.onnx.weights import place_weights

    with (
        progress.step(f"Making the graph of {job.name} for ONNX Runtime"),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".float.") as float_name,
    ):
        folder = Path(float_name)
        _save_float(model, chat, folder, context)
        if refusal(model.config) is None:
            build_onnx(folder, out, context, chat.stop)
        else:
            build_onnx_dynamo(model, folder, out, context_length=context, stop=list(chat.stop))
    weights = make_weights()
    with progress.step("Putting the weights into the graph"):
        modules = dict(model.named_modules())
        place_weights(out, {name: modules[name].weight.data for name in weights}, weights)
        if job.slots:
            add_slots_to_folder(out, job.slots)
    return weights


def _build_executorch(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    make_weights: MakeWeights,
    out: Path,
    context: int,
    progress: Progress,
) -> Mapping[str, QuantisedWeight]:
    from exporters.executorch import build_executorch, check_supported
    from exporters.executorch.slots import Slots

    check_supported(model)
    weights = make_weights()
    build_executorch(
        model,
        dict(weights),
        out,
        context_length=context,
        bos=chat.tokenizer.bos_token_id,
        stop=list(chat.stop),
        slots=Slots(job.slot_rank, job.slots) if job.slots else None,
        progress=progress,
    )
    chat.tokenizer.save_pretrained(out)
    return weights


def _manifest(
    model: Any,
    chat: ChatFormat,
    job: ExportJob,
    weights: Mapping[str, QuantisedWeight],
    windows: Windows | None,
    folder: Path,
    context: int,
) -> Manifest:
    config = model.config.get_text_config()
    runtime, tools = _RUNTIME[job.runtime]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=job.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgeplm_version=__version__,
        base_model=BaseModelInfo(
            job.base.source,
            job.base.sha256,
            model.config.architectures[0],
            sum(p.numel() for p in model.parameters()),
            job.base.licence,
            job.base.task_adapter,
        ),
        runtime=RuntimeInfo(runtime, version(runtime), {name: version(name) for name in tools}),
        precision=_precision(job, weights, windows),
        context_length=context,
        tokens=TokenInfo(
            int(config.vocab_size),
            list(chat.stop),
            chat.tokenizer.bos_token_id,
            chat.tokenizer.pad_token_id,
            [chat.tokenizer.decode([token], skip_special_tokens=False) for token in chat.stop],
        ),
        chat_template=chat.tokenizer.chat_template if chat.has_template else None,
        files=list_files(folder),
        adapters=[_merged(job.name, job.adapter)] if job.adapter else [],
        task=job.task,
        provenance=job.provenance,
        chat_form=chat_form(chat),
    )


def _precision(
    job: ExportJob, weights: Mapping[str, QuantisedWeight], windows: Windows | None
) -> PrecisionInfo:
    scheme = job.scheme
    if scheme is None:
        return PrecisionInfo(EXACT, "the base's own Q4_1 and Q8_0", round(bits_per_weight(weights), 2), EXACT)
    bits = {4: "int4", 8: "int8"}
    name = "fp32" if scheme.linear is None else bits[scheme.linear.bits]
    mean = round(bits_per_weight(weights), 2) if weights else 32.0
    about = CalibrationInfo(len(windows.ids), windows.own, windows.sha256) if windows else None
    return PrecisionInfo(name, scheme.words, mean, job.preset, about)


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
    return AdapterInfo(
        name,
        MERGED,
        facts.sha256,
        facts.rank,
        facts.alpha,
        facts.targets,
        history_in_prompt=facts.history_in_prompt,
    )
