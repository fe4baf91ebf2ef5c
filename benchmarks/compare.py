"""One result against another: how much each figure changed, and whether that is more than chance.

The change of a figure is the ratio of the medians, with a bootstrap interval in which both runs are resampled
on their own (two independent samples; Efron and Tibshirani, 1993, chapter 8). A change counts where the
interval leaves 1 out. Single values, such as peak memory and load times, have no interval: a change of those
counts from `SINGLE_VALUE_LIMIT` on. Instruction counts repeat to the last digit, so every difference counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.results import Result, Statistic
from benchmarks.stats import LEVEL, RESAMPLES

Outcome = Literal["better", "worse", "same"]
SINGLE_VALUE_LIMIT = 0.05
_HIGHER_IS_BETTER = frozenset({"tokens/s"})
_EXACT = frozenset({"instructions"})
_SEED = 0


@dataclass(frozen=True)
class Change:
    """A figure of two runs. `ratio` is after / before, `low` and `high` its interval; else None."""

    name: str
    unit: str
    before: float
    after: float
    ratio: float
    low: float | None
    high: float | None
    outcome: Outcome

    def worse_by(self) -> float:
        """By which share it is worse; 0 where it is not."""
        if self.outcome != "worse":
            return 0.0
        return 1 - self.ratio if self.unit in _HIGHER_IS_BETTER else self.ratio - 1


@dataclass(frozen=True)
class Comparison:
    """All figures that both runs have, and why they may not be comparable."""

    changes: tuple[Change, ...]
    doubts: tuple[str, ...]


def compare(before: Result, after: Result) -> Comparison:
    """Every shown figure that both runs have, in the order of `before`."""
    later = after.shown
    changes = tuple(
        _change(name, first, later[name])
        for name, first in before.shown.items()
        if name in later
        and not name.startswith("decode_step_at")
        # Energy above idle may be lost in the noise, and has no ratio then.
        and min(*first.values, *later[name].values) > 0
    )
    return Comparison(changes, tuple(_doubts(before, after)))


def _change(name: str, before: Statistic, after: Statistic) -> Change:
    ratio = after.median / before.median if before.median else float("nan")
    low: float | None = None
    high: float | None = None
    if min(len(before.values), len(after.values)) > 1 and before.unit not in _EXACT:
        low, high = _ratio_interval(before.values, after.values)
        differs = low > 1 or high < 1
    else:
        differs = abs(ratio - 1) > (0.0 if before.unit in _EXACT else SINGLE_VALUE_LIMIT)
    outcome: Outcome = "same"
    if differs:
        outcome = "better" if (ratio > 1) == (before.unit in _HIGHER_IS_BETTER) else "worse"
    return Change(name, before.unit, before.median, after.median, ratio, low, high, outcome)


def _ratio_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    random = np.random.RandomState(_SEED)
    drawn = [
        np.median(data[random.randint(0, len(data), (RESAMPLES, len(data)))], axis=1)
        for data in (np.asarray(before), np.asarray(after))
    ]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn[1] / drawn[0], [tail, 100 - tail])
    return float(low), float(high)


def _doubts(before: Result, after: Result) -> list[str]:
    """What else differs between the runs, besides what is being compared, or is wrong with one of them."""
    found = [
        f"the {which} run is invalid: {'; '.join(result.validity.reasons)}"
        for which, result in (("first", before), ("second", after))
        if not result.validity.valid
    ]
    if before.setting != after.setting:
        pairs = zip(vars(before.setting).items(), vars(after.setting).values(), strict=True)
        changed = [f"{name} {first} and {second}" for (name, first), second in pairs if first != second]
        found.append(f"measured in different ways: {', '.join(changed)}")
    facts = ("board", "cpu", "cores_logical", "memory_bytes", "emulated")
    machines = [tuple(result.environment.facts.get(name) for name in facts) for result in (before, after)]
    if machines[0] != machines[1]:
        names = [
            result.environment.facts.get("board") or result.environment.device for result in (before, after)
        ]
        found.append(f"different machines: {names[0]} and {names[1]}")
    if before.environment.governors != after.environment.governors:
        found.append(f"different governors: {before.environment.governors} and {after.environment.governors}")
    sources = before.environment.power_source, after.environment.power_source
    if None not in sources and sources[0] != sources[1]:
        found.append(f"power from different sources: {sources[0]} and {sources[1]}")
    return found
