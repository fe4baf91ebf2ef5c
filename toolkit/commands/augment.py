"""`edgeplm augment`: synthetic examples in the person's manner."""

import sys
from pathlib import Path
from typing import Any

import click

from toolkit.commands.common import (
    PATH,
    force_option,
    json_option,
    recipe_of,
    recipe_options,
    watch,
)


@click.command(short_help="Write more examples in a person's manner.")
@recipe_options()
@click.option("--out", type=PATH, help="Folder for the dataset and its report.")
@click.option(
    "--teacher",
    metavar="URL|local|local:SOURCE",
    help="Who writes: an OpenAI-compatible endpoint, or a local model.",
)
@click.option("--teacher-model", metavar="NAME", help="The model's name at the endpoint.")
@click.option("--ratio", type=float, metavar="R", help="Keep R for each real example that is trained on.")
@click.option("--examples", type=int, metavar="N", help="Keep at most N, whatever the ratio.")
@click.option(
    "--sweep",
    metavar="R,R,...",
    help="Measure these ratios and 0: an adapter each, compared on examples that none of them saw.",
)
@click.option(
    "--with-queries",
    is_flag=True,
    help="With --sweep, answer the held-out queries too; they do not choose.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be sent to network teachers, and send nothing."
)
@force_option
@json_option
def command(
    out: Path | None,
    teacher: str | None,
    teacher_model: str | None,
    ratio: float | None,
    examples: int | None,
    sweep: str | None,
    with_queries: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Have teachers write more examples in the person's manner.

    Only history examples are shown to a teacher, never the held-out queries, and
    to a network teacher only with placeholders for personal data. Answers are
    kept beside the output, so that a run that was killed repeats no request, and
    so is everything that was sent. Exit code 3 if nothing was kept.

    With --sweep a killed run goes on where it stopped, and the report says which
    ratio is best. Exit code 3 if too few examples were kept for one of them.
    """
    from exporters.task_adapter import with_task_adapter
    from toolkit.augment import shown_to_teachers, write_augmentation, write_synthetic
    from toolkit.augment.selection import Learner
    from toolkit.commands.augment_outcome import show_augmentation
    from toolkit.files import refuse_to_overwrite, staged_directory
    from toolkit.models import cache_folder, resolve_model
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    more: dict[str, Any] = {"augment.teacher": teacher, "augment.model": teacher_model}
    more |= {"augment.examples": examples, "augment.ratio": ratio}
    if out is None and not dry_run:
        raise click.UsageError("Give --out, or --dry-run to see what would be sent.")
    if sweep is not None and (examples is not None or ratio is not None):
        raise click.UsageError("--sweep has its own numbers: leave out --examples and --ratio.")
    if with_queries and sweep is None:
        raise click.UsageError("--with-queries is for --sweep.")
    ratios = _ratios(sweep) if sweep is not None else []
    if out is not None and not dry_run and not ratios:
        refuse_to_overwrite(out, force)
    recipe = recipe_of(**options, more=more)
    if out is not None and ratios and not dry_run:
        from toolkit.commands.sweep_outcome import run_sweep

        return run_sweep(recipe, ratios, out, with_queries=with_queries, fresh=force, as_json=as_json)
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    if out is None or dry_run:
        if ratios:
            from toolkit.sweep import for_largest

            recipe = for_largest(recipe, max(ratios))
        _print_requests(recipe, task, shown_to_teachers(profile, recipe))
        return 0
    progress = watch()
    plain = resolve_model(recipe.model_source, progress)
    base = with_task_adapter(plain, recipe.task_adapter_path, cache_folder(), progress)
    made = write_synthetic(
        profile,
        task,
        recipe,
        plain,
        learner=Learner(base, profile, task, recipe.finetune, recipe.seed),
        answers_path=out.with_name(f"{out.name}.answers.jsonl"),
        audit_path=out.with_name(f"{out.name}.audit.jsonl"),
        progress=progress,
    )
    with staged_directory(out, force=force) as staging:
        write_augmentation(made, staging)
    return show_augmentation(made, out, as_json)


def _ratios(text: str) -> list[float]:
    from toolkit.sweep import checked_ratios

    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(
            f"--sweep {text!r}: write it as numbers with commas, such as 0,0.5,1,2,4."
        ) from None
    return checked_ratios(ratios)


def _print_requests(recipe: Any, task: Any, profile: Any) -> None:
    """The bodies as they would be sent on standard output, and everything else on standard error."""
    from toolkit.augment import open_teachers, request_bodies

    settings = recipe.augment
    network: Any = open_teachers(settings, resolve=recipe.resolve_source, preview=True)
    if not network:
        click.echo("Nothing would be sent: every teacher is on this machine.", err=True)
        return
    bodies = request_bodies(profile, task, network, settings, seed=recipe.seed)
    for body in bodies:
        sys.stdout.buffer.write(body + b"\n")
    sys.stdout.flush()
    names = ", ".join(teacher.name for teacher in network)
    click.echo(
        f"These are the first {len(bodies)} requests, to {names}. Nothing was sent. Later ones show other "
        "history examples in the same form.",
        err=True,
    )
