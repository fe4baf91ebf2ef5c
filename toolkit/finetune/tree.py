"""A batch as a prefix tree: every token that several examples begin with is there once.

The tree is laid out in preorder, so that what follows a token lies in one run behind it: token i is an
ancestor of token j, and so visible to it, exactly where i <= j < ends[i].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolkit.finetune.encode import EncodedExample


@dataclass(frozen=True)
class Tree:
    """A packed sequence: `ids`, each one's depth (its position id) and the end of its descendants.

    `rows` are the places whose logits predict the answer tokens, of one example after the other in the order
    that they were given in; examples that share a beginning may share places. `starts` are where runs without
    a fork begin.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]
    rows: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a packed sequence of n tokens takes: n + `pair` n^2 + `fixed`, in the time of one token.

    `pair` is attention, which a mask does not make cheaper, `fixed` the overhead of a pass.
    """

    pair: float = 0.0
    fixed: float = 0.0

    def of(self, tokens: int) -> float:
        """The cost of one pass over so many packed tokens."""
        return tokens + self.pair * tokens**2 + self.fixed


def tree_of(examples: Sequence[EncodedExample]) -> Tree:
    """Lay `examples` out; the last answer token predicts nothing and is left out."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    rows: list[tuple[int, ...]] = [()] * len(examples)
    path: list[int] = []  # where the tokens of the example before are
    before: tuple[int, ...] = ()
    starts: set[int] = set()
    for index in sorted(range(len(examples)), key=lambda index: _inputs(examples[index])):
        inputs = _inputs(examples[index])
        shared = _shared(before, inputs)
        for place in path[shared:]:
            ends[place] = len(ids)
        del path[shared:]
        if shared < len(inputs):
            starts.add(len(ids))
        if shared:  # what is below the fork is another run
            starts.add(path[-1] + 1)
        for depth in range(shared, len(inputs)):
            path.append(len(ids))
            ids.append(inputs[depth])
            positions.append(depth)
            ends.append(0)
        rows[index] = tuple(path[len(examples[index].prompt) - 1 :])
        before = inputs
    for place in path:
        ends[place] = len(ids)
    return Tree(
        tuple(ids),
        tuple(positions),
        tuple(ends),
        tuple(row for each in rows for row in each),
        tuple(sorted(start for start in starts if start < len(ids))),
    )


def packed_length(examples: Sequence[EncodedExample]) -> int:
    """How many tokens `examples` are once their common beginnings are shared."""
    ordered = sorted(map(_inputs, examples))
    pairs = zip([(), *ordered[:-1]], ordered, strict=True)
    return sum(len(inputs) - _shared(before, inputs) for before, inputs in pairs)


def packs(
    examples: Sequence[EncodedExample], token_budget: int, cost: Cost = Cost()
) -> Iterator[list[EncodedExample]]:
    """Split a batch into packs of at most `token_budget` packed tokens each, or one example.

    Examples with like beginnings come next to each other, so that sharing is kept; one joins a pack only
    where that costs no more than a pass of its own.
    """
    pack: list[EncodedExample] = []
    used = 0
    before: tuple[int, ...] = ()
    for example in sorted(examples, key=_inputs):
        inputs = _inputs(example)
        joined = used + len(inputs) - _shared(before, inputs)
        apart = cost.of(used) + cost.of(len(inputs))
        if pack and (joined > token_budget or cost.of(joined) > apart):
            yield pack
            pack, joined = [], len(inputs)
        pack.append(example)
        used, before = joined, inputs
    if pack:
        yield pack


def _inputs(example: EncodedExample) -> tuple[int, ...]:
    return (*example.prompt, *example.answer[:-1])


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    longest = min(len(one), len(other))
    return next((place for place in range(longest) if one[place] != other[place]), longest)
