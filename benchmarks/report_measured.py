"""The tables and plots of a report on survival of the personalisation, speed and memory."""

import math

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks.report_data import Verification
from benchmarks.report_views import Cell, Table
from benchmarks.results import Result, Statistic
from benchmarks.stats import median


def checks_table(verification: Verification) -> Table:
    """Every threshold with the value that was held against it."""
    rows = tuple(
        (
            check.name,
            figures.number(check.value),
            f"{'≥' if check.at_least else '≤'} {figures.number(check.limit)}",
            Markup('<span class="mark {}">{}</span>').format(
                "good" if check.passed else "bad", "✓ passed" if check.passed else "✗ failed"
            ),
        )
        for check in verification.checks
    )
    return Table(
        "Thresholds of the export", ("Check", "Value", "Threshold", "Outcome"), rows, frozenset({1, 2})
    )


def survival_facts(verification: Verification) -> list[tuple[str, str]]:
    """The single figures of a verification, as label and value."""
    facts = [
        ("Correlation of the change, mean", figures.number(verification.correlation_mean)),
        ("Correlation, worst query", figures.number(verification.correlation_worst)),
        ("Size of the change against float", figures.percent(verification.size_ratio)),
    ]
    if verification.kl is not None:
        facts.append(("KL divergence to the float model", f"{figures.number(verification.kl, 4)} nats"))
    if verification.top1_agreement is not None:
        facts.append(("Same most likely token", figures.percent(verification.top1_agreement, 1)))
    if verification.perplexity_float is not None and verification.perplexity_artifact is not None:
        change = verification.perplexity_artifact / verification.perplexity_float - 1
        before = figures.number(verification.perplexity_float, 2)
        after = figures.number(verification.perplexity_artifact, 2)
        sign = "+" if change >= 0 else ""
        facts.append(
            ("Perplexity, float → artifact", f"{before} → {after} ({sign}{figures.percent(change, 1)})")
        )
    return facts


def survival_plot(verification: Verification) -> Markup | None:
    """The correlation and the size of the change for each query."""
    rows = []
    for label, values in (
        ("Correlation", verification.correlations),
        ("Size against float", verification.sizes),
    ):
        known = [value for value in values if math.isfinite(value)]
        if known:
            low, high = figures.number(min(known)), figures.number(max(known))
            rows.append(plots.Dots(label, known, f"{low} to {high}", mark=median(known)))
    if not rows:
        return None
    every = [value for row in rows for value in row.values]
    scale = plots.Scale(min(0.0, *every), max(1.0, *every) * 1.02)
    return plots.dot_plot(
        "survival", "The change for each query", rows, "0: nothing is left, 1: as in float", scale
    )


def scatter_plot(verification: Verification) -> Markup | None:
    """Single logits: the change in float against the change in the artifact."""
    points = [point for point in verification.scatter if all(map(math.isfinite, point))]
    if not points:
        return None
    return plots.scatter_plot(
        "scatter",
        "The adapter's change to single logits",
        points,
        "change in the float model",
        "change in the artifact",
    )


_MEASURES = {
    "ttft": "Time to first token",
    "prefill_rate": "Prefill",
    "decode_rate_at_": "Decode",
    "decode_step_at_": "One decode step",
    "load_cold": "Load, new process",
    "load_warm": "Load, again",
    "peak_rss": "Peak memory (VmHWM)",
    "pss": "Memory after the run (PSS)",
    "sustained_rate": "Sustained decode",
    "energy_prefill": "Energy of a prompt token",
    "energy_decode": "Energy of a decoded token",
    "net_energy_prefill": "Prompt token, above idle",
    "net_energy_decode": "Decoded token, above idle",
    "power_idle": "Power at rest",
    "instructions_per_prefill_token": "Prefill, a token",
    "instructions_per_decode_token_at_": "Decode, a token",
}


def speed_table(result: Result, number: int = 0) -> Table:
    """Every statistic with its spread and its raw samples as dots, in the order of `_MEASURES`.

    `number` tells the plots of several devices apart.
    """
    statistics = result.shown
    names = [name for start in _MEASURES for name in statistics if name.startswith(start)]
    rows = tuple(_speed_row(name, statistics[name], number) for name in names)
    columns = ("Measure", "Median", "95 % interval", "p10 to p90", "Every sample, least to most")
    return Table("Measured in the runtime, warm-up discarded", columns, rows, frozenset({1, 2, 3}))


def _speed_row(name: str, value: Statistic, number: int) -> tuple[Cell, ...]:
    label, median = _measure(name), figures.quantity(value.median, value.unit)
    if len(value.values) == 1:
        return (label, median, "", "", "")
    ends = _range(min(value.values), max(value.values), value.unit)
    dots = plots.Dots(label, value.values, ends, value.median)
    strip = plots.dot_strip(f"speed-{number}-{name}", f"{label}: {len(value.values)} samples", dots)
    spreads = ((value.low, value.high), (value.p10, value.p90))
    return (label, median, *(_range(low, high, value.unit) for low, high in spreads), strip)


def _measure(name: str) -> str:
    start = next(start for start in _MEASURES if name.startswith(start))
    depth = name.removeprefix(start)
    if not depth:
        return _MEASURES[start]
    return f"{_MEASURES[start]}, empty context" if depth == "0" else f"{_MEASURES[start]} at depth {depth}"


def _range(low: float, high: float, unit: str) -> str:
    first, last = figures.quantity(low, unit), figures.quantity(high, unit)
    number, _, own_unit = first.rpartition(figures.THIN)
    return f"{number} to {last}" if last.endswith(figures.THIN + own_unit) else f"{first} to {last}"
