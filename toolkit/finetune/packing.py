"""Shared-prefix packing: what several examples begin with is computed once a pass, not once an example.

A batch becomes one sequence, its prefix tree (`toolkit.finetune.tree`): a token's position id is its depth,
and the attention mask lets it see its ancestors only, so that every example is computed exactly as if it
stood alone. Logits are computed only where the loss needs them, which over a vocabulary of 49,152 is most of
a short example's cost. Exactness against the padded batch is tested (loss and gradients) for every
architecture that we test.

Attention skips the hidden pairs where the model allows it (`toolkit.finetune.attention`); else the mask goes
to PyTorch's scaled_dot_product_attention, and packs are kept as small as sharing allows. flex_attention is no
way: it has no backward pass on the CPU (PyTorch 2.13).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from toolkit.finetune.attention import layout_of, tree_attention
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.tree import Cost, Tree, packs, tree_of

_TRIED = 16  # prompt tokens, beyond the sliding window, on which exactness is tried
_PASS_OVERHEAD = 40  # tokens; measured on SmolLM2-135M with one thread
_ATTENTION_EFFORT = 1.5  # how much longer an operation of attention takes than one of a matrix product


def passes(
    model: Any,
    examples: Sequence[EncodedExample],
    token_budget: int,
    *,
    packed: bool,
    by_runs: bool = False,
) -> Iterator[list[EncodedExample]]:
    """Split a batch into forward passes of at most `token_budget` tokens each (or one example), as they are
    computed: after sharing if `packed`, else with the padding. The gradients of the passes add up to the
    batch's."""
    if packed:
        # Where nothing hidden is computed, joining never costs more.
        yield from packs(examples, token_budget, Cost() if by_runs else packing_cost(model))
        return
    batch: list[EncodedExample] = []
    for example in sorted(examples, key=len):  # so that little is padded
        if batch and (len(batch) + 1) * len(example) > token_budget:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def packing_cost(model: Any) -> Cost:
    """What attention over hidden pairs costs this model, against its linear layers."""
    config = model.config.get_text_config()
    try:
        heads, layers = config.num_attention_heads, config.num_hidden_layers
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
    except AttributeError:
        return Cost()
    linear = linear_weights(model)
    # 4 operations a pair, head and channel (scores, and their product with the values), 2 a weight.
    pair = 2 * heads * width * layers / linear if linear else 0.0
    return Cost(_ATTENTION_EFFORT * pair, _PASS_OVERHEAD)


def linear_weights(model: Any) -> int:
    """Weights of the linear layers, the output head left out."""
    head = model.get_output_embeddings()
    return sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )


def packed_loss(model: Any, examples: Sequence[EncodedExample], *, by_runs: bool = False) -> torch.Tensor:
    """Weighted sum (not mean) of the negative log-likelihood of all answer tokens, in nats.

    `by_runs`: attention skips what the mask would hide; NotImplementedError for a model that cannot.
    """
    return _answer_loss(packed_logits(model, examples, by_runs=by_runs), examples)


def padded_loss(model: Any, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """The same figure by the usual padded batch: the reference, and the way for models that cannot pack."""
    return _answer_loss(padded_logits(model, examples), examples)


def packed_logits(model: Any, examples: Sequence[EncodedExample], *, by_runs: bool = False) -> torch.Tensor:
    """What predicts the answer tokens, of one example after the other: [answer tokens, vocabulary]."""
    tree, device = tree_of(examples), model.device
    # Sorted, and each once: two examples may predict from the same place.
    rows, each = torch.tensor(tree.rows, device=device).unique(return_inverse=True)
    if by_runs:
        with tree_attention(model, layout_of(tree, device)):
            # A mask that is there already is not made; it is not looked at.
            nothing = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=device)
            logits = forward_logits(model, tree, rows, masks_by_kind(model, nothing, nothing))
    else:
        logits = forward_logits(model, tree, rows, _masks(model, tree))
    return logits[0, each]


def padded_logits(model: Any, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """The same by the usual padded batch."""
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
    logits: torch.Tensor = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    return logits[rows, columns]


def token_losses(logits: torch.Tensor, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """The negative log-likelihood of each answer token, in nats, unweighted: [answer tokens]."""
    targets = [token for example in examples for token in example.answer]
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(precise, torch.tensor(targets, device=logits.device), reduction="none")


def packing_is_exact(
    model: Any, examples: Sequence[EncodedExample], tolerance: float = 1e-4, *, by_runs: bool = False
) -> bool:
    """Whether this model computes the packed sequence as it does the padded batch, tried on two of them.

    Architectures with state that runs along the sequence (state-space layers, convolutions) do not.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    sample = [_last(example, window + _TRIED) for example in sorted(examples, key=len)[-2:]]
    # One that leaves the longest half-way, so that there is a fork whatever the examples are.
    half = sample[-1].prompt[: (len(sample[-1].prompt) + 1) // 2]
    sample.append(replace(sample[-1], prompt=(*half, *half)))
    training = model.training
    model.eval()  # dropout would tell the two apart
    try:
        with torch.no_grad():
            packed = packed_loss(model, sample, by_runs=by_runs)
            padded = padded_loss(model, sample)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return False
    finally:
        model.train(training)
    return bool(torch.isclose(packed, padded, rtol=tolerance, atol=tolerance))


def _masks(model: Any, tree: Tree) -> Any:
    """Additive masks [1, 1, length, length]; a mapping for models with several kinds of attention."""
    positions, ends = (torch.tensor(each, device=model.device) for each in (tree.positions, tree.ends))
    order = torch.arange(len(tree.ids), device=model.device)
    visible = (order[:, None] >= order) & (order[:, None] < ends)
    window, dtype = getattr(model.config.get_text_config(), "sliding_window", None), model.dtype

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return zeros.masked_fill(~allowed, torch.finfo(dtype).min)[None, None]

    near = visible & (positions[:, None] - positions < window) if window else visible
    return masks_by_kind(model, additive(visible), additive(near))


def masks_by_kind(model: Any, full: torch.Tensor, near: torch.Tensor) -> Any:
    """The mask as the model takes it: one, or one for each kind of attention that its layers have."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    if not kinds:
        return near
    return {"full_attention": full} | ({"sliding_attention": near} if "sliding_attention" in kinds else {})


def forward_logits(model: Any, tree: Tree, rows: torch.Tensor, mask: Any) -> torch.Tensor:
    """Logits [1, rows, vocabulary] of one packed sequence at the places `rows`."""
    logits: torch.Tensor = model(
        input_ids=torch.tensor([tree.ids], device=model.device),
        position_ids=torch.tensor([tree.positions], device=model.device),
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=rows,
    ).logits
    return logits


def _last(example: EncodedExample, tokens: int) -> EncodedExample:
    """The end of the prompt and the beginning of the answer: what is tried need not be long."""
    return replace(example, prompt=example.prompt[-tokens:], answer=example.answer[:4])


def _answer_loss(logits: torch.Tensor, examples: Sequence[EncodedExample]) -> torch.Tensor:
    weights = [example.weight for example in examples for _ in example.answer]
    return (token_losses(logits, examples) * torch.tensor(weights, device=logits.device)).sum()
