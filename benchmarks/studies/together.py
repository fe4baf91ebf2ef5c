"""Users an hour: people fine-tuned together against one by one, in alternation.

    python -m benchmarks.studies.together --people FILE --task lamp-3 --out result.json

The people come in groups. Each group is fine-tuned both ways, by `toolkit.finetune.finetune` for each and by
`toolkit.finetune.people.finetune_people`, the first way first in every other group, so that what else happens
on the machine meets both alike. Wall-clock seconds, and processor seconds of this process, which a busy
machine disturbs less. That both ways give the same adapters is checked on the way.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.stats import median
from benchmarks.studies.people import read_people
from toolkit.cli import run_to_exit
from toolkit.files import write_atomic
from toolkit.finetune import adapter_folder, finetune, open_chat, read_finetuning
from toolkit.finetune.people import SLOTS, finetune_people
from toolkit.fleet.plan import key_of
from toolkit.models import DEFAULT_SOURCE, BaseModel, load_model, resolve_model
from toolkit.profiles import Profile
from toolkit.progress import SILENT, Progress, terminal_progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task


@dataclass(frozen=True)
class Group:
    """One group, both ways: wall-clock and processor seconds, and how far apart the adapters are, and their
    losses on the held-out slices.

    `load_seconds` is what loading the base took here; one by one pays it for every person, together once.
    """

    people: int
    examples: int
    alone_seconds: float
    together_seconds: float
    alone_cpu: float
    together_cpu: float
    load_seconds: float
    load_cpu: float
    largest_difference: float
    largest_loss_difference: float


def together_study(
    base: BaseModel,
    people: Sequence[Profile],
    task: Task,
    recipe: FinetuneRecipe,
    *,
    group: int,
    slots: int = SLOTS,
    progress: Progress = SILENT,
) -> list[Group]:
    """Fine-tune `people` both ways, `group` at a time; a first person, not counted, warms up."""
    groups = [people[start : start + group] for start in range(0, len(people), group)]
    found = []
    with (
        tempfile.TemporaryDirectory() as name,
        progress.step("Fine-tuning both ways", total=len(people), unit="people") as advance,
    ):
        here = Path(name)
        finetune_people(base, people[:1], task, recipe, lambda person: here / "warm", force=True)
        for index, members in enumerate(groups):
            ways = {
                "alone": partial(_alone, base, members, task, recipe, here / "alone"),
                "together": partial(_together, base, members, task, recipe, here / "together", slots),
            }
            order = sorted(ways, reverse=bool(index % 2))
            times = {way: _timed(ways[way]) for way in order}
            load = _timed(lambda: (load_model(base), open_chat(base)))
            found.append(
                Group(
                    len(members),
                    sum(len(person.history) for person in members),
                    times["alone"][0],
                    times["together"][0],
                    times["alone"][1],
                    times["together"][1],
                    *load,
                    *_differences(here, members),
                )
            )
            shutil.rmtree(here / "alone")
            shutil.rmtree(here / "together")
            advance(len(members))
    return found


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Users an hour both ways and their ratio, by sums over the groups; the groups' own ratios beside it.

    `ratio_of_training` leaves out the loading of the base on both sides.
    """
    count = sum(group.people for group in groups)
    alone, together = (
        sum(getattr(g, name) for g in groups) for name in ("alone_seconds", "together_seconds")
    )
    cpu = [sum(getattr(g, name) for g in groups) for name in ("alone_cpu", "together_cpu")]
    trained = [
        sum(g.alone_cpu - g.people * g.load_cpu for g in groups),
        sum(g.together_cpu - g.load_cpu for g in groups),
    ]
    ratios = [group.alone_seconds / group.together_seconds for group in groups]
    return {
        "people": count,
        "examples": sum(group.examples for group in groups),
        "users_per_hour_alone": 3600 * count / alone,
        "users_per_hour_together": 3600 * count / together,
        "ratio": alone / together,
        "ratio_median_of_groups": median(ratios),
        "ratio_smallest": min(ratios),
        "ratio_largest": max(ratios),
        "ratio_of_cpu": cpu[0] / cpu[1],
        "ratio_of_training_cpu": trained[0] / trained[1],
        "largest_difference": max(group.largest_difference for group in groups),
        "largest_loss_difference": max(group.largest_loss_difference for group in groups),
    }


def _alone(base: BaseModel, people: Sequence[Profile], task: Task, recipe: FinetuneRecipe, out: Path) -> None:
    for person in people:
        finetune(base, person, task, recipe, out / key_of(person.user_id))


def _together(
    base: BaseModel, people: Sequence[Profile], task: Task, recipe: FinetuneRecipe, out: Path, slots: int
) -> None:
    outcomes = finetune_people(
        base, people, task, recipe, lambda person: out / key_of(person.user_id), slots=slots
    )
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error


def _differences(here: Path, people: Sequence[Profile]) -> tuple[float, float]:
    """The largest difference between two numbers of the same adapter, and between two losses on the same
    held-out slice after the same epoch, in nats a token."""
    from safetensors.torch import load_file

    numbers, losses = [0.0], [0.0]
    for person in people:
        folders = [here / way / key_of(person.user_id) for way in ("alone", "together")]
        reports = [read_finetuning(folder).adapters for folder in folders]
        for first, second in zip(*reports, strict=True):
            one, two = (
                load_file(adapter_folder(folder, first.name) / "adapter_model.safetensors")
                for folder in folders
            )
            numbers += [float((one[name] - two[name]).abs().max()) for name in one]
            epochs = zip(first.validation_losses, second.validation_losses, strict=False)
            losses += [abs(a - b) for a, b in epochs]
    return max(numbers), max(losses)


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.together", description=__doc__)
    parser.add_argument("--people", type=Path, help="profile file [default: the sample users]")
    parser.add_argument("--task", default="lamp-3")
    parser.add_argument("--model", default=DEFAULT_SOURCE)
    parser.add_argument("--count", type=int, default=32, help="how many people")
    parser.add_argument("--group", type=int, default=8, help="people a group")
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--epochs", type=int, default=FinetuneRecipe().epochs)
    parser.add_argument("--longest", type=int, help="examples of a person, at most")
    parser.add_argument("--threads", type=int, help="threads of PyTorch [default: its own choice]")
    parser.add_argument("--out", type=Path, required=True, help="file for the result")
    given = parser.parse_args(arguments)
    run_to_exit(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    import os
    import sys

    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    people = read_people(given.people, given.task, given.count, 5)
    profiles = [
        Profile(p.profile.user_id, p.profile.task, p.profile.history[: given.longest], ()) for p in people
    ]
    base = resolve_model(given.model, terminal_progress())
    recipe = FinetuneRecipe(epochs=given.epochs, choose="real")
    groups = together_study(
        base, profiles, people[0].task, recipe, group=given.group, slots=given.slots,
        progress=terminal_progress(),
    )  # fmt: skip
    found = summary(groups)
    environment = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    result = {"summary": found, "environment": environment, "groups": [asdict(group) for group in groups]}
    write_atomic(given.out, json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
