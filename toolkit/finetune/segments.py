"""Several people's packed examples as one sequence: a segment a person, and no token sees another's segment.

A segment is the prefix tree that `toolkit.finetune.packing` computes alone, and the segments of several
people are a forest: attention over it (`toolkit.finetune.attention`) skips what is hidden, other people
included. People who all begin with the same instruction have a beginning each all the same: it passes through
each one's own adapter, so from the first layer on it is different for each.

Two layouts. On a CPU the segments follow each other without padding, and adapters are computed segment by
segment. Elsewhere they are padded to one length, so that the adapters are one batched product.
"""

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.finetune.attention import layout_of, tree_attention
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.packing import forward_logits, masks_by_kind
from toolkit.finetune.tree import Tree, packed_length, tree_of


@dataclass(frozen=True)
class Segment:
    """One person's examples in a forward pass; `slot` says whose adapter they pass through."""

    slot: int
    examples: tuple[EncodedExample, ...]

    @property
    def length(self) -> int:
        """Tokens of the packed examples."""
        return packed_length(self.examples)


@dataclass(frozen=True)
class Layout:
    """Where each segment lies in the sequence.

    `padded`: all have one length, and the sequence can be seen as [segments, length].
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    padded: bool

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(slot, first row, row behind the last) of every segment."""
        start = 0
        for slot, length in zip(self.slots, self.lengths, strict=True):
            yield slot, start, start + length
            start += length


_LAYOUT: ContextVar[Layout | None] = ContextVar("edgeplm_people", default=None)


def current_layout() -> Layout:
    """The layout of the forward pass that is under way; RuntimeError outside of one."""
    layout = _LAYOUT.get()
    if layout is None:
        raise RuntimeError("people's layers are computed within people_losses only")
    return layout


def people_losses(model: Any, segments: Sequence[Segment], *, padded: bool | None = None) -> torch.Tensor:
    """Each segment's weighted sum of the negative log-likelihood of its answer tokens, in nats: [segments].

    `padded` chooses the layout; by default it follows from the device. Raises NotImplementedError for a model
    whose attention cannot be exchanged.
    """
    device = model.device
    padded = device.type != "cpu" if padded is None else padded
    trees = [tree_of(segment.examples) for segment in segments]
    longest = max(len(tree.ids) for tree in trees)
    lengths = tuple(longest if padded else len(tree.ids) for tree in trees)
    forest = _forest(trees, lengths)
    # Sorted, and each once: two examples may predict from the same place.
    rows, each = torch.tensor(forest.rows, device=device).unique(return_inverse=True)
    nothing = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=device)  # a mask that is not looked at
    token = _LAYOUT.set(Layout(tuple(segment.slot for segment in segments), lengths, padded))
    try:
        with tree_attention(model, layout_of(forest, device)):
            logits = forward_logits(model, forest, rows, masks_by_kind(model, nothing, nothing))
    finally:
        _LAYOUT.reset(token)
    return _segment_losses(logits[0, each], segments)


def check_samples(segments: Sequence[Segment]) -> list[Segment]:
    """What tells whether a model can compute segments: each one's two longest examples.

    One example alone is never packed, so it is tried beside itself.
    """
    samples = []
    for segment in segments:
        examples = segment.examples if len(segment.examples) > 1 else segment.examples * 2
        samples.append(Segment(segment.slot, tuple(sorted(examples, key=len)[-2:])))
    return samples


def _forest(trees: Sequence[Tree], lengths: Sequence[int]) -> Tree:
    """The trees one behind the other; padding up to `lengths` is a run of its own, which nobody sees."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    rows: list[int] = []
    starts: list[int] = []
    for tree, length in zip(trees, lengths, strict=True):
        start = len(ids)
        missing = length - len(tree.ids)
        rows += [start + row for row in tree.rows]
        starts += [start + each for each in tree.starts] + ([start + len(tree.ids)] if missing else [])
        ids += [*tree.ids, *[0] * missing]
        positions += [*tree.positions, *range(missing)]
        ends += [*(start + end for end in tree.ends), *[start + length] * missing]
    return Tree(tuple(ids), tuple(positions), tuple(ends), tuple(rows), tuple(starts))


def _segment_losses(logits: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
    targets: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    for index, segment in enumerate(segments):
        for example in segment.examples:
            targets += example.answer
            weights += [example.weight] * len(example.answer)
            owners += [index] * len(example.answer)
    device = logits.device
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.nn.functional.cross_entropy(
        precise, torch.tensor(targets, device=device), reduction="none"
    )
    weighted = losses * torch.tensor(weights, device=device)
    sums = torch.zeros(len(segments), device=device, dtype=weighted.dtype)
    return sums.index_add(0, torch.tensor(owners, device=device), weighted)
