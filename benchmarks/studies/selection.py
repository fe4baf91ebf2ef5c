"""Does selection tell good examples from bad ones? With candidates of which it is known.

    python -m benchmarks.studies.selection --out DIR --people FILE --task NAME

Nobody knows which of a teacher's examples are good. So the candidates are real ones, a third each: more of
the person's own (`own`), another person's (`other's`), and the person's own with a wrong answer (`wrong`: the
label that is furthest away, or the answer to another question). They are judged against a history that holds
none of them, and as many are wanted as there are of the first kind.

With `--train` adapters are trained on the history alone, with candidates drawn at random and with as many
chosen, and compared on the held-out queries. What is done is kept in DIR, so that a killed study goes on.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.studies.people import Person, read_people
from toolkit.augment.selection import MODEL_FILTERS, Learner
from toolkit.augment.selection.embedding import Embedder, open_embedder
from toolkit.augment.selection.select import select
from toolkit.cli import run_to_exit
from toolkit.commands.common import PATH, json_option, print_json, print_table, watch
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.models import DEFAULT_SOURCE, BaseModel, resolve_model
from toolkit.profiles import Example
from toolkit.progress import Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.recipe_select import MINILM, SelectRecipe
from toolkit.tasks import Task

KINDS = ("own", "other's", "wrong")
_COUNT = click.IntRange(min=1)


def planted(
    people: Sequence[Person], place: int, history: int, each: int
) -> tuple[Person, dict[str, list[Example]]]:
    """One person with `history` of their examples left, and `each` candidates of every kind, by kind."""
    person, other = people[place], people[(place + 1) % len(people)]
    own = person.profile.history
    first, second = own[history : history + each], own[history + each : history + 2 * each]
    found = {
        "own": list(first),
        "other's": list(other.profile.history[:each]),
        "wrong": [_wrong(example, second, at, person.task) for at, example in enumerate(second)],
    }
    shown = replace(person.profile, history=own[:history], queries=())
    return Person(shown, person.task), {
        kind: [replace(example, id=f"{kind}-{number}") for number, example in enumerate(examples)]
        for kind, examples in found.items()
    }


def judge(
    base: BaseModel,
    embedder: Embedder,
    person: Person,
    candidates: dict[str, list[Example]],
    settings: SelectRecipe,
    finetune: FinetuneRecipe,
    progress: Progress,
) -> dict[str, Any]:
    """Which filter refused how many of which kind, what is kept, and the distance before and after."""
    mixed = [example for group in zip(*candidates.values(), strict=True) for example in group]
    kinds = {example.id: kind for kind, examples in candidates.items() for example in examples}
    learner = Learner(base, person.profile, person.task, finetune)
    found = select(
        mixed,
        person.profile,
        person.task,
        settings,
        len(candidates["own"]),
        embedder=embedder,
        learner=learner,
        progress=progress,
    )
    refused = Counter((kinds[each.example.id], each.filter) for each in found.refused)
    return {
        "user": person.profile.user_id,
        "each": len(candidates["own"]),
        "refused": {kind: {name: refused[kind, name] for name in MODEL_FILTERS} for kind in KINDS},
        "kept": dict(Counter(kinds[example.id] for example in found.kept)),
        "kept_ids": [example.id for example in found.kept],
        "steps": [asdict(step) for step in found.account.steps],
        "before": asdict(found.account.before) if found.account.before else None,
        "after": asdict(found.account.after) if found.account.after else None,
        "scores": found.account.scores,
    }


def query_losses(
    base: BaseModel,
    person: Person,
    queries: Sequence[Example],
    candidates: Sequence[Example],
    kept: Sequence[str],
    epochs: int,
    progress: Progress,
) -> dict[str, float]:
    """Mean loss of the held-out queries' answers, in nats a token, of three adapters: on the history alone,
    with candidates drawn at random, and with as many whose ids are `kept`."""
    from toolkit.finetune import open_chat
    from toolkit.finetune.encode import encode_history
    from toolkit.finetune.scoring import example_losses
    from toolkit.finetune.train import attach_adapter, train
    from toolkit.models import load_model

    chat, recipe = open_chat(base), FinetuneRecipe(epochs=epochs, validation=0.0)
    chosen = [each for each in candidates if each.id in set(kept)]
    asked = encode_history(queries, person.task, chat, max_length=recipe.max_length).examples
    found = {}
    # As many, for more examples are more steps.
    drawn = random.Random(0).sample(list(candidates), len(chosen))  # noqa: S311 - a comparison
    for name, more in (("real", []), ("random", drawn), ("chosen", chosen)):
        examples = [*person.profile.history, *more]
        encoded = encode_history(examples, person.task, chat, max_length=recipe.max_length).examples
        adapter = attach_adapter(load_model(base), recipe, 0)
        train(adapter, encoded, recipe, seed=0, progress=progress)
        found[name] = float(np.mean(example_losses(adapter.base_model.model, asked)))
    return found


def summary(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For each kind, the share that each filter refused and the share that is kept, over all people."""
    total = sum(row["each"] for row in rows)
    lines = []
    for kind in KINDS:
        shares = [sum(row["refused"][kind][name] for row in rows) / total for name in MODEL_FILTERS]
        kept = sum(row["kept"].get(kind, 0) for row in rows) / total
        lines.append((kind, *(f"{share:.0%}" for share in shares), f"{kept:.0%}"))
    return lines


def _wrong(example: Example, among: Sequence[Example], at: int, task: Task) -> Example:
    if not task.labels:
        return replace(example, output=among[(at + 1) % len(among)].output)
    if task.parser == "number":
        given = float(example.output)
        return replace(example, output=max(task.labels, key=lambda label: abs(float(label) - given)))
    return replace(example, output=next(label for label in task.labels if label != example.output))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option("--out", type=PATH, required=True, help="Folder of the study; one that was cut off goes on.")
@click.option("--people", type=PATH, help="A profile file; without it, the sample users of the task.")
@click.option("--task", default="lamp-3", show_default=True, metavar="NAME|FILE", help="Its task.")
@click.option("--users", type=_COUNT, default=8, show_default=True, help="How many people, first come.")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="But not the first N.")
@click.option("--history", type=_COUNT, default=24, show_default=True, help="Examples of a history.")
@click.option("--each", type=_COUNT, default=8, show_default=True, help="Candidates of each kind.")
@click.option("--model", default=DEFAULT_SOURCE, metavar="SOURCE", help="The base model.")
@click.option("--embedding", default=MINILM, metavar="SOURCE", help="As augment.select.embedding.")
@click.option("--difficulty", is_flag=True, help="Also train on the history and judge by it.")
@click.option("--train", is_flag=True, help="Also train on what is chosen, and compare.")
@click.option("--epochs", type=_COUNT, default=3, show_default=True, help="Of those trainings.")
@json_option
def command(
    out: Path,
    people: Path | None,
    task: str,
    users: int,
    skip: int,
    history: int,
    each: int,
    model: str,
    embedding: str,
    difficulty: bool,
    train: bool,
    epochs: int,
    as_json: bool,
) -> None:
    """Judge candidates of which it is known whether they are good."""
    progress = watch()
    everybody = read_people(people, task, users + skip, history + 2 * each)[skip:]
    if len(everybody) < 2:
        raise EdgePLMError("one person is left, and two are needed", where="--skip", mend="Give less")
    base = resolve_model(model, progress)
    # As much is held out as difficulty needs.
    finetune = FinetuneRecipe(validation=max(0.2, 10 / history))
    settings = SelectRecipe(embedding=embedding, difficulty=0.1 if difficulty else 0.0)
    embedder: Embedder | None = None
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with progress.step("Judging", total=len(everybody), unit="people") as advance:
        for place in range(len(everybody)):
            person, candidates = planted(everybody, place, history, each)
            path = out / f"{person.profile.user_id}.json"
            if not path.exists():
                embedder = embedder or open_embedder(settings.embedding, base, progress)
                row = judge(base, embedder, person, candidates, settings, finetune, progress)
                if train:
                    queries = everybody[place].profile.queries
                    mixed = [example for group in candidates.values() for example in group]
                    row["losses"] = query_losses(
                        base, person, queries, mixed, row["kept_ids"], epochs, progress
                    )
                write_atomic(path, json.dumps(row, indent=1) + "\n")
            rows.append(json.loads(path.read_text(encoding="utf-8")))
            advance(1)
    if as_json:
        print_json({"people": rows})
        return
    names = ("semantic", "agreement", "style", "IFD", "difficulty", "MMD")
    print_table(summary(rows), header=("kind", *names, "kept"))
    before, after = (
        float(np.median([row[name]["mmd2"] for row in rows if row[name]])) for name in ("before", "after")
    )
    if any("losses" in row for row in rows):
        print_table(
            [
                (row["user"], *(f"{row['losses'][arm]:.3f}" for arm in ("real", "random", "chosen")))
                for row in rows
                if "losses" in row
            ],
            header=("loss on held-out queries", "real", "+ random", "+ chosen"),
        )
    click.echo(f"{len(rows)} people; median MMD squared {before:.4f} before, {after:.4f} after")


if __name__ == "__main__":
    run_to_exit(lambda: command.main(standalone_mode=False))
