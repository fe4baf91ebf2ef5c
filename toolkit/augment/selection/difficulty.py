"""How hard synthetic examples are for a model that learns from the real ones alone, and how sure it is.

The training dynamics of Swayamdipta et al. (2020, arXiv 2009.10795) under a model that never sees the
synthetic examples, as Curated LLM judges them (Seedat et al., 2024, arXiv 2312.12112).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.augment.selection.outcome import Judgement
from toolkit.augment.selection.outlying import p_values, too_few


@dataclass(frozen=True)
class Dynamics:
    """One example over the epochs of a training: its mean loss in nats a token, and the mean and the standard
    deviation of the probability of a token (its geometric mean over the answer)."""

    difficulty: float
    confidence: float
    variability: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> "Dynamics":
        """From the mean loss of an answer token after each epoch."""
        likely = np.exp(-np.asarray(losses))
        return cls(float(np.mean(losses)), float(likely.mean()), float(likely.std()))


def too_hard(
    ids: Sequence[str],
    losses: Mapping[str, Sequence[float]],
    held_out: Mapping[str, Sequence[float]],
    share: float,
    trivial: float | None,
) -> Judgement:
    """Refuse what is harder than all but a `share` of the person's own held-out examples.

    It contradicts what the real ones teach. With `trivial`, also what the model is surer of than that.
    """
    if reason := too_few(len(held_out), "history examples held out of training", share):
        return Judgement.idle(reason)
    found = {place: Dynamics.of(losses[name]) for place, name in enumerate(ids) if name in losses}
    reference = [Dynamics.of(each).difficulty for each in held_out.values()]
    chances = p_values([each.difficulty for each in found.values()], reference)
    usual = float(np.median(reference))
    hard = sorted(
        (-each.difficulty, place)
        for (place, each), chance in zip(found.items(), chances, strict=True)
        if chance <= share
    )
    refused = {
        place: f"contradicts what the real examples teach: a loss of {-difficulty:.2f} nats a token, and "
        f"{usual:.2f} is usual"
        for difficulty, place in hard
    }
    if trivial is not None:
        easy = sorted((-each.confidence, place) for place, each in found.items() if each.confidence > trivial)
        for confidence, place in easy:
            refused.setdefault(place, f"teaches nothing more: the model is {-confidence:.0%} sure of it")
    return Judgement(
        refused, f"loss above that of {1 - share:.0%} of the {len(reference)} held-out history examples"
    )
