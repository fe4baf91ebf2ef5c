"""`edgeplm export`: base model and adapter in, verified bundle out."""

from dataclasses import dataclass, replace
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
    short_path,
    task_adapter_option,
    watch,
)
from toolkit.commands.outcome import advice, scheme_rows, size_text, verification_rows
from toolkit.models import DEFAULT_SOURCE

if TYPE_CHECKING:
    from exporters.bundle import Manifest

BOTH = "both"


@dataclass(frozen=True)
class Exported:
    """One bundle that was written, and what its verification found."""

    folder: Path
    manifest: "Manifest"
    found: dict[str, Any]


@click.command(short_help="Base and adapter in, verified bundle out.")
@click.option("--model", metavar="SOURCE", default=DEFAULT_SOURCE, show_default=True, help="Base model.")
@click.option("--adapter", type=PATH, required=True, help="Adapter folder, in PEFT's own format.")
@task_adapter_option
@click.option("--out", type=PATH, required=True, help="The bundle's folder.")
@click.option("--runtime", metavar="NAME", help="onnx or executorch  [default: onnx].")
@click.option(
    "--form",
    metavar="NAME",
    help="merged, attached, or both, each in a folder of its own below OUT  [default: merged].",
)
@click.option("--preset", metavar="NAME", help="smallest, balanced, faithful or exact  [default: balanced].")
@click.option("--precision", metavar="NAME", help="int4, int8 or fp32, in place of the preset's.")
@click.option("--calibration", metavar="NAME", help="own, neutral or none  [default: own].")
@click.option(
    "--context-length", type=int, metavar="N", help="Prompt and answer together, in tokens  [default: 1024]."
)
@click.option(
    "--recipe", "recipe_file", type=PATH, help="Take the export and verify sections of this recipe."
)
@click.option(
    "--profile", metavar="PATH", help="Calibrate on this person's history and verify on their queries."
)
@click.option("--task", metavar="NAME|FILE", help="The profile's task; also kept in the manifest.")
@click.option("--user", metavar="ID", help="Which person, if the profile holds several.")
@force_option
@json_option
def command(
    model: str,
    adapter: Path,
    task_adapter: Path | None,
    out: Path,
    runtime: str | None,
    form: str | None,
    preset: str | None,
    precision: str | None,
    calibration: str | None,
    context_length: int | None,
    recipe_file: Path | None,
    profile: str | None,
    task: str | None,
    user: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Merge an adapter into the float base, or attach it to a shared one;
    quantise, and verify.

    The bundle is written even if verification falls short (exit code 3), marked
    so in its manifest. More people go into an attached bundle with
    `edgeplm adapters add`.
    """
    from exporters.bundle import write_manifest
    from exporters.merge import read_adapter
    from exporters.task_adapter import with_task_adapter
    from toolkit import bundling
    from toolkit.files import refuse_to_overwrite
    from toolkit.models import cache_folder, resolve_model
    from toolkit.profiles import read_profile
    from toolkit.recipe import ExportRecipe, VerifyRecipe, read_recipe
    from toolkit.tasks import load_task

    if (profile is None) != (task is None):
        raise click.UsageError("--profile and --task go together.")
    refuse_to_overwrite(out, force)
    facts = read_adapter(adapter)
    recipe = read_recipe(recipe_file) if recipe_file else None
    flags = {
        "runtime": runtime,
        "form": None if form == BOTH else form,
        "preset": preset,
        "precision": precision,
        "calibration": calibration,
        "context_length": context_length,
    }
    settings = ExportRecipe.from_dict(
        {
            **(recipe.export if recipe else ExportRecipe()).as_dict(),
            **{k: v for k, v in flags.items() if v is not None},
        },
        "command line",
    )
    wanted = [(settings, out)]
    if form == BOTH:
        wanted = [(replace(settings, form=each), out / each) for each in ("merged", "attached")]
    known = load_task(task) if task else None
    person = read_profile(Path(profile), known, user) if profile and known else None
    progress = watch()
    first = task_adapter or (recipe.task_adapter_path if recipe else None)
    base = with_task_adapter(resolve_model(model, progress), first, cache_folder(), progress)
    for each, _ in wanted:
        bundling.check_adapter(base, adapter, each.form)
    windows = bundling.calibration(
        settings, base, known, [person] if person else [], facts.history_in_prompt, progress
    )
    limits = recipe.verify if recipe else VerifyRecipe()
    made = []
    for each, folder in wanted:
        manifest = bundling.make_bundle(
            base, adapter, each, folder, name=person.user_id if person else adapter.name,
            windows=windows, task=known, force=force, progress=progress,
        )  # fmt: skip
        found = bundling.verify_bundle(
            folder, base, adapter, limits, known, person, windows=windows, progress=progress
        )
        write_manifest(folder, replace(manifest, verification=found))
        made.append(Exported(folder, manifest, found))
    _show(made, as_json)
    return 0 if all(each.found["passed"] for each in made) else 3


def _show(made: list[Exported], as_json: bool) -> None:
    if as_json:
        values = [
            {"bundle": str(each.folder), "bytes": each.manifest.total_bytes, "verification": each.found}
            for each in made
        ]
        print_json(values[0] if len(values) == 1 else {"bundles": values})
    for each in [] if as_json else made:
        if each is not made[0]:
            click.echo()
        precision = each.manifest.precision
        print_table(
            [
                ("bundle", short_path(each.folder)),
                ("size", size_text(each.manifest)),
                *scheme_rows("precision", f"{precision.preset}: {precision.scheme}"),
                *verification_rows(each.found),
            ]
        )
    for each in made:
        which = f" in the {each.folder.name} bundle" if len(made) > 1 else ""
        for failure in each.found["failures"]:
            print_paragraph(f"Check fell short{which}: {failure}", err=True, fg="red")
        if each.found["failures"]:
            print_paragraph(advice(each.manifest, "--"), err=True)
