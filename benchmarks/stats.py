"""Medians, percentiles and bootstrap intervals. Seeded: the same samples always give the same figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 0

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A bootstrap confidence interval around `estimate`."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones for an even count."""
    return float(np.median(_checked(values)))


def percentile(values: Sequence[float], rank: float) -> float:
    """The value below which `rank` per cent of the values lie, interpolated linearly."""
    return float(np.percentile(_checked(values), rank))


def median_interval(
    values: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = _SEED
) -> Interval:
    """The median with its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    With a handful of values it is coarse: it cannot reach beyond the smallest and the largest of them.
    """
    return _interval(_checked(values), np.median, level, resamples, seed)


def mean_interval(
    values: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = _SEED
) -> Interval:
    """The mean with its percentile bootstrap interval."""
    return _interval(_checked(values), np.mean, level, resamples, seed)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = _SEED,
) -> Interval:
    """The mean of `second - first` over the same queries, with its interval; pairs are resampled whole.

    Raises ValueError unless both have the same number of values.
    """
    before, after = _checked(first), _checked(second)
    if len(before) != len(after):
        raise ValueError(f"paired values differ in number: {len(before)} and {len(after)}")
    return _interval(after - before, np.mean, level, resamples, seed)


def _interval(
    values: Values, compute: Callable[..., Any], level: float, resamples: int, seed: int
) -> Interval:
    # RandomState's stream is frozen by numpy's compatibility policy: old figures can be computed again.
    draws = np.random.RandomState(seed).randint(0, len(values), (resamples, len(values)))
    resampled = compute(values[draws], axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(float(compute(values)), float(low), float(high), level)


def _checked(values: Sequence[float]) -> Values:
    """Raises ValueError for no values, and for values that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError("statistics need one value at least")
    if not np.isfinite(array).all():
        raise ValueError("statistics need finite values")
    return array
