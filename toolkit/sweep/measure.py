"""One adapter of a sweep: trained, and measured on the person's validation slice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolkit.profiles import Example, Profile
from toolkit.progress import Advance, Progress
from toolkit.recipe import Recipe
from toolkit.sweep.result import Arm
from toolkit.tasks import Task

if TYPE_CHECKING:
    from toolkit.finetune.trial import Trials


def evaluations(trials: "Trials", task: Task, queries: int) -> int:
    """Examples that `measure` evaluates for each adapter; `queries` of them held-out ones."""
    validation = len(trials.validation.examples)
    return validation + (validation if task.history_has_answers else 0) + queries


def measure(
    trials: "Trials",
    recipe: Recipe,
    profile: Profile,
    task: Task,
    synthetic: Sequence[Example] | None,
    *,
    with_queries: bool,
    progress: Progress,
) -> Arm:
    """An adapter on the real and the `synthetic` examples, or with None the base model, on the validation
    slice; `with_queries` on the held-out queries too. Its ratios are the caller's to fill in."""
    from toolkit.finetune.scoring import example_losses
    from toolkit.quality import prompt_limit, query_prompts, scored

    model, training = trials.untrained(), None
    if synthetic is not None:
        model, training = trials.train(synthetic, progress=progress)
    validation = trials.validation.examples
    losses = example_losses(model, validation, progress=progress)
    metrics: dict[str, float] = {}
    if task.history_has_answers:
        by_id = {example.id: example for example in trials.held_out}
        answers = trials.answers(model, [example.prompt for example in validation], progress=progress)
        metrics = scored("", answers, task, [by_id[example.id] for example in validation]).metrics
    on_queries: dict[str, float] = {}
    if with_queries:
        retrieved = recipe.finetune.history_in_prompt if synthetic is not None else 0
        prompts = query_prompts(
            task,
            trials.chat,
            profile.queries,
            prompt_limit(task, recipe.export.context_length),
            history=profile.history,
            retrieved=retrieved,
        )
        answers = trials.answers(model, prompts, progress=progress)
        on_queries = scored("", answers, task, profile.queries).metrics
    return Arm(
        ratio=0.0,
        synthetic=len(synthetic or ()),
        losses=losses,
        metrics=metrics,
        query_metrics=on_queries,
        steps=training.steps if training else 0,
        best_epoch=training.best_epoch if training else None,
    )


class Part:
    """A part of a larger step: its own steps move the larger one, and `finish` adds what was left out, as a
    training that stopped early leaves."""

    def __init__(self, advance: Advance, effort: float) -> None:
        self._advance, self._left = advance, effort

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        """A step without a bar of its own."""
        yield self._move

    def finish(self) -> None:
        """Account for the whole part."""
        self._move(self._left)

    def _move(self, amount: float) -> None:
        amount = min(amount, self._left)
        self._left -= amount
        self._advance(amount)
