"""`edgeplm personalize`: the whole pipeline without a recipe file."""

from pathlib import Path
from typing import Any

import click

from toolkit.commands.common import PATH, json_option, recipe_of, recipe_options, repeat_command, watch
from toolkit.commands.outcome import show_outcome


@click.command(short_help="The whole job on your own examples.")
@recipe_options()
@click.option("--out", type=PATH, help="Run folder. Needed unless --recipe has it.")
@click.option("--teacher", metavar="URL|local|local:SOURCE", help="Who writes the synthetic examples.")
@click.option("--teacher-model", metavar="NAME", help="The model's name at the teacher's endpoint.")
@json_option
def command(
    out: Path | None, teacher: str | None, teacher_model: str | None, as_json: bool, **options: Any
) -> int:
    """Examples in; adapter, bundle, benchmark and report out.

    Run it again to go on where it stopped: what is done and unchanged is kept.
    """
    from toolkit.pipeline import run

    if out is None and options["recipe_file"] is None:
        raise click.UsageError("Give --out, or a --recipe that has it.")
    more = {"out": str(out) if out else None, "augment.teacher": teacher, "augment.model": teacher_model}
    recipe = recipe_of(**options, more=more)
    return show_outcome(run(recipe, watch(), command=repeat_command()), as_json)
