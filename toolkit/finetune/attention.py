"""Attention over a prefix tree without the pairs that its mask would hide.

A tree's tokens lie in runs without a fork. A run sees the runs above it and itself, so its attention is one
call of scaled_dot_product_attention over just those; with a mask over the whole sequence most of the work
would be on hidden pairs. It is registered with transformers and used for models that call its attention
functions; `toolkit.finetune.packing` tries it out on each model before it is trusted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from toolkit.finetune.tree import Tree

_NAME = "edgeplm_tree"
# What some architectures' attention does besides; to be ignored by none.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass
class Layout:
    """A tree for attention: the length of each run, the runs that each one sees (itself last), and every
    token's depth.

    Masks are made by the first attention layer that is computed with it and kept for the others; they are
    additive, so that none makes them out of booleans again.
    """

    lengths: list[int]
    seen: list[list[int]]
    depths: torch.Tensor
    _masks: dict[tuple[int | None, torch.dtype], list[torch.Tensor | None]] = field(default_factory=dict)

    def masks(self, window: int | None, dtype: torch.dtype) -> list[torch.Tensor | None]:
        """Each run's mask [run, seen]; None where causal order is all there is to it."""
        key = (window, dtype)
        if key not in self._masks:
            self._masks[key] = [self._mask(run, window, dtype) for run in range(len(self.lengths))]
        return self._masks[key]

    def _mask(self, run: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        seen, depths = self.seen[run], self.depths.split(self.lengths)
        at = depths[run]
        if len(seen) == 1 and not (window and len(at) > window):
            return None
        # Depths tell who is above whom: what a run sees is one path.
        towards = torch.cat([depths[each] for each in seen])
        hidden = at[:, None] < towards
        if window:
            hidden = hidden | (at[:, None] - towards >= window)
        zeros = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return zeros.masked_fill_(hidden, float("-inf"))


_LAYOUT: ContextVar[Layout] = ContextVar("layout")


def layout_of(tree: Tree, device: torch.device) -> Layout:
    """Where `tree`'s runs are."""
    stops = [*tree.starts[1:], len(tree.ids)]
    seen = [
        [*(above for above in range(run) if tree.ends[tree.starts[above]] > start), run]
        for run, start in enumerate(tree.starts)
    ]
    lengths = [stop - start for start, stop in zip(tree.starts, stops, strict=True)]
    return Layout(lengths, seen, torch.tensor(tree.positions, device=device))


@contextmanager
def tree_attention(model: Any, layout: Layout) -> Iterator[None]:
    """Let `model` attend over the tree of `layout` until the block ends; NotImplementedError if it cannot."""
    from transformers import AttentionInterface, AttentionMaskInterface

    before = getattr(model.config, "_attn_implementation", None)
    if before != "sdpa" or not hasattr(model, "set_attn_implementation"):
        raise NotImplementedError(f"attention of the kind {before}")
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, lambda *given, **more: None)
    token = _LAYOUT.set(layout)
    try:
        model.set_attn_implementation(_NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        _LAYOUT.reset(token)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: `query` [1, heads, length, width], result [1, length, heads, width]."""
    if any(more.get(name) is not None for name in _UNKNOWN):
        raise NotImplementedError("an attention that has more to it")
    layout = _LAYOUT.get()
    # Split once: a slice's gradient would be as long as the whole sequence, for each slice.
    queries, keys, values = (part.split(layout.lengths, dim=2) for part in (query, key, value))
    masks = layout.masks(sliding_window, query.dtype)
    found = [
        scaled_dot_product_attention(
            queries[run],
            _joined(keys, seen),
            _joined(values, seen),
            attn_mask=masks[run],
            is_causal=masks[run] is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        for run, seen in enumerate(layout.seen)
    ]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _joined(parts: Sequence[torch.Tensor], seen: Sequence[int]) -> torch.Tensor:
    return torch.cat([parts[each] for each in seen], dim=2) if len(seen) > 1 else parts[seen[0]]
