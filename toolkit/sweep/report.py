"""A sweep as the report's data."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks.report_sweep import SweepPage, SweepPoint
from toolkit import __version__
from toolkit.profiles import read_profile
from toolkit.run_report import augmentation_part
from toolkit.tasks import load_task

if TYPE_CHECKING:
    from toolkit.augment import Augmentation
    from toolkit.recipe import Recipe
    from toolkit.sweep.result import Arm, Sweep

_FEW = 30  # examples, below which a comparison is uncertain


def page_of(found: "Sweep", made: "Augmentation", recipe: "Recipe", command: str | None) -> SweepPage:
    """Everything that a sweep found, for one page."""
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    return SweepPage(
        title=f"{found.user}: how many synthetic examples",
        user=found.user,
        task=found.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        points=(_point(found, found.base, "base model"), *(_point(found, arm) for arm in found.arms)),
        chosen=found.chosen.ratio,
        advice=tuple(found.advice(recipe.augment.examples)),
        real=found.real,
        validation=found.validation,
        metric=found.metric,
        augmentation=augmentation_part(made, profile, task),
        caveats=tuple(_caveats(found, made)),
        provenance=(
            ("EdgePLM", __version__),
            ("Base model", recipe.model),
            ("Teacher", made.teacher),
            ("Profile, sha256", profile.digest()),
            ("Seed", str(recipe.seed)),
        ),
        command=command,
    )


def _point(found: "Sweep", arm: "Arm", name: str = "") -> SweepPoint:
    is_base, is_first = arm is found.base, arm is found.arms[0]
    return SweepPoint(
        name=name or found.name_of(arm),
        ratio=None if is_base else arm.ratio,
        synthetic=arm.synthetic,
        loss=arm.loss,
        against_real=None if is_base or is_first else found.against_real(arm),
        metric=arm.metrics.get(found.metric or ""),
        query_metric=next(iter(arm.query_metrics.values()), None),
    )


def _caveats(found: "Sweep", made: "Augmentation") -> list[str]:
    notes = []
    if found.validation < _FEW:
        notes.append(
            f"{found.validation} validation examples of one person, and one seed: differences are uncertain."
        )
    notes.append(
        "Every adapter is that of its best epoch on these same examples: all losses but the base model's are "
        "a little too low."
    )
    notes += [f"Augmentation: {note}." for note in made.notes]
    if made.stopped:
        notes.append(f"Augmentation stopped early: {made.stopped}")
    if found.unreached:
        notes.append(f"{found.shortfall[0].upper()}{found.shortfall[1:]}.")
    return notes
