"""Distribution matching: the maximum mean discrepancy between two sets, and leaving out what raises it.

Gretton, Borgwardt, Rasch, Schölkopf and Smola, A Kernel Two-Sample Test, JMLR 13 (2012).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.augment.selection.embedding import Vectors
from toolkit.augment.selection.outcome import Distance

Kernel = NDArray[np.float64]

_PERMUTATIONS = 499
_BLOCK = 50  # permutations at a time, for memory


def gaussian_kernel(rows: Vectors) -> Kernel:
    """exp(-d^2 / 2 s^2) of every pair, [rows, rows]; s is the median distance of two (section 8)."""
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0)
    above = distances[np.triu_indices(len(rows), 1)]
    middle = float(np.median(above)) if len(above) else 0.0
    return np.asarray(np.exp(-distances / (2 * middle or 1.0)))


def mmd2(kernel: Kernel, own: Sequence[int], other: Sequence[int]) -> float:
    """The unbiased estimate of the squared discrepancy between rows `own` and `other` (lemma 6).

    ValueError for a set of less than two.
    """
    if min(len(own), len(other)) < 2:
        raise ValueError("the discrepancy is of two sets with two members each at least")
    return _within(kernel, own) + _within(kernel, other) - 2 * float(kernel[np.ix_(own, other)].mean())


def distance(kernel: Kernel, own: Sequence[int], other: Sequence[int], seed: int) -> Distance:
    """The discrepancy, and how often a random division of the same rows has as great a one."""
    found = mmd2(kernel, own, other)
    together = [*own, *other]
    part = kernel[np.ix_(together, together)].copy()
    np.fill_diagonal(part, 0.0)
    random = np.random.default_rng(seed)
    first, second = len(own), len(other)
    greater = 0
    for start in range(0, _PERMUTATIONS, _BLOCK):
        count = min(_BLOCK, _PERMUTATIONS - start)
        chosen = np.zeros((len(together), count))
        for column in range(count):
            chosen[random.permutation(len(together))[:first], column] = 1.0
        to_first, to_second = part @ chosen, part @ (1 - chosen)
        values = (
            (chosen * to_first).sum(0) / (first * (first - 1))
            + ((1 - chosen) * to_second).sum(0) / (second * (second - 1))
            - 2 * (chosen * to_second).sum(0) / (first * second)
        )
        greater += int((values >= found - 1e-12).sum())
    return Distance(found, (1 + greater) / (1 + _PERMUTATIONS))


def left_out(
    kernel: Kernel,
    own: Sequence[int],
    other: Sequence[int],
    keep: int,
    labels: Sequence[str] | None = None,
    wanted: dict[str, int] | None = None,
) -> list[int]:
    """Which of `other` to leave out, so that `keep` are left as close to `own` as they can be: one after the
    other, each time the one without whom the discrepancy is lowest.

    With `labels` (of `other`) and how many are `wanted` of each, only labels of which there are too many lose
    one.
    """
    left = list(range(len(other)))
    cross = kernel[np.ix_(other, own)].mean(1)
    among = kernel[np.ix_(other, other)]
    to_rest = among.sum(1) - np.diag(among)
    counts = {label: list(labels).count(label) for label in set(labels)} if labels else {}
    refused: list[int] = []
    while len(left) > max(keep, 2):
        free = [
            place
            for place in left
            if not labels or wanted is None or counts[labels[place]] > wanted.get(labels[place], 0)
        ]
        if not free:
            break
        size = len(left) - 1
        total, near = to_rest[left].sum(), cross[left].sum()
        # Without j: the pairs within lose it twice, the pairs across once.
        within = (total - 2 * to_rest[free]) / (size * (size - 1)) if size > 1 else np.zeros(len(free))
        worst = free[int(np.argmin(within - 2 * (near - cross[free]) / size))]
        left.remove(worst)
        refused.append(other[worst])
        to_rest -= among[:, worst]
        if labels:
            counts[labels[worst]] -= 1
    return refused


def _within(kernel: Kernel, rows: Sequence[int]) -> float:
    part = kernel[np.ix_(rows, rows)]
    return float((part.sum() - np.trace(part)) / (len(rows) * (len(rows) - 1)))
