"""`edgeplm finetune`: a LoRA adapter from real and synthetic examples."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from toolkit.commands.common import (
    PATH,
    force_option,
    json_option,
    print_json,
    print_paragraph,
    print_table,
    recipe_of,
    recipe_options,
    short_path,
    watch,
)


@click.command(short_help="Train a person's LoRA adapter.")
@recipe_options()
@click.option("--synthetic", type=PATH, help="Dataset that `edgeplm augment` wrote.")
@click.option("--out", type=PATH, required=True, help="Folder for the adapters (PEFT's own format).")
@force_option
@json_option
def command(out: Path, synthetic: Path | None, force: bool, as_json: bool, **options: Any) -> int:
    """Train the person's LoRA adapter.

    With --synthetic a second adapter is trained on real and synthetic examples;
    a held-out slice of the history says which is better. Exit code 3 if that is not
    better than the base model (see finetune.guard).
    """
    from exporters.task_adapter import with_task_adapter
    from toolkit.augment import read_augmentation
    from toolkit.augment.filters import refuse_leaks
    from toolkit.files import refuse_to_overwrite
    from toolkit.finetune import adapter_folder, finetune, split_history
    from toolkit.models import cache_folder, resolve_model
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    refuse_to_overwrite(out, force)
    recipe = recipe_of(**options)
    progress = watch()
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    made = read_augmentation(synthetic).kept if synthetic else ()
    refuse_leaks(made, profile.queries, task)  # it may have been made for another profile, or by hand
    training, _ = split_history(profile.history, recipe.finetune.validation, recipe.seed)
    written = len(made)
    if recipe.augment.enabled:
        made = made[: recipe.augment.wanted(len(training))]
    base = resolve_model(recipe.model_source, progress)
    base = with_task_adapter(base, recipe.task_adapter_path, cache_folder(), progress)
    report = finetune(
        base,
        profile,
        task,
        recipe.finetune,
        out,
        synthetic=made,
        seed=recipe.seed,
        force=force,
        progress=progress,
    )
    chosen = adapter_folder(out, report.chosen)
    status = 3 if report.withheld else 0
    if len(made) < written:
        print_paragraph(
            f"Note: the first {len(made)} of the {written} synthetic examples are used, as augment.ratio and "
            "augment.examples say.",
            err=True,
        )
    if as_json:
        print_json({**asdict(report), "adapter": str(chosen), "withheld": report.withheld})
        return status
    rows = [
        (
            adapter.name,
            str(adapter.examples),
            str(adapter.steps),
            f"{adapter.step_losses[0]:.3f} -> {adapter.step_losses[-1]:.3f}",
            f"{min(adapter.validation_losses):.3f}" if adapter.validation_losses else "-",
        )
        for adapter in report.adapters
    ]
    if report.base_validation_loss is not None:
        rows.insert(0, ("base", "-", "-", "-", f"{report.base_validation_loss:.3f}"))
    print_table(rows, header=("adapter", "examples", "steps", "training loss", "held-out loss"))
    print_paragraph(f"Chosen: {report.chosen} ({report.reason})")
    click.echo(f"Adapter: {short_path(chosen)}")
    for note in report.notes():
        print_paragraph(f"Note: {note}", err=True)
    return status
