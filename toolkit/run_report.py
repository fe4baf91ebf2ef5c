"""A run's outcome as the report's data."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks.report import (
    Arm,
    Augmentation,
    Check,
    Curve,
    ExportedFile,
    Query,
    Refused,
    Report,
    SelectionPart,
    SelectionStep,
    TaskFacts,
    TeacherPart,
    Verification,
    WritingRound,
)
from exporters.bundle import Manifest, Provenance, read_manifest
from toolkit import __version__
from toolkit.augment.distribution import distribution
from toolkit.augment.selection import Selection
from toolkit.finetune import REAL
from toolkit.models import BaseModel
from toolkit.profiles import Profile
from toolkit.quality import ARTIFACT, BASE, HISTORY, Answers
from toolkit.tasks import Task

if TYPE_CHECKING:
    from benchmarks.report_data import Role
    from toolkit.augment import Augmentation as Written
    from toolkit.pipeline import RunResult


def report_of(result: "RunResult", base: BaseModel, command: str | None) -> Report:
    """Everything that the run found, for one page."""
    manifest = read_manifest(result.bundle) if result.bundle else None
    made = (manifest.provenance if manifest else None) or Provenance()
    task, metric = result.task, result.task.primary_metric
    return Report(
        title=f"{result.profile.user_id}: {task.description}",
        user=result.profile.user_id,
        task=TaskFacts(task.name, task.description, metric, task.higher_is_better(metric)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        arms=tuple(_arm(arm, manifest) for arm in result.arms),
        shipped="adapter" if result.finetuning.chosen == REAL else "synthetic",
        queries=tuple(Query(query.input, query.output) for query in result.profile.queries),
        curves=tuple(
            Curve(f"adapter ({adapter.name})", tuple(adapter.step_losses))
            for adapter in result.finetuning.adapters
        ),
        augmentation=_augmentation(result),
        files=tuple(
            ExportedFile(
                file.path, file.bytes, manifest.precision.name if file.path.endswith(".data") else ""
            )
            for file in manifest.files
        )
        if manifest
        else (),
        float_bytes=4 * manifest.base_model.parameters if manifest else None,
        verification=_verification(result),
        benchmarks=tuple(result.benchmarks),
        environment={
            "EdgePLM": __version__,
            **{name: version(name) for name in ("torch", "transformers", "peft", "onnxruntime-genai")},
        },
        provenance={
            "Base model": base.source,
            "Base weights, sha256": base.sha256,
            **({"Task adapter in them, sha256": base.task_adapter} if base.task_adapter else {}),
            "Licence of the base": base.licence,
            "Profile, sha256": result.profile.digest(),
            **(
                {
                    "Training examples": f"{made.real_examples} real, {made.synthetic_examples} synthetic",
                    "Teacher": made.teacher or "none",
                    "Adapter in the bundle": f"{result.finetuning.chosen}: {result.finetuning.reason}",
                }
                if manifest
                else {"Adapter in the bundle": "none"}
            ),
            "Seed": str(result.recipe.seed),
        },
        command=command,
        caveats=tuple(_caveats(result)),
        withheld=result.finetuning.withheld,
    )


def _arm(arm: Answers, manifest: Manifest | None) -> Arm:
    roles: dict[str, tuple[str, Role]] = {
        BASE: ("base model", "base"),
        HISTORY: ("base + retrieved history", "history"),
        ARTIFACT: (f"{manifest.precision.name if manifest else ''} bundle, in its runtime", "artifact"),
    }
    name, role = roles.get(arm.arm, (arm.arm, "adapter" if arm.arm == f"adapter ({REAL})" else "synthetic"))
    return Arm(name, role, arm.metrics, tuple(arm.per_query), tuple(arm.answers))


def _augmentation(result: "RunResult") -> Augmentation | None:
    made = result.augmentation
    if made is None:
        return None
    return augmentation_part(made, result.profile, result.task)


def augmentation_part(made: "Written", profile: Profile, task: Task) -> Augmentation:
    """What became of the synthetic examples, as the report shows it."""
    compared = distribution(profile.history, made.kept, task)
    return Augmentation(
        asked=made.asked,
        answered=made.answered,
        dropped=dict(made.dropped),
        kept=len(made.kept),
        teachers=tuple(
            TeacherPart(each.name, each.requests, each.failed, each.kept, each.tokens, each.cost)
            for each in made.teachers
        ),
        refused=tuple(
            Refused(name, each["reason"], each["input"], each["output"])
            for name, examples in made.dropped_examples.items()
            for each in examples
        ),
        distribution=tuple((part.name, part.history, part.synthetic) for part in compared),
        hidden=dict(made.hidden),
        audit=made.audit or "",
        failures=dict(made.failures),
        rounds=tuple(WritingRound(each.about, each.asked, each.answered, each.kept) for each in made.rounds),
        selection=_selection(made.selection),
    )


def _selection(chosen: Selection | None) -> SelectionPart | None:
    if chosen is None:
        return None
    before, after, leak = chosen.before, chosen.after, chosen.leakage
    return SelectionPart(
        embedding=chosen.embedding,
        candidates=chosen.candidates,
        kept=chosen.kept,
        steps=tuple(
            SelectionStep(step.filter, step.judged, step.refused, step.acts, step.note)
            for step in chosen.steps
        ),
        discrepancy=((before.mmd2, before.p), (after.mmd2, after.p)) if before and after else None,
        leakage=(leak.highest, leak.median, leak.history_highest, leak.history_median) if leak else None,
        points=chosen.points,
    )


def _verification(result: "RunResult") -> Verification | None:
    found = result.verification
    survival = found.get("survival")
    if survival is None:
        return None
    limits = found["thresholds"]
    return Verification(
        checks=(
            Check(
                "correlation of the adapter's effect", survival["correlation_mean"], limits["min_correlation"]
            ),
            Check("size of the adapter's effect, at least", survival["size_mean"], limits["min_size"]),
            Check(
                "size of the adapter's effect, at most",
                survival["size_mean"],
                limits["max_size"],
                at_least=False,
            ),
            Check("KL divergence from float, nats", survival["kl_mean"], limits["max_kl"], at_least=False),
            *_metric_check(result),
        ),
        correlation_mean=survival["correlation_mean"],
        correlation_worst=survival["correlation_worst"],
        size_ratio=survival["size_mean"],
        kl=survival["kl_mean"],
        top1_agreement=survival["same_top_mean"],
        perplexity_float=found["perplexity_float"],
        perplexity_artifact=found["perplexity_artifact"],
        correlations=tuple(survival["correlation"]),
        sizes=tuple(survival["size"]),
    )


def _metric_check(result: "RunResult") -> list[Check]:
    lost = result.metric_loss
    if lost is None:
        return []
    name = f"{result.task.primary_metric} lost in the bundle"
    return [Check(name, lost, result.recipe.verify.max_metric_loss, at_least=False)]


def _caveats(result: "RunResult") -> list[str]:
    notes = list(result.failures)
    finetuning = result.finetuning
    queries = len(result.profile.queries)
    if queries < 30:
        held_out = "1 held-out query" if queries == 1 else f"{queries} held-out queries"
        notes.append(f"{held_out} of one person: differences between arms are uncertain.")
    notes += finetuning.notes()
    if (made := result.augmentation) is not None:
        notes += [f"Augmentation: {note}." for note in made.notes]
        if made.stopped:
            notes.append(f"Augmentation stopped early: {made.stopped}")
        if made.nothing_kept:
            notes.append(f"Trained on real examples alone: {made.nothing_kept}.")
    return notes
