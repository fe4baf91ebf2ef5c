"""Fine-tuning many people on one base: for each what `toolkit.finetune.finetune` does, several at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import EdgePLMError
from toolkit.files import held, staged_directory
from toolkit.finetune import (
    REAL,
    SYNTHETIC,
    Finetuning,
    TrainedAdapter,
    adapter_folder,
    choose_adapter,
    example_ids,
    finetune,
    open_chat,
    save_for,
    split_history,
)
from toolkit.finetune.encode import Encoded, encode_history
from toolkit.finetune.result import write_finetuning
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task

if TYPE_CHECKING:
    from toolkit.finetune.learner import Learned
    from toolkit.finetune.together import Arm

SLOTS = 8  # adapters in training at once; each takes about six times its own size of memory


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
        drafts = [_Draft(each, folder_of(each), tuple(made.get(each.user_id, ()))) for each in people]
        done: set[str] = set()
        if self.alone_because is None:
            try:
                for outcome in self._together(drafts, force):
                    done.add(outcome.user_id)
                    yield outcome
            except CannotStackError as error:
                self.alone_because = str(error)
        for draft in drafts:
            if draft.profile.user_id not in done:
                yield self._alone(draft, force)

    def _together(self, drafts: "Sequence[_Draft]", force: bool) -> Iterator[Outcome]:
        from toolkit.finetune.together import train_together

        by_name = {draft.profile.user_id: draft for draft in drafts}
        refused: list[Outcome] = []

        def arms() -> "Iterator[Arm]":
            for draft in drafts:
                try:
                    yield from draft.encode(self)
                except EdgePLMError as error:
                    refused.append(draft.failed(error))

        for arm, result in train_together(self._model, self._stack, arms(), self.recipe, seed=self.seed):
            while refused:
                yield refused.pop(0)
            draft = by_name[arm.person]
            draft.results[arm.name] = result
            if len(draft.results) == len(draft.arms):
                yield self._finish(draft, force)
        yield from refused

    def _finish(self, draft: "_Draft", force: bool) -> Outcome:
        """Write the person's folder; the first error of their trainings is theirs."""
        learned: dict[str, Learned] = {}
        for name in draft.arms:
            result = draft.results[name]
            if isinstance(result, EdgePLMError):
                return draft.failed(result)
            learned[name] = result
        try:
            with held(draft.folder), staged_directory(draft.folder, force=force) as staging:
                for name, result in learned.items():
                    self._stack.show(result.values)
                    save_for(self._model, adapter_folder(staging, name), self.base, self.recipe)
                report = draft.report(learned, self.recipe)
                write_finetuning(staging, report)
        except EdgePLMError as error:
            return draft.failed(error)
        draft.results.clear()  # the adapters' numbers
        return Outcome(draft.profile.user_id, draft.folder, report)

    def _alone(self, draft: "_Draft", force: bool) -> Outcome:
        try:
            report = finetune(
                self.base,
                draft.profile,
                self.task,
                self.recipe,
                draft.folder,
                synthetic=draft.synthetic,
                prepare=self.prepare,
                max_length=self.limit,
                seed=self.seed,
                force=force,
            )
        except EdgePLMError as error:
            return draft.failed(error)
        return Outcome(draft.profile.user_id, draft.folder, report)


@dataclass
class _Draft:
    """One person on the way: their encoded examples, and what became of each adapter so far."""

    profile: Profile
    folder: Path
    synthetic: tuple[Example, ...]
    arms: list[str] = field(default_factory=list)
    results: "dict[str, Learned | EdgePLMError]" = field(default_factory=dict)
    parts: tuple[Encoded, Encoded, Encoded] | None = None
    held_out: tuple[str, ...] = ()

    def encode(self, trainer: PeopleTrainer) -> "list[Arm]":
        """The adapters to train, as `finetune` decides it; EdgePLMError where there is nothing."""
        from toolkit.finetune.together import Arm

        recipe, limit = trainer.recipe, trainer.limit
        training, held_out = split_history(self.profile.history, recipe.validation, trainer.seed)
        encode = partial(
            encode_history,
            task=trainer.task,
            chat=trainer.chat,
            max_length=limit,
            history=training,
            retrieved=recipe.history_in_prompt,
        )
        real, validation = encode(training), encode(held_out)
        made = encode(self.synthetic, weight=recipe.synthetic_weight)
        if not self.synthetic and recipe.choose == SYNTHETIC:
            raise EdgePLMError(
                "there are no synthetic examples",
                where=f"user {self.profile.user_id}, finetune.choose",
                mend="Choose `auto` or `real`",
            )
        examples = {}
        if real.examples and recipe.choose != SYNTHETIC:
            examples[REAL] = real.examples
        if made.examples and recipe.choose != REAL:
            examples[SYNTHETIC] = (*real.examples, *made.examples)
        if not examples:
            raise EdgePLMError(
                f"none of the {len(training) + len(self.synthetic)} examples fits {limit} tokens",
                where=f"user {self.profile.user_id}",
                mend="Raise finetune.max_length",
            )
        self.parts, self.held_out = (real, validation, made), tuple(example.id for example in held_out)
        self.arms = list(examples)
        user = self.profile.user_id
        return [Arm(user, name, chosen, validation.examples) for name, chosen in examples.items()]

    def report(self, learned: "Mapping[str, Learned]", recipe: FinetuneRecipe) -> Finetuning:
        """What `finetune` would report."""
        adapters = [
            TrainedAdapter(
                name,
                result.examples,
                result.training.steps,
                result.training.step_losses,
                result.training.validation_losses,
                result.training.best_epoch,
                result.training.packed,
            )
            for name, result in learned.items()
        ]
        chosen, reason = choose_adapter(adapters, recipe.choose)
        cut, dropped = (example_ids(*self.parts, what) if self.parts else [] for what in ("cut", "dropped"))
        base_loss = learned[self.arms[0]].base_validation_loss
        history = self.profile.history
        return Finetuning(
            adapters,
            chosen,
            reason,
            base_loss,
            list(self.held_out),
            cut,
            dropped,
            same_answer=len(history) > 1 and len({each.output for each in history}) == 1,
            guard=recipe.guard,
        )

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
