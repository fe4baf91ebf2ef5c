"""One person's training as a conversation: it says what to compute next, and is told the losses.

The steps are those of `toolkit.finetune.train.train`; what differs is who computes them, so that the passes
of several people can be one.
"""

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.train import Training, diverged, learning_rate_factor
from toolkit.finetune.tree import packs
from toolkit.recipe import FinetuneRecipe


@dataclass(frozen=True)
class Ask:
    """A pack whose loss is wanted; with `tokens` also the gradient of the loss divided by that number."""

    examples: tuple[EncodedExample, ...]
    tokens: int | None = None


@dataclass(frozen=True)
class Learned:
    """A finished training: its adapter's numbers, and the loss on the held-out slice before it."""

    training: Training
    examples: int
    values: torch.Tensor
    base_validation_loss: float | None


def learn(
    parameter: torch.nn.Parameter,
    examples: Sequence[EncodedExample],
    validation: Sequence[EncodedExample],
    recipe: FinetuneRecipe,
    seed: int,
) -> Generator[Ask, float, Learned]:
    """Train `parameter`, all of an adapter's numbers in one row with the gradient in `.grad`.

    Raises EdgePLMError if the loss is not a number.
    """
    # One row rather than hundreds of matrices: one kernel, fused, in place of several for each of them.
    optimizer = torch.optim.AdamW(
        [parameter], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(recipe, steps))
    shuffler = random.Random(seed)  # noqa: S311 - order of examples, nothing secret
    order = list(examples)
    base_loss = (yield from _mean_loss(validation, recipe)) if validation else None
    losses: list[float] = []
    validation_losses: list[float] = []
    best: tuple[float, int, torch.Tensor] | None = None
    tokens = 0
    for epoch in range(recipe.epochs):
        shuffler.shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            count = sum(len(example.answer) for example in batch)
            total = 0.0
            for pack in packs(batch, recipe.tokens_per_pass):
                total += (yield Ask(tuple(pack), count)) / count
            norm = torch.nn.utils.clip_grad_norm_([parameter], recipe.max_grad_norm)
            if not (math.isfinite(total) and math.isfinite(norm.item())):
                raise diverged(f"the loss is no longer a number at step {len(losses) + 1} of {steps}", batch)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=False)  # the gradient is a row of everybody's
            losses.append(total * count / sum(len(e.answer) * e.weight for e in batch))
            tokens += count
        if validation:
            held_out = yield from _mean_loss(validation, recipe)
            if not math.isfinite(held_out):
                raise diverged(
                    f"the validation loss is no longer a number after epoch {epoch + 1}", validation
                )
            validation_losses.append(held_out)
            if best is None or held_out < best[0]:
                best = (held_out, epoch, parameter.detach().clone())
            elif recipe.patience and epoch - best[1] >= recipe.patience:
                break
    values = best[2] if best else parameter.detach().clone()
    best_epoch = best[1] + 1 if best else None
    training = Training(losses, validation_losses, len(losses), tokens, True, best_epoch)
    return Learned(training, len(examples), values, base_loss)


def _mean_loss(examples: Sequence[EncodedExample], recipe: FinetuneRecipe) -> Generator[Ask, float, float]:
    total = 0.0
    for pack in packs(examples, recipe.tokens_per_pass):
        total += yield Ask(tuple(pack))
    return total / sum(len(e.answer) * e.weight for e in examples)
