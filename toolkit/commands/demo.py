"""`edgeplm demo`: the whole job on a person who ships with the project."""

from pathlib import Path

import click

from toolkit.commands.common import PATH, json_option, print_paragraph, repeat_command, watch
from toolkit.commands.outcome import show_outcome

DEFAULT_USER = "bo"  # the manner shows at a glance
# Smaller than the recipe's defaults, to be done in ten minutes on two cores.
SMALLER = {
    "augment.examples": 8,
    "augment.shots": 4,
    "augment.select.embedding": "base",  # one download less
    "finetune.epochs": 4,
    "export.windows": 16,
}


@click.command(short_help="The whole job on a person who ships with EdgePLM.")
@click.option("--user", default=DEFAULT_USER, show_default=True, help="maud, theo, ines, kofi, bo or amara.")
@click.option("--out", type=PATH, default=None, help="Run folder [default: runs/demo-USER].")
@json_option
def command(user: str, out: Path | None, as_json: bool) -> int:
    """Personalise the embedded model for a sample person, export, check, measure.

    The first time it fetches the model (93 MB). Run again, it goes on where it
    stopped, or shows what is there.
    """
    from toolkit.pipeline import run
    from toolkit.recipe import recipe_from_dict, replace_fields
    from toolkit.samples import sample_user

    person = sample_user(user)
    here = {"profile": str(person.path), "task": person.task}
    target = out or Path("runs") / f"demo-{person.user_id}"
    changes = {"out": str(target), **SMALLER}
    recipe = replace_fields(recipe_from_dict(here, "demo"), changes, paths_from=Path.cwd())
    if not as_json:
        print_paragraph(f"{person.user_id}: {person.about}")
    return show_outcome(run(recipe, watch(), command=repeat_command()), as_json)
