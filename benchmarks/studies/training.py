"""The training study: `python -m benchmarks.studies.training --out DIR`. See `docs/training-study.md`.

Each person of a profile file is trained by EdgePLM and by transformers' Trainer with PEFT, on the same
examples in the same batches with the same optimiser and learning rates, each in a process of its own and in
alternation. What is done is kept in DIR, so that a killed study goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.stats import median, median_interval, paired_difference
from benchmarks.studies.child import ask
from benchmarks.studies.people import Person, read_people
from benchmarks.studies.training_child import OURS, USUAL
from toolkit.cli import run_to_exit
from toolkit.commands.common import PATH, json_option, print_json, print_paragraph, print_table, watch
from toolkit.files import write_atomic
from toolkit.models import DEFAULT_SOURCE, BaseModel, resolve_model
from toolkit.progress import Progress
from toolkit.recipe import FinetuneRecipe

_CHILD = "benchmarks.studies.training_child"
_SIDES = (OURS, USUAL)
_COUNT = click.IntRange(min=1)


@dataclass(frozen=True)
class Setting:
    """Who is trained, and how, on at most so many of their latest `examples`; `queries` are the held-out
    ones that are asked, at most."""

    people: str | None
    task: str
    users: int
    least: int
    examples: int
    epochs: int
    batch_sizes: tuple[int, ...]
    max_length: int
    threads: int
    queries: int

    def recipe(self, batch_size: int) -> FinetuneRecipe:
        """What both sides train with: every example, to the last epoch."""
        return FinetuneRecipe(
            epochs=self.epochs, batch_size=batch_size, max_length=self.max_length, validation=0.0
        )


def training_study(
    base: BaseModel, people: Sequence[Person], setting: Setting, out: Path, progress: Progress
) -> list[dict[str, Any]]:
    """One row a person, batch size and side."""
    runs = [(person, size) for size in setting.batch_sizes for person in people]
    rows = []
    with progress.step("Training", total=2 * len(runs), unit="trainings") as advance:
        for number, (person, size) in enumerate(runs):
            # A machine that slows down, or speeds up, does so for both.
            for side in _SIDES if number % 2 == 0 else _SIDES[::-1]:
                user = person.profile.user_id
                path = out / f"{user}-{size}-{side}.json"
                if not path.exists():
                    found = ask(_CHILD, _request(base, setting, user, size, side), setting.threads)
                    write_atomic(path, json.dumps(found, indent=1) + "\n")
                row = json.loads(path.read_text(encoding="utf-8"))
                rows.append({"user": user, "batch_size": size, "side": side, **row})
                advance(1)
    return rows


def summary(rows: Sequence[dict[str, Any]], primary: str) -> list[dict[str, Any]]:
    """For each batch size: how much faster, with bootstrap intervals over people, at which memory, and
    whether both learned the same."""
    found = []
    for size in sorted({row["batch_size"] for row in rows}):
        ours, usual = (
            sorted(
                (row for row in rows if (row["batch_size"], row["side"]) == (size, side)),
                key=lambda row: row["user"],
            )
            for side in _SIDES
        )
        pairs = list(zip(ours, usual, strict=True))
        losses = [abs(one["training_loss"] - other["training_loss"]) for one, other in pairs]
        found.append(
            {
                "batch_size": size,
                "people": len(pairs),
                "faster": asdict(median_interval([b["wall_seconds"] / a["wall_seconds"] for a, b in pairs])),
                "less_processor": asdict(
                    median_interval([b["cpu_seconds"] / a["cpu_seconds"] for a, b in pairs])
                ),
                "fewer_operations": median([b["operations"] / a["operations"] for a, b in pairs]),
                "largest_loss_difference": max(losses),
                "metric_difference": asdict(
                    paired_difference(
                        [b["metrics"][primary] for _, b in pairs], [a["metrics"][primary] for a, _ in pairs]
                    )
                ),
                "same_answers": float(np.mean([a["answers"] == b["answers"] for a, b in pairs])),
                **{
                    side: {
                        "tokens_per_second": median([row["tokens"] / row["wall_seconds"] for row in group]),
                        "seconds": median([row["wall_seconds"] for row in group]),
                        "peak_bytes": max(row["peak_bytes"] for row in group),
                        "loaded_bytes": max(row["loaded_bytes"] for row in group),
                        "metric": float(np.mean([row["metrics"][primary] for row in group])),
                    }
                    for side, group in zip(_SIDES, (ours, usual), strict=True)
                },
            }
        )
    return found


def _request(base: BaseModel, setting: Setting, user: str, size: int, side: str) -> dict[str, Any]:
    return {
        "base": {**asdict(base), "folder": str(base.folder)},
        "recipe": setting.recipe(size).as_dict(),
        "side": side,
        "user": user,
        **{
            name: getattr(setting, name)
            for name in ("people", "task", "users", "least", "examples", "queries")
        },
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option("--out", type=PATH, required=True, help="Folder of the study; one that was cut off goes on.")
@click.option("--people", type=PATH, help="A profile file; without it, the sample users of the task.")
@click.option("--task", default="rewrite", show_default=True, metavar="NAME|FILE", help="Its task.")
@click.option("--users", type=_COUNT, default=8, show_default=True, help="How many people, first come.")
@click.option("--least", type=_COUNT, default=16, show_default=True, help="Least history of a person.")
@click.option("--examples", type=_COUNT, default=200, show_default=True,
              help="Most examples of a person, the latest.")  # fmt: skip
@click.option("--epochs", type=_COUNT, default=1, show_default=True, help="Passes over the examples.")
@click.option("--batch-size", "batch_sizes", type=_COUNT, multiple=True, default=(4, 16),
              show_default=True, help="Repeatable.")  # fmt: skip
@click.option("--max-length", type=click.IntRange(min=16), default=512, show_default=True,
              help="Longest example, in tokens.")  # fmt: skip
@click.option("--queries", type=_COUNT, default=10, show_default=True, help="Held-out queries asked.")
@click.option("--threads", type=_COUNT, default=1, show_default=True, help="Threads of torch.")
@click.option("--model", default=DEFAULT_SOURCE, show_default=True, metavar="SOURCE", help="Base model.")
@json_option
def command(out: Path, people: Path | None, model: str, as_json: bool, **options: Any) -> None:
    """Seconds and memory of a training, beside transformers' Trainer with PEFT.

    Writes training.json into the folder, with every sample.
    """
    setting = Setting(people=str(people) if people else None, **options)
    progress = watch()
    base = resolve_model(model, progress)
    chosen = read_people(people, setting.task, setting.users, setting.least)
    rows = training_study(base, chosen, setting, out, progress)
    found = summary(rows, chosen[0].task.primary_metric)
    result = {"setting": asdict(setting), "model": base.source, "summary": found, "samples": rows}
    write_atomic(out / "training.json", json.dumps(result, indent=1) + "\n")
    if as_json:
        print_json(result)
        return
    _show(found, chosen[0].task.primary_metric)


def _show(found: Sequence[dict[str, Any]], metric: str) -> None:
    def cells(row: dict[str, Any], side: str) -> tuple[str, ...]:
        one = row[side]
        return (
            f"{row['batch_size']}",
            side,
            f"{one['tokens_per_second']:.0f}",
            f"{one['seconds']:.1f}",
            f"{one['peak_bytes'] / 1e6:.0f}",
            f"{one['metric']:.3f}",
        )

    print_table(
        [cells(row, side) for row in found for side in _SIDES],
        header=("batch", "side", "tokens/s", "seconds", "peak MB", metric),
    )
    for row in found:
        faster, less = row["faster"], row["less_processor"]
        print_paragraph(
            f"Batches of {row['batch_size']}, {row['people']} people: {faster['estimate']:.2f} times faster "
            f"({faster['low']:.2f} to {faster['high']:.2f}), {less['estimate']:.2f} times less processor "
            f"time ({less['low']:.2f} to {less['high']:.2f}), with {row['fewer_operations']:.2f} times fewer "
            "multiplications by the frozen weights; losses differ by "
            f"{row['largest_loss_difference']:.1e} nats at most, {100 * row['same_answers']:.0f} % of the "
            "people got the same answers throughout."
        )


def main() -> None:
    """Run the study; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: command.main(standalone_mode=False))


if __name__ == "__main__":
    main()
