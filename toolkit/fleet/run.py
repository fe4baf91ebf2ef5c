"""A fleet from its recipe to its result."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from toolkit import __version__
from toolkit.errors import EdgePLMError
from toolkit.files import refuse_to_overwrite
from toolkit.finetune.people import SLOTS
from toolkit.fleet.bundles import open_base
from toolkit.fleet.driver import Fleet, ray_session
from toolkit.fleet.plan import BATCH, Failure, Person, Users, batches, read_users, remaining
from toolkit.fleet.result import Done, FleetResult
from toolkit.fleet.store import RESULT, WEIGHTS, Store
from toolkit.fleet.worker import Job
from toolkit.models import BaseModel
from toolkit.progress import SILENT, Progress
from toolkit.recipe import Recipe
from toolkit.tasks import Task, load_task


def run_fleet(
    recipe: Recipe,
    users: Path,
    out: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    batch: int = BATCH,
    slots: int = SLOTS,
    bundle: str = "none",
    bundle_out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
) -> FleetResult:
    """Train an adapter for everybody in `users` as the recipe's `finetune` says, into `out`.

    `out` is a folder or an fsspec URL. Each finished adapter is kept at once; with `resume` those that are
    there are not made again, with `force` everything is. `bundle`: none, attached or merged, into
    `bundle_out`. `on_failure` hears of people without an adapter as they are found. Raises EdgePLMError where
    nothing could be done at all; one person's trouble is in the result's `failures`.
    """
    task = load_task(recipe.task_source)
    read = read_users(users, task)
    base = open_base(recipe.model_source, recipe.task_adapter_path, progress)
    store = Store(out)
    target = bundle_out or Path(out) / "bundle"
    if bundle != "none":
        ours = bundle == "merged" or (target / "manifest.json").exists()
        _check_bundle(bundle, recipe, out, bundle_out, target, force or (resume and ours))
    with store.held():
        _open(store, _settings(recipe, task, base), resume=resume, force=force)
        for failure in read.failures:
            on_failure(failure)
        done = store.done()
        todo = remaining(read.people, done)
        job = _job(recipe, task, base, read, store, slots, progress)
        started = time.monotonic()
        finished, lost, used = _train(job, todo, address, workers, batch, progress, on_failure)
        seconds = time.monotonic() - started
        failures = [*read.failures, *(Failure(each.user_id, each.error) for each in finished if each.error)]
        trained = [each for each in finished if not each.error]
        result = FleetResult(
            out=out,
            people=len(read.people) + len(read.failures),
            trained=len(trained),
            reused=len(read.people) - len(todo),
            not_better=sum(each.better_than_base is False for each in trained),
            failures=tuple(failures),
            lost_workers=lost,
            workers=used,
            seconds=round(seconds, 1),
            bytes=sum(each.bytes for each in trained),
        )
        _write(store, result)  # before the bundle, whose error must not take it along
        if bundle != "none":
            made, more = _bundle(bundle, recipe, base, task, read, store, target, force or resume, progress)
            for failure in more:
                on_failure(failure)
            result = replace(result, failures=(*failures, *more), bundle=str(made))
            _write(store, result)
    return result


def _train(
    job: Job,
    todo: list[Person],
    address: str | None,
    workers: int | None,
    batch: int,
    progress: Progress,
    on_failure: Callable[[Failure], None],
) -> tuple[list[Done], int, int]:
    """(everybody's end, workers lost, workers used)."""
    finished: list[Done] = []
    if not todo:
        return finished, 0, 0
    with ray_session(address, workers) as count:
        # No worker idles while another has two people left to begin.
        size = max(1, min(batch, -(-len(todo) // count)))
        fleet = Fleet(job, batches(todo, size), count)
        with progress.step(f"Training {len(todo)} people", total=len(todo), unit="people") as advance:

            def on_done(done: Done) -> None:
                finished.append(done)
                if done.error:
                    on_failure(Failure(done.user_id, done.error))
                advance(1)

            fleet.run(on_done)
    return finished, fleet.lost, min(count, len(todo))


def _settings(recipe: Recipe, task: Task, base: BaseModel) -> dict[str, Any]:
    """All that an adapter depends on but the person."""
    return {
        "edgeplm": __version__,
        "model": base.source,
        "model_sha256": base.sha256,
        "task": task.as_dict(),
        "finetune": recipe.finetune.as_dict(),
        "export": recipe.export.as_dict() if recipe.finetune.quantization_aware else None,
        "seed": recipe.seed,
    }


def _open(store: Store, settings: dict[str, Any], *, resume: bool, force: bool) -> None:
    """Refuse an output that is not ours, or was made with other settings."""
    if not store.has_settings() and not store.is_empty():  # not with --force either: it is not ours to clear
        raise EdgePLMError("is not empty and no fleet's", where=store.url, mend="Choose another output")
    there = None if force else store.read_settings()
    if force:
        store.clear()
    elif there is not None and not resume:
        raise EdgePLMError(
            "already exists", where=store.url, mend="Add --resume to go on, or --force to start anew"
        )
    elif there is not None and _hash(there) != _hash(settings):
        changed = ", ".join(sorted(name for name in settings if there.get(name) != _plain(settings)[name]))
        raise EdgePLMError(
            f"was made with another {changed or 'recipe'}",
            where=store.url,
            mend="Go on with the same recipe, choose another output, or start anew with --force",
        )
    store.write_settings(settings)


def _check_bundle(
    form: str, recipe: Recipe, out: str, bundle_out: Path | None, target: Path, again: bool
) -> None:
    """Refuse what could not be written, before everybody is trained for it."""
    if bundle_out is None and "://" in out:
        raise EdgePLMError("needs a folder of this machine", where="--bundle-out", mend="Name one")
    if form == "attached" and recipe.finetune.dora:
        raise EdgePLMError(
            "DoRA cannot be attached", where="finetune.dora", mend="Choose --bundle merged, or turn it off"
        )
    refuse_to_overwrite(target, again)


def _job(
    recipe: Recipe,
    task: Task,
    base: BaseModel,
    read: Users,
    store: Store,
    slots: int,
    progress: Progress,
) -> Job:
    if recipe.finetune.quantization_aware:
        from toolkit.fleet.bundles import write_shared_weights

        if not store.has(WEIGHTS):
            write_shared_weights(recipe, base, task, read.people, store, progress)
    # A path is the same folder for every worker, whatever folder it runs in.
    out = store.url if "://" in store.url else str(Path(store.url).absolute())
    return Job(
        recipe.model_source, base.sha256, task, recipe.finetune, recipe.seed, out, slots,
        recipe.task_adapter_path,
    )  # fmt: skip


def _bundle(
    form: str,
    recipe: Recipe,
    base: BaseModel,
    task: Task,
    read: Users,
    store: Store,
    target: Path,
    force: bool,
    progress: Progress,
) -> tuple[Path, list[Failure]]:
    from toolkit.fleet.bundles import bundle_people

    done = store.done()
    people = [
        person
        for person in read.people
        if (person.key, person.digest) in done
        and not (
            recipe.finetune.guard and store.mark(person.key, person.digest).get("better_than_base") is False
        )
    ]
    if not people:
        raise EdgePLMError(
            "nobody has an adapter that is better than the base", where=store.url, mend="See the failures"
        )
    return bundle_people(form, recipe, base, task, people, store, target, force=force, progress=progress)


def _write(store: Store, result: FleetResult) -> None:
    store.write(RESULT, asdict(result) | {"users_per_hour": result.users_per_hour})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_plain(settings), sort_keys=True).encode()).hexdigest()
