"""`edgeplm augment --sweep`: what it prints, and its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.common import (
    counted,
    print_json,
    print_paragraph,
    print_table,
    repeat_command,
    short_path,
    watch,
)

if TYPE_CHECKING:
    from toolkit.recipe import Recipe
    from toolkit.sweep.result import Arm, Sweep


def run_sweep(
    recipe: "Recipe", ratios: Sequence[float], out: Path, *, with_queries: bool, fresh: bool, as_json: bool
) -> int:
    """Measure, write the report, print; returns the exit code (3 if a ratio could not be measured)."""
    from benchmarks.report_sweep import write_sweep_report
    from toolkit.sweep import read_dataset, sweep
    from toolkit.sweep.report import page_of

    found = sweep(recipe, ratios, out, with_queries=with_queries, fresh=fresh, progress=watch())
    report = out / "report.html"
    made = read_dataset(out)
    write_sweep_report(report, page_of(found, made, recipe, repeat_command()))
    if as_json:
        print_json({**found.as_dict(), "out": str(out), "report": str(report)})
        return 3 if found.unreached else 0
    header, rows = table_of(found)
    print_table(rows, header=header)
    print_paragraph(
        f"Loss in nats a token, on {counted(found.validation, 'example')} of the history that neither the "
        "teacher nor an adapter was shown; added: synthetic examples; *: the ratio to take."
    )
    if with_queries:
        asked = next(iter(found.arms[0].query_metrics), "nothing, for want of gold answers,")
        print_paragraph(f"held-out: {asked} on the held-out queries, which do not choose.")
    click.echo()
    for sentence in found.advice(recipe.augment.examples):
        print_paragraph(sentence)
    click.echo()
    dataset = short_path(out / "dataset")
    print_table([("report", short_path(report)), ("dataset", f"{dataset}, for edgeplm finetune --synthetic")])
    for note in made.notes:
        print_paragraph(f"Note: {note}", err=True)
    if made.stopped:
        print_paragraph(f"The teacher stopped early: {made.stopped}", err=True)
    if found.unreached:
        print_paragraph(f"Fell short: {found.shortfall}", err=True, fg="red")
        return 3
    return 0


def table_of(found: "Sweep") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and a row for the base model and each adapter."""
    metric = found.metric
    on_queries = next(iter(found.arms[0].query_metrics), None)
    header = ["ratio", "added", "loss", "against real only (95 %)"]
    header += [metric] if metric else []
    header += ["held-out"] if on_queries else []

    def row(name: str, arm: "Arm", against: str) -> tuple[str, ...]:
        cells = [name, str(arm.synthetic), f"{arm.loss:.3f}", against]
        cells += [f"{arm.metrics[metric]:.3f}"] if metric else []
        cells += [f"{arm.query_metrics[on_queries]:.3f}"] if on_queries else []
        return tuple(cells)

    rows = [row("base", found.base, "")]
    for arm in found.arms:
        name = f"{arm.ratio:g}" + " *" * (arm.synthetic == found.chosen.synthetic)
        if arm is found.arms[0]:
            rows.append(row(name, arm, ""))
            continue
        change = found.against_real(arm)
        rows.append(row(name, arm, f"{change.estimate:+.3f} ({change.low:+.3f} to {change.high:+.3f})"))
    return tuple(header), rows
