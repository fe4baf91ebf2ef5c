"""The loss of single examples, and how it goes while an adapter is trained on others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.packing import (
    packed_logits,
    packing_is_exact,
    padded_logits,
    passes,
    token_losses,
)
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.finetune.encode import Encoded
    from toolkit.profiles import Example

_TOKEN_BUDGET = 1024  # tokens in one forward pass


@torch.no_grad()
def example_losses(
    model: Any,
    examples: Sequence[EncodedExample],
    *,
    token_budget: int = _TOKEN_BUDGET,
    progress: Progress = SILENT,
    label: str = "Scoring",
) -> list[float]:
    """Each example's mean negative log-likelihood of an answer token, in nats; in evaluation mode, packed
    where the model can."""
    if not examples:
        return []
    by_runs = packing_is_exact(model, examples, by_runs=True)
    packed = by_runs or packing_is_exact(model, examples)
    found: dict[int, float] = {}  # by identity: two examples may be equal
    with progress.step(label, total=len(examples), unit="examples") as advance:
        for each, losses in _answers(model, examples, token_budget, packed=packed, by_runs=by_runs):
            found[id(each)] = float(losses.mean())
            advance(1)
    return [found[id(each)] for each in examples]


@torch.no_grad()
def mean_loss(
    model: Any,
    examples: Sequence[EncodedExample],
    *,
    packed: bool = True,
    by_runs: bool = False,
    token_budget: int = _TOKEN_BUDGET,
) -> float:
    """Mean negative log-likelihood of the answer tokens of all `examples`, in nats, by weight."""
    found = _answers(model, examples, token_budget, packed=packed, by_runs=by_runs)
    total = sum(each.weight * float(losses.sum()) for each, losses in found)
    return total / sum(len(e.answer) * e.weight for e in examples)


def _answers(
    model: Any, examples: Sequence[EncodedExample], token_budget: int, *, packed: bool, by_runs: bool
) -> Iterator[tuple[EncodedExample, torch.Tensor]]:
    """Each example, as they are computed, and its answer tokens' losses; in evaluation mode."""
    training = model.training
    model.eval()
    for part in passes(model, examples, token_budget, packed=packed, by_runs=by_runs):
        logits = packed_logits(model, part, by_runs=by_runs) if packed else padded_logits(model, part)
        losses = token_losses(logits, part).split([len(each.answer) for each in part])
        yield from zip(part, losses, strict=True)
    model.train(training)


@dataclass
class Watch:
    """Examples that a training does not train on, and their losses after each of its epochs.

    `losses` (of `examples`) and `held_out` (of the slice of the history that the training holds out): id ->
    one mean loss an epoch, in nats a token. An example that is too long for the training has none.
    """

    examples: Sequence["Example"]
    losses: dict[str, list[float]] = field(default_factory=dict)
    held_out: dict[str, list[float]] = field(default_factory=dict)

    def follow(
        self, encoded: "Encoded", held_out: Sequence[EncodedExample], token_budget: int
    ) -> Callable[[Any], None]:
        """What the training calls after each epoch with its model."""
        own = encoded.examples

        def after_epoch(model: Any) -> None:
            found = example_losses(model, [*own, *held_out], token_budget=token_budget)
            parts = ((self.losses, own, found[: len(own)]), (self.held_out, held_out, found[len(own) :]))
            for record, examples, losses in parts:
                for example, loss in zip(examples, losses, strict=True):
                    record.setdefault(example.id, []).append(loss)

        return after_epoch
