"""`edgeplm export`: base model and adapter in, verified bundle out."""

from pathlib import Path

import click

from toolkit.commands.common import (
    PATH,
    force_option,
    json_option,
    print_json,
    print_table,
    short_path,
    watch,
)
from toolkit.commands.outcome import size_text, verification_rows
from toolkit.models import DEFAULT_SOURCE


@click.command(short_help="Base and adapter in, verified bundle out.")
@click.option("--model", metavar="SOURCE", default=DEFAULT_SOURCE, show_default=True, help="Base model.")
@click.option("--adapter", type=PATH, required=True, help="Adapter folder, in PEFT's own format.")
@click.option("--out", type=PATH, required=True, help="The bundle's folder.")
@click.option("--precision", metavar="NAME", help="int4, int8 or fp32  [default: int4].")
@click.option(
    "--context-length", type=int, metavar="N", help="Prompt and answer together, in tokens  [default: 1024]."
)
@click.option(
    "--recipe", "recipe_file", type=PATH, help="Take the export and verify sections of this recipe."
)
@click.option("--profile", metavar="PATH", help="Verify on this person's queries instead of neutral text.")
@click.option("--task", metavar="NAME|FILE", help="The profile's task; also kept in the manifest.")
@click.option("--user", metavar="ID", help="Which person, if the profile holds several.")
@force_option
@json_option
def command(
    model: str,
    adapter: Path,
    out: Path,
    precision: str | None,
    context_length: int | None,
    recipe_file: Path | None,
    profile: str | None,
    task: str | None,
    user: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Merge an adapter into the float base, quantise, and verify.

    The bundle is written even if verification falls short (exit code 3), marked
    so in its manifest.
    """
    from dataclasses import replace

    from exporters.bundle import write_manifest
    from exporters.export import ExportJob, export_bundle
    from exporters.merge import merge_adapter, read_adapter
    from runtimes import open_engine
    from toolkit.files import refuse_to_overwrite
    from toolkit.finetune import open_chat
    from toolkit.models import load_model, resolve_model
    from toolkit.pipeline import verify_bundle
    from toolkit.profiles import read_profile
    from toolkit.recipe import ExportRecipe, VerifyRecipe, read_recipe
    from toolkit.tasks import load_task

    if (profile is None) != (task is None):
        raise click.UsageError("--profile and --task go together.")
    refuse_to_overwrite(out, force)
    facts = read_adapter(adapter)
    recipe = read_recipe(recipe_file) if recipe_file else None
    flags = {"precision": precision, "context_length": context_length}
    settings = ExportRecipe.from_dict(
        {
            **(recipe.export if recipe else ExportRecipe()).as_dict(),
            **{k: v for k, v in flags.items() if v is not None},
        },
        "command line",
    )
    known = load_task(task) if task else None
    person = read_profile(Path(profile), known, user) if profile and known else None
    progress = watch()
    base = resolve_model(model, progress)
    job = ExportJob(
        base, settings.precision, settings.context_length, person.user_id if person else adapter.name, facts,
        known.as_dict() if known else None,
    )  # fmt: skip
    merged = merge_adapter(load_model(base), adapter)
    manifest = export_bundle(merged, open_chat(base), job, out, open_engine, force=force, progress=progress)
    limits = recipe.verify if recipe else VerifyRecipe()
    found = verify_bundle(out, base, adapter, limits, known, person, progress=progress)
    write_manifest(out, replace(manifest, verification=found))
    if as_json:
        print_json({"bundle": str(out), "bytes": manifest.total_bytes, "verification": found})
    else:
        print_table(
            [
                ("bundle", short_path(out)),
                ("size", size_text(manifest)),
                ("precision", f"{manifest.precision.name}: {manifest.precision.scheme}"),
                *verification_rows(found),
            ]
        )
    for failure in found["failures"]:
        click.echo(f"Check fell short: {failure}", err=True)
    if found["failures"]:
        click.echo("A finer precision keeps more: --precision int8 (or fp32).", err=True)
    return 0 if found["passed"] else 3
