"""`edgeplm compare`: what changed between two benchmark results, beyond chance."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.common import PATH, figure_text, json_option, print_json, print_paragraph, print_table

if TYPE_CHECKING:
    from benchmarks.compare import Change


@click.command(short_help="What changed between two benchmark results.")
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option(
    "--fail-over",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="Exit code 3 if a figure is worse by more than this, beyond chance.",
)
@json_option
def command(before: Path, after: Path, fail_over: float | None, as_json: bool) -> int:
    """Compare two results of `edgeplm bench --out`: BEFORE and AFTER.

    Each figure's ratio with its 95 % interval; a change counts where the
    interval leaves 1 out. What else differs between the runs is said.
    """
    from benchmarks.compare import compare
    from benchmarks.results import read_result
    from toolkit.errors import EdgePLMError

    found = compare(read_result(before), read_result(after))
    if not found.changes:
        raise EdgePLMError(
            "the two results have no figure in common", mend="Compare two runs of the same kind of device"
        )
    if as_json:
        print_json({"doubts": found.doubts, "changes": [asdict(change) for change in found.changes]})
    else:
        print_table(
            [_row(change) for change in found.changes],
            header=("figure", "before", "after", "ratio", "95 % interval", ""),
        )
    for doubt in found.doubts:
        print_paragraph(f"Not comparable as it stands: {doubt}", err=True, fg="yellow")
    if fail_over is None:
        return 0
    worse = [change for change in found.changes if 100 * change.worse_by() > fail_over]
    for change in worse:
        print_paragraph(
            f"{change.name.replace('_', ' ')} is worse by {change.worse_by():.1%} (limit {fail_over:g} %)",
            err=True,
            fg="red",
        )
    return 3 if worse else 0


def _row(change: "Change") -> tuple[str, ...]:
    interval = "" if change.low is None else f"{change.low:.3f} to {change.high:.3f}"
    before, after = (figure_text(value, change.unit) for value in (change.before, change.after))
    return (change.name.replace("_", " "), before, after, f"{change.ratio:.3f}", interval, change.outcome)
