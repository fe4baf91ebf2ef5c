"""Fine-tuning many people on one base: for each what `toolkit.finetune.finetune` does, several at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import EdgePLMError
from toolkit.files import held, staged_directory
from toolkit.finetune import (
    Finetuning,
    TrainedAdapter,
    adapter_folder,
    finetune,
    open_chat,
    save_for,
)
from toolkit.finetune.draft import Draft, draft_of
from toolkit.finetune.result import write_finetuning
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task

if TYPE_CHECKING:
    from toolkit.finetune.together import Arm, Learned

SLOTS = 8  # adapters in training at once; each takes about seven times its own size of memory


@dataclass(frozen=True)
class Outcome:
    """How one person's fine-tuning ended: the report of what is in `folder`, or the error."""

    user_id: str
    folder: Path
    report: Finetuning | None = None
    error: EdgePLMError | None = None


class PeopleTrainer:
    """A base model in memory that people are trained on, batch after batch.

    `prepare` may change the frozen base once, in place, for quantisation-aware training. `slots` adapters are
    in training at once. Where model or adapter cannot be computed together, `alone_because` says why, and
    people are trained one by one. Raises AdapterError if the recipe's targets are not in the model.
    """

    def __init__(
        self,
        base: BaseModel,
        task: Task,
        recipe: FinetuneRecipe,
        *,
        prepare: Callable[[Any], None] | None = None,
        max_length: int | None = None,
        seed: int = 0,
        slots: int = SLOTS,
    ) -> None:
        from toolkit.finetune.together import CannotStackError, new_stack
        from toolkit.finetune.train import attach_adapter

        self.base, self.task, self.recipe, self.prepare, self.seed = base, task, recipe, prepare, seed
        self.limit = max_length or recipe.max_length
        self.alone_because: str | None = None
        self.chat = open_chat(base)
        model = load_model(base)
        if prepare:
            prepare(model)
        self._model = attach_adapter(model, recipe, seed)
        try:
            self._stack = new_stack(self._model, slots)
        except CannotStackError as error:
            self.alone_because = str(error)

    def train(
        self,
        people: Sequence[Profile],
        folder_of: Callable[[Profile], Path],
        *,
        synthetic: Mapping[str, Sequence[Example]] | None = None,
        force: bool = False,
    ) -> Iterator[Outcome]:
        """Train everybody's adapters; yields each person as soon as their folder is written.

        `folder_of` says where a person's folder goes; it is as `finetune` writes it. `synthetic` are
        synthetic examples by user id. A person's error ends that person's training only.
        """
        from toolkit.finetune.together import CannotStackError

        made = synthetic or {}
        waiting = [_Person(each, folder_of(each), tuple(made.get(each.user_id, ()))) for each in people]
        done: set[str] = set()
        if self.alone_because is None:
            try:
                for outcome in self._together(waiting, force):
                    done.add(outcome.user_id)
                    yield outcome
            except CannotStackError as error:
                self.alone_because = str(error)
        for person in waiting:
            if person.profile.user_id not in done:
                yield self._alone(person, force)

    def _together(self, people: "Sequence[_Person]", force: bool) -> Iterator[Outcome]:
        from toolkit.finetune.together import train_together

        by_name = {person.profile.user_id: person for person in people}
        refused: list[Outcome] = []

        def arms() -> "Iterator[Arm]":
            for person in people:
                try:
                    yield from person.arms(self)
                except EdgePLMError as error:
                    refused.append(person.failed(error))

        for arm, result in train_together(self._model, self._stack, arms(), self.recipe, seed=self.seed):
            while refused:
                yield refused.pop(0)
            person = by_name[arm.person]
            person.results[arm.name] = result
            if person.draft and len(person.results) == len(person.draft.arms):
                yield self._finish(person, person.draft, force)
        yield from refused

    def _finish(self, person: "_Person", draft: Draft, force: bool) -> Outcome:
        """Write the person's folder; the first error of their trainings is theirs."""
        learned: dict[str, Learned] = {}
        for name in draft.arms:
            result = person.results[name]
            if isinstance(result, EdgePLMError):
                return person.failed(result)
            learned[name] = result
        adapters = [
            TrainedAdapter.of(name, len(draft.arms[name]), each.training) for name, each in learned.items()
        ]
        report = draft.report(adapters, next(iter(learned.values())).training.base_validation_loss)
        try:
            with held(person.folder), staged_directory(person.folder, force=force) as staging:
                for name, each in learned.items():
                    self._stack.show(each.values)
                    save_for(self._model, adapter_folder(staging, name), self.base, self.recipe)
                write_finetuning(staging, report)
        except EdgePLMError as error:
            return person.failed(error)
        person.results.clear()  # the adapters' numbers
        return Outcome(person.profile.user_id, person.folder, report)

    def _alone(self, person: "_Person", force: bool) -> Outcome:
        try:
            report = finetune(
                self.base,
                person.profile,
                self.task,
                self.recipe,
                person.folder,
                synthetic=person.synthetic,
                prepare=self.prepare,
                max_length=self.limit,
                seed=self.seed,
                force=force,
            )
        except EdgePLMError as error:
            return person.failed(error)
        return Outcome(person.profile.user_id, person.folder, report)


@dataclass
class _Person:
    """One person on the way: what is trained, and what became of each adapter so far."""

    profile: Profile
    folder: Path
    synthetic: tuple[Example, ...]
    draft: Draft | None = None
    results: "dict[str, Learned | EdgePLMError]" = field(default_factory=dict)

    def arms(self, trainer: PeopleTrainer) -> "list[Arm]":
        """The adapters to train, as `finetune` decides it; EdgePLMError where there is nothing."""
        from toolkit.finetune.together import Arm

        self.draft = draft_of(
            self.profile,
            self.synthetic,
            trainer.task,
            trainer.chat,
            trainer.recipe,
            limit=trainer.limit,
            seed=trainer.seed,
        )
        validation = self.draft.history.validation.examples
        return [
            Arm(self.profile.user_id, name, examples, validation, measure_base=index == 0)
            for index, (name, examples) in enumerate(self.draft.arms.items())
        ]

    def failed(self, error: EdgePLMError) -> Outcome:
        """The person's outcome where something went wrong."""
        return Outcome(self.profile.user_id, self.folder, error=error)


def finetune_people(
    base: BaseModel,
    people: Sequence[Profile],
    task: Task,
    recipe: FinetuneRecipe,
    folder_of: Callable[[Profile], Path],
    *,
    synthetic: Mapping[str, Sequence[Example]] | None = None,
    prepare: Callable[[Any], None] | None = None,
    max_length: int | None = None,
    seed: int = 0,
    force: bool = False,
    slots: int = SLOTS,
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Fine-tune every person as `finetune` does, `slots` at a time; outcomes in the order of `people`.

    See `PeopleTrainer` for the arguments.
    """
    trainer = PeopleTrainer(
        base, task, recipe, prepare=prepare, max_length=max_length, seed=seed, slots=slots
    )
    found: dict[str, Outcome] = {}
    with progress.step(f"Fine-tuning {len(people)} people", total=len(people), unit="people") as advance:
        for outcome in trainer.train(people, folder_of, synthetic=synthetic, force=force):
            found[outcome.user_id] = outcome
            advance(1)
    return [found[person.user_id] for person in people]
