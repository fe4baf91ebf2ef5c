"""Adapters that are trained to be looked at and not to be kept: on more or fewer synthetic examples."""

from collections.abc import Callable, Sequence
from typing import Any

from toolkit.finetune import open_chat
from toolkit.finetune.draft import real_examples
from toolkit.finetune.learner import Training, step_count
from toolkit.finetune.train import attach_adapter, train
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task


class Trials:
    """One person's real examples, split and encoded as `toolkit.finetune.finetune` does, to train on again.

    `training` and `held_out` are the parts of the history; `real` and `validation` the same, encoded.
    """

    def __init__(
        self,
        base: BaseModel,
        profile: Profile,
        task: Task,
        recipe: FinetuneRecipe,
        seed: int,
        prepare: Callable[[Any], None] | None = None,
    ) -> None:
        self._prepare = prepare
        self._base, self._profile, self._task, self._recipe, self._seed = base, profile, task, recipe, seed
        self.chat = open_chat(base)
        history = real_examples(profile, task, self.chat, recipe, limit=recipe.max_length, seed=seed)
        self.training, self.held_out = history.training, history.held_out
        self.real, self.validation = history.real, history.validation
        self._encode = history.encode

    def steps(self, synthetic: int) -> int:
        """Optimiser steps of a training beside so many synthetic examples, if it does not stop early."""
        return step_count(self._recipe, len(self.real.examples) + synthetic)

    def untrained(self) -> Any:
        """The base model, prepared for training as `toolkit.finetune.finetune` takes it."""
        model = load_model(self._base)
        if self._prepare:
            self._prepare(model)
        return model

    def train(
        self,
        synthetic: Sequence[Example] = (),
        *,
        progress: Progress = SILENT,
        label: str = "Fine-tuning",
    ) -> tuple[Any, Training]:
        """(model, how it went) of a fresh adapter on the real and the `synthetic` examples."""
        extra = self._encode(synthetic, weight=self._recipe.synthetic_weight)
        model = attach_adapter(self.untrained(), self._recipe, self._seed)
        examples = (*self.real.examples, *extra.examples)
        training = train(
            model,
            examples,
            self._recipe,
            seed=self._seed,
            validation=self.validation.examples,
            progress=progress,
            label=label,
        )
        return model, training

    def answers(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        progress: Progress = SILENT,
        label: str = "Answering",
    ) -> list[str]:
        """Greedy answers, as long as the person's own at most."""
        from toolkit.finetune.evaluate import greedy_answers
        from toolkit.quality import answer_limit

        limit = answer_limit(self._task, self.chat, self._profile)
        return greedy_answers(model, self.chat, prompts, max_new_tokens=limit, progress=progress, label=label)
