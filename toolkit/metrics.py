"""Scores of answers against gold answers: the six LaMP metrics and exact match.

Every function takes parsed answers (None for one that could not be read) and gold answers of the same
length. Rates and ROUGE are fractions of 1; MAE and RMSE are in the labels' own unit. Which answers count
as readable is the task's business (`toolkit.tasks`); what an unreadable one costs is decided here, as in
LaMP's own evaluation (Salemi et al. 2023, arXiv 2304.11406).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from toolkit.errors import EdgePLMError

Answers = Sequence[str | None]
Golds = Sequence[str]
Labels = Sequence[str]


def accuracy(answers: Answers, golds: Golds) -> float:
    """The share of answers equal to the gold one; an unreadable answer is wrong."""
    return _mean(matches(answers, golds))


def exact_match(answers: Answers, golds: Golds) -> float:
    """The share of answers equal to the gold one, character by character."""
    return _mean(matches(answers, golds))


def macro_f1(answers: Answers, golds: Golds, labels: Labels) -> float:
    """The unweighted mean of each label's F1, over the fixed label list.

    An answer outside the list is a miss for its gold label. A label that occurs in neither the answers nor
    the golds counts as 0, as in LaMP's evaluation, so that few queries cannot reach 1.
    """
    _check_lengths(answers, golds)
    scores = []
    for label in labels:
        hits = sum(answer == gold == label for answer, gold in zip(answers, golds, strict=True))
        named = sum(answer == label for answer in answers) + sum(gold == label for gold in golds)
        scores.append(2 * hits / named if named else 0.0)
    return _mean(scores)


def mae(answers: Answers, golds: Golds, labels: Labels) -> float:
    """Mean absolute error; an unreadable answer counts as the scale's end farther from the gold."""
    return _mean(absolute_errors(answers, golds, labels))


def rmse(answers: Answers, golds: Golds, labels: Labels) -> float:
    """Root mean squared error; unreadable answers count as in `mae`."""
    return math.sqrt(_mean(squared_errors(answers, golds, labels)))


def rouge_1(answers: Answers, golds: Golds) -> float:
    """Mean F-measure of shared words (Lin 2004), with the settings of LaMP's evaluation.

    The tokens are runs of a-z and 0-9, unstemmed: texts in other scripts score 0. This is the plain mean
    over queries; the `evaluate` library reports the median of bootstrap means, a hair's breadth away.
    """
    return _mean(rouge_values(answers, golds, "rouge1"))


def rouge_l(answers: Answers, golds: Golds) -> float:
    """Mean F-measure of the longest common subsequence of words (Lin 2004); tokens as in `rouge_1`."""
    return _mean(rouge_values(answers, golds, "rougeL"))


def matches(answers: Answers, golds: Golds) -> list[float]:
    """1.0 for each answer equal to its gold, else 0.0."""
    _check_lengths(answers, golds)
    return [float(answer == gold) for answer, gold in zip(answers, golds, strict=True)]


def absolute_errors(answers: Answers, golds: Golds, labels: Labels) -> list[float]:
    """Each answer's distance from its gold number, in the labels' unit."""
    _check_lengths(answers, golds)
    scale = [float(label) for label in labels]
    low, high = min(scale), max(scale)
    errors = []
    for answer, gold_text in zip(answers, golds, strict=True):
        gold = float(gold_text)
        errors.append(max(gold - low, high - gold) if answer is None else abs(float(answer) - gold))
    return errors


def squared_errors(answers: Answers, golds: Golds, labels: Labels) -> list[float]:
    """The squares of `absolute_errors`."""
    return [error * error for error in absolute_errors(answers, golds, labels)]


def rouge_values(answers: Answers, golds: Golds, kind: str) -> list[float]:
    """Each answer's ROUGE F-measure; `kind` is rouge1 or rougeL; an unreadable answer scores 0."""
    _check_lengths(answers, golds)
    scorer = _rouge_scorer(kind)
    return [
        0.0 if answer is None else float(scorer.score(gold, answer)[kind].fmeasure)
        for answer, gold in zip(answers, golds, strict=True)
    ]


@dataclass(frozen=True)
class Metric:
    """A named metric: `total` over all queries, `values` one per query, and the parsers it goes with."""

    name: str
    higher_is_better: bool
    parsers: tuple[str, ...]
    total: Callable[[Answers, Golds, Labels], float]
    values: Callable[[Answers, Golds, Labels], list[float]]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            True,
            ("label", "number"),
            lambda answers, golds, labels: accuracy(answers, golds),
            lambda answers, golds, labels: matches(answers, golds),
        ),
        Metric(
            "macro_f1",
            True,
            ("label", "number"),
            macro_f1,
            lambda answers, golds, labels: matches(answers, golds),
        ),
        Metric("mae", False, ("number",), mae, absolute_errors),
        Metric("rmse", False, ("number",), rmse, squared_errors),
        Metric(
            "rouge_1",
            True,
            ("text",),
            lambda answers, golds, labels: rouge_1(answers, golds),
            lambda answers, golds, labels: rouge_values(answers, golds, "rouge1"),
        ),
        Metric(
            "rouge_l",
            True,
            ("text",),
            lambda answers, golds, labels: rouge_l(answers, golds),
            lambda answers, golds, labels: rouge_values(answers, golds, "rougeL"),
        ),
        Metric(
            "exact_match",
            True,
            ("label", "number", "text"),
            lambda answers, golds, labels: exact_match(answers, golds),
            lambda answers, golds, labels: matches(answers, golds),
        ),
    )
}


@lru_cache(maxsize=2)
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _check_lengths(answers: Answers, golds: Golds) -> None:
    if len(answers) != len(golds):
        raise ValueError(f"{len(answers)} answers for {len(golds)} golds")
    if not answers:
        raise EdgePLMError(
            "there are no answers to score", mend="Give the profile at least one held-out query"
        )
