import numpy as np
import pytest

from benchmarks.stats import mean_interval, median, median_interval, paired_difference, percentile


def test_median_and_percentile():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert percentile(range(11), 90) == 9
    assert percentile([5.0], 90) == 5.0


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_or_infinite_values_are_refused(values):
    with pytest.raises(ValueError, match="statistics need"):
        median(values)


def test_the_same_values_always_give_the_same_interval():
    values = [1.0, 2.5, 2.0, 4.0, 3.0]
    assert median_interval(values) == median_interval(values)
    assert median_interval(values, seed=1).estimate == 2.5


def test_an_interval_of_equal_values_is_a_point():
    interval = median_interval([2.0] * 6)
    assert (interval.low, interval.estimate, interval.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_the_mean_agrees_with_the_normal_one():
    values = np.random.RandomState(3).normal(10, 2, 400)
    interval = mean_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.RandomState(5)
    covered = sum(
        interval.low <= 0 <= interval.high
        for interval in (mean_interval(random.normal(0, 1, 40).tolist(), resamples=300) for _ in range(200))
    )
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_finds_a_small_steady_difference():
    random = np.random.RandomState(7)
    before = random.normal(0, 5, 60)
    after = before - 0.5 + random.normal(0, 0.3, 60)
    change = paired_difference(before.tolist(), after.tolist())
    assert change.estimate == pytest.approx(-0.5, abs=0.15)
    assert change.excludes_zero
    assert not paired_difference(before.tolist(), before.tolist()).excludes_zero


def test_pairs_must_match():
    with pytest.raises(ValueError, match="differ in number: 2 and 1"):
        paired_difference([1, 2], [1])
