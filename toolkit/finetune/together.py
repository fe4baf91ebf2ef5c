"""Trainings of several people in one forward and backward pass on one frozen base.

Each is a training of its own (`toolkit.finetune.learner`): own order of examples, own gradient clipping,
optimiser and schedule, own held-out slice, early stopping and best epoch. The results are equal to those of
one by one up to the rounding of float32. What is shared is the pass through the base: the next batches of all
who are at work are one sequence (`toolkit.finetune.segments`). Whoever is done makes room for the next, so
histories of different lengths leave no gaps.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import torch

from toolkit.errors import EdgePLMError
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.learner import Ask, Training, learn
from toolkit.finetune.packing import padded_loss
from toolkit.finetune.segments import Segment, check_samples, people_losses
from toolkit.finetune.stacking import Stack, unstackable
from toolkit.finetune.tree import packs
from toolkit.recipe import FinetuneRecipe

PASS_TOKENS = 1024  # tokens in one pass of several people; more gain nothing on a CPU and take more memory
_TOLERANCE = 1e-4


class CannotStackError(Exception):
    """Why people's adapters cannot be trained together on this model."""


@dataclass(frozen=True)
class Arm:
    """One adapter to be trained; `person` and `name` say whose and which.

    `measure_base`: as `learn` has it.
    """

    person: str
    name: str
    examples: tuple[EncodedExample, ...]
    validation: tuple[EncodedExample, ...] = ()
    measure_base: bool = False


@dataclass(frozen=True)
class Learned:
    """A finished training, and its adapter's numbers."""

    training: Training
    values: torch.Tensor


@dataclass
class _Running:
    """An arm at work in a slot, and what it waits for."""

    arm: Arm
    slot: int
    work: Generator[Ask, float, Training]
    ask: Ask

    @property
    def segment(self) -> Segment:
        return Segment(self.slot, self.ask.examples)


def train_together(
    peft_model: Any,
    stack: Stack,
    arms: Iterable[Arm],
    recipe: FinetuneRecipe,
    *,
    seed: int,
    padded: bool | None = None,
) -> Iterator[tuple[Arm, Learned | EdgePLMError]]:
    """Train `arms`, as many at once as `stack` has slots; yields each as it ends.

    `arms` is drawn from as slots become free. `padded` chooses the layout of `people_losses`. Raises
    CannotStackError, before anything is trained, for a model that does not compute segments as it does the
    padded batch.
    """
    core = peft_model.base_model.model
    slots = len(stack.values)
    waiting = iter(arms)
    first = list(islice(waiting, slots))
    if not first:
        return
    samples = check_samples([Segment(slot, arm.examples) for slot, arm in enumerate(first[:2])])
    peft_model.eval()
    alone = _alone(core, samples)
    with stack.installed():
        together = _Passes(peft_model, padded)
        _check(together, stack, samples, alone)
        waiting = chain(first, waiting)
        free, running = list(range(slots)), list[_Running]()
        while True:
            for arm in islice(waiting, len(free)):
                running.append(_start(arm, free.pop(), stack, recipe, seed))
            if not running:
                return
            losses = together.losses(running)
            still = []
            for each, loss in zip(running, losses, strict=True):
                try:
                    each.ask = each.work.send(loss)
                    still.append(each)
                except StopIteration as done:
                    free.append(each.slot)
                    yield each.arm, Learned(done.value, stack.values[each.slot].clone())
                except EdgePLMError as error:
                    free.append(each.slot)
                    yield each.arm, error
            running = still


def _start(arm: Arm, slot: int, stack: Stack, recipe: FinetuneRecipe, seed: int) -> _Running:
    stack.reset(slot)
    parameter = torch.nn.Parameter(stack.values[slot])
    parameter.grad = stack.grads[slot]
    split = partial(packs, token_budget=recipe.tokens_per_pass)
    work = learn(
        parameter, arm.examples, arm.validation, recipe, seed, split=split, measure_base=arm.measure_base
    )
    return _Running(arm, slot, work, next(work))


class _Passes:
    """Forward and backward passes of what several people ask for, no more than `PASS_TOKENS` in one."""

    def __init__(self, peft_model: Any, padded: bool | None) -> None:
        self._peft_model, self._core, self._padded = peft_model, peft_model.base_model.model, padded

    def losses(self, running: Sequence[_Running]) -> list[float]:
        """The loss that each waits for, in their order; gradients are then in the stack."""
        found: dict[int, float] = {}
        for training in (True, False):
            asked = [each for each in running if (each.ask.tokens is not None) == training]
            if asked:
                self._peft_model.train(training)
            for chunk in _chunks(asked):
                losses = self.forward([each.segment for each in chunk], training)
                if training:
                    counts = torch.tensor(
                        [float(each.ask.tokens or 1) for each in chunk], device=losses.device
                    )
                    (losses / counts).sum().backward()
                found |= zip((each.slot for each in chunk), losses.tolist(), strict=True)
        return [found[each.slot] for each in running]

    def forward(self, segments: Sequence[Segment], gradients: bool) -> torch.Tensor:
        """Each segment's summed loss."""
        with torch.set_grad_enabled(gradients):
            return people_losses(self._core, segments, padded=self._padded)


def _chunks(running: Sequence[_Running]) -> Iterator[list[_Running]]:
    """Those who go into one pass; similar lengths beside each other, so that padding them costs little."""
    chunk: list[_Running] = []
    used = 0
    for each in sorted(running, key=lambda each: each.segment.length):
        if chunk and used + each.segment.length > PASS_TOKENS:
            yield chunk
            chunk, used = [], 0
        chunk.append(each)
        used += each.segment.length
    if chunk:
        yield chunk


def new_stack(peft_model: Any, slots: int) -> Stack:
    """Room for `slots` adapters like `peft_model`'s; CannotStackError for one that is not plain LoRA."""
    if reason := unstackable(peft_model):
        raise CannotStackError(reason)
    return Stack(peft_model, slots)


def _alone(core: Any, samples: Sequence[Segment]) -> torch.Tensor:
    """The samples' losses by the padded batch; the adapters do nothing yet."""
    with torch.no_grad():
        return torch.stack([padded_loss(core, sample.examples) for sample in samples])


def _check(together: _Passes, stack: Stack, samples: Sequence[Segment], alone: torch.Tensor) -> None:
    """CannotStackError if the model computes the samples' segments otherwise than alone.

    Architectures with state that runs along the sequence (state-space layers, convolutions) do.
    """
    for sample in samples:
        stack.reset(sample.slot)
    try:
        found = together.forward(samples, gradients=False)
    except NotImplementedError as error:
        raise CannotStackError(str(error)) from error
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise CannotStackError(f"packing fails: {error}") from error
    if not torch.allclose(found, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise CannotStackError("packing is not exact on this architecture")
