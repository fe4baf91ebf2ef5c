"""How one adapter is computed while it is trained: its numbers as one row, and the loss of some examples.

Three ways, of which `training_layers` takes the fastest that is exact for the model. The layers of
`toolkit.finetune.stacking`, with a stack of one, for plain LoRA on linear layers: their backward pass is
written out. PEFT's own layers on the packed sequence, for everything else that PEFT trains. And these on the
usual padded batch, for architectures that cannot be packed.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.packing import packed_loss, packing_is_exact, padded_loss, passes
from toolkit.finetune.segments import Segment, people_losses
from toolkit.finetune.stacking import Stack, unstackable
from toolkit.finetune.tree import packs


class TrainingLayers(Protocol):
    """An adapter in training: `parameter` is all of its numbers, with the gradient in `.grad`."""

    parameter: torch.nn.Parameter
    packed: bool

    def split(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """Cut a batch into forward passes, whose gradients add up to the batch's."""

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        """Weighted sum of the negative log-likelihood of the answer tokens, in nats."""

    def publish(self) -> None:
        """Put the numbers as they are now into PEFT's own weights."""

    def close(self) -> None:
        """Publish for good, and leave PEFT's model as it was otherwise."""


def training_layers(
    peft_model: Any, examples: Sequence[EncodedExample], tokens_per_pass: int
) -> TrainingLayers:
    """The fastest way to train the adapter on `peft_model` that is exact for its architecture, tried on
    `examples`."""
    core = peft_model.base_model.model
    by_runs = packing_is_exact(core, examples, by_runs=True)
    if by_runs and not unstackable(peft_model):
        return _StackOfOne(peft_model, tokens_per_pass)
    return _OwnLayers(
        peft_model, tokens_per_pass, packed=by_runs or packing_is_exact(core, examples), by_runs=by_runs
    )


class _StackOfOne:
    """The layers in which several people are trained at once, for one."""

    packed = True

    def __init__(self, peft_model: Any, tokens_per_pass: int) -> None:
        self._core = peft_model.base_model.model
        self._stack = Stack(peft_model, 1)
        self._stack.reset(0)
        self.parameter = torch.nn.Parameter(self._stack.values[0])
        self.parameter.grad = self._stack.grads[0]
        self.split = partial(packs, token_budget=tokens_per_pass)

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        with self._stack.installed():
            return people_losses(self._core, [Segment(0, tuple(examples))])[0]

    def publish(self) -> None:
        self._stack.show(self.parameter.detach())

    def close(self) -> None:
        self.publish()  # nothing else is left on the model between passes


class _OwnLayers:
    """PEFT's layers; their weights are views of the row while they are trained."""

    def __init__(self, peft_model: Any, tokens_per_pass: int, *, packed: bool, by_runs: bool) -> None:
        self._core, self.packed = peft_model.base_model.model, packed
        self._loss: Callable[..., torch.Tensor] = (
            partial(packed_loss, by_runs=by_runs) if packed else padded_loss
        )
        self.split = partial(passes, self._core, token_budget=tokens_per_pass, packed=packed, by_runs=by_runs)
        self._own = [each for each in peft_model.parameters() if each.requires_grad]
        self.parameter = torch.nn.Parameter(torch.cat([each.detach().reshape(-1) for each in self._own]))
        self.parameter.grad = torch.zeros_like(self.parameter)
        sizes = [each.numel() for each in self._own]
        rows = (self.parameter.detach().split(sizes), self.parameter.grad.split(sizes))
        for each, values, gradient in zip(self._own, *rows, strict=True):
            each.data, each.grad = values.view_as(each), gradient.view_as(each)

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        return self._loss(self._core, examples)

    def publish(self) -> None:
        """They are the same numbers already."""

    def close(self) -> None:
        for each in self._own:
            each.data, each.grad = each.detach().clone(), None
