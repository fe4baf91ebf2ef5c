"""How far out is too far: a share of the person's own examples says it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def p_values(scores: Sequence[float], reference: Sequence[float]) -> NDArray[np.float64]:
    """How likely one of the person's own would lie as far out as each score: (1 + how many do) / (1 + all).

    Conformal p-values (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005):
    if a score came from where `reference` did, its p-value is at most a with a probability of at most a.
    """
    ordered = np.sort(np.asarray(reference, dtype=float))
    as_far = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=float), side="left")
    return np.asarray((1 + as_far) / (1 + len(ordered)))


def fewest_needed(share: float) -> int:
    """With fewer examples of reference nothing can have a p-value of `share` or less."""
    return math.ceil(1 / share - 1e-9) - 1


def too_few(count: int, what: str, share: float) -> str | None:
    """Why so many of the person's own examples say nothing about a `share`; None if they are enough."""
    if count >= fewest_needed(share):
        return None
    return f"{count} {what}, and {fewest_needed(share)} are needed to judge by {share:g}"
