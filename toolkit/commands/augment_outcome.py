"""What `edgeplm augment` prints at its end."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.commands.common import print_json, print_paragraph, print_table, short_path

if TYPE_CHECKING:
    from toolkit.augment import Augmentation


def show_augmentation(made: "Augmentation", out: Path, as_json: bool) -> int:
    """Print what became of the examples; returns the exit code (3 if none was kept)."""
    status = 3 if made.nothing_kept else 0
    if as_json:
        print_json({**_counts(made), **_account(made), "out": str(out)})
        return status
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
    if len(made.rounds) > 1:
        click.echo()
        print_table(_rounds(made), header=("round", "about", "asked", "answered", "kept"))
    _print_selection(made)
    click.echo(f"Written to {short_path(out)}")
    print_paragraph(f"Teacher: {made.teacher}")
    if made.audit:
        click.echo(f"All that was sent: {short_path(Path(made.audit))}")
    for failure, times in made.failures.items():
        print_paragraph(f"Failed {times} times: {failure}" if times > 1 else f"Failed: {failure}", err=True)
    for note in made.notes:
        print_paragraph(f"Note: {note}", err=True)
    if made.stopped:
        print_paragraph(f"It stopped early: {made.stopped}", err=True)
    if made.nothing_kept:
        print_paragraph(
            f"Nothing to train on: {made.nothing_kept}. The report in {short_path(out)} has examples of what "
            "was dropped, with the reasons. What helps: another teacher, or a larger one.",
            err=True,
            fg="red",
        )
    return status


def _counts(made: "Augmentation") -> dict[str, int]:
    dropped = {f"dropped: {name}": count for name, count in made.dropped.items()}
    counts = {"wanted": made.wanted, "asked": made.asked, "answered": made.answered}
    return {**counts, **dropped, "kept": len(made.kept)}


def _rounds(made: "Augmentation") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, each in enumerate(made.rounds, 1):
        rows.append((str(number), each.about, str(each.asked), str(each.answered), str(each.kept)))
    return rows


def _print_selection(made: "Augmentation") -> None:
    """How close the choice is to the history, and which filters by models could not judge."""
    chosen = made.selection
    if chosen is None:
        return
    if chosen.before and chosen.after:
        click.echo(
            f"Distance to the history (MMD squared): {chosen.before.mmd2:.4f} written, "
            f"{chosen.after.mmd2:.4f} kept"
        )
    for step in chosen.steps:
        if not step.acts:
            print_paragraph(f"{step.filter.replace('_', ' ')} does not act: {step.note}")


def _account(made: "Augmentation") -> dict[str, Any]:
    return {
        "teacher": made.teacher,
        "teachers": [asdict(each) for each in made.teachers],
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "cost": made.cost,
        "rounds": [asdict(each) for each in made.rounds],
        "failures": dict(made.failures),
        "hidden": dict(made.hidden),
        "audit": made.audit,
        "selection": asdict(made.selection) if made.selection else None,
        "stopped": made.stopped,
        "notes": list(made.notes),
    }
