"""Whether a synthetic example's label is one that the person's own examples would lead one to expect."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.augment.selection.embedding import Vectors
from toolkit.augment.selection.outcome import Judgement
from toolkit.augment.selection.outlying import p_values, too_few

_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
_FREE_CONSTANT = 100.0  # the kernel of a constant that is hardly penalised: the intercept
_FEWEST_OF_LABEL = 3  # of which one can say how they are usually predicted

Numbers = NDArray[np.float64]


def label_agreement(
    own: Vectors, labels: Sequence[str], new: Vectors, given: Sequence[str], share: float, *, numbers: bool
) -> Judgement:
    """Refuse labels that differ from the predicted ones more than those of all but a `share` of the history.

    The predictor is ridge regression on the vectors: of the number, or of each label's indicator. It acts
    only if on the history, each example predicted from the others, it beats the constant answer (the median,
    or the majority's label) by more than the standard error of the difference.
    """
    if reason := too_few(len(own), "history examples", share):
        return Judgement.idle(reason)
    names = sorted(set(labels))
    if len(names) < 2:
        return Judgement.idle("all history examples have the same label")
    targets = _targets(labels, names, numbers)
    ridge = Ridge.of(own, targets)
    gain, error, measure = _gain(ridge.left_out, targets, numbers)
    if gain <= error:
        return Judgement.idle(
            f"labels cannot be predicted from the texts of the history: {measure}, a gain of {gain:.2f} with "
            f"a standard error of {error:.2f}"
        )
    # A rare label is always predicted too low: an example is compared to those that have its own.
    usual = _surprise(ridge.left_out, labels, names, numbers)
    reference, expected = _centred(usual, labels)
    predicted = ridge.predict(new)
    surprise = _surprise(predicted, given, names, numbers)
    judged = [place for place, label in enumerate(given) if label in expected]
    scores = [_size(surprise[place] - expected[given[place]], numbers) for place in judged]
    chances = p_values(scores, [_size(value, numbers) for value in reference])
    worst = sorted(
        (float(-score), place, _suggested(predicted[place], names, numbers))
        for score, chance, place in zip(scores, chances, judged, strict=True)
        if chance <= share
    )
    refused = {
        place: f"the label is {given[place]}, and examples of the history suggest {suggested}"
        for _, place, suggested in worst
        if suggested != given[place]
    }
    return Judgement(refused, f"on the history, each predicted from the others, {measure}")


@dataclass(frozen=True)
class Ridge:
    """Kernel ridge regression; `left_out` predicts each training example from all the others."""

    rows: Vectors
    weights: Numbers
    left_out: Numbers

    @classmethod
    def of(cls, rows: Vectors, targets: Numbers) -> "Ridge":
        """The penalty whose left-out predictions have the lowest squared error."""
        kernel = rows @ rows.T + _FREE_CONSTANT
        best: tuple[float, Ridge] | None = None
        for penalty in _PENALTIES:
            inverse = np.linalg.inv(kernel + penalty * np.eye(len(rows)))
            weights = inverse @ targets
            # Without i it is y_i - (inverse y)_i / inverse_ii (Golub, Heath and Wahba, 1979).
            left_out = targets - weights / np.diag(inverse)[:, None]
            error = float(((left_out - targets) ** 2).mean())
            if best is None or error < best[0]:
                best = (error, cls(rows, weights, left_out))
        if best is None:
            raise RuntimeError("there is no penalty to try")
        return best[1]

    def predict(self, rows: Vectors) -> Numbers:
        """[rows, targets]"""
        return np.asarray((rows @ self.rows.T + _FREE_CONSTANT) @ self.weights)


def _targets(labels: Sequence[str], names: Sequence[str], numbers: bool) -> Numbers:
    if numbers:
        return np.array([[float(label)] for label in labels])
    return np.array([[float(label == name) for name in names] for label in labels])


def _gain(left_out: Numbers, targets: Numbers, numbers: bool) -> tuple[float, float, str]:
    """By how much less it errs than the constant answer, the standard error of that, and both in words."""
    if numbers:
        values = targets[:, 0]
        ours = np.abs(left_out[:, 0] - values)
        constant = np.array(
            [abs(np.median(np.delete(values, place)) - value) for place, value in enumerate(values)]
        )
        words = f"the mean error is {ours.mean():.2f} against {constant.mean():.2f} of their median"
    else:
        truth = targets.argmax(1)
        ours = (left_out.argmax(1) != truth).astype(float)
        counts = targets.sum(0) - targets  # of the others
        constant = (counts.argmax(1) != truth).astype(float)
        words = f"{1 - ours.mean():.0%} are right against {1 - constant.mean():.0%} of the majority's label"
    saved = constant - ours
    return float(saved.mean()), float(saved.std(ddof=1) / np.sqrt(len(saved))), words


def _surprise(predicted: Numbers, labels: Sequence[str], names: Sequence[str], numbers: bool) -> Numbers:
    """How far each prediction is from the label: signed for numbers, what is missing to 1 for others."""
    if numbers:
        return np.asarray(predicted[:, 0] - [float(label) for label in labels])
    places = {name: place for place, name in enumerate(names)}
    return np.array(
        [1 - predicted[row, places[label]] if label in places else 0.0 for row, label in enumerate(labels)]
    )


def _centred(surprise: Numbers, labels: Sequence[str]) -> tuple[list[float], dict[str, float]]:
    """Each surprise less the mean of the others with the same label, and the mean of each label."""
    reference: list[float] = []
    expected: dict[str, float] = {}
    for name in sorted(set(labels)):
        own = np.array([value for value, label in zip(surprise, labels, strict=True) if label == name])
        if len(own) < _FEWEST_OF_LABEL:
            continue
        expected[name] = float(own.mean())
        reference += [float(value - (own.sum() - value) / (len(own) - 1)) for value in own]
    return reference, expected


def _size(value: float, numbers: bool) -> float:
    return abs(value) if numbers else value


def _suggested(predicted: Numbers, names: Sequence[str], numbers: bool) -> str:
    if numbers:
        return min(names, key=lambda name: abs(float(name) - predicted[0]))
    return names[int(predicted.argmax())]
