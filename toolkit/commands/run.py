"""`edgeplm run`: the pipeline that a recipe describes."""

from collections.abc import Sequence
from pathlib import Path

import click

from toolkit.commands.common import PATH, json_option, parse_changes, repeat_command, watch
from toolkit.commands.outcome import show_outcome


@click.command(short_help="The pipeline that a recipe describes.")
@click.argument("recipe_file", metavar="RECIPE", type=PATH)
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change a recipe field. Repeatable."
)
@json_option
def command(recipe_file: Path, changes: Sequence[str], as_json: bool) -> int:
    """Run every stage of RECIPE that is not done yet.

    A run that was killed goes on where it stopped; a stage whose inputs did not
    change is not run again.
    """
    from toolkit.pipeline import run
    from toolkit.recipe import read_recipe, replace_fields

    fields = parse_changes(changes)
    recipe = replace_fields(read_recipe(recipe_file), fields, paths_from=Path.cwd())
    return show_outcome(run(recipe, watch(), command=repeat_command()), as_json)
