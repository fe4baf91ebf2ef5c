import math

import pytest

from toolkit import metrics
from toolkit.errors import EdgePLMError
from toolkit.metrics import METRICS

SCALE = ("1", "2", "3", "4", "5")


def test_accuracy_counts_unreadable_answers_as_wrong():
    assert metrics.accuracy(["a", "b", None, "a"], ["a", "a", "a", "a"]) == 0.5


def test_macro_f1_is_over_the_fixed_label_list():
    # a: precision 1, recall 1/2; b: one wrong answer, one miss; c: nowhere, and yet counted.
    assert metrics.macro_f1(["a", "b", None], ["a", "a", "b"], ("a", "b", "c")) == pytest.approx(2 / 3 / 3)


def test_macro_f1_of_perfect_answers_is_one_only_if_every_label_occurs():
    assert metrics.macro_f1(["a", "b"], ["a", "b"], ("a", "b")) == 1
    assert metrics.macro_f1(["a", "b"], ["a", "b"], ("a", "b", "c")) == pytest.approx(2 / 3)


def test_errors_of_ratings():
    answers, golds = ["1", "3", "5"], ["2", "3", "3"]
    assert metrics.mae(answers, golds, SCALE) == 1
    assert metrics.rmse(answers, golds, SCALE) == pytest.approx(math.sqrt(5 / 3))


@pytest.mark.parametrize(("gold", "error"), [("1", 4), ("2", 3), ("3", 2), ("4", 3), ("5", 4)])
def test_an_unreadable_rating_is_the_farther_end_of_the_scale(gold, error):
    assert metrics.absolute_errors([None], [gold], SCALE) == [error]
    assert metrics.squared_errors([None], [gold], SCALE) == [error**2]


def test_rouge_values():
    answer, gold = "mat on the cat", "The cat sat on the mat."
    # Four of four words are among the gold's six; in order only two ("the cat" or "on the").
    assert metrics.rouge_1([answer], [gold]) == pytest.approx(2 * 4 / 10)
    assert metrics.rouge_l([answer], [gold]) == pytest.approx(2 * 2 / 10)


def test_rouge_does_not_stem_and_scores_unreadable_answers_zero():
    assert metrics.rouge_1(["running cats"], ["run cat"]) == 0
    assert metrics.rouge_values([None, "a"], ["a", "a"], "rougeL") == [0, 1]


def test_exact_match():
    assert metrics.exact_match(["Hi.", "hi."], ["Hi.", "Hi."]) == 0.5


def test_lower_is_better_only_for_errors():
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"mae", "rmse"}


def test_nothing_to_score_is_an_error_that_says_what_is_missing():
    with pytest.raises(EdgePLMError, match=r"no answers to score.*held-out query"):
        metrics.accuracy([], [])


def test_answers_and_golds_of_different_number_are_a_programming_error():
    with pytest.raises(ValueError, match="1 answers for 2 golds"):
        metrics.accuracy(["a"], ["a", "b"])


def test_every_named_metric_agrees_with_its_values():
    answers, golds = ["1", "5", "3"], ["2", "5", "3"]
    for name in ("accuracy", "mae", "rouge_1", "rouge_l", "exact_match"):
        metric = METRICS[name]
        values = metric.values(answers, golds, SCALE)
        assert metric.total(answers, golds, SCALE) == pytest.approx(sum(values) / 3)
