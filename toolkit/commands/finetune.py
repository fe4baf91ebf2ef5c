"""`edgeplm finetune`: a LoRA adapter from real and synthetic examples."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from toolkit.models import BaseModel
    from toolkit.progress import Progress
    from toolkit.recipe import Recipe


@click.command(short_help="Train a person's LoRA adapter.")
@recipe_options()
@click.option("--synthetic", type=PATH, help="Dataset that `edgeplm augment` wrote.")
@click.option("--out", type=PATH, required=True, help="Folder for the adapters (PEFT's own format).")
@click.option(
    "--device",
    metavar="DEVICE",
    help="Train there: ssh://user@host[:port]. --profile device:PATH and --out device:PATH are paths there.",
)
@force_option
@json_option
def command(
    out: Path, synthetic: Path | None, device: str | None, force: bool, as_json: bool, **options: Any
) -> int:
    """Train the person's LoRA adapter.

    With --synthetic a second adapter is trained on real and synthetic examples;
    a held-out slice of the history says which is better. Exit code 3 if that is not
    better than the base model (see finetune.guard).
    """
    from toolkit.augment import read_augmentation
    from toolkit.augment.filters import refuse_leaks
    from toolkit.files import refuse_to_overwrite
    from toolkit.finetune import adapter_folder, finetune, split_history
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    if device is not None:
        return _on_device(device, out, synthetic, force, as_json, options)
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
    base = _base(recipe, progress)
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
    found = {
        **asdict(report),
        "adapter": str(adapter_folder(out, report.chosen)),
        "withheld": report.withheld,
        "notes": report.notes(),
    }
    if len(made) < written:
        found["notes"].append(
            f"the first {len(made)} of the {written} synthetic examples are used, as augment.ratio and "
            "augment.examples say."
        )
    return _show(found, as_json)


def _base(recipe: "Recipe", progress: "Progress") -> "BaseModel":
    from exporters.task_adapter import with_task_adapter
    from toolkit.models import cache_folder, resolve_model

    base = resolve_model(recipe.model_source, progress)
    return with_task_adapter(base, recipe.task_adapter_path, cache_folder(), progress)


def _on_device(
    device: str, out: Path, synthetic: Path | None, force: bool, as_json: bool, options: dict[str, Any]
) -> int:
    from runtimes.devices import parse_device
    from runtimes.devices.remote import RemoteDevice
    from toolkit.errors import DeviceError
    from toolkit.files import refuse_to_overwrite
    from toolkit.ondevice import THERE, finetune_on_device

    there = options["profile"] or ""
    recipe = recipe_of(**options)
    if there.startswith(THERE):
        recipe = replace(recipe, profile=there)
    if not str(out).startswith(THERE):
        refuse_to_overwrite(out, force)
    opened = parse_device(device)
    try:
        if not isinstance(opened, RemoteDevice):
            raise DeviceError("is this machine", where=f"device {device}", mend="Leave --device out")
        progress = watch()
        found = finetune_on_device(
            opened,
            _base(recipe, progress),
            recipe,
            str(out),
            synthetic=synthetic,
            force=force,
            progress=progress,
        )
    finally:
        opened.close()
    return _show(found, as_json)


def _show(found: dict[str, Any], as_json: bool) -> int:
    """What the training found, as `--json` prints it; the exit code."""
    status = 3 if found["withheld"] else 0
    if as_json:
        print_json(found)
        return status
    rows = [
        (
            adapter["name"],
            str(adapter["examples"]),
            str(adapter["steps"]),
            f"{adapter['step_losses'][0]:.3f} -> {adapter['step_losses'][-1]:.3f}",
            f"{min(adapter['validation_losses']):.3f}" if adapter["validation_losses"] else "-",
        )
        for adapter in found["adapters"]
    ]
    if found["base_validation_loss"] is not None:
        rows.insert(0, ("base", "-", "-", "-", f"{found['base_validation_loss']:.3f}"))
    print_table(rows, header=("adapter", "examples", "steps", "training loss", "held-out loss"))
    print_paragraph(f"Chosen: {found['chosen']} ({found['reason']})")
    click.echo(f"Adapter: {short_path(Path(found['adapter']))}")
    if found["withheld"]:
        print_paragraph(f"The adapter is {found['withheld']}.", err=True)
    for note in found["notes"]:
        print_paragraph(f"Note: {note}", err=True)
    return status
