"""A training as a conversation: it says which losses and gradients it needs next, and is told the losses.

Who computes them is another matter: `toolkit.finetune.train` for one person, `toolkit.finetune.together` for
several at once, each through whatever layers are fastest for the model.
"""

import math
import random
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from toolkit.errors import TrainingError
from toolkit.finetune.encode import EncodedExample
from toolkit.recipe import FinetuneRecipe

Split = Callable[[Sequence[EncodedExample]], Iterable[Sequence[EncodedExample]]]


@dataclass(frozen=True)
class Ask:
    """Examples whose loss is wanted; with `tokens` also the gradient of the loss divided by that number."""

    examples: tuple[EncodedExample, ...]
    tokens: int | None = None


@dataclass(frozen=True)
class Training:
    """How a training went: losses are means over answer tokens, in nats.

    `base_validation_loss` is that of the validation examples before the first step, where it was measured.
    """

    step_losses: list[float]
    validation_losses: list[float] = field(default_factory=list)
    steps: int = 0
    packed: bool = True
    best_epoch: int | None = None
    base_validation_loss: float | None = None


def learn(
    parameter: torch.nn.Parameter,
    examples: Sequence[EncodedExample],
    validation: Sequence[EncodedExample],
    recipe: FinetuneRecipe,
    seed: int,
    *,
    split: Split,
    measure_base: bool = False,
    after_step: Callable[[], None] = lambda: None,
    after_epoch: Callable[[], None] = lambda: None,
) -> Generator[Ask, float, Training]:
    """Train `parameter`, all of an adapter's numbers in one row with the gradient in `.grad`, with AdamW.

    With `validation` examples the values of the epoch with the lowest validation loss are kept, and the
    training ends once `recipe.patience` epochs in a row were no better. `split` cuts a batch into what is
    asked for at a time. `measure_base`: the loss on `validation` before the first step is wanted too. Raises
    TrainingError if a loss is not a number, after putting the last good values back.
    """
    # One row rather than hundreds of matrices: one kernel, fused, in place of several for each of them.
    optimizer = torch.optim.AdamW(
        [parameter], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = step_count(recipe, len(examples))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(recipe, steps))
    shuffler = random.Random(seed)  # noqa: S311 - order of examples, nothing secret
    order = list(examples)
    base_loss = (yield from _mean_loss(validation, split)) if validation and measure_base else None
    losses: list[float] = []
    validation_losses: list[float] = []
    best: tuple[float, int, torch.Tensor] | None = None
    values = parameter.detach()  # the same numbers, unseen by autograd
    sound = values.clone()  # the last ones whose loss was a number
    for epoch in range(recipe.epochs):
        shuffler.shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            count = sum(len(example.answer) for example in batch)
            total = 0.0
            for part in split(batch):
                # By the number of tokens, not by their weights, or a batch of light examples would weigh as
                # much as any other.
                total += (yield Ask(tuple(part), count)) / count
            norm = torch.nn.utils.clip_grad_norm_([parameter], recipe.max_grad_norm)
            if not (math.isfinite(total) and math.isfinite(norm.item())):
                values.copy_(best[2] if best else sound)
                raise diverged(f"the loss is no longer a number at step {len(losses) + 1} of {steps}", batch)
            sound.copy_(values)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=False)  # the gradient may be a row of everybody's
            losses.append(total * count / sum(len(e.answer) * e.weight for e in batch))
            after_step()
        after_epoch()
        if validation:
            held_out = yield from _mean_loss(validation, split)
            if not math.isfinite(held_out):
                values.copy_(best[2] if best else sound)
                raise diverged(
                    f"the validation loss is no longer a number after epoch {epoch + 1}", validation
                )
            validation_losses.append(held_out)
            if best is None or held_out < best[0]:
                best = (held_out, epoch, values.clone())
            elif recipe.patience and epoch - best[1] >= recipe.patience:
                break
    if best:
        values.copy_(best[2])
    return Training(
        losses,
        validation_losses,
        len(losses),
        best_epoch=best[1] + 1 if best else None,
        base_validation_loss=base_loss,
    )


def step_count(recipe: FinetuneRecipe, examples: int) -> int:
    """Optimiser steps of a training on so many examples, if it does not stop early."""
    return recipe.epochs * math.ceil(examples / recipe.batch_size)


def learning_rate_factor(recipe: FinetuneRecipe, steps: int) -> Callable[[int], float]:
    """The learning rate at a step (from 0), as a share of its peak: warm-up, then the recipe's schedule.

    No step of a short training is wasted on a rate of 0, neither the first nor the last.
    """
    warmup = max(1, round(recipe.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup or recipe.schedule == "constant":
            return min(1.0, (step + 1) / warmup)
        left = (steps - step) / (steps - warmup + 1)  # 1 at the peak
        return left if recipe.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return factor


def diverged(what: str, examples: Iterable[EncodedExample]) -> TrainingError:
    """The error for a loss that is no longer a number; it names the examples of that step."""
    return TrainingError(
        what,
        where=f"finetune, batch of {', '.join(example.id for example in examples)}",
        mend="Lower finetune.learning_rate, or look at these examples",
    )


def _mean_loss(examples: Sequence[EncodedExample], split: Split) -> Generator[Ask, float, float]:
    total = 0.0
    for part in split(examples):
        total += yield Ask(tuple(part))
    return total / sum(len(e.answer) * e.weight for e in examples)
