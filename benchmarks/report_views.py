"""The tables and plots of a report on quality, answers, data, size and environment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks.report_data import Arm, Curve, ExportedFile, Query, Report
from benchmarks.results import Result
from benchmarks.verdicts import arm_interval, gain, spoken

Cell = str | Markup


@dataclass(frozen=True)
class Table:
    """A table with a header column; `numeric` are the columns that are set flush right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    total: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One model's answer to a query, with its mark in words and the tone of the mark."""

    name: str
    text: str
    mark: str
    tone: str


@dataclass(frozen=True)
class Example:
    """A query, its gold answer and the answers that are compared."""

    query: Query
    answers: tuple[Answer, ...] = field(default_factory=tuple)


def _query_value(report: Report, arm: Arm, index: int) -> float | None:
    """The metric of one query; None where it has none or its place in `per_query` cannot be told."""
    if len(arm.per_query) == len(report.queries):
        return arm.per_query[index]
    scored = [place for place, query in enumerate(report.queries) if query.gold]
    if len(arm.per_query) == len(scored) and index in scored:
        return arm.per_query[scored.index(index)]
    return None


def arms_plot(report: Report) -> Markup:
    """The primary metric of every arm, with its interval where it has one."""
    metric = report.task.metric
    bars = []
    for arm in report.arms:
        if math.isfinite(arm.metrics.get(metric, math.nan)):
            interval = arm_interval(arm, metric)
            value = arm.metrics[metric]
            ends = (interval.low, interval.high) if interval else (None, None)
            bars.append(plots.Bar(arm.name, value, figures.number(value), arm.role, *ends))
    direction = "higher is better" if report.task.higher_is_better else "lower is better"
    name = figures.metric_name(metric)
    return plots.bar_plot("arms", f"{name} of each way to answer", bars, f"{name}, {direction}")


def arms_table(report: Report) -> Table:
    """Every metric of every arm, and the paired difference to the base model."""
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.metrics))
    metric = figures.metric_name(report.task.metric)
    base = report.arm("base")
    rows = []
    for arm in report.arms:
        interval = arm_interval(arm, report.task.metric)
        change = gain(report, base, arm) if base is not None and arm is not base else None
        difference = change.difference if change else None
        rows.append(
            (
                arm.name,
                *(figures.number(arm.metrics.get(name)) for name in names),
                f"{figures.number(interval.low)} to {figures.number(interval.high)}" if interval else "–",
                f"{figures.number(difference.estimate, signed=True)} ({spoken(difference)})"
                if difference
                else "–",
            )
        )
    columns = (
        "Answered by",
        *(figures.metric_name(name) for name in names),
        f"{metric}, 95 % interval",
        "Against base, paired",
    )
    return Table(
        "Every metric, with bootstrap intervals", columns, tuple(rows), frozenset(range(1, len(columns)))
    )


def examples(report: Report) -> tuple[Example, ...]:
    """The first queries with the base model's and the artifact's answers, in the order of the file."""
    arms = [arm for arm in (report.arm("base"), report.arm("artifact") or report.shipped_arm()) if arm]
    arms = [arm for arm in arms if len(arm.answers) == len(report.queries)]
    if not arms:
        return ()
    return tuple(
        Example(query, tuple(_answer(report, arm, index, arms) for arm in arms))
        for index, query in enumerate(report.queries[: report.shown_answers])
    )


def _answer(report: Report, arm: Arm, index: int, arms: Sequence[Arm]) -> Answer:
    values = [_query_value(report, one, index) for one in arms]
    own = values[arms.index(arm)]
    if own is None:
        return Answer(arm.name, arm.answers[index], "", "")
    if report.task.metric in ("accuracy", "exact_match", "macro_f1"):
        return Answer(arm.name, arm.answers[index], *(("✓ right", "good") if own else ("✗ wrong", "bad")))
    mark = f"{figures.per_query_name(report.task.metric)} {figures.number(own, 2)}"
    other = values[0]
    if arm is arms[0] or other is None or own == other:
        return Answer(arm.name, arm.answers[index], mark, "soft")
    better = (own > other) == report.task.higher_is_better
    return Answer(
        arm.name,
        arm.answers[index],
        f"{'▲ better' if better else '▼ worse'}, {mark}",
        "good" if better else "bad",
    )


def files_table(files: Sequence[ExportedFile]) -> Table:
    """The artifact's files, the largest first."""
    rows = tuple(
        (file.name, file.precision or "–", figures.size(file.bytes))
        for file in sorted(files, key=lambda f: -f.bytes)
    )
    total = ("Total", "", figures.size(sum(file.bytes for file in files)))
    return Table("Files of the artifact", ("File", "Precision", "Size"), rows, frozenset({2}), total)


def size_plot(files: Sequence[ExportedFile], float_bytes: int) -> Markup:
    """The artifact beside the float model."""
    total = sum(file.bytes for file in files)
    bars = [
        plots.Bar("Float model", float_bytes / 1e6, figures.size(float_bytes)),
        plots.Bar("Artifact", total / 1e6, figures.size(total), "artifact"),
    ]
    return plots.bar_plot("size", "Size on disk", bars, "MB")


def curves_plot(curves: Sequence[Curve]) -> Markup:
    """The training losses."""
    return plots.line_plot("curves", "Training loss", [(c.label, c.losses) for c in curves], "Loss by step")


def curves_table(curves: Sequence[Curve]) -> Table:
    """First, last and lowest loss of each curve."""
    rows = tuple(
        (
            c.label,
            figures.count(len(c.losses)),
            *(figures.number(v) for v in (c.losses[0], c.losses[-1], min(c.losses))),
        )
        for c in curves
        if c.losses
    )
    columns = ("Adapter", "Steps", "First loss", "Last loss", "Lowest loss")
    return Table("Training", columns, rows, frozenset({1, 2, 3, 4}))


def environment_facts(report: Report) -> list[tuple[str, str]]:
    """Where the speed was measured, then what the run adds."""
    measured = device_facts(report.benchmark) if report.benchmark else []
    return [*measured, *((name, value) for name, value in report.environment.items() if value)]


def device_facts(result: Result) -> list[tuple[str, str]]:
    """The device of one measurement, and with what it was measured."""
    env = result.environment
    about: Mapping[str, object] = env.facts
    cores = about.get("cores_physical"), about.get("cores_logical")
    memory = about.get("memory_bytes")
    facts: list[tuple[str, str | None]] = [
        ("Device", env.device),
        ("Board", _text(about.get("board"))),
        ("CPU", _text(about.get("cpu"))),
        ("Cores", f"{cores[0]} physical, {cores[1]} logical" if cores[0] else _text(cores[1])),
        ("Highest clock", f"{about['max_mhz']:.0f} MHz" if about.get("max_mhz") else None),
        ("Memory", figures.size(memory) if isinstance(memory, int) else None),
        ("Kernel", _text(about.get("kernel"))),
        ("System", _text(about.get("os"))),
        ("Governor", ", ".join(env.governors) if env.governors else "not told by the machine"),
        (
            "Temperature",
            _temperatures(env.temperature_before, env.temperature_highest, env.temperature_after),
        ),
        ("Load average before", figures.number(env.load_average_before, 2)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in env.versions.items())),
        ("Bundle's manifest", f"sha256 {env.bundle.manifest_sha256}"),
        ("EdgePLM's commit", env.git),
    ]
    return [(name, value) for name, value in facts if value]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _temperatures(before: float | None, highest: float | None, after: float | None) -> str:
    if highest is None:
        return "not told by the machine"
    at = [figures.number(value, 0) for value in (before, highest, after)]
    return f"{at[0]} °C before, {at[1]} °C at most, {at[2]} °C after"
