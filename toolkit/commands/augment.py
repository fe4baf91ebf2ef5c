"""`edgeplm augment`: synthetic examples in the person's manner."""

from pathlib import Path
from typing import Any

import click

from toolkit.commands.common import (
    PATH,
    force_option,
    json_option,
    print_json,
    print_table,
    recipe_of,
    recipe_options,
    short_path,
    watch,
)


@click.command(short_help="Write more examples in a person's manner.")
@recipe_options()
@click.option("--out", type=PATH, required=True, help="Folder for the dataset and its report.")
@click.option(
    "--teacher",
    metavar="URL|local|local:SOURCE",
    help="Who writes: an OpenAI-compatible endpoint, or a local model.",
)
@click.option("--teacher-model", metavar="NAME", help="The model's name at the endpoint.")
@click.option("--examples", type=int, metavar="N", help="Keep at most N.")
@force_option
@json_option
def command(
    out: Path,
    teacher: str | None,
    teacher_model: str | None,
    examples: int | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a teacher write more examples in the person's manner.

    Only history examples are shown to the teacher, never the held-out queries.
    Answers are kept beside the output, so that a run that was killed repeats no
    request.
    """
    from toolkit.augment import augment, open_teacher, write_augmentation
    from toolkit.files import refuse_to_overwrite, staged_directory
    from toolkit.models import resolve_model
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    refuse_to_overwrite(out, force)
    more = {"augment.teacher": teacher, "augment.model": teacher_model, "augment.examples": examples}
    recipe = recipe_of(**options, more=more)
    progress = watch()
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    base = resolve_model(recipe.model_source, progress)
    settings = recipe.augment
    made = augment(
        profile,
        task,
        open_teacher(
            settings, base=base, source=recipe.teacher_source, history=profile.history, progress=progress
        ),
        settings,
        seed=recipe.seed,
        answers_path=out.with_name(f"{out.name}.answers.jsonl"),
        progress=progress,
    )
    with staged_directory(out, force=force) as staging:
        write_augmentation(made, staging)
    dropped = {f"dropped: {name}": count for name, count in made.dropped.items()}
    counts = {"asked": made.asked, "answered": made.answered, **dropped, "kept": len(made.kept)}
    if as_json:
        print_json({**counts, "teacher": made.teacher, "out": str(out), "stopped": made.stopped})
        return
    print_table([(name, str(count)) for name, count in counts.items()])
    click.echo(f"Written to {short_path(out)} (teacher: {made.teacher})")
    if made.stopped:
        click.echo(f"It stopped early: {made.stopped}", err=True)
