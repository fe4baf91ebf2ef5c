"""`edgeplm eval`: a person's held-out queries, answered by the bundle in its own runtime."""

from dataclasses import asdict
from pathlib import Path

import click

from toolkit.commands.common import (
    adapter_option,
    bundle_argument,
    json_option,
    print_json,
    print_table,
    watch,
)


@click.command(short_help="A person's held-out queries, in the bundle.")
@bundle_argument
@click.option("--profile", metavar="PATH", required=True, help="Whose queries.")
@click.option("--task", "task_name", metavar="NAME|FILE", help="Task  [default: the one in the manifest].")
@click.option("--user", metavar="ID", help="Which person, if the profile holds several.")
@adapter_option
@click.option("--device", default="local", show_default=True, help="Where it answers.")
@json_option
def command(
    bundle: Path,
    profile: str,
    task_name: str | None,
    user: str | None,
    adapter: str | None,
    device: str,
    as_json: bool,
) -> None:
    """The task's metric on held-out queries, answered by BUNDLE itself."""
    from exporters.bundle import open_bundle
    from toolkit.bundling import answer_bundle
    from toolkit.errors import ProfileError
    from toolkit.profiles import read_profile
    from toolkit.tasks import Task, load_task

    manifest = open_bundle(bundle)
    if task_name is None and manifest.task is None:
        raise click.UsageError("This bundle names no task: give --task.")
    task = load_task(task_name) if task_name else Task.from_dict(manifest.task or {})
    person = read_profile(Path(profile), task, user)
    if not person.queries:
        raise ProfileError(
            "has no held-out queries to answer", where=profile, mend='Add examples with "split": "query"'
        )
    arm = answer_bundle(bundle, device, task, person, adapter=adapter, progress=watch())
    if as_json:
        rows = [
            {"id": query.id, "input": query.input, "gold": query.output, "answer": answer}
            for query, answer in zip(person.queries, arm.answers, strict=True)
        ]
        print_json({**asdict(arm), "user": person.user_id, "task": task.name, "queries": rows})
        return
    print_table(
        [(query.output[:28], answer) for query, answer in zip(person.queries, arm.answers, strict=True)],
        header=("gold", "answer"),
    )
    click.echo()
    print_table([(name, f"{value:.3f}") for name, value in arm.metrics.items()])
