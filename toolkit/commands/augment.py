"""`edgeplm augment`: synthetic examples in the person's manner."""

import sys
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


@click.command(short_help="Write more examples in a person's manner.")
@recipe_options()
@click.option("--out", type=PATH, help="Folder for the dataset and its report.")
@click.option(
    "--teacher",
    metavar="URL|local|local:SOURCE",
    help="Who writes: an OpenAI-compatible endpoint, or a local model.",
)
@click.option("--teacher-model", metavar="NAME", help="The model's name at the endpoint.")
@click.option("--examples", type=int, metavar="N", help="Keep at most N.")
@click.option(
    "--dry-run", is_flag=True, help="Print what would be sent to network teachers, and send nothing."
)
@force_option
@json_option
def command(
    out: Path | None,
    teacher: str | None,
    teacher_model: str | None,
    examples: int | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Have teachers write more examples in the person's manner.

    Only history examples are shown to a teacher, never the held-out queries, and
    to a network teacher only with placeholders for personal data. Answers are
    kept beside the output, so that a run that was killed repeats no request, and
    so is everything that was sent.
    """
    from exporters.task_adapter import with_task_adapter
    from toolkit.augment import write_augmentation, write_synthetic
    from toolkit.augment.selection import Learner
    from toolkit.files import refuse_to_overwrite, staged_directory
    from toolkit.models import cache_folder, resolve_model
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    more = {"augment.teacher": teacher, "augment.model": teacher_model, "augment.examples": examples}
    if out is None and not dry_run:
        raise click.UsageError("Give --out, or --dry-run to see what would be sent.")
    if out is not None and not dry_run:
        refuse_to_overwrite(out, force)
    recipe = recipe_of(**options, more=more)
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    if out is None or dry_run:
        _print_requests(recipe, task, profile)
        return
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
    if as_json:
        print_json({**_counts(made), **_account(made), "out": str(out)})
        return
    # Filters that dropped nothing are for programs (--json).
    shown = {name: count for name, count in _counts(made).items() if count or not name.startswith("dropped")}
    print_table([(name.replace("_", " "), str(count)) for name, count in shown.items()])
    if len(made.teachers) > 1 or made.cost:
        click.echo()
        rows = [
            (
                each.name,
                str(each.requests),
                str(each.failed),
                str(each.kept),
                str(each.tokens),
                f"{each.cost:.4f}",
            )
            for each in made.teachers
        ]
        print_table(rows, header=("teacher", "requests", "failed", "kept", "tokens", "cost"))
    click.echo(f"Written to {short_path(out)}")
    print_paragraph(f"Teacher: {made.teacher}")
    if made.audit:
        click.echo(f"All that was sent: {short_path(Path(made.audit))}")
    for failure, times in made.failures.items():
        print_paragraph(f"Failed {times} times: {failure}" if times > 1 else f"Failed: {failure}", err=True)
    if made.stopped:
        print_paragraph(f"It stopped early: {made.stopped}", err=True)


def _counts(made: Any) -> dict[str, int]:
    dropped = {f"dropped: {name}": count for name, count in made.dropped.items()}
    return {"asked": made.asked, "answered": made.answered, **dropped, "kept": len(made.kept)}


def _account(made: Any) -> dict[str, Any]:
    return {
        "teacher": made.teacher,
        "teachers": [asdict(each) for each in made.teachers],
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "cost": made.cost,
        "failures": dict(made.failures),
        "hidden": dict(made.hidden),
        "audit": made.audit,
        "stopped": made.stopped,
    }


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
