"""What a personalisation study found: means over people, paired differences, a table, Markdown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import figures
from benchmarks.stats import Interval, mean_interval, paired_difference
from benchmarks.studies.personalisation_arms import (
    ARMS,
    BASE,
    REAL_RETRIEVAL,
    RETRIEVAL,
    SHIPPED,
    SYNTHETIC_RETRIEVAL,
    UNSELECTED,
)
from toolkit.finetune import REAL, SYNTHETIC
from toolkit.tasks import Task

# (arm, the one that it is compared with): the questions of the study, named before it was run.
COMPARISONS = (
    (RETRIEVAL, BASE),
    (REAL, BASE),
    (SYNTHETIC, BASE),
    (SYNTHETIC, REAL),
    (SYNTHETIC, UNSELECTED),
    (REAL_RETRIEVAL, RETRIEVAL),
    (SYNTHETIC_RETRIEVAL, RETRIEVAL),
    (SYNTHETIC_RETRIEVAL, REAL_RETRIEVAL),
    (SHIPPED, BASE),
)

_FEWEST = 10  # people; the bootstrap of fewer knows too little of their spread


def summary(rows: Sequence[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Everything derived from the people's rows; a metric is computed for each person, then averaged."""
    arms = [arm for arm in ARMS if all(arm in row["arms"] for row in rows)]
    metrics = list(task.metrics)

    def values(arm: str, metric: str) -> list[float]:
        return [row["arms"][arm]["metrics"][metric] for row in rows]

    def compared(arm: str, other: str, metric: str) -> dict[str, Any]:
        first, second = values(other, metric), values(arm, metric)
        gains = [(a - b) * (1 if task.higher_is_better(metric) else -1)
                 for a, b in zip(second, first, strict=True)]  # fmt: skip
        return {
            **asdict(paired_difference(first, second)),
            "better": sum(gain > 0 for gain in gains),
            "same": sum(gain == 0 for gain in gains),
            "worse": sum(gain < 0 for gain in gains),
        }

    return {
        "people": len(rows),
        "queries": sum(row["queries"] for row in rows),
        "metrics": {
            metric: {
                "higher_is_better": task.higher_is_better(metric),
                "arms": {arm: asdict(mean_interval(values(arm, metric))) for arm in arms},
                "against_base": {arm: compared(arm, BASE, metric) for arm in arms if arm != BASE},
                "comparisons": [
                    {"arm": arm, "other": other, **compared(arm, other, metric)}
                    for arm, other in COMPARISONS
                    if arm in arms and other in arms
                ],
            }
            for metric in metrics
        },
        "synthetic": _synthetic(rows),
    }


def _synthetic(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accounts = [row["synthetic"] for row in rows]
    dropped: dict[str, int] = {}
    for account in accounts:
        for name, count in account["dropped"].items():
            dropped[name] = dropped.get(name, 0) + count
    # `unselected` is in the rows to which that arm was added.
    counts = ("kept", "answered", "requests", "prompt_tokens", "completion_tokens", "unselected")
    return {
        **{name: sum(account.get(name, 0) for account in accounts) for name in counts},
        "dropped": dict(sorted(dropped.items(), key=lambda item: -item[1])),
        "people_without": sum(account["kept"] == 0 for account in accounts),
        "real": sum(row["history"] for row in rows),
        "chosen": sum(row["validation"]["chosen"] == SYNTHETIC for row in rows),
        "withheld": sum(row["validation"]["withheld"] for row in rows),
    }


def terminal_rows(found: dict[str, Any], metric: str) -> list[tuple[str, ...]]:
    """A heading, then a row an arm: the metric and its difference to the base, each with its interval.

    They fit 80 columns.
    """
    one = found["metrics"][metric]
    rows: list[tuple[str, ...]] = [("arm", figures.metric_name(metric), "95 %", "to base", "95 %")]
    for arm, value in one["arms"].items():
        against = one["against_base"].get(arm)
        rows.append(
            (
                arm,
                figures.number(value["estimate"]),
                _range(value),
                figures.number(against["estimate"], signed=True) if against else "",
                _range(against, signed=True) if against else "",
            )
        )
    return rows


def notes(found: dict[str, Any]) -> list[str]:
    """What the primary metric says of the study's questions, and what the synthetic examples were."""
    metric, one = next(iter(found["metrics"].items()))
    lines = [
        f"{figures.metric_name(metric)}, {row['arm']} against {row['other']}: {_said(row, one)}."
        for row in one["comparisons"]
    ]
    made = found["synthetic"]
    lines.append(
        f"Synthetic examples: {made['kept']} kept of {made['answered']} that {made['requests']} answers "
        f"held, beside {made['real']} real ones; none for {made['people_without']} of {found['people']} "
        "people. "
        f"Dropped: {', '.join(f'{name} {count}' for name, count in made['dropped'].items()) or 'none'}."
    )
    lines.append(
        f"On the held-out slice of the history real+synthetic was chosen for {made['chosen']} people, and "
        f"the adapter held back for {made['withheld']}."
    )
    return lines


def markdown(study: dict[str, Any]) -> str:
    """A whole study as Markdown: what it was, the arms, the comparisons."""
    found, about = study["summary"], study["about"]
    parts = [
        f"# Personalisation study: {study['setting']['task']}",
        "",
        *_table(("", ""), [(name, f"`{value}`") for name, value in about.items()]),
        "",
        f"{found['people']} people, {found['queries']} held-out queries. Means over people, with 95 % "
        "bootstrap intervals over people; differences are paired by person.",
        "",
    ]
    for metric, one in found["metrics"].items():
        better = "higher" if one["higher_is_better"] else "lower"
        name = figures.metric_name(metric)
        rows = [
            (arm, f"{value} {interval}", f"{difference} {paired}".strip())
            for arm, value, interval, difference, paired in terminal_rows(found, metric)[1:]
        ]
        parts += [f"## {name} ({better} is better)", "", *_table(("arm", name, "against base"), rows), ""]
        compared = [
            (
                row["arm"],
                row["other"],
                f"{figures.number(row['estimate'], signed=True)} {_range(row, signed=True)}",
                f"{row['better']} / {row['same']} / {row['worse']}",
                _verdict(row, one),
            )
            for row in one["comparisons"]
        ]
        header = ("arm", "against", "difference", "people better / same / worse", "")
        parts += [*_table(header, compared), ""]
    return "\n".join([*parts, *(f"- {line}" for line in notes(found)[-2:]), ""])


def _verdict(row: dict[str, Any], one: dict[str, Any]) -> str:
    if row["better"] + row["same"] + row["worse"] < _FEWEST:
        return "too few people"
    if not Interval(row["estimate"], row["low"], row["high"]).excludes_zero:
        return "not told apart"
    return "better" if (row["estimate"] > 0) == one["higher_is_better"] else "worse"


def _said(row: dict[str, Any], one: dict[str, Any]) -> str:
    difference = f"{figures.number(row['estimate'], signed=True)} {_range(row, signed=True)}"
    counts = f"people: {row['better']} better, {row['same']} same, {row['worse']} worse"
    return f"{_verdict(row, one)}, {difference}; {counts}"


def _range(value: dict[str, Any], *, signed: bool = False) -> str:
    low, high = (figures.number(value[name], signed=signed) for name in ("low", "high"))
    return f"[{low}, {high}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
