"""What a fleet's adapters become: one bundle that they are attached to, or a merged bundle for each."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.bundling import base_weights, calibration, make_bundle
from toolkit.errors import EdgePLMError
from toolkit.fleet.plan import Failure, Person
from toolkit.fleet.remote import StoreError
from toolkit.fleet.store import WEIGHTS, Store
from toolkit.models import BaseModel, cache_folder, resolve_model
from toolkit.progress import SILENT, Progress
from toolkit.recipe import Recipe, replace_fields
from toolkit.tasks import Task

_CALIBRATED_ON = 64  # people whose histories calibrate the base that all share


def open_base(source: str, task_adapter: Path | None, progress: Progress = SILENT) -> BaseModel:
    """The base that people are trained on: the model, with the recipe's task adapter in it."""
    from exporters.task_adapter import with_task_adapter

    return with_task_adapter(resolve_model(source, progress), task_adapter, cache_folder(), progress)


def shared_windows(recipe: Recipe, base: BaseModel, task: Task, people: Sequence[Person]) -> Any:
    """What the base that all share is calibrated on; the first people stand for everybody."""
    profiles = [person.profile for person in sorted(people, key=lambda each: each.key)[:_CALIBRATED_ON]]
    return calibration(recipe.export, base, task, profiles, recipe.finetune.history_in_prompt)


def write_shared_weights(
    recipe: Recipe, base: BaseModel, task: Task, people: Sequence[Person], store: Store, progress: Progress
) -> None:
    """Keep the base as the export quantises it in the output, for workers to train on."""
    from exporters.quantise.store import write_weights

    windows = shared_windows(recipe, base, task, people)
    with tempfile.TemporaryDirectory(prefix="edgeplm-fleet-") as here:
        path = Path(here) / WEIGHTS
        write_weights(path, base_weights(base, recipe.export, windows, progress))
        store.put_file(WEIGHTS, path)


def prepare_from(store: Store) -> Callable[[Any], None]:
    """What changes a base to the values of those weights, in place."""

    def prepare(model: Any) -> None:
        from exporters.quantise.calibrate import apply_weights

        if weights := _trained_on(store):
            apply_weights(model, weights)

    return prepare


def _trained_on(store: Store) -> Any:
    """The quantised base that everybody was trained on, and that is shipped; None where it was float."""
    from exporters.quantise.store import read_weights

    if not store.has(WEIGHTS):
        return None
    with tempfile.TemporaryDirectory(prefix="edgeplm-fleet-") as here:
        return read_weights(store.get_file(WEIGHTS, Path(here)))


def bundle_people(
    form: str,
    recipe: Recipe,
    base: BaseModel,
    task: Task,
    people: Sequence[Person],
    store: Store,
    out: Path,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> tuple[Path, list[Failure]]:
    """Export the adapters of `people`, who must all be done: `attached` into the one bundle `out`, or
    `merged` into a bundle each below it. Returns the path, and those whose adapter could not be exported.
    """
    recipe = replace_fields(recipe, {"export.form": form})
    export = _attached if form == "attached" else _merged
    return out, export(recipe, base, task, people, store, out, force, progress)


def _attached(
    recipe: Recipe,
    base: BaseModel,
    task: Task,
    people: Sequence[Person],
    store: Store,
    out: Path,
    force: bool,
    progress: Progress,
) -> list[Failure]:
    """The first person's bundle, and everybody else put into it."""
    from exporters.adapters import add_adapter

    started = False

    def attach(person: Person) -> None:
        nonlocal started
        with _adapter(store, person) as adapter:
            if started:
                add_adapter(out, person.key, adapter)
                return
            make_bundle(
                base, adapter, recipe.export, out, name=person.key,
                windows=shared_windows(recipe, base, task, people),
                weights=_trained_on(store), task=task, force=force,
            )  # fmt: skip
            started = True

    return _each("Attaching adapters", people, attach, progress)


def _merged(
    recipe: Recipe,
    base: BaseModel,
    task: Task,
    people: Sequence[Person],
    store: Store,
    out: Path,
    force: bool,
    progress: Progress,
) -> list[Failure]:
    """A bundle each, calibrated on that person's history."""

    def export(person: Person) -> None:
        asked = recipe.finetune.history_in_prompt
        windows = calibration(recipe.export, base, task, [person.profile], asked)
        with _adapter(store, person) as adapter:
            make_bundle(
                base, adapter, recipe.export, out / person.key,
                name=person.key, windows=windows, task=task, force=force,
            )  # fmt: skip

    return _each("Exporting merged bundles", people, export, progress)


def _each(
    label: str, people: Sequence[Person], export: Callable[[Person], None], progress: Progress
) -> list[Failure]:
    """Export everybody; a person's error is theirs alone."""
    failures: list[Failure] = []
    with progress.step(label, total=len(people), unit="people") as advance:
        for person in people:
            try:
                export(person)
            except StoreError:  # nor would the next one's adapter be reached
                raise
            except EdgePLMError as error:
                failures.append(Failure(person.profile.user_id, str(error)))
            advance(1)
    return failures


@contextmanager
def _adapter(store: Store, person: Person) -> Iterator[Path]:
    """The chosen adapter's folder, on this machine; a copy is gone afterwards, for they are many."""
    chosen = store.mark(person.key, person.digest).get("adapter", "real")
    with tempfile.TemporaryDirectory(prefix="edgeplm-fleet-") as here:
        yield store.fetch(person.key, Path(here)) / str(chosen)
