"""`edgeplm fleet`: adapters for many people."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.commands.common import (
    PATH,
    counted,
    json_option,
    megabytes,
    parse_changes,
    print_json,
    print_paragraph,
    print_table,
    watch,
)
from toolkit.errors import printable

if TYPE_CHECKING:
    from toolkit.fleet.plan import Failure
    from toolkit.fleet.result import FleetResult


@click.command(short_help="Train adapters for many people, on one machine or many.")
@click.argument("recipe_file", metavar="RECIPE", type=PATH)
@click.option("--users", type=PATH, help="File of profiles, or a folder of them [default: the recipe's].")
@click.option("--out", required=True, metavar="DIR|URL", help="Where adapters go: a folder, s3://... .")
@click.option("--resume", is_flag=True, help="Go on; adapters that are there are kept.")
@click.option("--force", is_flag=True, help="Start anew, in place of what is there.")
@click.option("--address", metavar="HOST:PORT", help="Ray cluster to join [default: start one here].")
@click.option("--workers", type=click.IntRange(1), help="Workers [default: one a CPU].")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="People a batch.")
@click.option("--slots", type=click.IntRange(1), default=8, show_default=True, help="People at once.")
@click.option(
    "--bundle", type=click.Choice(["none", "attached", "merged"]), default="none", show_default=True,
    help="Bundle at the end: one for all, or one each.",
)  # fmt: skip
@click.option("--bundle-out", type=PATH, help="Where bundles go [default: OUT/bundle].")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change a recipe field.")
@json_option
def command(
    recipe_file: Path, users: Path | None, as_json: bool, changes: tuple[str, ...], **options: Any
) -> int:
    """Train an adapter for everybody, as RECIPE's `finetune` says.

    Several people are trained in one pass on one base, a worker a CPU; every
    adapter is kept as soon as it is done. Somebody whose examples cannot be used
    stops nobody else. The exit code is 3 if anybody has no adapter.
    """
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume keeps what is there and --force replaces it: give one of them.")
    from toolkit.fleet.run import run_fleet
    from toolkit.recipe import read_recipe, replace_fields

    recipe = replace_fields(read_recipe(recipe_file), parse_changes(changes), paths_from=Path.cwd())

    def tell(failure: "Failure") -> None:
        click.echo(printable(f"Failed: {failure.user_id}: {failure.reason}"), err=True)

    result = run_fleet(
        recipe, users or recipe.profile_path, progress=watch(), on_failure=tell, **options
    )  # fmt: skip
    if as_json:
        print_json(asdict(result) | {"users_per_hour": result.users_per_hour})
    else:
        _show(result)
    return 3 if result.failures else 0


def _show(result: "FleetResult") -> None:
    rows = [
        ("people", f"{result.people}"),
        ("trained", f"{result.trained} ({result.reused} more were there already)"),
        ("adapters", f"{result.out} ({megabytes(result.bytes)})" if result.trained else result.out),
    ]
    if result.trained:
        rows.append(
            ("throughput", f"{result.users_per_hour:,.0f} users/hour, {counted(result.workers, 'worker')}")
        )
    if result.bundle:
        rows.append(("bundle", result.bundle))
    if result.lost_workers:
        rows.append(("lost workers", f"{result.lost_workers}, replaced"))
    if result.not_better:
        rows.append(
            ("not better", f"than the base: {counted(result.not_better, 'adapter')} (finetune.guard)")
        )
    print_table(rows)
    if result.failures:  # each was named as it happened
        print_paragraph(
            f"{len(result.failures)} failed, for the reasons above; all are in {result.out}/result.json too.",
            err=True,
        )
