"""`edgeplm init`: a recipe to start from."""

import os
from pathlib import Path

import click
from click.core import ParameterSource

from toolkit.commands.common import PATH, force_option, short_path


@click.command(short_help="Write a commented recipe.")
@click.argument("recipe_file", metavar="RECIPE", type=PATH, default=Path("recipe.yaml"))
@click.option("--profile", default="profile.jsonl", show_default=True, help="The person's examples.")
@click.option("--task", default="lamp-3", show_default=True, help="Built-in task or a task file.")
@force_option
def command(recipe_file: Path, profile: str, task: str, force: bool) -> None:
    """Write a commented recipe with every field at its default."""
    from toolkit.files import refuse_to_overwrite, write_atomic
    from toolkit.recipe import commented_yaml, is_path

    refuse_to_overwrite(recipe_file, force)
    # Paths on the command line start here, in the recipe at its own folder.
    folder = recipe_file.parent
    if click.get_current_context().get_parameter_source("profile") is not ParameterSource.DEFAULT:
        profile = _seen_from(folder, profile)
    if is_path(task):
        task = _seen_from(folder, task)
    write_atomic(recipe_file, commented_yaml(profile, task))
    click.echo(f"Wrote {short_path(recipe_file)}. Edit it, then: edgeplm run {short_path(recipe_file)}")


def _seen_from(folder: Path, path: str) -> str:
    return path if path.startswith("~") or Path(path).is_absolute() else os.path.relpath(path, folder)
