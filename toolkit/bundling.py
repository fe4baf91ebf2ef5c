"""One person's adapter into a bundle, compared with float, and asked the person's queries."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.finetune import open_chat
from toolkit.finetune.encode import encode_history
from toolkit.models import BaseModel, cache_folder, load_model
from toolkit.profiles import Profile
from toolkit.progress import SILENT, Progress
from toolkit.quality import ARTIFACT, Answers, answer_limit, prompt_limit, query_prompts, scored
from toolkit.recipe import ExportRecipe, VerifyRecipe
from toolkit.tasks import Task

if TYPE_CHECKING:
    from exporters.bundle import Manifest, Provenance
    from exporters.export import ExportJob
    from exporters.merge import AdapterFacts
    from exporters.quantise.calibrate import Windows
    from exporters.quantise.grid import QuantisedWeight


def calibration(
    settings: ExportRecipe,
    base: BaseModel,
    task: Task | None = None,
    profiles: Sequence[Profile] = (),
    history_in_prompt: int = 0,
    progress: Progress = SILENT,
) -> "Windows | None":
    """What the quantiser is calibrated on: the people's histories, worded as the bundle will be asked, and
    neutral text, a written one and what the model writes itself, as `settings` say."""
    from exporters.quantise.calibrate import WINDOW, calibration_windows
    from exporters.quantise.model_text import cached_model_text
    from exporters.texts import calibration_text

    if settings.calibration == "none" or settings.preset == "exact" or settings.precision == "fp32":
        return None
    if settings.form == "attached" and _job(base, settings, "base").is_int8:
        return None
    chat = open_chat(base)
    own: list[list[int]] = []
    if task and settings.calibration == "own":
        for profile in profiles:
            encoded = encode_history(
                profile.history, task, chat, max_length=settings.context_length,
                history=profile.history, retrieved=history_in_prompt,
            )  # fmt: skip
            own += [[*example.prompt, *example.answer] for example in encoded.examples]
    neutral = chat.tokenizer(calibration_text(), add_special_tokens=False)["input_ids"]
    half = -(-settings.windows // 2)
    written = cached_model_text(
        lambda: load_model(base),
        chat,
        cache_folder() / "model-texts" / f"{base.sha256}-{half}.safetensors",
        count=half,
        length=WINDOW,
        progress=progress,
    )
    return calibration_windows(neutral, own, written.tolist(), count=settings.windows)


def calibration_of(
    manifest: "Manifest",
    base: BaseModel,
    task: Task | None = None,
    profiles: Sequence[Profile] = (),
    progress: Progress = SILENT,
) -> "Windows | None":
    """The windows that a bundle was calibrated on, as nearly as the people given here allow."""
    about = manifest.precision.calibration
    if about is None:
        return None
    source = "own" if about.own else "neutral"
    settings = ExportRecipe(calibration=source, context_length=manifest.context_length, windows=about.windows)
    asked = max((adapter.history_in_prompt for adapter in manifest.adapters), default=0)
    return calibration(settings, base, task, profiles, asked, progress)


def base_weights(
    base: BaseModel, settings: ExportRecipe, windows: "Windows | None", progress: Progress = SILENT
) -> "dict[str, QuantisedWeight]":
    """The base model's weights on the grids of the export; kept in the cache."""
    from exporters import twin

    return twin.base_weights(
        load_model(base), _job(base, settings, "base"), cache_folder(), windows, progress
    )


def check_adapter(base: BaseModel, adapter: Path, form: str) -> "AdapterFacts":
    """The adapter's facts; AdapterError if it is another base's or cannot be shipped in this form.

    Cheap, so that it can be asked before minutes of calibration.
    """
    from exporters.adapters import ATTACHED
    from exporters.merge import check_base, read_adapter
    from exporters.onnx.adapter_file import read_low_rank

    facts = read_adapter(adapter)
    check_base(facts, adapter, base.source, base.sha256)
    if form == ATTACHED:
        read_low_rank(adapter)
    return facts


def make_bundle(
    base: BaseModel,
    adapter: Path,
    settings: ExportRecipe,
    out: Path,
    *,
    name: str,
    windows: "Windows | None" = None,
    weights: "dict[str, QuantisedWeight] | None" = None,
    task: Task | None = None,
    provenance: "Provenance | None" = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> "Manifest":
    """Export `adapter` as `settings` say: merged into the base, or attached to it.

    `weights` are the base's own, for an attached adapter that was trained on them.
    """
    from exporters.adapters import ATTACHED
    from exporters.export import export_bundle
    from exporters.merge import merge_adapter
    from exporters.onnx.adapter_file import read_low_rank
    from runtimes import open_engine

    facts = check_adapter(base, adapter, settings.form)
    job = replace(_job(base, settings, name), task=task.as_dict() if task else None, provenance=provenance)
    model = load_model(base)
    adapters: dict[str, Path] = {}
    make_weights: Callable[[], dict[str, QuantisedWeight]] | None = None
    if settings.form == ATTACHED:
        changes = read_low_rank(adapter)
        make_weights = (
            partial(base_weights, base, settings, windows, progress) if weights is None else lambda: weights
        )
        kinds = {module.rpartition(".")[2] for module in changes}
        rank = max(change.rank for change in changes.values())
        job = replace(job, slots=tuple(sorted(kinds)), slot_rank=rank)
        adapters = {name: adapter}
    else:
        job, model = replace(job, adapter=facts), merge_adapter(model, adapter)
    return export_bundle(
        model,
        open_chat(base),
        job,
        out,
        open_engine,
        windows=windows,
        make_weights=make_weights,
        adapters=adapters,
        force=force,
        progress=progress,
    )


def verify_bundle(
    bundle: Path,
    base: BaseModel,
    adapter: Path,
    limits: VerifyRecipe,
    task: Task | None = None,
    profile: Profile | None = None,
    *,
    windows: "Windows | None" = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Compare a bundle with the float model it was made from; `exporters.verify` says what is measured.

    The prompts are the person's held-out queries (or history, where there are none); without a profile,
    passages of neutral text. A merged bundle's base is exported the same way for the comparison, calibrated
    on the same `windows`. Returns `Verification.as_dict()` with the thresholds beside it.
    """
    from exporters.bundle import open_bundle
    from exporters.merge import check_base, merge_adapter, read_adapter
    from exporters.texts import neutral_windows
    from exporters.twin import base_twin
    from exporters.verify import Thresholds, verify
    from runtimes import open_engine
    from runtimes.torch_engine import TorchEngine

    manifest = open_bundle(bundle)
    chat = open_chat(base)
    if manifest.base_model.sha256 != base.sha256:
        raise EdgePLMError(
            f"was made from {manifest.base_model.source}, whose weights are not those of {base.source}",
            where=str(bundle),
            mend="Give the base model that it was made from with --model",
        )
    facts = read_adapter(adapter)
    check_base(facts, adapter, base.source, base.sha256)
    model = load_model(base)
    room = manifest.context_length - limits.continuation - 1
    if task and profile:
        asked = (profile.queries or profile.history)[: limits.prompts]
        prompts = query_prompts(
            task, chat, asked, room, history=profile.history, retrieved=facts.history_in_prompt
        )
    else:
        prompts = [window[: min(48, room)] for window in neutral_windows(chat, 64, limits.prompts)]
    artifact = open_engine(bundle)
    attached = _attached_as(manifest, adapter)
    if attached is not None:
        shipped, plain = _Person(artifact, attached), _Person(artifact, None)
        engines = [artifact]
    else:
        twin_folder = base_twin(
            model, chat, _twin_job(base, manifest), cache_folder(), open_engine,
            windows=windows, progress=progress,
        )  # fmt: skip
        twin = open_engine(twin_folder)
        shipped, plain = _Person(artifact, None), _Person(twin, None)
        engines = [artifact, twin]
    thresholds = Thresholds(limits.min_correlation, limits.min_size, limits.max_size, limits.max_kl)
    found = verify(
        float_base=TorchEngine(model),
        float_personalised=TorchEngine(merge_adapter(load_model(base), adapter)),
        artifact_base=plain,
        artifact=shipped,
        prompts=prompts,
        stop=chat.stop,
        neutral=neutral_windows(chat, min(256, manifest.context_length - 1), 4),
        thresholds=thresholds,
        continuation=limits.continuation,
        progress=progress,
    )
    for engine in engines:
        engine.close()
    return {**found.as_dict(), "thresholds": asdict(thresholds), "prompts": len(prompts)}


def answer_bundle(
    bundle: Path,
    device: str,
    task: Task,
    profile: Profile,
    *,
    adapter: str | None = None,
    progress: Progress = SILENT,
) -> Answers:
    """The held-out queries answered by the bundle, with its attached `adapter`, in its runtime."""
    from benchmarks.protocol import answer_on_device
    from exporters.bundle import open_bundle
    from runtimes.devices import parse_device

    manifest = open_bundle(bundle)
    chat = bundle_chat(bundle)
    limit = prompt_limit(task, manifest.context_length)
    # As the adapter was trained: the attached one that answers, or the one that is merged.
    retrieved = next(
        (
            entry.history_in_prompt
            for entry in manifest.adapters
            if entry.name == adapter or (adapter is None and entry.kind == "merged")
        ),
        0,
    )
    prompts = query_prompts(task, chat, profile.queries, limit, history=profile.history, retrieved=retrieved)
    ids = answer_on_device(
        bundle,
        parse_device(device),
        prompts,
        max_new_tokens=answer_limit(task, chat, profile),
        stop_ids=manifest.tokens.stop,
        adapter=adapter,
        progress=progress,
    )
    return scored(ARTIFACT, [chat.decode(answer) for answer in ids], task, profile.queries)


def bundle_chat(bundle: Path) -> ChatFormat:
    """The tokenizer and chat template that a bundle carries."""
    from exporters.bundle import read_manifest
    from toolkit.models import load_tokenizer

    manifest = read_manifest(bundle)
    base = BaseModel(str(bundle), bundle, manifest.base_model.sha256, manifest.base_model.licence)
    return ChatFormat(load_tokenizer(base), manifest.tokens.stop)


class _Person:
    """An engine that answers as one person (None: as the base), whoever it answered as before."""

    def __init__(self, engine: Any, adapter: str | None) -> None:
        self._engine, self._adapter = engine, adapter

    def score(self, ids: Sequence[int], first: int = 0) -> Any:
        self._engine.use_adapter(self._adapter)
        return self._engine.score(ids, first)

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> Any:
        self._engine.use_adapter(self._adapter)
        return self._engine.generate(ids, max_new_tokens, stop)


def _job(base: BaseModel, settings: ExportRecipe, name: str) -> "ExportJob":
    from exporters.export import ExportJob

    return ExportJob(
        base=base,
        name=name,
        context_length=settings.context_length,
        runtime=settings.runtime,
        preset=settings.preset,
        precision=settings.precision,
    )


def _twin_job(base: BaseModel, manifest: "Manifest") -> "ExportJob":
    from exporters.export import ExportJob, runtime_key

    return ExportJob(
        base=base,
        name="base",
        context_length=manifest.context_length,
        runtime=runtime_key(manifest.runtime.name),
        preset=manifest.precision.preset or "balanced",
        precision=_own_precision(manifest),
    )


def _own_precision(manifest: "Manifest") -> str | None:
    """The precision that was asked for in place of the preset's; None where it is the preset's own."""
    from exporters.presets import PRESETS

    name, preset = manifest.precision.name, manifest.precision.preset
    return None if preset in PRESETS and name in (preset, PRESETS[preset][0]) else name


def _attached_as(manifest: "Manifest", adapter: Path) -> str | None:
    """The name under which `adapter` is attached, None if it is merged. EdgePLMError if it is neither."""
    from exporters.adapters import ATTACHED
    from exporters.merge import read_adapter

    digest = read_adapter(adapter).sha256
    for entry in manifest.adapters:
        if entry.sha256 == digest:
            return entry.name if entry.kind == ATTACHED else None
    raise EdgePLMError(
        "is not among the bundle's adapters",
        where=str(adapter),
        mend=f"It has: {', '.join(entry.name for entry in manifest.adapters) or 'none'}",
    )
