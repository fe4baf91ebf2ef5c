"""Shared-prefix packing: the beginning that all examples share is computed once a step, not once an example.

A batch becomes one sequence: the common prefix, then each example's own tokens. Position ids restart after
the prefix, and the attention mask lets a token see the prefix and its own example only, so every example is
computed exactly as if it stood alone. Logits are computed only where the loss needs them, which over a
vocabulary of 49,152 is most of a short example's cost. Exactness against the padded batch is tested
(loss and gradients) for every architecture that we test.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from toolkit.finetune.encode import EncodedExample


def common_prefix(examples: Sequence[EncodedExample]) -> int:
    """How many first prompt tokens all examples share; each keeps at least one prompt token of its own."""
    first, last = min(e.prompt for e in examples), max(e.prompt for e in examples)
    longest = max(0, min(len(example.prompt) for example in examples) - 1)
    return next((i for i in range(longest) if first[i] != last[i]), longest)


def packs(examples: Sequence[EncodedExample], token_budget: int) -> Iterator[list[EncodedExample]]:
    """Split a batch so that no packed sequence is longer than `token_budget` (or one example)."""
    pack: list[EncodedExample] = []
    used = 0
    for example in examples:
        if pack and used + len(example) > token_budget:
            yield pack
            pack, used = [], 0
        pack.append(example)
        used += len(example)
    if pack:
        yield pack


def packed_loss(model: Any, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """Weighted sum (not mean) of the negative log-likelihood of all answer tokens, in nats."""
    shared = common_prefix(examples)
    ids, positions = list(examples[0].prompt[:shared]), list(range(shared))
    owner = [-1] * shared
    rows: list[int] = []
    for index, example in enumerate(examples):
        own = [*example.prompt[shared:], *example.answer]
        first_answer = len(ids) + len(example.prompt) - shared
        rows += range(first_answer - 1, first_answer - 1 + len(example.answer))
        ids += own
        positions += range(shared, shared + len(own))
        owner += [index] * len(own)
    device = model.device
    owners = torch.tensor(owner, device=device)
    place = torch.tensor(positions, device=device)
    order = torch.arange(len(ids), device=device)
    visible = (order[:, None] >= order) & ((owners == -1) | (owners[:, None] == owners))
    logits = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=place[None],
        attention_mask=_masks(model, place, visible),
        use_cache=False,
        logits_to_keep=torch.tensor(rows, device=device),
    ).logits
    return _answer_loss(logits[0], examples)


def padded_loss(model: Any, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """The same figure by the usual padded batch: the reference, and the way for models that cannot pack."""
    longest = max(len(example) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    where: list[tuple[int, int]] = []
    for row, example in enumerate(examples):
        ids[row, : len(example)] = torch.tensor([*example.prompt, *example.answer])
        mask[row, : len(example)] = 1
        start = len(example.prompt) - 1
        where += [(row, start + step) for step in range(len(example.answer))]
    rows, columns = torch.tensor(where, device=model.device).T
    kept, columns = columns.unique(return_inverse=True)
    logits = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    return _answer_loss(logits[rows, columns], examples)


def packing_is_exact(model: Any, examples: Sequence[EncodedExample], tolerance: float = 1e-4) -> bool:
    """Whether this model computes the packed sequence as it does the padded batch, tried on the two longest.

    Architectures with state that runs along the sequence (state-space layers, convolutions) do not.
    """
    # One example alone is never packed, so it is tried beside itself.
    sample = sorted(examples if len(examples) > 1 else [*examples, *examples], key=len)[-2:]
    training = model.training
    model.eval()  # dropout would tell the two apart
    try:
        with torch.no_grad():
            packed, padded = packed_loss(model, sample), padded_loss(model, sample)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return False
    finally:
        model.train(training)
    return bool(torch.isclose(packed, padded, rtol=tolerance, atol=tolerance))


def _masks(model: Any, positions: torch.Tensor, visible: torch.Tensor) -> Any:
    """Additive masks [1, 1, length, length]; a mapping for models with several kinds of attention."""
    config = model.config.get_text_config()
    dtype = model.dtype
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return zeros.masked_fill(~allowed, torch.finfo(dtype).min)[None, None]

    near = visible & (positions[:, None] - positions < window) if window else visible
    if not kinds:
        return additive(near)
    masks = {"full_attention": additive(visible)}
    if "sliding_attention" in kinds:
        masks["sliding_attention"] = additive(near)
    return masks


def _answer_loss(logits: torch.Tensor, examples: Sequence[EncodedExample]) -> torch.Tensor:
    targets = [token for example in examples for token in example.answer]
    weights = [example.weight for example in examples for _ in example.answer]
    losses = cross_entropy(logits.float(), torch.tensor(targets, device=logits.device), reduction="none")
    return (losses * torch.tensor(weights, device=logits.device)).sum()
