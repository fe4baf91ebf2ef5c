"""The whole job, stage by stage: a person's examples in, a verified and measured bundle out.

    from toolkit.pipeline import run
    from toolkit.recipe import read_recipe
    result = run(read_recipe(Path("recipe.yaml")))

The stages write into the run folder (`toolkit.runfolder`): `dataset`, `adapters`, `answers`, `bundle`,
`verification`, `benchmark` and `report.html`; and `weights`, where training or the export needs the base
quantised.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.augment import Augmentation, read_augmentation, write_augmentation, write_synthetic
from toolkit.augment.selection import Learner
from toolkit.bundling import answer_bundle, base_weights, calibration, make_bundle, verify_bundle
from toolkit.chat import ChatFormat
from toolkit.files import write_atomic
from toolkit.finetune import Finetuning, adapter_folder, finetune, open_chat, read_finetuning
from toolkit.models import BaseModel, cache_folder, resolve_model
from toolkit.profiles import Profile, read_profile
from toolkit.progress import SILENT, Progress
from toolkit.quality import (
    ARTIFACT,
    Answers,
    answer_float,
    prompt_limit,
    read_answers,
    write_answers,
)
from toolkit.recipe import Recipe
from toolkit.runfolder import RunFolder, Stage, identity
from toolkit.tasks import Task, load_task

_WEIGHTS = "weights.safetensors"
_REAL_ARM = "real-arm"  # the adapter on the real examples, where it was trained to choose synthetic ones


@dataclass(frozen=True)
class RunResult:
    """What a run made and found; `failures` are checks that fell short (none: all passed).

    There is no bundle, and so no verification and no benchmark, where the adapter was held back
    (`finetune.guard`).
    """

    folder: Path
    bundle: Path | None
    adapter: Path
    report: Path
    recipe: Recipe
    profile: Profile
    task: Task
    augmentation: Augmentation | None
    finetuning: Finetuning
    arms: list[Answers]
    verification: dict[str, Any]
    benchmarks: list[Any]
    failures: list[str]

    def arm(self, name: str) -> Answers:
        """The arm called `name`; KeyError if the run has none."""
        for arm in self.arms:
            if arm.arm == name:
                return arm
        raise KeyError(name)

    @property
    def chosen_arm(self) -> Answers:
        """The float adapter that went into the bundle."""
        return self.arm(f"adapter ({self.finetuning.chosen})")

    @property
    def metric_loss(self) -> float | None:
        """By how much the primary metric is worse in the bundle than in float; None without gold answers."""
        metric = self.task.primary_metric
        if self.bundle is None:
            return None
        exact, shipped = (arm.metrics.get(metric) for arm in (self.chosen_arm, self.arm(ARTIFACT)))
        if exact is None or shipped is None:
            return None
        return exact - shipped if self.task.higher_is_better(metric) else shipped - exact


@dataclass(frozen=True)
class _Run:
    """What every stage needs; `base` is the `plain` one with the task adapter in it, if there is one."""

    recipe: Recipe
    folder: RunFolder
    task: Task
    profile: Profile
    plain: BaseModel
    base: BaseModel
    chat: ChatFormat
    progress: Progress


def run(recipe: Recipe, progress: Progress = SILENT, *, command: str | None = None) -> RunResult:
    """Run every stage of `recipe` that is not done yet, and write the report.

    A check that falls short does not raise: it is in the result's `failures`. Raises EdgePLMError for
    anything the user can mend.
    """
    from exporters.task_adapter import with_task_adapter
    from runtimes.devices import parse_device
    from toolkit.measuring import stage_names

    for device in recipe.bench.devices:
        parse_device(device)  # refused now, not after the training
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    with RunFolder(recipe.out_path).open() as folder:
        plain = resolve_model(recipe.model_source, progress)
        base = with_task_adapter(plain, recipe.task_adapter_path, cache_folder(), progress)
        state = _Run(recipe, folder, task, profile, plain, base, open_chat(base), progress)
        weights = _weights_stage(state)
        augmentation, data = _augment_stage(state, weights)
        adapters = _finetune_stage(state, augmentation, data, weights)
        finetuning = read_finetuning(adapters.folder)
        answers = _answer_stage(state, adapters, finetuning)
        result = RunResult(
            folder=folder.path,
            bundle=None,
            adapter=adapter_folder(adapters.folder, finetuning.chosen),
            report=folder.path / "report.html",
            recipe=recipe,
            profile=profile,
            task=task,
            augmentation=augmentation,
            finetuning=finetuning,
            arms=read_answers(answers.folder / "answers.json"),
            verification={},
            benchmarks=[],
            failures=[],
        )
        if finetuning.withheld:
            # Of an earlier run, and not of this adapter.
            folder.drop("bundle", "verification", *stage_names(recipe.bench.devices))
            result = replace(result, failures=[finetuning.withheld])
        else:
            result = _ship(state, result, adapters, weights)
        _write_report(result, base, command)
        return result


def _ship(run: _Run, result: RunResult, adapters: Stage, weights: Stage | None) -> RunResult:
    """The bundle, verified and measured."""
    from toolkit.measuring import measure_bundle

    bundle = _bundle_stage(run, adapters, result.finetuning, result.augmentation, weights)
    verification = _verification_stage(run, adapters, result.finetuning, bundle)
    found = json.loads((verification.folder / "verification.json").read_text(encoding="utf-8"))
    benchmarks, failed = measure_bundle(run.folder, bundle, run.recipe.bench, _attached(run), run.progress)
    result = replace(
        result,
        bundle=bundle.folder,
        arms=[*result.arms, *read_answers(verification.folder / "answers.json")],
        verification=found,
        benchmarks=benchmarks,
        failures=[*found["failures"], *failed],
    )
    result = replace(result, failures=[*result.failures, *_metric_failures(result)])
    outcome = {"metric": run.task.primary_metric, "metric_loss": result.metric_loss}
    _finish_manifest(
        bundle.folder,
        {**found, **outcome, "failures": result.failures, "passed": not result.failures},
    )
    return result


def _augment_stage(run: _Run, weights: Stage | None) -> tuple[Augmentation | None, Stage | None]:
    settings = run.recipe.augment
    if not settings.writes or run.recipe.finetune.choose == "real":
        return None, None

    def work(folder: Path) -> None:
        learner = Learner(
            run.base,
            run.profile,
            run.task,
            run.recipe.finetune,
            run.recipe.seed,
            prepare=_preparation(run, weights),
            folder=folder / _REAL_ARM,
            rescue=run.folder.path / "adapters-stopped",
        )
        made = write_synthetic(
            run.profile,
            run.task,
            run.recipe,
            run.plain,
            answers_path=run.folder.path / "teacher-answers.jsonl",
            audit_path=run.folder.path / "audit.jsonl",
            learner=learner,
            progress=run.progress,
        )
        write_augmentation(made, folder)

    # The teacher is the plain base: a task adapter answers queries, and does not write them.
    inputs = {
        **_identity(run),
        "model": run.plain.sha256,
        "augment": settings.as_dict(),
        "teacher": run.recipe.teacher_sources,
        "validation": run.recipe.finetune.validation,  # that slice is not shown to a teacher
    }
    if settings.select.enabled or settings.rounds > 1:  # their models are those of the training
        inputs |= {"student": run.base.sha256, "finetune": run.recipe.finetune.as_dict()}
        inputs |= {"weights": weights.key if weights else None}
    stage = run.folder.stage("dataset", inputs, work)
    return read_augmentation(stage.folder), stage


def _weights_stage(run: _Run) -> Stage | None:
    """The base on the export's grids, where an adapter is trained on it or attached to it."""
    settings = run.recipe.export
    if settings.form != "attached" and not run.recipe.finetune.quantization_aware:
        return None

    def work(folder: Path) -> None:
        from exporters.quantise.store import write_weights

        weights = base_weights(run.base, settings, _windows(run), run.progress)
        write_weights(folder / _WEIGHTS, weights)

    inputs = {
        **_identity(run),
        "export": settings.as_dict(),
        "asked": run.recipe.finetune.history_in_prompt,
    }
    return run.folder.stage("weights", inputs, work)


def _windows(run: _Run) -> Any:
    asked = run.recipe.finetune.history_in_prompt
    return calibration(run.recipe.export, run.base, run.task, [run.profile], asked, run.progress)


def _finetune_stage(
    run: _Run, augmentation: Augmentation | None, data: Stage | None, weights: Stage | None
) -> Stage:
    settings = run.recipe.finetune
    real_arm = data.folder / _REAL_ARM if data else None

    def work(folder: Path) -> None:
        finetune(
            run.base,
            run.profile,
            run.task,
            settings,
            folder,
            synthetic=augmentation.kept if augmentation else (),
            prepare=_preparation(run, weights),
            done=real_arm if real_arm and real_arm.is_dir() else None,
            rescue=run.folder.path / "adapters-stopped",
            seed=run.recipe.seed,
            force=True,
            progress=run.progress,
        )

    inputs = {**_identity(run), "finetune": settings.as_dict(), "data": data.key if data else None}
    if weights and settings.quantization_aware:
        inputs["weights"] = weights.key
    return run.folder.stage("adapters", inputs, work)


def _preparation(run: _Run, weights: Stage | None) -> Callable[[Any], None]:
    """What makes the frozen base the one that adapters are trained on."""

    def prepare(model: Any) -> None:
        from exporters.quantise.calibrate import apply_weights
        from exporters.quantise.store import read_weights

        if weights and run.recipe.finetune.quantization_aware:
            apply_weights(model, read_weights(weights.folder / _WEIGHTS))

    return prepare


def _answer_stage(run: _Run, adapters: Stage, finetuning: Finetuning) -> Stage:
    def work(folder: Path) -> None:
        arms = answer_float(
            run.base,
            run.chat,
            run.task,
            run.profile,
            {a.name: adapter_folder(adapters.folder, a.name) for a in finetuning.adapters},
            retrieved=run.recipe.finetune.retrieved,
            history_in_prompt=run.recipe.finetune.history_in_prompt,
            limit=prompt_limit(run.task, run.recipe.export.context_length),
            progress=run.progress,
        )
        write_answers(folder / "answers.json", arms)

    inputs = {
        "adapters": adapters.key,
        "retrieved": run.recipe.finetune.retrieved,
        "context": run.recipe.export.context_length,
    }
    return run.folder.stage("answers", inputs, work)


def _provenance(run: _Run, finetuning: Finetuning, augmentation: Augmentation | None) -> Any:
    from exporters.bundle import Provenance

    kept = len(augmentation.kept) if augmentation and finetuning.chosen != "real" else 0
    real = len(run.profile.history) - len(finetuning.validation_ids)
    return Provenance(
        real_examples=real,
        synthetic_examples=kept,
        synthetic_share=round(kept / (real + kept), 4) if real + kept else 0.0,
        teacher=augmentation.teacher if augmentation and kept else None,
        profile_sha256=run.profile.digest(),
    )


def _bundle_stage(
    run: _Run,
    adapters: Stage,
    finetuning: Finetuning,
    augmentation: Augmentation | None,
    weights: Stage | None,
) -> Stage:
    adapter = adapter_folder(adapters.folder, finetuning.chosen)

    def work(folder: Path) -> None:
        from exporters.quantise.store import read_weights

        make_bundle(
            run.base,
            adapter,
            run.recipe.export,
            folder,
            name=run.profile.user_id,
            windows=_windows(run),
            weights=read_weights(weights.folder / _WEIGHTS) if weights else None,
            task=run.task,
            provenance=_provenance(run, finetuning, augmentation),
            force=True,
            progress=run.progress,
        )

    inputs = {"adapters": adapters.key, "chosen": finetuning.chosen, "export": run.recipe.export.as_dict()}
    return run.folder.stage("bundle", inputs, work)


def _verification_stage(run: _Run, adapters: Stage, finetuning: Finetuning, bundle: Stage) -> Stage:
    adapter = adapter_folder(adapters.folder, finetuning.chosen)

    def work(folder: Path) -> None:
        found = verify_bundle(
            bundle.folder,
            run.base,
            adapter,
            run.recipe.verify,
            run.task,
            run.profile,
            windows=_windows(run),
            progress=run.progress,
        )
        write_atomic(folder / "verification.json", json.dumps(found, indent=1) + "\n")
        artifact = answer_bundle(
            bundle.folder,
            run.recipe.bench.devices[0],
            run.task,
            run.profile,
            adapter=_attached(run),
            progress=run.progress,
        )
        write_answers(folder / "answers.json", [artifact])

    device = run.recipe.bench.devices[0]
    inputs = {"bundle": bundle.key, "verify": run.recipe.verify.as_dict(), "device": device}
    return run.folder.stage("verification", inputs, work)


def _finish_manifest(bundle: Path, verification: Mapping[str, Any]) -> None:
    from exporters.bundle import read_manifest, write_manifest

    manifest = read_manifest(bundle)
    if manifest.verification != verification:
        write_manifest(bundle, replace(manifest, verification=dict(verification)))


def _metric_failures(result: RunResult) -> list[str]:
    lost, limit = result.metric_loss, result.recipe.verify.max_metric_loss
    if lost is None or lost <= limit:
        return []
    return [f"{result.task.primary_metric} is worse in the bundle by {lost:.3f}, wanted at most {limit:g}"]


def _attached(run: _Run) -> str | None:
    """The name under which the person's adapter is attached; None where it is merged."""
    return run.profile.user_id if run.recipe.export.form == "attached" else None


def _identity(run: _Run) -> dict[str, Any]:
    return identity(run.base.sha256, run.task, run.profile, run.recipe.seed)


def _write_report(result: RunResult, base: BaseModel, command: str | None) -> None:
    from benchmarks.report import write_report
    from toolkit.run_report import report_of

    write_report(result.report, report_of(result, base, command))
