"""One person's fine-tuning around the training itself: which adapters are trained on what, and the report."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.finetune.encode import Encoded, EncodedExample, encode_history
from toolkit.finetune.result import REAL, SYNTHETIC, Finetuning, TrainedAdapter
from toolkit.profiles import Example, Profile
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task

_SMALLEST_SPLIT = 5  # with fewer examples none is held out


@dataclass(frozen=True)
class RealExamples:
    """A history in its two parts, `training` and `held_out`; `real` and `validation` are the same, encoded.

    `encode` is how further examples are encoded as these are.
    """

    training: list[Example]
    held_out: list[Example]
    real: Encoded
    validation: Encoded
    encode: Callable[..., Encoded]


@dataclass(frozen=True)
class Draft:
    """What is trained, encoded: `arms` are the training examples of each adapter, by its name."""

    profile: Profile
    recipe: FinetuneRecipe
    history: RealExamples
    synthetic: Encoded
    arms: dict[str, tuple[EncodedExample, ...]]

    def report(self, adapters: Sequence[TrainedAdapter], base_loss: float | None) -> Finetuning:
        """The report of these `adapters`; `base_loss` is the base model's on the held-out slice."""
        chosen, reason = choose_adapter(adapters, self.recipe.choose)
        history = self.profile.history
        return Finetuning(
            list(adapters),
            chosen,
            reason,
            base_loss,
            [example.id for example in self.history.held_out],
            self._ids("cut"),
            self._ids("dropped"),
            same_answer=len(history) > 1 and len({each.output for each in history}) == 1,
            guard=self.recipe.guard,
        )

    def _ids(self, what: str) -> list[str]:
        """Ids of the examples that were `cut` or `dropped`, of all parts."""
        parts = (self.history.real, self.history.validation, self.synthetic)
        return [example_id for part in parts for example_id in getattr(part, what)]


def real_examples(
    profile: Profile, task: Task, chat: ChatFormat, recipe: FinetuneRecipe, *, limit: int, seed: int
) -> RealExamples:
    """Split and encode a person's history; `limit` is the longest example, in tokens."""
    training, held_out = split_history(profile.history, recipe.validation, seed)
    # Retrieved from what is trained on alone: the held-out slice must not help to its own answers.
    encode = partial(
        encode_history,
        task=task,
        chat=chat,
        max_length=limit,
        history=training,
        retrieved=recipe.history_in_prompt,
    )
    return RealExamples(training, held_out, encode(training), encode(held_out), encode)


def draft_of(
    profile: Profile,
    synthetic: Sequence[Example],
    task: Task,
    chat: ChatFormat,
    recipe: FinetuneRecipe,
    *,
    limit: int,
    seed: int,
) -> Draft:
    """Split, encode, and decide which adapters to train; EdgePLMError where there is nothing to train on.

    `limit` is the longest example, in tokens.
    """
    history = real_examples(profile, task, chat, recipe, limit=limit, seed=seed)
    real, made = history.real, history.encode(synthetic, weight=recipe.synthetic_weight)
    if not synthetic and recipe.choose == SYNTHETIC:
        raise EdgePLMError(
            "there are no synthetic examples to train on",
            where=f"user {profile.user_id}, finetune.choose",
            mend="Have some written (a dataset's report says why none was kept), or choose `auto` or `real`",
        )
    arms: dict[str, tuple[EncodedExample, ...]] = {}
    if real.examples and recipe.choose != SYNTHETIC:
        arms[REAL] = real.examples
    if made.examples and recipe.choose != REAL:
        arms[SYNTHETIC] = (*real.examples, *made.examples)
    if not arms:
        raise EdgePLMError(
            f"none of the {len(history.training) + len(synthetic)} examples fits {limit} tokens",
            where=f"user {profile.user_id}",
            mend="Raise finetune.max_length",
        )
    return Draft(profile, recipe, history, made, arms)


def split_history(history: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training, held out): a random `share` of the history is held out, in the history's order."""
    count = round(len(history) * share)
    if share == 0 or len(history) < _SMALLEST_SPLIT:
        return list(history), []
    chosen = set(random.Random(seed).sample(range(len(history)), max(1, count)))  # noqa: S311 - a split
    held_out = [example for index, example in enumerate(history) if index in chosen]
    return [example for index, example in enumerate(history) if index not in chosen], held_out


def choose_adapter(adapters: Sequence[TrainedAdapter], choose: str) -> tuple[str, str]:
    """(name, reason) of the adapter that is kept, for the recipe's `finetune.choose`."""
    if len(adapters) == 1:
        only = adapters[0].name
        return only, "the only one asked for" if choose != "auto" else "no synthetic examples to compare with"
    if any(not adapter.validation_losses for adapter in adapters):
        return REAL, "no example was held out to compare on"
    best = min(adapters, key=lambda adapter: min(adapter.validation_losses))
    losses = ", ".join(f"{a.name} {min(a.validation_losses):.3f}" for a in adapters)
    return best.name, f"lowest loss on the held-out slice of the history ({losses})"
